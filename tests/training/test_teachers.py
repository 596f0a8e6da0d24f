from collections import Counter

import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.data.augment import Augment
from overproof.errors import InputError
from overproof.functional import cross_entropy
from overproof.methods.adaad import AdaAD
from overproof.methods.ard import ARD
from overproof.methods.awp import AWP
from overproof.methods.iad import IAD
from overproof.methods.igdm import IGDM
from overproof.methods.kd import KD
from overproof.methods.method import Method
from overproof.methods.mtard import MTARD
from overproof.methods.rrm import RRM
from overproof.methods.rslad import RSLAD
from overproof.models.weights import freeze
from overproof.training import teachers as training_teachers
from overproof.training.optimisation import SGD

BANK = Augment(crop=1, flip=True, bank=2)
SEARCH = PGD(steps=2)


@pytest.fixture
def teaching(looping, net):
    """Return a function: a loop with teachers and what they looked at: a counter of images by role."""

    def make(method, *, augment=BANK, student=None, **options):
        networks = {role: freeze(net(seed=50 + number)) for number, role in enumerate(method.roles)}
        looked = Counter()
        for role, network in networks.items():
            network.register_forward_hook(lambda _, args, __, role=role: looked.update({role: len(args[0])}))
        loop = looping(method, teachers=networks, augment=augment, student=student, **options)
        return loop, looked

    return make


def trained(loop):
    means = [dict(progress.means) for progress in loop.run()]
    return loop.student.state_dict(), means


METHODS = [
    KD(alpha=0.5),
    ARD(inner=SEARCH),
    RSLAD(inner=SEARCH),
    RRM(),
    RRM(replays=2),
    IAD(inner=SEARCH, warmup=0.0),
    MTARD(inner=SEARCH),
    AdaAD(alpha=0.5, inner=SEARCH),
    IGDM(base=ARD(inner=SEARCH)),
    AWP(base=RSLAD(inner=SEARCH)),
]


class TestMemory:
    @pytest.mark.parametrize("method", METHODS, ids=lambda method: repr(method)[:40])
    @pytest.mark.parametrize(
        ("augment", "epochs"), [(BANK, 4), (Augment(crop=1, flip=True, bank=3), 3), (Augment(), 3)], ids=str
    )
    def test_a_run_with_it_is_the_run_without(self, exactly, teaching, method, augment, epochs):
        """More epochs than draws; a bank that covers the run; no augmentation at all.

        In float64, whose rounding of 1e-16 does not grow to 1e-9 in 16 updates: a page's batches round otherwise, and
        sign() decides by the last bit.
        """
        with_it, means = trained(teaching(method, augment=augment, epochs=epochs, teacher_cache=True)[0])
        without, wanted = trained(teaching(method, augment=augment, epochs=epochs)[0])
        for name, value in without.items():
            torch.testing.assert_close(with_it[name], value, rtol=0, atol=1e-9)
        for mine, theirs in zip(means, wanted, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-9)

    def test_the_answers_matter_to_that_test(self, teaching):
        wrong, _ = teaching(KD(alpha=0.5), epochs=4, teacher_cache=True)
        one = wrong.teachers.wrapped["robust"]
        page, one._page = one._page, lambda question: tuple(part.flip(0) for part in page(question))
        found, wanted = trained(wrong)[0], trained(teaching(KD(alpha=0.5), epochs=4)[0])[0]
        assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) > 1e-3

    @pytest.mark.parametrize(("augment", "draws"), [(BANK, 2), (Augment(), 1)], ids=["bank", "none"])
    def test_an_image_is_looked_at_once_per_draw(self, teaching, augment, draws):
        loop, looked = teaching(KD(), augment=augment, epochs=5, teacher_cache=True)
        trained(loop)
        assert looked == {"robust": 30 * draws}
        assert loop.teachers.report() == {
            "robust": {
                "bytes": draws * 30 * 3 * 4,
                "asked": 150,
                "looked_at": 30 * draws,
                "hit_rate": pytest.approx(1 - draws / 5),
            }
        }

    def test_representations_are_kept_too(self, teaching):
        loop, _ = teaching(RRM(), epochs=3, teacher_cache=True)
        trained(loop)
        assert loop.teachers.report()["robust"]["bytes"] == 2 * 30 * (3 + 64) * 4
        assert loop.teachers.report()["robust"]["hit_rate"] == pytest.approx(1 / 3)

    def test_a_bank_that_covers_the_run_never_hits_and_is_never_negative(self, teaching):
        loop, _ = teaching(KD(), augment=Augment(crop=1, bank=9), epochs=2, teacher_cache=True)
        trained(loop)
        assert loop.teachers.report()["robust"]["hit_rate"] == 0.0

    def test_a_teacher_that_sees_only_attacked_images_is_asked_every_time(self, teaching):
        loop, looked = teaching(MTARD(inner=SEARCH), epochs=4, teacher_cache=True)
        trained(loop)
        assert looked == {"robust": 4 * 30, "clean": 2 * 30}
        assert loop.teachers.report()["robust"] == {"bytes": 0, "asked": 0, "looked_at": 0, "hit_rate": 0.0}

    def test_other_images_of_equal_value_are_looked_at(self, teaching):
        class Copying(Method):
            kind = "copying"

            def losses(self, step):
                wanted = step.teachers["robust"](step.x.clone())
                yield {"distil": (step.student(step.x) - wanted).square().mean()}

        loop, looked = teaching(Copying(), epochs=2, teacher_cache=True)
        trained(loop)
        assert looked == {"robust": 60}

    @pytest.mark.parametrize("epoch", [1, 2, 3])
    def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(self, teaching, net, epoch):
        options = {"epochs": 5, "teacher_cache": True, "batch": 7}
        whole, _ = teaching(ARD(inner=SEARCH), **options)
        states = []
        for _ in whole.run():
            state = whole.state()
            states.append({**state, "student": {name: value.clone() for name, value in state["student"].items()}})
            states[-1]["optimiser"] = torch.load(saved(state["optimiser"]), weights_only=True)
        resumed, _ = teaching(ARD(inner=SEARCH), student=net(seed=9), **options)
        resumed.restore(states[epoch - 1])
        trained(resumed)
        for name, value in whole.student.state_dict().items():
            assert torch.equal(resumed.student.state_dict()[name], value), name

    def test_too_large_a_bank_is_one_sentence(self, teaching, monkeypatch):
        monkeypatch.setattr(training_teachers, "memory_left", lambda device: 2 * 30 * 3 * 4 - 1)
        loop, _ = teaching(KD(), teacher_cache=True)
        with pytest.raises(InputError) as caught:
            trained(loop)
        assert str(caught.value) == (
            "a teacher's answers to 2 draws of 30 images take 0.0 GB, more than half of the memory; lower augment.bank "
            "or leave training.teacher_cache off"
        )


def saved(state):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


class TestPrecision:
    @pytest.mark.parametrize(
        ("training", "teacher", "wanted"),
        [("fp32", "student", False), ("bf16", "student", True), ("fp32", "bf16", True), ("bf16", "fp32", False)],
    )
    def test_is_the_students_unless_it_has_its_own(self, teaching, training, teacher, wanted):
        inside = []

        class Looking(Method):
            kind = "looking"

            def losses(self, step):
                target = step.teachers["robust"](step.x)
                assert torch.is_autocast_enabled("cpu") == (training == "bf16")
                assert target.dtype == torch.float32
                yield {"label": cross_entropy(step.student(step.x), step.y).mean() + 0 * target.sum()}

        loop, _ = teaching(Looking(), precision=training, teacher_precision=teacher, epochs=1)
        networks = loop.teachers.networks["robust"]
        raw = getattr(networks, "network", networks)
        raw.register_forward_pre_hook(lambda *_: inside.append(torch.is_autocast_enabled("cpu")))
        trained(loop)
        assert inside == [wanted] * 4

    def test_auto_looks_at_the_teacher(self, teaching, monkeypatch):
        seen = []
        monkeypatch.setattr(training_teachers, "choose_precision", lambda wish, device, net: seen.append(net) or "bf16")
        loop, _ = teaching(KD(), teacher_precision="auto")
        one = loop.teachers.wrapped["robust"]
        assert seen == [one.network]
        assert one.precision == "bf16"
        assert loop.teachers.report() == {}  # it keeps nothing

    def test_bf16_answers_are_near_those_in_fp32_and_gradients_flow(self, teaching, images):
        loop, _ = teaching(KD(), teacher_precision="bf16")
        one = loop.teachers.wrapped["robust"]
        x = (images.images.float() / 255).requires_grad_()
        found, wanted = one(x), one.network(x)
        assert not torch.equal(found, wanted)
        torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
        mine, theirs = (torch.autograd.grad(logits.square().sum(), x)[0] for logits in (found, wanted))
        assert torch.nn.functional.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.99


def test_by_default_a_method_sees_the_networks_themselves(teaching):
    loop, _ = teaching(MTARD(inner=SEARCH), optimiser=SGD(lr=0.01))
    assert loop.teachers.wrapped == {}
    assert all(not isinstance(one, training_teachers.Teacher) for one in loop.teachers.networks.values())

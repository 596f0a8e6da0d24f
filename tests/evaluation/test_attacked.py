import pytest
import torch
from torch import nn

from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.attacks.suites import AttackSpec
from overproof.data.images import ImageSet
from overproof.errors import InputError
from overproof.evaluation.attacked import judge, prepare_subject
from overproof.functional import margin
from overproof.models.architectures.mlp import MLP
from overproof.models.classifier import Classifier
from overproof.models.inference.fast import Fast
from overproof.models.weights import build
from overproof.signature import Signature

CLASSES = ("a", "b", "c", "d")
FGSM = AttackSpec(name="fgsm", attack=PGD(steps=1, start="none", eps=Radius("6/255")))
STILL = AttackSpec(name="still", attack=PGD(steps=10, start="none", eps=Radius("6/255")))
DRAWN = AttackSpec(name="drawn", attack=PGD(steps=3, restarts=3, eps=Radius("6/255")))


@pytest.fixture
def model(tiny_classifier):
    """Return a network in train mode with one BatchNorm that its owner froze."""
    network = tiny_classifier()
    network.backbone[1].eval()
    return network


@pytest.fixture
def images(model):
    """Return 40 images; the label is the network's own answer, but for every fourth."""
    pixels = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    model.eval()
    labels = model(pixels.float() / 255).argmax(dim=1)
    model.train()
    model.backbone[1].eval()
    labels[::4] = (labels[::4] + 1) % len(CLASSES)
    return ImageSet(name="tiny", images=pixels, labels=labels, classes=CLASSES)


class Counted(nn.Module):
    """Counts the examples a network is shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.sizes = network, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.network(x)


def test_clean_verdicts_are_the_predictions_in_eval_mode(model, images):
    found = judge(model, images, ())
    model.eval()
    predictions = model(images.images.float() / 255).argmax(dim=1)
    assert torch.equal(found.predictions, predictions)
    assert torch.equal(found.labels, images.labels)
    assert (found.clean.passed, found.clean.of) == (30, 40)
    assert torch.equal(found.robust, found.correct)


def test_the_worst_case_is_below_every_attack_and_each_below_clean(model, images):
    found = judge(model, images, (FGSM, STILL, DRAWN))
    assert list(found.attacks) == ["fgsm", "still", "drawn"]
    assert 0 < found.worst.passed < found.clean.passed  # the attacks break some and not all
    for name, evidence in found.attacks.items():
        assert not (found.survived[name] & ~found.correct).any()
        assert not (found.robust & ~found.survived[name]).any()
        assert found.worst.passed <= evidence.passed <= found.clean.passed
    both = found.correct & found.survived["fgsm"] & found.survived["still"] & found.survived["drawn"]
    assert torch.equal(found.robust, both)


def test_evidence_says_what_it_is_for_and_what_it_cost(model, images):
    found = judge(model, images, (FGSM, STILL))
    assert found.clean.claim == "correct on clean images"
    assert found.attacks["fgsm"].claim == "correct under fgsm"
    assert found.worst.claim == "correct under every attack"
    assert set(found.seconds) == {"clean", "fgsm", "still"}
    assert found.attacks["still"].seconds == found.seconds["still"] > 0
    assert found.worst.seconds == pytest.approx(sum(found.seconds.values()))


def test_an_attack_of_no_size_leaves_the_clean_accuracy(model, images):
    tiny = AttackSpec(name="tiny", attack=PGD(eps=Radius("1e-9"), steps=3))
    found = judge(model, images, (tiny,))
    assert torch.equal(found.survived["tiny"], found.correct)


@pytest.mark.parametrize(("loss", "classes"), [("cross_entropy", 2), ("margin", 2), ("margin", 3), ("dlr", 3)])
def test_on_a_linear_model_survival_is_decided_by_the_exact_worst_case(loss, classes, worst_case):
    # With three classes cross-entropy maximises a mixture of both rivals, so it is not asked for the exact answer.
    torch.manual_seed(4)
    signature = Signature(channels=1, height=6, width=6, classes=classes)
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, classes)), signature)
    pixels = torch.randint(0, 256, (60, 1, 6, 6)).to(torch.uint8)
    x = pixels.float() / 255
    labels = model(x).argmax(dim=1)
    examples = ImageSet(name="linear", images=pixels, labels=labels, classes=CLASSES[:classes])
    weight, logits = model.head.weight.detach(), model(x).detach()
    gaps = []
    for rival in range(1, classes):
        other = (labels + rival) % classes
        slope = (weight[other] - weight[labels]).reshape(x.shape)
        lead = (logits.gather(1, labels[:, None]) - logits.gather(1, other[:, None])).squeeze(1)
        gaps.append(lead - worst_case("linf", slope, x, 0.05))
    exact = torch.stack(gaps).amin(dim=0)
    assert 10 < (exact > 0).sum() < 50
    trial = AttackSpec(name="pgd", attack=PGD(eps=Radius("0.05"), steps=20, restarts=3), loss=loss)
    survived = judge(model, examples, (trial,)).survived["pgd"]
    assert survived[exact > 1e-5].all()  # what cannot be misclassified is not
    assert not survived[exact < -1e-5].any()  # and what can be misclassified is


def test_broken_by_agrees_with_robustness(model, images):
    found = judge(model, images, (FGSM, STILL))
    misclassified = torch.tensor([name is not None for name in found.broken_by()])
    assert misclassified.any()
    assert torch.equal(misclassified, found.correct & ~found.robust)


def test_verdicts_of_shards_are_those_of_the_whole(model, images):
    whole = judge(model, images, (FGSM, STILL), batch=40)
    parts = [judge(model, images.at(torch.arange(*span)), (FGSM, STILL), batch=40) for span in ((0, 13), (13, 40))]
    for name in ("fgsm", "still"):
        assert torch.equal(torch.cat([part.survived[name] for part in parts]), whole.survived[name])
    added = parts[0].worst + parts[1].worst
    assert (added.passed, added.of) == (whole.worst.passed, whole.worst.of)


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_without_a_random_start_the_batch_size_does_not_matter(batch, model, images):
    reference, found = judge(model, images, (FGSM, STILL), batch=40), judge(model, images, (FGSM, STILL), batch=batch)
    assert torch.equal(found.predictions, reference.predictions)
    assert all(torch.equal(found.survived[name], reference.survived[name]) for name in ("fgsm", "still"))


def test_draws_are_functions_of_the_seed_and_not_of_what_was_drawn_before(model, images):
    trial = AttackSpec(name="one", attack=PGD(steps=1, eps=Radius("6/255")))
    starts = []
    for seed in (1, 1, 2):
        torch.rand(len(starts))
        shown = []
        hook = model.register_forward_pre_hook(lambda _, args, shown=shown: shown.append(args[0].detach().clone()))
        judge(model, images, (trial,), seed=seed)
        hook.remove()
        starts.append(shown[1])  # after the clean pass, the first point of the search
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_restarts_are_spent_on_those_still_standing(model, images):
    model.backbone = counted = Counted(model.backbone)
    found = judge(
        model, images, (AttackSpec(name="drawn", attack=PGD(steps=3, restarts=2, eps=Radius("6/255"))),), batch=40
    )
    # A clean pass, then per restart three gradients and a verdict.
    assert counted.sizes[0] == 40
    assert counted.sizes[1:5] == [30] * 4
    robust = counted.sizes[5]
    assert counted.sizes[5:] == [robust] * 4
    once = judge(model, images, (AttackSpec(name="drawn", attack=PGD(steps=3, eps=Radius("6/255"))),), batch=40)
    assert robust == once.attacks["drawn"].passed < 30
    assert found.attacks["drawn"].passed <= robust


def test_every_restart_starts_elsewhere(model, images):
    shown = []
    model.register_forward_pre_hook(lambda _, args: shown.append(args[0].detach().clone()))
    judge(model, images, (AttackSpec(name="weak", attack=PGD(steps=1, restarts=2, eps=Radius("1e-4"))),), batch=40)
    # A clean pass, then per restart the start and the end; nothing breaks, so both restarts see the same images.
    assert [len(x) for x in shown] == [40, 30, 30, 30, 30]
    assert (shown[1] - shown[3]).abs().amax() > 1e-5


def test_when_nothing_stands_nothing_is_asked(model, images):
    model.backbone = counted = Counted(model.backbone)
    strong = AttackSpec(name="strong", attack=PGD(steps=20, restarts=50, eps=Radius("1")))
    found = judge(model, images, (strong,), batch=40)
    assert found.worst.passed == 0
    assert len(counted.sizes) < 1 + 10 * 21


def test_the_model_is_in_eval_mode_meanwhile_and_gets_its_mode_back(model, images, modes):
    before, seen = modes(model), []
    hook = model.register_forward_pre_hook(lambda module, args: seen.append(any(modes(module).values())))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    judge(model, images, (FGSM,))
    hook.remove()
    assert seen and not any(seen)
    assert modes(model) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


@pytest.fixture
def own():
    """Return a network of one of our families, in eval mode."""
    return build(MLP(hidden=(16,)), Signature(channels=1, height=6, width=6, classes=3)).eval()


def test_our_own_networks_are_searched_on_a_copy_and_judged_themselves(own):
    for precision in ("fp32", "bf16"):
        subject = prepare_subject(own, precision=precision)
        assert subject.judge is own
        assert isinstance(subject.search, Fast)
        assert 0 < subject.slack < 0.1
    assert prepare_subject(own).slack == 1e-5
    assert prepare_subject(own, precision="bf16").slack == 2 * torch.finfo(torch.bfloat16).eps


def test_any_other_network_is_searched_as_it_is(model):
    subject = prepare_subject(model, precision="bf16")
    assert subject.judge is subject.search is model
    assert subject.slack == 0


def test_a_processor_gets_smaller_passes_and_the_surrogate_is_handed_on(own, model):
    assert prepare_subject(own).chunk == prepare_subject(model).chunk == 128
    assert prepare_subject(own, surrogate=model).surrogate is model
    assert prepare_subject(model).surrogate is None
    assert prepare_subject(nn.Identity()).chunk == 128


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_slack_lets_the_judge_see_whatever_the_copy_may_have_wrong(own, precision):
    subject = prepare_subject(own, precision=precision)
    x = torch.rand(2000, 1, 6, 6)
    searched, judged = subject.search(x).detach(), own(x).detach()
    y = judged.argmax(dim=1)
    likely = margin(searched, y.roll(1)) <= subject.slack * searched.abs().amax(dim=1)
    assert likely[judged.argmax(dim=1) != y.roll(1)].all()


def test_a_transfer_attack_needs_somebody_to_search_on(model, images):
    with pytest.raises(InputError, match=r"^attack 'away' searches on a teacher, and there is none$"):
        judge(model, images, (AttackSpec(name="away", surrogate=True),))


def test_transfer_attacks_maximise_the_surrogate(model, images, tiny_classifier):
    trial = AttackSpec(name="transfer", attack=PGD(steps=5, eps=Radius("16/255")), surrogate=True)
    surrogate = tiny_classifier(seed=5).eval()
    found = judge(model, images, (trial,), surrogate=surrogate)
    assert int(found.state["backward"].sum()) == 5 * int(found.correct.sum())
    with pytest.raises(InputError, match="attack 'transfer' searches on a teacher, and there is none"):
        judge(model, images, (trial,))
    itself = judge(model, images, (trial,), surrogate=model)
    assert itself.robust.sum() < found.robust.sum()

import copy
import io
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from overproof.data.augment import Augment
from overproof.data.draws import seed_at
from overproof.errors import InputError
from overproof.functional import cross_entropy
from overproof.methods.ard import ARD
from overproof.methods.method import Method
from overproof.methods.natural import Natural
from overproof.models.weights import freeze
from overproof.training import pace
from overproof.training.averaging import EMA, SWA
from overproof.training.loop import Loop, NotFiniteError, Progress
from overproof.training.optimisation import SGD, AdamW, Constant, Cosine, Multistep, Triangular


def finish(loop):
    return list(loop.run())


def on_disk(state):
    """Return a state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location="cpu")


def same(found, wanted):
    """Whether two nested states are equal to the bit."""
    if isinstance(wanted, torch.Tensor):
        return found.dtype == wanted.dtype and torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return found == wanted


class TestSlowTwin:
    """A dozen lines of plain torch that must end where the loop ends: in float64, where Adam enlarges no rounding."""

    @pytest.mark.parametrize(
        ("optimiser", "reference"),
        [
            (
                SGD(lr=0.1, momentum=0.9, weight_decay=5e-3, nesterov=True),
                lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-3, nesterov=True),
            ),
            (AdamW(lr=0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
        ],
        ids=["sgd", "adamw"],
    )
    @pytest.mark.parametrize("clip", [0.0, 0.05])
    def test_ends_at_the_same_weights_average_and_means(self, exactly, looping, net, optimiser, reference, clip):
        loop = looping(
            Natural(),
            optimiser=optimiser,
            clip=clip,
            schedule=Cosine(floor=0.1),
            warmup=1.0,
            averaging=EMA(decay=0.8, batchnorm="copied"),
        )
        progress = finish(loop)

        student = net().train()
        slow = reference(student.parameters())
        average = {name: value.detach().clone() for name, value in student.named_parameters()}
        count, means = 0, []
        for epoch in range(3):
            losses = []
            for number, (x, y) in enumerate(loop.loader.batches(epoch)):
                at = epoch + number / 4
                for group in slow.param_groups:
                    group["lr"] = optimiser.lr * Cosine(floor=0.1).factor(at, 3) * min(1, at)
                slow.zero_grad()
                loss = F.cross_entropy(student(x), y)
                loss.backward()
                length = torch.cat([value.grad.flatten() for value in student.parameters()]).norm()
                if clip and length > clip:
                    for value in student.parameters():
                        value.grad *= clip / (length + 1e-6)  # as torch's own
                slow.step()
                decay = min(0.8, (1 + count) / (10 + count))
                count += 1
                for name, value in student.named_parameters():
                    average[name] = decay * average[name] + (1 - decay) * value.detach()
                losses.append(float(loss.detach()))
            means.append(sum(losses) / len(losses))

        for name, value in loop.student.state_dict().items():
            torch.testing.assert_close(value, student.state_dict()[name], rtol=0, atol=1e-9)
        for name, value in loop.average.parameters.items():
            torch.testing.assert_close(value, average[name], rtol=0, atol=1e-9)
        assert [one.means["label"] for one in progress] == pytest.approx(means, rel=1e-9)

    def test_clipping_really_bites_here(self, looping):
        ends = []
        for clip in (0.0, 0.05, 1e9):
            loop = looping(Natural(), clip=clip)
            finish(loop)
            ends.append(loop.student.state_dict())
        assert not same(ends[0], ends[1])
        torch.testing.assert_close(ends[0], ends[2])


class TestProgress:
    def test_one_a_whole_epoch(self, looping):
        found = finish(looping())
        assert [(one.epoch, one.batch, one.batches, one.whole) for one in found] == [
            (1, 0, 4, True),
            (2, 0, 4, True),
            (3, 0, 4, True),
        ]
        assert isinstance(found[0], Progress)
        assert set(found[0].means) == {"label", "decay"}

    def test_looks_inside_a_long_epoch_but_not_twice_at_its_end(self, looping, monkeypatch):
        monkeypatch.setattr(pace, "LOOK_SECONDS", 0)
        found = finish(looping(epochs=2))
        assert [(one.epoch, one.batch, one.whole) for one in found] == [
            (0, 1, False),
            (0, 2, False),
            (0, 3, False),
            (1, 0, True),
            (1, 1, False),
            (1, 2, False),
            (1, 3, False),
            (2, 0, True),
        ]

    def test_means_restart_every_epoch_and_run_over_updates(self, looping, monkeypatch):
        monkeypatch.setattr(pace, "LOOK_SECONDS", 0)
        written = []

        class Counting(Natural):
            updates = 2

            def losses(self, step):
                for _ in range(2):
                    written.append(float(len(written)))
                    yield {"count": step.student(step.x).sum() * 0 + written[-1]}

        found = finish(looping(Counting(), epochs=2))
        # Four batches of two updates: 0..7 in the first epoch, 8..15 in the second.
        assert [one.means["count"] for one in found] == [0.5, 1.5, 2.5, 3.5, 8.5, 9.5, 10.5, 11.5]

    def test_a_term_that_comes_and_goes_has_the_mean_of_when_it_was_there(self, looping):
        class Rare(Natural):
            def losses(self, step):
                (terms,) = super().losses(step)
                yield terms | ({"rare": terms["label"] * 0 + 5.0} if step.progress < 0.1 else {})

        found = finish(looping(Rare(), epochs=1, batch=3))
        assert found[0].means["rare"] == 5.0


class TestStep:
    def test_progress_runs_from_zero_to_one(self, looping, spy):
        method = spy()
        finish(looping(method))
        assert [progress for progress, *_ in method.seen] == pytest.approx([n / 11 for n in range(12)])

    def test_a_single_batch_is_no_division_by_zero(self, looping, spy):
        method = spy()
        finish(looping(method, epochs=1, batch=30))
        assert [progress for progress, *_ in method.seen] == [0.0]

    def test_draws_are_a_function_of_seed_epoch_and_batch(self, looping, spy):
        method = spy()
        for one in looping(method, seed=5).run():
            torch.manual_seed(one.epoch)  # what a caller does between two epochs must not matter
        wanted = []
        for epoch in range(3):
            for batch in range(4):
                torch.manual_seed(seed_at(5, "step", epoch, batch))
                wanted.append(float(torch.rand(())))
        assert [draw for _, draw, _ in method.seen] == wanted

    def test_memory_is_handed_on_from_batch_to_batch(self, looping, spy):
        method = spy()
        loop = looping(method)
        finish(loop)
        sums = [held for *_, held in method.seen]
        assert sums[0] == 0
        assert len(set(sums)) == len(sums)
        assert "sum" in loop.memory

    def test_precision_holds_for_the_method_and_not_for_the_optimiser(self, looping):
        inside = []

        class Looking(Natural):
            def losses(self, step):
                inside.append(torch.is_autocast_enabled("cpu"))
                yield {"label": F.cross_entropy(step.student(step.x), step.y)}

        for precision, wanted in (("fp32", False), ("bf16", True)):
            inside.clear()
            loop = looping(Looking(), precision=precision, epochs=1)
            for _ in loop.run():
                assert not torch.is_autocast_enabled("cpu")
            assert inside == [wanted] * 4
            assert loop.precision == precision
            assert all(value.dtype == torch.float32 for value in loop.student.parameters())

    def test_teachers_are_as_they_were(self, looping, net):
        teacher = freeze(net(seed=1))
        before = copy.deepcopy(teacher.state_dict())
        finish(looping(ARD(), teachers={"robust": teacher}))
        assert same(teacher.state_dict(), before)
        assert not any(module.training for module in teacher.modules())
        assert all(value.grad is None for value in teacher.parameters())


class TestLearningRate:
    @pytest.mark.parametrize(
        "schedule", [Constant(), Cosine(), Triangular(peak=0.3), Multistep(milestones=(1, 2.5))], ids=repr
    )
    @pytest.mark.parametrize("times", [1, 2])
    def test_follows_the_schedule_update_by_update(self, looping, spy, monkeypatch, schedule, times):
        loop = looping(spy(times=times), schedule=schedule, warmup=0.5)
        rates = []
        step = loop.optimiser.step
        monkeypatch.setattr(
            loop.optimiser, "step", lambda: (rates.append(loop.optimiser.param_groups[0]["lr"]), step())[1]
        )
        finish(loop)
        updates = 4 * times
        assert rates == pytest.approx([loop.training.learning_rate(n / updates) for n in range(3 * updates)])


SETTINGS = [
    {"optimiser": SGD(lr=0.05), "averaging": EMA(decay=0.9)},
    {"optimiser": AdamW(lr=0.01), "averaging": SWA(start=0.3)},
    {"optimiser": AdamW(lr=0.01), "clip": 0.1, "precision": "bf16"},
    {"optimiser": SGD(lr=0.05, nesterov=True), "schedule": Triangular(), "warmup": 1.0},
]


class TestResume:
    @pytest.mark.parametrize("options", SETTINGS, ids=lambda options: "-".join(options))
    @pytest.mark.parametrize("times", [1, 2])
    def test_from_every_yield_on_is_bit_equal(self, looping, net, spy, monkeypatch, options, times):
        monkeypatch.setattr(pace, "LOOK_SECONDS", 0)
        augment = Augment(crop=1, flip=True, cutout=1)
        whole = looping(spy(times=times), augment=augment, **options)
        states, progress = [], []
        for one in whole.run():
            states.append(on_disk(whole.state()))
            progress.append(one)
        assert len(states) == 12
        network = whole.network().state_dict()
        for number in range(11):
            resumed = looping(spy(times=times), student=net(seed=99), augment=augment, **options)
            torch.manual_seed(1234)
            resumed.restore(states[number])
            assert list(resumed.run()) == progress[number + 1 :], f"from yield {number}"
            assert same(on_disk(resumed.state()), states[-1]), f"from yield {number}"
            assert same(resumed.network().state_dict(), network)

    def test_a_finished_run_has_nothing_left_to_do(self, looping):
        loop = looping()
        finish(loop)
        state = on_disk(loop.state())
        again = looping()
        again.restore(state)
        assert finish(again) == []
        assert same(on_disk(again.state()), state)

    def test_another_seed_is_another_run(self, looping):
        ends = []
        for seed in (0, 1):
            loop = looping(seed=seed)
            finish(loop)
            ends.append(loop.state()["student"])
        assert not same(*ends)


class Together(Natural):
    """Teaches an auxiliary model with the student."""

    auxiliary_models = ("peer",)

    def losses(self, step):
        (terms,) = super().losses(step)
        yield terms | {"peer": F.cross_entropy(step.auxiliary_models["peer"](step.x), step.y)}


@pytest.mark.parametrize(
    "change",
    [
        {"position": {"epoch": -1, "batch": 0}},
        {"position": {"epoch": "1", "batch": 0}},
        {"position": 5},
        {"student": {}},
        {"student": {"x": torch.zeros(1)}},
        {"optimiser": []},
        {"memory": [1]},
        {"tallies": {"label": [torch.zeros(())]}},
    ],
    ids=lambda change: str(change)[:30],
)
def test_the_state_of_another_training_is_one_sentence(looping, change):
    loop = looping(Natural())
    state = on_disk(loop.state())
    with pytest.raises(InputError, match=r"^the checkpoint: not readable as a state of this training ") as caught:
        looping(Natural()).restore({**state, **change})
    assert "\n" not in str(caught.value)


class TestCompanions:
    def made(self, looping, net, seed=0, **options):
        base = looping(Together(), student=net(seed=seed), **options)
        networks = {"peer": net(seed=seed + 1)}
        return Loop(base.method, base.student, {}, base.loader, base.training, 0, auxiliary_models=networks)

    def test_learn_with_the_student_and_resume_to_the_bit(self, looping, net):
        whole = self.made(looping, net)
        before = copy.deepcopy(whole.auxiliary_models.state_dict())
        states = [on_disk(whole.state()) for _ in whole.run()]
        assert not same(whole.auxiliary_models.state_dict(), before)
        resumed = self.made(looping, net, seed=10)
        resumed.restore(states[0])
        finish(resumed)
        assert same(on_disk(resumed.state()), states[-1])

    def test_are_clipped_with_the_student_as_one_vector(self, looping, net, monkeypatch):
        loop = self.made(looping, net, clip=0.01)
        lengths = []
        everything = [*loop.student.parameters(), *loop.auxiliary_models.parameters()]
        step = loop.optimiser.step
        monkeypatch.setattr(
            loop.optimiser,
            "step",
            lambda: (lengths.append(torch.cat([value.grad.flatten() for value in everything]).norm()), step())[1],
        )
        finish(loop)
        assert [float(length) for length in lengths] == pytest.approx([0.01] * 12, rel=1e-3)

    def test_are_looked_at_too(self, looping, net, monkeypatch):
        loop = self.made(looping, net)
        run = loop.run()
        next(run)
        with torch.no_grad():
            loop.auxiliary_models["peer"].backbone[4].bias[0] = float("nan")
            for value in loop.student.parameters():
                assert value.isfinite().all()
        monkeypatch.setattr(Together, "losses", Natural.losses)  # its term would be the first to be seen
        with pytest.raises(NotFiniteError, match="the weights are not finite after batch 3 of epoch 1"):
            next(run)


class TestNotFinite:
    def test_a_term_is_named_with_its_batch_and_epoch(self, looping):
        class Broken(Natural):
            def losses(self, step):
                (terms,) = super().losses(step)
                bad = 0.39 < step.progress < 0.50  # batches 1 and 0-based 5 of 12: batch 1 of epoch 1
                yield terms | {"odd": terms["label"].detach() * (float("nan") if bad else 0.0)}

        loop = looping(Broken())
        run = loop.run()
        next(run)
        with pytest.raises(NotFiniteError) as caught:
            next(run)
        assert str(caught.value) == (
            "term 'odd' is not finite in batch 1 of epoch 1; training stopped, and the last good checkpoint is kept "
            "(a smaller learning rate or training.clip may help)"
        )
        assert isinstance(caught.value, InputError)

    @pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
    def test_infinities_count_too(self, looping, value):
        class Broken(Natural):
            def losses(self, step):
                yield {"label": step.student(step.x).sum() * 0 + value}

        with pytest.raises(NotFiniteError, match="term 'label' is not finite in batch 0 of epoch 0"):
            next(looping(Broken()).run())

    def test_weights_are_looked_at_where_every_term_was_finite(self, looping):
        class Exploding(Natural):
            def losses(self, step):
                yield {"label": step.student(step.x).sum() * (1e38 if step.progress == 1 else 0)}

        with pytest.raises(NotFiniteError, match="the weights are not finite after batch 3 of epoch 2"):
            finish(looping(Exploding(), optimiser=SGD(lr=1e9, momentum=0.0, weight_decay=0.0)))

    def test_it_is_told_before_the_state_can_be_saved(self, looping, monkeypatch):
        monkeypatch.setattr(pace, "LOOK_SECONDS", 0)

        class Broken(Natural):
            def losses(self, step):
                yield {"label": step.student(step.x).sum() * (float("nan") if step.progress > 0.2 else 1e-3)}

        loop, good = looping(Broken()), 0
        with pytest.raises(NotFiniteError):
            for _ in loop.run():
                good += 1
                assert all(value.isfinite().all() for value in loop.state()["student"].values())
        assert good == 3


class TestPromises:
    def promise(self, declared, kept):
        class Method(Natural):
            updates = declared

            def losses(self, step) -> Iterator[dict[str, torch.Tensor]]:
                for _ in range(kept):
                    yield {"label": step.student(step.x).sum() * 0}

        return Method()

    def test_too_few_updates(self, looping):
        said = "method 'natural' yielded losses once for a batch, and its updates are 2: it must yield that often"
        with pytest.raises(InputError, match=said):
            finish(looping(self.promise(2, 1)))

    def test_too_many_updates(self, looping):
        with pytest.raises(
            InputError, match="method 'natural' yields losses more often for a batch than its updates, 1"
        ):
            finish(looping(self.promise(1, 2)))


class TestOtherPeoplesMethods:
    """What a method yields is looked at before it is descended."""

    def method(self, work):
        class Odd(Natural):
            losses = work

        return Odd()

    @pytest.mark.parametrize(
        ("yields", "said"),
        [
            ({}, "yielded an empty dictionary; it must yield a dictionary of named terms"),
            (None, "yielded losses not at all for a batch, and its updates are 1"),
            (torch.zeros(()), "yielded an object of type Tensor; it must yield a dictionary"),
            ({1: torch.zeros(())}, "yielded an object of type dict; it must yield a dictionary of named terms"),
            ({"a": torch.zeros(3)}, r"its term 'a' is a tensor of shape \[3\]; a term is a scalar tensor"),
            ({"a": 0.5}, "its term 'a' is an object of type float; a term is a scalar tensor"),
            ({"a": torch.zeros(()), "b": torch.ones(())}, r"no gradient leads from its terms \(a, b\)"),
        ],
    )
    def test_what_is_no_term(self, looping, yields, said):
        def losses(self, step):
            yield yields

        with pytest.raises(InputError, match=rf"^method 'natural'.*{said}"):
            finish(looping(self.method(losses)))

    def test_nothing_is_yielded(self, looping):
        def losses(self, step):
            if not len(step.y):
                yield {}

        with pytest.raises(
            InputError, match=r"^method 'natural' yielded losses not at all for a batch, and its updates"
        ):
            finish(looping(self.method(losses)))

    def test_it_returns_where_it_should_yield(self, looping):
        with pytest.raises(
            InputError, match=r"^method 'natural': losses returns an object of type dict; it must yield"
        ):
            finish(looping(self.method(lambda self, step: {"label": step.student(step.x).mean()})))

    def test_a_term_that_is_no_number_is_named(self, looping):
        def losses(self, step):
            yield {"fine": step.student(step.x).mean(), "odd": step.student(step.x).mean() * float("nan")}

        with pytest.raises(InputError, match=r"^term 'odd' is not finite in batch 0 of epoch 0; training stopped"):
            finish(looping(self.method(losses)))

    @pytest.mark.parametrize("memory", [None, {"a": 1}, [torch.zeros(1)]])
    def test_its_memory_is_a_dictionary_of_tensors(self, looping, memory):
        class Odd(Natural):
            def initial_state(self, like):
                return memory

        with pytest.raises(InputError, match="method 'natural': its initial_state must be a dictionary of tensors"):
            looping(Odd())


class TestFrozenBatchNorm:
    """What holds: a run begins with the whole student in train mode; what is frozen later stays frozen."""

    def test_starting_a_run_thaws(self, looping, net):
        student = net()
        student.backbone[1].eval()
        before = student.backbone[1].running_mean.clone()
        finish(looping(Natural(), student=student))
        assert student.backbone[1].training
        assert not torch.equal(student.backbone[1].running_mean, before)

    def test_frozen_between_two_epochs_it_stays_frozen_through_searches_and_averages(self, looping, net):
        loop = looping(ARD(), teachers={"robust": freeze(net(seed=1))}, averaging=EMA())
        norm, frozen = loop.student.backbone[1], None
        for _ in loop.run():
            loop.network()
            if frozen is not None:
                assert not norm.training
                assert torch.equal(norm.running_mean, frozen)
            norm.eval()
            frozen = norm.running_mean.clone()
        assert loop.student.backbone[0].training


class TestNetwork:
    def test_without_averaging_it_is_the_student_itself(self, looping):
        loop = looping()
        assert loop.network() is loop.student

    def test_averaged_with_statistics_of_the_plain_training_images(self, looping, images):
        loop = looping(Natural(), averaging=EMA(decay=0.9, batchnorm="measured"))
        finish(loop)
        network = loop.network()
        seen = []
        network.backbone[0].register_forward_hook(lambda *args: seen.append(args[2].detach()))
        with torch.no_grad():
            network.eval()(images.images.float() / 255)
        out = seen[0]
        torch.testing.assert_close(network.backbone[1].running_mean, out.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(network.backbone[1].running_var, out.transpose(0, 1).flatten(1).var(dim=1))
        assert loop.student.training


class TestMemoryThatRunsOut:
    class Hungry(Method):
        """Cross-entropy of at most ``room`` images; beyond it the device has no memory, or breaks otherwise."""

        kind = "hungry"
        room, problem = 3, torch.OutOfMemoryError("no memory")

        def losses(self, step):
            if len(step.y) > self.room:
                raise self.problem
            yield {"label": cross_entropy(step.student(step.x), step.y).mean()}

    @pytest.mark.parametrize(("room", "advice"), [(3, "training.batch=2 fits"), (0, "use a smaller training.batch or")])
    def test_one_sentence_has_a_size_that_fits(self, looping, monkeypatch, room, advice):
        monkeypatch.setattr(self.Hungry, "room", room)
        with pytest.raises(InputError, match=f"^memory ran out in a step on 8 images; {advice}"):
            list(looping(self.Hungry()).run())

    def test_another_error_stays_what_it_is(self, looping, monkeypatch):
        monkeypatch.setattr(self.Hungry, "problem", RuntimeError("a defect"))
        with pytest.raises(RuntimeError, match="a defect"):
            list(looping(self.Hungry()).run())

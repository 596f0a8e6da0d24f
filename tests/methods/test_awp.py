from copy import deepcopy

import pytest
import torch
from torch import nn

from overproof.attacks.pgd import PGD
from overproof.methods.adaad import AdaAD
from overproof.methods.ard import ARD
from overproof.methods.awp import AWP
from overproof.methods.fast_ard import FastARD
from overproof.methods.fast_at import FastAT
from overproof.methods.free_at import FreeAT
from overproof.methods.kd import KD
from overproof.methods.method import Step
from overproof.methods.mtard import MTARD
from overproof.methods.natural import Natural
from overproof.methods.peeraid import PeerAiD
from overproof.methods.pgd_at import PGDAT
from overproof.methods.rrm import RRM
from overproof.methods.trades import TRADES
from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build, freeze

from .by_hand import SIGNATURE, counting, descend, looked, only, step_of, total

SHORT = PGD(steps=2, start="normal")
BASES = [
    PGDAT(inner=SHORT),
    TRADES(inner=SHORT),
    FastAT(),
    Natural(),
    KD(),
    ARD(alpha=0.7, inner=SHORT),
    AdaAD(inner=SHORT),
    MTARD(inner=SHORT, balance_rate=0.5),
    PeerAiD(inner=SHORT),
    RRM(),
]
every_base = pytest.mark.parametrize("base", BASES, ids=lambda base: base.kind)


def weights_of(net):
    return [weight.detach().clone() for weight in net.parameters()]


def same(before, net):
    return all(torch.equal(weight, now) for weight, now in zip(before, net.parameters(), strict=True))


def perturbed(base, step, gamma):
    """Return a copy of the student at the worst weights, by hand."""
    torch.manual_seed(0)
    alone = deepcopy(step.student)
    loss = total(
        only(base.losses(step_of(base, student=alone, teachers=step.teachers, auxiliary_models=step.auxiliary_models)))
    )
    moved = deepcopy(alone)
    slopes = torch.autograd.grad(loss, list(alone.parameters()), allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        for weight, old, slope in zip(moved.parameters(), alone.parameters(), slopes, strict=True):
            if weight.dim() > 1:
                weight += gamma * old.norm() * slope / slope.norm()
    return moved


@every_base
@pytest.mark.parametrize("gamma", [0.005, 0.1])
def test_the_loss_is_the_bases_at_the_perturbed_weights(base, gamma, monkeypatch):
    """The search is held at the unperturbed student, so the base is asked with the images found there."""
    method = AWP(base=base, gamma=gamma)
    step = step_of(method)
    moved = perturbed(base, step, gamma)
    found = []
    search = PGD.search

    def at_first(self, model, x, objective):
        found.append(search(self, model, x, objective))
        return found[0]

    # What the search finds at the unperturbed weights, from the same draws.
    monkeypatch.setattr(PGD, "search", at_first)
    torch.manual_seed(0)
    alone = step_of(
        base, student=deepcopy(step.student), teachers=step.teachers, auxiliary_models=step.auxiliary_models
    )
    calm = only(base.losses(alone))
    hand = only(
        base.losses(step_of(base, student=moved, teachers=step.teachers, auxiliary_models=step.auxiliary_models))
    )
    monkeypatch.undo()
    torch.manual_seed(0)
    before = weights_of(step.student)
    losses = method.losses(step)
    terms = next(losses)
    assert list(terms) == list(hand)
    for name, term in terms.items():
        torch.testing.assert_close(term, hand[name], rtol=1e-9, atol=1e-12)
    assert total(terms) > total(calm)  # the weights moved uphill
    ours = torch.autograd.grad(total(terms), list(step.student.parameters()), allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(total(hand), list(moved.parameters()), allow_unused=True, materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)
    assert not same(before, step.student)
    assert next(losses, None) is None
    assert same(before, step.student)


@every_base
def test_biases_and_one_dimensional_weights_stay(base):
    step = step_of(AWP(base=base))
    before = weights_of(step.student)
    losses = AWP(base=base, gamma=0.1).losses(step)
    next(losses)
    for old, now in zip(before, step.student.parameters(), strict=True):
        moved = float((now.detach() - old).norm())
        assert moved == pytest.approx(0.1 * float(old.norm()) if old.dim() > 1 else 0)
    losses.close()


@every_base
@pytest.mark.parametrize("options", [{"gamma": 0.0}, {"start": 0.9}])
def test_at_gamma_zero_and_before_its_start_it_is_the_base_to_the_bit(base, options):
    ends = []
    for method in (base, AWP(base=base, **options)):
        torch.manual_seed(0)
        step = step_of(method, progress=0.5)
        for _ in range(2):
            descend(method.losses(step), step.student)
        ends.append((weights_of(step.student), step.state))
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))
    assert all(torch.equal(value, ends[1][1][name]) for name, value in ends[0][1].items())


@pytest.mark.parametrize(("progress", "at_work"), [(0.49, False), (0.5, True), (1.0, True)])
def test_it_starts_at_its_share_of_the_run(progress, at_work):
    step = step_of(AWP(base=KD()), progress=progress)
    before = weights_of(step.student)
    losses = AWP(base=KD(), start=0.5).losses(step)
    next(losses)
    assert same(before, step.student) != at_work
    losses.close()


def test_what_the_optimiser_did_is_kept_and_the_displacement_is_not():
    step = step_of(AWP(base=KD()))
    before = weights_of(step.student)
    for _ in AWP(base=KD(), gamma=0.1).losses(step):
        with torch.no_grad():
            for weight in step.student.parameters():
                weight -= 0.25
    for old, now in zip(before, step.student.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), old - 0.25)


def test_weights_come_back_when_the_consumer_stops_early_or_fails():
    step = step_of(AWP(base=KD()))
    before = weights_of(step.student)
    losses = AWP(base=KD(), gamma=0.1).losses(step)
    next(losses)
    assert not same(before, step.student)
    losses.close()
    assert same(before, step.student)
    losses = AWP(base=KD(), gamma=0.1).losses(step)
    next(losses)
    with pytest.raises(RuntimeError, match="out of memory"):
        losses.throw(RuntimeError("out of memory"))
    assert same(before, step.student)


def test_weights_come_back_when_the_base_fails_at_the_perturbed_weights(monkeypatch):
    step, calls = step_of(AWP(base=KD())), []
    before, whole = weights_of(step.student), KD.losses

    def failing(self, step):
        calls.append(self)
        if len(calls) > 1:
            raise RuntimeError("out of memory")
        yield from whole(self, step)

    monkeypatch.setattr(KD, "losses", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(AWP(base=KD(), gamma=0.1).losses(step))
    assert len(calls) == 2 and same(before, step.student)


@pytest.mark.parametrize(
    "base", [PGDAT(inner=SHORT), TRADES(inner=SHORT), KD(), ARD(alpha=0.5, inner=SHORT), RRM()], ids=lambda b: b.kind
)
def test_batchnorm_moves_as_often_as_for_the_base(base, make_step):
    looks = []
    for method in (base, AWP(base=base, gamma=0.1)):
        step = make_step(method)
        for _ in method.losses(step):
            pass
        looks.append(looked(step.student))
    assert looks[0] == looks[1] > 0


def test_batchnorm_of_a_peer_moves_as_often_as_for_the_base(make_step, tiny_classifier):
    looks = []
    for method in (PeerAiD(inner=SHORT), AWP(base=PeerAiD(inner=SHORT), gamma=0.1)):
        step = make_step(method)
        peer = tiny_classifier(seed=5)
        step.auxiliary_models["peer"] = peer
        for _ in method.losses(step):
            pass
        looks.append(looked(peer))
    assert looks == [1, 1]


@pytest.mark.parametrize("base", [PGDAT(inner=SHORT), AdaAD(inner=SHORT), FastAT()], ids=lambda b: b.kind)
def test_the_search_runs_once(base):
    asked = []
    for method in (base, AWP(base=base, gamma=0.1)):
        step = step_of(method)
        count = counting(step.student)
        only(method.losses(step))
        asked.append(len(count))
    assert asked[1] == asked[0] + 1


def test_the_memory_of_the_base_is_updated_once():
    base = MTARD(inner=SHORT, balance_rate=0.5)
    step = step_of(AWP(base=base, gamma=0.1))
    step.state["initial"] = torch.tensor([1.0, 7.0], dtype=torch.float64)
    assert AWP(base=base).roles == ("robust", "clean")
    only(AWP(base=base, gamma=0.1).losses(step))
    share = step.state["relative"][0] / step.state["relative"].sum()
    assert float(step.state["weights"][0]) == pytest.approx(0.5 + 0.5 * (float(share) - 0.5))
    assert abs(float(step.state["weights"][0]) - 0.5) > 0.01


def test_the_rehearsal_leaves_no_gradient_behind():
    step = step_of(AWP())
    next(AWP(base=PGDAT(inner=SHORT)).losses(step))
    assert all(weight.grad is None for weight in step.student.parameters())


def test_what_the_base_needs_is_passed_on():
    assert AWP(base=PeerAiD()).auxiliary_models == ("peer",)
    assert AWP(base=PGDAT()).roles == () and AWP(base=PGDAT()).auxiliary_models == ()
    teacher = freeze(build(MLP(hidden=(7,)), SIGNATURE))
    student = MLP(hidden=(5,))
    assert AWP(base=RRM()).adapt_student(student, {"robust": teacher}) == FeatureAdapter(base=student, features=7)
    assert AWP(base=KD()).adapt_student(student, {"robust": teacher}) is student


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"base": FreeAT(replays=8)}, "awp needs a base of one update per batch; 'free_at' takes 8"),
        ({"base": FastARD(replays=4)}, "awp needs a base of one update per batch; 'fast_ard' takes 4"),
        ({"base": RRM(replays=2)}, "awp needs a base of one update per batch; 'rrm' takes 2"),
        ({"gamma": -0.1}, "gamma is a share of a weight's length and cannot be negative, got -0.1"),
        ({"start": 1.5}, r"start is a share of the run, in \[0, 1\], got 1.5"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        AWP(**options)


class Doubled(nn.Module):
    """Two weights that are added up, so that autograd hands both of them one gradient."""

    def __init__(self):
        super().__init__()
        self.one, self.other = (nn.Parameter(size * torch.ones(3, 4)) for size in (1.0, 2.0))

    def forward(self, x):
        return x.flatten(1) @ (self.one + self.other).T


def test_weights_that_share_a_gradient_are_pushed_each_by_its_own_length():
    student, x, y = Doubled(), torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    before = [value.detach().clone() for value in student.parameters()]
    losses = AWP(base=Natural(), gamma=0.5).losses(Step(x=x, y=y, student=student, teachers={}, state={}, progress=1.0))
    next(losses)
    pushes = [now.detach() - old for now, old in zip(student.parameters(), before, strict=True)]
    for push, old in zip(pushes, before, strict=True):
        torch.testing.assert_close(push.norm(), 0.5 * old.norm())
    torch.testing.assert_close(pushes[1], 2 * pushes[0])
    losses.close()


def test_a_weight_that_the_loss_does_not_depend_on_stays():
    step = step_of(Natural())
    idle = nn.Parameter(torch.ones(2, 2))
    step.student.register_parameter("idle", idle)
    losses = AWP(base=Natural(), gamma=0.5).losses(step)
    next(losses)
    assert torch.equal(idle, torch.ones(2, 2))
    losses.close()
    assert torch.equal(idle, torch.ones(2, 2))

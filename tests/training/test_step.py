from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import nn

from overproof.data.draws import drawn, seed_at
from overproof.errors import InputError
from overproof.methods.method import Method, Step
from overproof.models.classifier import Classifier
from overproof.processes import Part, Processes
from overproof.signature import Signature
from overproof.training.optimisation import SGD, Constant, Training
from overproof.training.step import Place, Updates, set_learning_rate, total


@dataclass(frozen=True, kw_only=True)
class Squares(Method):
    """Yields the mean of (w x)^2 as often as it is told, whatever it declares."""

    kind: Literal["squares"] = "squares"
    declared: int = 2
    yielded: int = 2

    @property
    def updates(self):
        return self.declared

    def losses(self, step):
        for _ in range(self.yielded):
            yield {"loss": step.student(step.x).square().mean(), "nothing": torch.zeros((), dtype=step.x.dtype)}


PLACE = Place(epoch=1, batch=2, batches=4, epochs=3)


def student():
    layer = nn.Linear(1, 1, bias=False).double()
    layer.weight.data.fill_(2.0)
    return Classifier(nn.Sequential(nn.Flatten(), layer), Signature(channels=1, height=1, width=1, classes=1)).double()


def taken(method, network, *, training=None, clip=lambda norm: None, part=Part(), x=None):  # noqa: B008
    weight = next(network.parameters())
    optimiser = torch.optim.SGD([{"params": [weight], "factor": 0.5}], lr=1.0)
    updates = Updates(optimiser=optimiser, training=training, clip=clip)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64) if x is None else x
    step = Step(x=x, y=torch.zeros(len(x), dtype=torch.int64), student=network, part=part)
    return optimiser, updates.taken(method, step, PLACE, 5)


def test_every_update_descends_the_sum_at_its_own_learning_rate():
    network, training = student(), Training(epochs=3, optimiser=SGD(lr=0.1), schedule=Constant(), warmup=3.0)
    weight, rates, weights = next(network.parameters()), [], [2.0]
    optimiser, updates = taken(Squares(), network, training=training)
    for terms in updates:
        assert set(terms) == {"loss", "nothing"}
        rates.append(optimiser.param_groups[0]["lr"])
        weights.append(weight.item())
    # One linear rise over three epochs to 0.1, at epoch 1 and 2 or 2.5 of 4 batches; the group learns half as fast.
    assert rates == pytest.approx([0.05 * (1 + 2 / 4) / 3, 0.05 * (1 + 2.5 / 4) / 3])
    for rate, before, after in zip(rates, weights, weights[1:], strict=False):
        assert after == pytest.approx(before - rate * 2 * before)


def test_without_a_plan_the_rate_is_left_alone_and_nothing_is_clipped():
    clipped = []
    optimiser, updates = taken(Squares(), student(), clip=clipped.append)
    list(updates)
    assert optimiser.param_groups[0]["lr"] == 1.0 and not clipped


def test_clipping_comes_between_the_gradient_and_the_update():
    network, clipped = student(), []
    weight = next(network.parameters())

    def clip(norm):
        clipped.append((norm, weight.grad.item(), weight.item()))
        weight.grad.mul_(0)

    _, updates = taken(Squares(declared=1, yielded=1), network, training=Training(clip=0.25), clip=clip)
    list(updates)
    assert clipped == [(0.25, 4.0, 2.0)] and weight.item() == 2.0


@pytest.mark.parametrize(
    ("yielded", "sentence"),
    [(1, "yielded losses once for a batch"), (3, "more often for a batch than its updates, 2, say")],
)
def test_a_method_that_does_not_yield_what_it_declares(yielded, sentence):
    with pytest.raises(InputError, match=sentence):
        list(taken(Squares(yielded=yielded), student())[1])


def test_draws_are_those_of_the_place_and_of_the_part():
    @dataclass(frozen=True, kw_only=True)
    class Drawing(Squares):
        def losses(self, step):
            found.append(drawn(torch.rand_like, step.x))
            yield {"loss": step.student(step.x).mean()}

    found = []
    x = torch.zeros(3, 1, 1, 1, dtype=torch.float64)
    list(taken(Drawing(declared=1), student(), part=Part(Processes(1, 2), 6), x=x)[1])
    torch.manual_seed(seed_at(5, "step", PLACE.epoch, PLACE.batch))
    whole = torch.rand(6, 1, 1, 1, dtype=torch.float64)
    assert torch.equal(found[0], whole[1::2])


def test_the_place_says_how_far_the_run_is():
    assert PLACE.progress == 6 / 11
    assert Place(epoch=2, batch=3, batches=4, epochs=3).progress == 1
    assert Place(epoch=0, batch=0, batches=1, epochs=1).progress == 0
    assert PLACE.at(0.5) == 1 + 2.5 / 4


def test_a_part_s_mean_weighs_as_its_rows():
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert total(terms) == 5 and total(terms, 0.5) == 2.5


def test_groups_keep_their_factors():
    optimiser = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "factor": 0.1}], lr=9.0)
    optimiser.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    set_learning_rate(optimiser, 0.2)
    assert [group["lr"] for group in optimiser.param_groups] == [pytest.approx(0.02), 0.2]

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import overproof.attacks
from overproof.attacks.objectives import Misclassification, as_objective, ranked_target
from overproof.errors import InputError
from overproof.functional import cross_entropy, difference, dlr, margin, targeted_dlr

LOSSES = ("cross_entropy", "margin", "dlr")
UNTARGETED = {"cross_entropy": cross_entropy, "margin": lambda z, y: -margin(z, y), "dlr": dlr}
TARGETED = {"cross_entropy": lambda z, y, t: -cross_entropy(z, t), "margin": difference, "dlr": targeted_dlr}
every_loss = pytest.mark.parametrize("loss", LOSSES)


class Counted:
    """A network that remembers how many images each pass had, and which."""

    def __init__(self, inner):
        self.inner, self.asked = inner, []

    def __call__(self, x):
        self.asked.append(x.detach().clone())
        return self.inner(x)

    @property
    def sizes(self):
        return [len(x) for x in self.asked]


def network(classes=5):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, classes)).double()
    return model.requires_grad_(False)


def images(n=7):
    return torch.rand(n, 3, 2, 2).double()


def wanted(loss, logits, y, target):
    return UNTARGETED[loss](logits, y) if target is None else TARGETED[loss](logits, y, target)


def passes(goal):
    return goal.cost.forward.tolist(), goal.cost.backward.tolist()


def searched_and_judged(search, judge, y, **options):
    return replace(Misclassification.on(search, y, **options), judge=judge)


# --- the score --------------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_score_is_the_quantity_it_is_called_after(loss, targeted, classes):
    logits, y = torch.randn(9, classes).double(), torch.arange(9) % classes
    target = (y + 1) % classes if targeted else None
    goal = Misclassification.on(lambda x: logits, y, loss=loss, target=target)
    expected = wanted(loss, logits, y, target)
    assert torch.equal(goal.score(logits), expected)
    assert torch.equal(goal(images(9)), expected)
    assert torch.equal(goal.assess(images(9))[0], expected)
    assert torch.equal(goal.take_gradient(images(9)).score, expected)


@every_loss
def test_a_higher_score_is_nearer_to_a_wrong_answer(loss):
    y = torch.tensor([0, 0])
    goal = Misclassification.on(nn.Identity(), y, loss=loss)
    sure, unsure = torch.tensor([4.0, 1.0, 0.0, -1.0]), torch.tensor([1.5, 1.0, 0.0, -1.0])
    low, high = goal.score(torch.stack([sure, unsure]))
    assert low < high
    low, high = goal.towards(torch.tensor([1, 1])).score(torch.stack([sure, unsure]))
    assert low < high


def test_loss_and_target_can_be_changed_and_the_cost_is_shared():
    y, target = torch.tensor([0, 1]), torch.tensor([2, 2])
    goal = Misclassification.on(network(), y)
    other = goal.with_loss("dlr").towards(target)
    assert (goal.loss, goal.target) == ("cross_entropy", None)
    assert other.loss == "dlr" and torch.equal(other.target, target) and other.towards(None).target is None
    other.assess(images(2))
    assert other.cost is goal.cost and passes(goal) == ([1, 1], [0, 0])


# --- one pass ---------------------------------------------------------------------------------------------------------


def test_the_gradient_of_cross_entropy_on_a_linear_network_in_closed_form():
    weight, y, x = torch.randn(12, 4).double(), torch.tensor([0, 1, 2]), images(3)
    found = Misclassification.on(lambda x: x.flatten(1) @ weight, y).take_gradient(x)
    logits = x.flatten(1) @ weight
    # d CE / dx = W (softmax - one_hot).
    expected = (logits.softmax(dim=1) - F.one_hot(y, 4)) @ weight.T
    torch.testing.assert_close(found.gradient, expected.view_as(x))
    assert torch.equal(found.misclassified, logits.argmax(dim=1) != y)


@every_loss
@pytest.mark.parametrize("targeted", [False, True])
def test_the_gradient_is_the_slope_of_each_score_on_its_own(loss, targeted):
    model, x, y = network(), images(), torch.arange(7) % 5
    target = (y + 2) % 5 if targeted else None
    found = Misclassification.on(model, y, loss=loss, target=target).take_gradient(x)
    for i in range(7):
        point = x[i : i + 1].clone().requires_grad_()
        one = slice(i, i + 1)
        (slope,) = torch.autograd.grad(wanted(loss, model(point), y[one], target[one] if targeted else None), point)
        torch.testing.assert_close(found.gradient[one], slope)


def test_nothing_of_a_pass_carries_a_graph_even_where_gradients_are_off():
    model, x, y = network().requires_grad_(), images().requires_grad_(), torch.arange(7) % 5
    goal = Misclassification.on(model, y)
    with torch.no_grad():
        without = goal.take_gradient(x)
    for part in (*goal.take_gradient(x), *goal.assess(x), goal.logits(x)):
        assert not part.requires_grad
    assert torch.equal(without.gradient, goal.take_gradient(x).gradient) and without.gradient.abs().sum() > 0
    assert x.grad is None and all(weight.grad is None for weight in model.parameters())


def test_called_as_an_objective_gradients_flow():
    x = images().requires_grad_()
    score = Misclassification.on(network(), torch.arange(7) % 5)(x)
    assert score.shape == (7,) and score.requires_grad


@pytest.mark.parametrize(
    "search",
    [
        lambda x: torch.from_numpy(x.detach().numpy()).flatten(1),
        lambda x: x.flatten(1).detach(),
        lambda x: x.flatten(1).detach() * torch.ones(12, requires_grad=True),
        lambda x: x.flatten(1).round(),
    ],
    ids=["another runtime", "detached", "gradients of weights alone", "rounded"],
)
def test_without_a_way_back_to_the_pixels_the_gradient_is_zero(search):
    x, y = images(), torch.arange(7) % 5
    score, gradient, misclassified = Misclassification.on(search, y).take_gradient(x)
    assert torch.equal(gradient, torch.zeros_like(x))
    with torch.no_grad():
        logits = search(x)
    assert torch.equal(score, cross_entropy(logits, y)) and torch.equal(misclassified, logits.argmax(dim=1) != y)


def test_bad_numbers_in_a_gradient_are_zeros_and_the_others_stay():
    # The slope of sqrt is infinite at 0, that of 0 * sqrt is not a number there; elsewhere it is an ordinary one.
    x = torch.tensor([[0.0, 0.25], [0.25, 1.0]]).view(2, 1, 1, 2).double()
    y = torch.tensor([0, 0])
    for factor, slope in ((1.0, [[0, -1.0], [-1, -0.5]]), (0.0, [[0, 0], [0, 0]])):

        def search(x, factor=factor):
            first = factor * x.sqrt().flatten(1).sum(dim=1)
            return torch.stack([first, torch.zeros_like(first)], dim=1)

        found = Misclassification.on(search, y, loss="margin").take_gradient(x)
        assert found.gradient.isfinite().all()
        torch.testing.assert_close(found.gradient.flatten(1), torch.tensor(slope).double())


# --- chunks, rows, cost -----------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_chunks_change_nothing(loss, targeted, n):
    model, judge, x, y = network(), network(), images(n), torch.arange(n) % 5
    target = (y + 1) % 5 if targeted else None
    found = []
    for chunk in (2, 1024):
        search = Counted(model)
        goal = searched_and_judged(search, judge, y, loss=loss, target=target)
        goal = replace(goal, chunk=chunk, slack=0.5)
        found.append((*goal.take_gradient(x), *goal.assess(x), goal.logits(x), goal.cost.forward, goal.cost.backward))
        assert max(search.sizes) == min(chunk, n)
    for chunked, whole in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("keep", [torch.tensor([True, False, True, False, False]), torch.tensor([2, 0])], ids=str)
def test_a_part_of_the_goal_is_the_goal_of_a_part(keep, targeted):
    model, x, y = network(), images(5), torch.arange(5)
    target = (y + 1) % 5 if targeted else None
    goal = Misclassification.on(model, y, loss="margin", target=target)
    part, rows = goal.at(keep), torch.arange(5)[keep]
    assert len(goal) == 5 and len(part) == 2
    assert torch.equal(part.y, y[rows]) and torch.equal(part.index, rows)
    torch.testing.assert_close(part.assess(x[rows])[0], goal.assess(x)[0][rows])
    assert goal.cost.forward.tolist() == [2 if row in rows else 1 for row in range(5)]
    # A part of a part still counts in the first rows.
    last = part.at(torch.tensor([1]))
    last.take_gradient(x[last.index])
    assert torch.equal(last.index, rows[1:])
    assert goal.cost.backward.tolist() == [int(row == rows[1]) for row in range(5)]


def test_every_pass_is_counted_for_every_example():
    goal, x = Misclassification.on(network(), torch.arange(3)), images(3)
    assert passes(goal) == ([0] * 3, [0] * 3)
    goal.take_gradient(x)
    assert passes(goal) == ([1] * 3, [1] * 3)
    goal.assess(x)
    assert passes(goal) == ([2] * 3, [1] * 3)
    goal.logits(x)
    assert passes(goal) == ([3] * 3, [1] * 3)
    goal(x)
    assert passes(goal) == ([4] * 3, [2] * 3)
    with torch.no_grad():
        goal(x)
    assert passes(goal) == ([5] * 3, [2] * 3)
    goal.at(torch.tensor([1])).take_gradient(x[1:2])
    assert passes(goal) == ([5, 6, 5], [2, 3, 2])


# --- who is misclassified ---------------------------------------------------------------------------------------------


def test_one_network_that_searches_and_judges_is_asked_once():
    model, x, y = Counted(network()), images(), torch.arange(7) % 5
    goal = Misclassification.on(model, y)
    _, misclassified = goal.assess(x)
    assert model.sizes == [7] and goal.cost.forward.tolist() == [1] * 7
    assert torch.equal(misclassified, model.inner(x).argmax(dim=1) != y)
    assert misclassified.any()


@pytest.mark.parametrize("ask", ["take_gradient", "assess"])
def test_the_judge_is_asked_near_the_boundary_alone_and_its_word_counts(ask):
    # Margins of 2, 0.05, 0, -0.05 and -2 with a largest logit of 10: a slack of 0.01 is a margin of 0.1.
    margins = torch.tensor([2.0, 0.05, 0.0, -0.05, -2.0, 0.11])
    logits = torch.stack([torch.full_like(margins, 10.0), 10 - margins, torch.zeros_like(margins)], dim=1)
    y, x = torch.zeros(6, dtype=torch.int64), torch.arange(6.0).view(6, 1, 1, 1)
    # The judge finds everything misclassified but images 1 and 4, whatever the search has said.
    says = torch.tensor([1, 0, 1, 2, 0, 1])
    judge = Counted(lambda x: F.one_hot(says[x.flatten().long()], 3).float())
    goal = replace(searched_and_judged(lambda x: logits, judge, y, loss="margin"), slack=0.01)
    misclassified = getattr(goal, ask)(x)[-1]
    assert misclassified.tolist() == [False, False, True, True, False, False]
    assert [asked.flatten().tolist() for asked in judge.asked] == [[1, 2, 3, 4]]
    assert goal.cost.forward.tolist() == [1, 2, 2, 2, 2, 1]
    assert goal.cost.backward.tolist() == [int(ask == "take_gradient")] * 6


def test_without_slack_the_judge_is_asked_once_the_search_says_wrong_or_undecided():
    logits = torch.tensor([[1.0, 0.9], [1.0, 1.0], [0.9, 1.0]])
    judge = Counted(lambda x: torch.tensor([[0.0, 1.0]]).expand(len(x), 2))
    goal = searched_and_judged(lambda x: logits, judge, torch.zeros(3, dtype=torch.int64))
    assert goal.assess(images(3))[1].tolist() == [False, True, True]
    assert judge.sizes == [2]


def test_the_judge_is_not_asked_where_nothing_is_near():
    judge = Counted(network(2))
    goal = searched_and_judged(lambda x: torch.tensor([[3.0, 0.0]]).expand(len(x), 2), judge, torch.zeros(4).long())
    goal.assess(images(4))
    assert judge.asked == [] and goal.cost.forward.tolist() == [1] * 4


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_judge_decides_where_the_search_gives_no_number(value):
    judge = Counted(lambda x: torch.tensor([[0.0, 1.0]]).expand(len(x), 2))
    goal = searched_and_judged(lambda x: torch.full((len(x), 2), value), judge, torch.zeros(2).long())
    assert goal.assess(images(2))[1].all() and judge.sizes == [2]


def test_the_judge_leaves_no_graph():
    seen = []

    def judge(x):
        seen.append(torch.is_grad_enabled())
        return x.flatten(1)

    goal = replace(searched_and_judged(lambda x: x.flatten(1), judge, torch.arange(7) % 5), slack=9.0)
    goal.take_gradient(images())
    assert seen == [False]


def test_without_a_judge_nothing_is_misclassified():
    model, x = network(), images()
    goal = searched_and_judged(model, None, (model(x).argmax(dim=1) + 1) % 5)
    assert not goal.assess(x)[1].any() and not goal.take_gradient(x).misclassified.any()
    assert goal.take_gradient(x).misclassified.dtype == torch.bool
    assert goal.cost.forward.tolist() == [3] * 7


def test_a_target_does_not_decide_who_is_misclassified():
    logits = torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    goal = Misclassification.on(lambda x: logits, torch.zeros(3).long(), target=torch.full((3,), 2))
    assert goal.assess(images(3))[1].tolist() == [True, False, True]


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_ranked_targets_are_the_wrong_classes_from_the_likeliest_on(classes):
    logits, y = torch.randn(40, classes), torch.arange(40) % classes
    ranked = torch.stack([ranked_target(logits, y, rank) for rank in range(1, classes)])
    assert ranked.shape == (classes - 1, 40) and ranked.dtype == torch.int64
    for i in range(40):
        by_hand = sorted((c for c in range(classes) if c != y[i]), key=lambda c: -float(logits[i, c]))
        assert ranked[:, i].tolist() == by_hand


def test_a_target_is_wrong_even_where_its_logit_is_minus_infinity():
    logits = torch.tensor([[5.0, 1.0, -1e38], [0.0, 3.0, 2.0]])
    assert ranked_target(logits, torch.tensor([0, 0]), 2).tolist() == [2, 2]


def test_a_goal_is_untargeted_cross_entropy_unless_it_says_more():
    y = torch.zeros(2, dtype=torch.int64)
    goal = Misclassification.on(lambda x: x, y)
    assert (goal.loss, goal.target, goal.slack, goal.chunk) == ("cross_entropy", None, 0.0, 1024)


class TestObjective:
    def test_any_function_of_pixels_is_one(self):
        objective = as_objective(lambda x: x.square().flatten(1).sum(dim=1))
        x = torch.rand(3, 1, 2, 2)
        score, gradient = objective.ascend(x)
        torch.testing.assert_close(score, x.square().flatten(1).sum(dim=1))
        torch.testing.assert_close(gradient, 2 * x)
        assert torch.equal(objective.height(x), score)
        assert not score.requires_grad and not objective.decides
        assert as_objective(objective) is objective

    def test_one_that_knows_no_pixels_is_a_sentence(self):
        weight = torch.ones((), requires_grad=True)
        with pytest.raises(InputError, match="does not depend on the pixels"):
            as_objective(lambda x: weight.expand(len(x))).ascend(torch.rand(2, 1, 2, 2))

    def test_no_attack_asks_for_the_type_of_an_objective(self):
        for file in Path(overproof.attacks.__path__[0]).glob("*.py"):
            assert file.stem == "objectives" or "isinstance(objective" not in file.read_text(), file

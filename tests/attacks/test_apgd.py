from dataclasses import replace

import pytest
import torch
from torch import nn

from overproof.attacks.apgd import APGD, _Dense, _Sparse
from overproof.attacks.ball import Radius, ball
from overproof.attacks.objectives import Misclassification
from overproof.functional import margin

NORMS = ("linf", "l2", "l1")
EPS = {"linf": Radius("0.2"), "l2": Radius("0.5"), "l1": Radius("3")}
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
every_norm = pytest.mark.parametrize("norm", NORMS)


class Watched:
    """A network that remembers the images it was asked about."""

    def __init__(self, inner):
        self.inner, self.points = inner, []

    def __call__(self, x):
        self.points.append(x.detach().clone())
        return self.inner(x)

    @property
    def sizes(self):
        return [len(point) for point in self.points]


def linear(classes, pixels=48):
    """Return a network that is linear, with logits near 0 for grey images."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()
    nn.init.normal_(model[1].weight)
    model[1].bias.data = -0.5 * model[1].weight.data.sum(dim=1)
    return model.eval()


def slopes(model, y, rival):
    weight = model[1].weight.detach()
    return (weight[rival] - weight[y]).reshape(-1, 3, 4, 4)


def hills(x):
    """Return logits of two classes whose difference is a gentle landscape of many hills."""
    steep = torch.linspace(4, 9, x.shape[1:].numel(), dtype=x.dtype)
    height = (steep * x.flatten(1) + steep.square()).sin().sum(dim=1) + x.flatten(1).prod(dim=1)
    return torch.stack([torch.zeros_like(height), height], dim=1)


def surface(x):
    return hills(x)[:, 1]


def maximising(search, y, loss="margin", **options):
    """Return a goal in which nothing is ever misclassified."""
    return replace(Misclassification.on(search, y, loss=loss, **options), judge=None)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def size(norm, x_adv, x):
    return ball(norm, 1.0).size(x_adv - x)


# --- truth by geometry: on a linear network the worst score is known --------------------------------------------------


@pytest.mark.parametrize(("n", "loss"), [(5, "margin"), (1, "cross_entropy"), (3, "dlr")])
@pytest.mark.parametrize(
    ("norm", "eps", "interior", "reached"),
    [
        ("linf", "0.2", False, 1 - 1e-9),
        ("linf", "0.9", False, 1 - 1e-9),
        ("l2", "0.45", True, 1 - 1e-6),
        ("l2", "2", False, 0.99),  # cut off by [0, 1], where the projection is not the nearest point
        # l1 has 40 steps for the last stage, and never tells its last two pixels apart: a share of two thirds of two,
        # rounded up, is two. That costs what the second steepest falls short of the steepest.
        ("l1", "0.4", True, 0.75),
        ("l1", "3", False, 0.93),
        ("l1", "12", False, 0.8),
    ],
)
def test_it_reaches_the_worst_score_of_two_classes_and_no_more(norm, eps, interior, reached, loss, n, worst_case):
    model = linear(2)
    x = torch.full((n, 3, 4, 4), 0.5) if interior else (1.2 * torch.rand(n, 3, 4, 4) - 0.1).clamp(0, 1)
    x, y = x.double(), torch.arange(n) % 2
    attack = APGD(norm=norm, eps=Radius(eps))
    x_adv = attack(model, x, maximising(model, y, loss))
    possible = worst_case(norm, slopes(model, y, 1 - y), x, attack.eps)
    gained = margin(model(x), y) - margin(model(x_adv), y)
    assert (size(norm, x_adv, x) <= attack.eps * (1 + 1e-9)).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    assert (gained <= possible * (1 + 1e-9)).all()
    assert (gained >= reached * possible).all()


@every_norm
def test_towards_a_target_it_reaches_the_worst_difference(norm, worst_case):
    model, y = linear(4), torch.arange(4)
    x, target = torch.full((4, 3, 4, 4), 0.5).double(), torch.tensor([2, 3, 1, 0])
    attack = APGD(norm=norm, eps=Radius("0.3"))
    x_adv = attack(model, x, maximising(model, y, target=target))
    slope = slopes(model, y, target)
    gained = (slope * (x_adv - x)).flatten(1).sum(dim=1)
    possible = worst_case(norm, slope, x, attack.eps)
    assert (gained >= (0.75 if norm == "l1" else 0.98) * possible).all() and (gained <= possible * (1 + 1e-9)).all()


@every_norm
@pytest.mark.parametrize("classes", [2, 3])
def test_it_breaks_just_beyond_the_nearest_boundary_and_never_before(norm, classes):
    model, x = linear(classes), 0.5 + 0.02 * torch.randn(4, 3, 4, 4).double()
    with torch.no_grad():
        y = model(x).argmax(dim=1)
        x = (x - 0.5) * (0.3 / margin(model(x), y).clamp(min=0.3))[:, None, None, None] + 0.5  # margins of at most 0.3
        gaps = torch.stack(
            [
                (model(x)[range(4), y] - model(x)[range(4), (y + k) % classes])
                / ball(DUAL[norm], 1.0).size(slopes(model, y, (y + k) % classes))
                for k in range(1, classes)
            ]
        )
    least, nearest = gaps.min(dim=0)
    assert (least > 0).all()
    steps = 30 if norm == "l1" else 100
    for i in range(2 if norm == "l1" else 4):
        one, label = x[i : i + 1], y[i : i + 1]
        # Under l1 up to two pixels share what one could use better (see above).
        for times, misclassified in ((1.3 if norm == "l1" else 1.02, True), (0.999, False)):
            goal = Misclassification.on(model, label, loss="margin", target=(label + 1 + nearest[i : i + 1]) % classes)
            x_adv = APGD(norm=norm, eps=Radius(times * float(least[i])), steps=steps)(model, one, goal)
            assert (model(x_adv).argmax(dim=1) != label).item() == misclassified


# --- a slow twin: one example after the other, from the paper ---------------------------------------------------------


def onto(norm, z, x, eps):
    if norm == "linf":
        return torch.max(torch.min(z, x + eps), x - eps).clamp(0, 1)
    length = (z - x).square().sum().sqrt()
    return (x + (z - x) * min(1.0, eps / float(length.clamp_min(1e-12)))).clamp(0, 1)


def looked_at(steps):
    """Return after which steps the ascent looks back: p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)."""
    gap, shorter, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found, at = [], 0
    while at + gap <= steps:
        at += gap
        found.append(at)
        gap = max(gap - shorter, shortest)
    return found


def dense_twin(norm, x, start, eps, steps):
    """Return the points, the best one and the step lengths of Croce and Hein (2020), algorithm 1, for one image."""

    def value(point):
        point = point[None].clone().requires_grad_()
        score = surface(point)
        (slope,) = torch.autograd.grad(score.sum(), point)
        return float(score.detach()), slope[0]

    def stepped(point, slope, length):
        unit = slope.sign() if norm == "linf" else slope / slope.square().sum().sqrt()
        return onto(norm, point + length * unit, x, eps)

    length, points, lengths = 2 * eps, [start], []
    before, now = start, start
    score, slope = value(start)
    best = (score, start, slope)
    scores, checked, length_then, best_then = [score], 0, None, score
    for k in range(1, steps + 1):
        aim = stepped(now, slope, length)
        after = aim if k == 1 else onto(norm, now + 0.75 * (aim - now) + 0.25 * (now - before), x, eps)
        before, now = now, after
        points.append(now)
        lengths.append(length)
        score, slope = value(now)
        scores.append(score)
        if score > best[0]:
            best = (score, now, slope)
        if k in looked_at(steps):
            rises = sum(scores[i] > scores[i - 1] for i in range(checked + 1, k + 1))
            # Condition 2 needs a step length that the last look back has left alone; the first has none before it.
            unchanged = length_then == length and best_then == best[0]
            length_then, best_then = length, best[0]
            if rises <= 0.75 * (k - checked) or unchanged:
                length, now, slope = length / 2, best[1], best[2]
            checked = k
    return points, best[1], lengths


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 60])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("linf", 0.4), ("l2", 0.6), ("l2", 2.0)])
def test_it_goes_where_a_slow_twin_goes(norm, eps, steps):
    x = torch.rand(5, 2, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    search = Watched(hills)
    torch.manual_seed(4)
    found = APGD(norm=norm, eps=Radius(eps), steps=steps)(nn.Identity(), x, maximising(search, zeros(5)))
    torch.manual_seed(4)
    draw = torch.empty_like(x).uniform_(-1, 1) if norm == "linf" else torch.randn_like(x)
    halved = 0
    for i in range(5):
        reach = draw[i].abs().max() if norm == "linf" else draw[i].square().sum().sqrt()
        start = onto(norm, x[i] + draw[i] * eps / reach, x[i], eps)
        points, best, lengths = dense_twin(norm, x[i], start, eps, steps)
        torch.testing.assert_close(torch.stack([at[i] for at in search.points]), torch.stack(points), rtol=0, atol=1e-8)
        torch.testing.assert_close(found[i], best, rtol=0, atol=1e-8)
        assert lengths[0] == 2 * eps
        halved += lengths[-1] < lengths[0]
    assert halved >= 3 or steps < 20  # else the twin proves nothing about stalling


def sparse_twin(x, start, eps, steps, density, support):
    """Return the points and the best one of the sparse ascent in one ball (Croce and Hein 2021), for one image."""

    def value(point):
        point = point[None].clone().requires_grad_()
        score = surface(point)
        (slope,) = torch.autograd.grad(score.sum(), point)
        return float(score.detach()), slope[0]

    pixels, length, now, points = x.numel(), eps, start, [start]
    score, slope = value(start)
    best = (score, start, slope)
    for k in range(1, steps + 1):
        order = slope.abs().flatten().argsort(descending=True)
        # A share of the pixels, rounded up as the reference does, and at least one.
        chosen = order[: min(max(pixels - int((1 - density) * pixels), 1), pixels)]
        step = torch.zeros(pixels).double()
        step[chosen] = slope.flatten()[chosen].sign() * length / len(chosen)
        now = ball("l1", eps).project((now + step.view_as(now))[None], x[None])[0]
        points.append(now)
        score, slope = value(now)
        if score > best[0]:
            best = (score, now, slope)
        if k % max(int(0.04 * steps), 1) == 0:
            moved = int((best[1] != x).sum())
            if moved < 0.95 * support:
                length, now, slope = eps, best[1], best[2]
            else:
                length = max(length / 1.5, eps / 10)
            density, support = moved / pixels / 1.5, moved
    return points, best[1]


@pytest.mark.parametrize("steps", [3, 10, 40])
def test_under_l1_it_goes_where_a_slow_twin_goes(steps):
    x, eps = torch.rand(3, 2, 3, 3, generator=torch.Generator().manual_seed(2)).double(), 0.5
    search = Watched(hills)
    torch.manual_seed(4)
    found = APGD(norm="l1", eps=Radius(eps), steps=steps)(nn.Identity(), x, maximising(search, zeros(3)))
    torch.manual_seed(4)
    draw = torch.randn_like(x)
    early = int(0.3 * steps) or 1
    for i in range(3):
        points, at, support = [], x[i] + draw[i], None
        for times, share in ((3, early), (2, early), (1, steps - 2 * early)):
            start = ball("l1", times * eps).project(at[None], x[i : i + 1])[0]
            support = int((start != x[i]).sum())
            first = (0.2, 18) if times == 3 else (support / 18 / 1.5, support)
            visited, at = sparse_twin(x[i], start, times * eps, share, *first)
            points += visited
        torch.testing.assert_close(torch.stack([p[i] for p in search.points]), torch.stack(points), rtol=0, atol=1e-8)
        torch.testing.assert_close(found[i], at, rtol=0, atol=1e-8)


# --- intervals, radii, sparsity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "intervals"),
    [
        (100, [22, 19, 16, 13, 10, 7, 6, 6, 1]),
        (1, [1]),
        (2, [1, 1]),
        (5, [1] * 5),
        (20, [4, 3, 2] + [1] * 11),
        (50, [11, 10, 9, 8, 7, 5]),
    ],
)
def test_the_intervals_are_those_of_the_paper(steps, intervals):
    assert _Dense(ball("linf", 0.1), steps).intervals() == intervals


def test_the_intervals_use_up_the_steps():
    for steps in (*range(1, 60), 100, 333, 1000):
        for rule in (_Dense(ball("l2", 0.1), steps), _Sparse(ball("l1", 1.0), steps, first=True)):
            assert sum(rule.intervals()) == steps and min(rule.intervals()) >= 1


@pytest.mark.parametrize(("steps", "stages"), [(100, (30, 30, 40)), (10, (3, 3, 4)), (5, (1, 1, 3)), (1, (1, 1, 1))])
def test_under_l1_it_begins_in_a_ball_of_three_eps_and_ends_in_one(steps, stages):
    x, search, eps = torch.rand(4, 3, 8, 8).double(), Watched(hills), Radius("2")
    APGD(norm="l1", eps=eps, steps=steps)(nn.Identity(), x, maximising(search, zeros(4)))
    assert len(search.points) == sum(stages) + 3  # each stage asks about its start, too
    lengths = torch.stack([size("l1", point, x) for point in search.points])
    ends = [stages[0] + 1, stages[0] + stages[1] + 2, None]
    for first, last, times in zip([0, *ends], ends, (3, 2, 1), strict=False):
        assert (lengths[first:last] <= times * eps * (1 + 1e-9)).all()
        assert (lengths[first] > 0.99 * times * eps).all()  # the start is on the rim
    assert all(((point >= 0) & (point <= 1)).all() for point in search.points)


def test_under_l1_the_first_step_moves_a_fifth_of_the_pixels():
    slope, x = torch.randn(1, 1, 10, 10).double(), torch.full((1, 1, 10, 10), 0.5).double()

    def search(x):
        score = (slope * x).flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(score), score], dim=1)

    rule = _Sparse(ball("l1", 1e-2), 5, first=True)
    memory = {"x": x, "at": x, "score": torch.zeros(1).double(), "gradient": slope}
    rule.begin(memory)
    moved = rule.advanced(memory) - x
    steepest = slope.abs() >= slope.abs().flatten().sort().values[80]
    assert torch.equal(moved != 0, steepest) and int(steepest.sum()) == 20
    torch.testing.assert_close(moved[steepest], 1e-2 / 20 * slope[steepest].sign())


def test_under_l1_it_ends_on_few_pixels():
    model = linear(2, pixels=300)
    x = torch.full((4, 3, 10, 10), 0.5).double()
    x_adv = APGD(norm="l1", eps=Radius("2"))(model, x, maximising(model, zeros(4)))
    moved = (x_adv != x).flatten(1).sum(dim=1)
    assert (moved >= 4).all() and (moved <= 30).all()  # four full pixels hold the budget, and are the best answer


# --- the examples that are misclassified, and those that stand --------------------------------------------------------


def mixed(n=12):
    """Return a network, grey images and labels: some misclassified at once, some later, some never."""
    model = linear(3)
    x = 0.5 + 0.15 * torch.randn(n, 3, 4, 4).double().clamp(-2, 2)
    with torch.no_grad():
        return model, x, model(x).argmax(dim=1)


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.03"), ("l2", "0.1"), ("l1", "0.6")])
def test_a_misclassified_example_costs_nothing_more_and_its_point_is_the_one_that_broke(norm, eps):
    model, x, y = mixed()
    search, attack = Watched(model), APGD(norm=norm, eps=Radius(eps), steps=20)
    goal = Misclassification.on(search, y)
    x_adv = attack(model, x, goal)
    misclassified = model(x_adv).argmax(dim=1) != y
    assert misclassified.any() and not misclassified.all()
    full = 20 + (3 if norm == "l1" else 1)
    cost = goal.cost.forward
    assert torch.equal(cost, goal.cost.backward)
    assert (
        (cost[~misclassified] == full).all()
        and (cost[misclassified] <= full).all()
        and (cost[misclassified] < full).any()
    )
    assert sum(search.sizes) == int(cost.sum()) and search.sizes == sorted(search.sizes, reverse=True)
    rows, early = list(range(12)), 2 * 7 if norm == "l1" else 0
    for asked, point in enumerate(search.points):
        wrong = (model(point).argmax(dim=1) != y[rows]) & torch.tensor(asked >= early)
        for place, row in enumerate(rows):
            if wrong[place]:
                assert torch.equal(x_adv[row], point[place]) and cost[row] == asked + 1
        rows = [row for place, row in enumerate(rows) if not wrong[place]]
    assert rows == (~misclassified).nonzero().flatten().tolist()


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.03"), ("l2", "0.1"), ("l1", "0.6")])
def test_restarts_run_on_the_survivors_alone(norm, eps):
    model, x, y = mixed()
    found = []
    for restarts in (1, 3):
        goal = Misclassification.on(model, y)
        torch.manual_seed(3)
        x_adv = APGD(norm=norm, eps=Radius(eps), steps=5, restarts=restarts)(model, x, goal)
        found.append((x_adv, model(x_adv).argmax(dim=1) != y, goal.cost.forward))
    (x_one, wrong_one, cost_one), (x_three, wrong_three, cost_three) = found
    full = 5 + (3 if norm == "l1" else 1)
    assert torch.equal(x_three[wrong_one], x_one[wrong_one])
    assert torch.equal(cost_three[wrong_one], cost_one[wrong_one])
    assert (wrong_three | ~wrong_one).all()
    assert (cost_three[~wrong_three] == 3 * full).all() and not wrong_three.all()


def test_a_restart_breaks_what_the_first_ascent_did_not():
    # Uphill from the left half leads away from the hole in the right half that only a start next to it finds.
    def search(x):
        at = x.flatten(1)[:, 0]
        height = torch.where(at < 0.5, -at, at - 0.6)
        return torch.stack([torch.zeros_like(at), height], dim=1)

    x = torch.full((40, 1, 1, 1), 0.5).double()
    misclassified = []
    for restarts in (1, 8):
        goal = Misclassification.on(search, zeros(40), loss="margin")
        x_adv = APGD(eps=Radius("0.4"), steps=3, restarts=restarts)(nn.Identity(), x, goal)
        misclassified.append(int((search(x_adv).argmax(dim=1) != 0).sum()))
    assert 10 <= misclassified[0] <= 30 and misclassified[1] == 40


@every_norm
def test_restarts_are_never_worse_than_their_first_and_sometimes_better(norm):
    x, scores = torch.rand(8, 2, 3, 3).double(), []
    for restarts in (1, 4):
        torch.manual_seed(3)
        attack = APGD(norm=norm, eps=EPS[norm], steps=4, restarts=restarts)
        scores.append(surface(attack(nn.Identity(), x, maximising(hills, zeros(8)))))
    assert (scores[1] >= scores[0]).all() and (scores[1] > scores[0]).any()


@every_norm
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_it_returns_the_best_point_it_visited_in_the_ball(norm, steps):
    x, search = torch.rand(8, 2, 3, 3).double(), Watched(hills)
    found = APGD(norm=norm, eps=EPS[norm], steps=steps)(nn.Identity(), x, maximising(search, zeros(8)))
    last = search.points if norm != "l1" else search.points[-(max(steps - 2 * (int(0.3 * steps) or 1), 1) + 1) :]
    visited = torch.stack([surface(point) for point in last])
    assert torch.equal(surface(found), visited.amax(dim=0))
    assert (surface(found) >= visited[0]).all()


def test_an_example_misclassified_at_the_start_is_done_at_once():
    model, x, y = mixed()
    goal = Misclassification.on(model, (y + 1) % 3)
    x_adv = APGD(eps=Radius("1e-4"), restarts=3)(model, x, goal)
    assert goal.cost.forward.tolist() == [1] * 12
    assert (model(x_adv).argmax(dim=1) != (y + 1) % 3).all()


# --- what it leaves alone ---------------------------------------------------------------------------------------------


@every_norm
def test_the_seed_decides_and_another_seed_decides_otherwise(norm):
    x, found = torch.rand(4, 2, 3, 3).double(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(APGD(norm=norm, eps=EPS[norm], steps=3)(nn.Identity(), x, maximising(hills, zeros(4))))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@every_norm
def test_images_weights_and_modes_stay_and_the_result_carries_no_graph(norm, tiny_classifier, tiny_batch, modes):
    student = tiny_classifier()
    student.backbone[1].eval()
    first, *others = student.parameters()
    first.grad = torch.full_like(first, 3.0)
    was, during = modes(student), []
    state = {name: value.clone() for name, value in student.state_dict().items()}

    def search(x):
        during.append(any(modes(student).values()))
        return student(x)

    x = tiny_batch.x.clone().requires_grad_()
    goal = maximising(search, tiny_batch.y, "cross_entropy")
    x_adv = APGD(norm=norm, eps=EPS[norm], steps=3, restarts=2)(student, x, goal)
    assert torch.equal(x, tiny_batch.x) and x.grad is None
    assert not x_adv.requires_grad and x_adv.data_ptr() != x.data_ptr()
    assert not any(during) and modes(student) == was
    assert torch.equal(first.grad, torch.full_like(first, 3.0)) and all(weight.grad is None for weight in others)
    assert all(weight.requires_grad for weight in student.parameters())
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())


def test_modes_come_back_when_the_network_raises(tiny_classifier, tiny_batch, modes):
    student = tiny_classifier()
    before = modes(student)

    def search(x):
        raise RuntimeError("no logits today")

    with pytest.raises(RuntimeError, match="no logits today"):
        APGD(steps=2)(student, tiny_batch.x, Misclassification.on(search, tiny_batch.y))
    assert modes(student) == before


@every_norm
def test_a_flat_score_does_no_harm(norm):
    x = torch.rand(4, 2, 3, 3)
    x_adv = APGD(norm=norm, eps=EPS[norm], steps=10)(nn.Identity(), x, maximising(lambda x: 0 * hills(x), zeros(4)))
    assert x_adv.isfinite().all() and (size(norm, x_adv, x) <= EPS[norm] * (1 + 1e-5)).all()


@every_norm
def test_no_example_is_no_work(norm):
    goal = Misclassification.on(hills, zeros(0))
    assert APGD(norm=norm, eps=EPS[norm], steps=3)(nn.Identity(), torch.rand(0, 2, 3, 3), goal).shape == (0, 2, 3, 3)


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eps": Radius("8")}, r"eps 8 is not in \[0, 1\] pixel units; did you mean 8/255\?"),
        ({"steps": 0}, "steps and restarts must be at least 1, got 0 and 1"),
        ({"restarts": 0}, "steps and restarts must be at least 1, got 100 and 0"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        APGD(**options)


def test_its_repr_rebuilds_it():
    attack = APGD(norm="l2", eps=Radius("1/2"), steps=7, restarts=2)
    assert eval(repr(attack), {"APGD": APGD, "Radius": Radius}) == attack and str(attack.eps) == "1/2"


def test_the_defaults_are_those_of_autoattack():
    assert APGD() == APGD(norm="linf", eps=Radius("8/255"), steps=100, restarts=1)


def test_one_step_and_one_start_are_allowed():
    attack = APGD(steps=1, restarts=1)
    assert (attack.steps, attack.restarts) == (1, 1)

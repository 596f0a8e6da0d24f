import math

import pytest
import torch
from torch import nn

from overproof.attacks.ball import Radius, ball
from overproof.attacks.hopskipjump import HopSkipJump, _noise, _normal, _Oracle, _step
from overproof.attacks.objectives import Misclassification

NORMS = ("l2", "linf")
DUAL = {"linf": 1, "l2": 2}
every_norm = pytest.mark.parametrize("norm", NORMS)


class Plane(nn.Module):
    """Two classes either side of a plane through the grey image, and nothing but the decision to be seen."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.asked, self.modes = weight, [], []

    def forward(self, x):
        assert not torch.is_grad_enabled()
        self.asked.append(x.clone())
        self.modes.append(self.training)
        wrong = (x - 0.5).flatten(1) @ self.weight.flatten() > 0
        return torch.stack([~wrong, wrong], dim=1).to(x.dtype)


class Never(Plane):
    def forward(self, x):
        return super().forward(x) * torch.tensor([1.0, 0.0]) + torch.tensor([1.0, 0.0])


def at_distance(plane, norm, distance, n=6):
    """Return noisy grey images on the clean side, ``distance`` [N] or a number from the plane in the norm."""
    weight = plane.weight
    x = 0.5 + 0.03 * torch.randn(n, *weight.shape, dtype=weight.dtype)
    excess = (x - 0.5).flatten(1) @ weight.flatten() + distance * weight.flatten().norm(DUAL[norm])
    x = x - excess.reshape(-1, 1, 1, 1) * weight / weight.square().sum()
    assert (x > 0).all() and (x < 1).all()
    return x


def hunt(attack, model, x, seed=3):
    torch.manual_seed(seed)
    goal = Misclassification.on(model, torch.zeros(len(x), dtype=torch.int64))
    return attack(model, x, goal), goal


def misclassified(plane, x):
    with torch.no_grad():
        return plane(x).argmax(dim=1) == 1


# --- truth by geometry ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "shape", "distance", "ratio", "queries"),
    [
        ("l2", (1, 8, 8), 0.5, 1.1, 2000),
        ("l2", (3, 8, 5), 0.5, 1.1, 3000),
        ("linf", (1, 8, 8), 0.05, 1.25, 2000),
        ("linf", (3, 8, 5), 0.05, 1.4, 2000),
    ],
)
def test_it_finds_the_boundary_of_a_plane(norm, shape, distance, ratio, queries):
    plane = Plane(torch.randn(shape))
    x = at_distance(plane, norm, distance)
    eps = Radius(ratio * distance)
    x_adv, goal = hunt(HopSkipJump(norm=norm, eps=eps, queries=queries), plane, x)
    assert not misclassified(plane, x).any()
    assert misclassified(plane, x_adv).all()
    assert (ball(norm, 1.0).size(x_adv - x) <= eps).all()
    assert (goal.cost.forward < queries).all()


@every_norm
def test_it_never_breaks_below_the_distance_and_then_returns_the_image(norm):
    plane = Plane(torch.randn(1, 8, 8).double())
    distance = 0.5 if norm == "l2" else 0.05
    x = at_distance(plane, norm, distance)
    x_adv, goal = hunt(HopSkipJump(norm=norm, eps=Radius(0.995 * distance), queries=600), plane, x)
    assert torch.equal(x_adv, x)
    assert (goal.cost.forward <= 600).all() and (goal.cost.forward > 400).all()


@every_norm
def test_it_does_not_ask_for_what_lies_within_the_ball_at_once(norm):
    # Within a ball that reaches halfway to the noise, the first bisection is enough.
    plane = Plane(torch.randn(3, 8, 8))
    x = at_distance(plane, norm, 0.05 if norm == "l2" else 0.005)
    _, goal = hunt(HopSkipJump(norm=norm, eps=Radius("4") if norm == "l2" else Radius("0.5")), plane, x)
    assert (goal.cost.forward < 30).all()


@every_norm
def test_bisection_ends_next_to_the_plane(norm):
    plane = Plane(torch.randn(1, 8, 8).double())
    x = at_distance(plane, norm, 0.5 if norm == "l2" else 0.05)
    oracle = oracle_of(plane, x, norm)
    far, found = _noise(oracle)
    assert found.all()
    near = HopSkipJump(norm=norm)._boundary(oracle, far, found, 30)
    assert misclassified(plane, near).all()
    excess = (near - 0.5).flatten(1) @ plane.weight.flatten()
    assert (excess > 0).all() and (excess < 1e-6).all()
    delta, towards = near - x, far - x
    if norm == "l2":  # on the line from x
        cosine = torch.cosine_similarity(delta.flatten(1), towards.flatten(1))
        torch.testing.assert_close(cosine, torch.ones_like(cosine))
    else:  # the box around x, cut off at the far image
        reach = delta.flatten(1).abs().amax(dim=1)[:, None, None, None]
        torch.testing.assert_close(delta, towards.clamp(-reach, reach))


def test_the_normal_is_that_of_the_plane():
    plane = Plane(torch.randn(1, 8, 8).double())
    x = at_distance(plane, "l2", 0.5)
    on_it = x + 0.5 * plane.weight / plane.weight.norm()
    oracle, everyone = oracle_of(plane, x, "l2"), torch.ones(6, dtype=torch.bool)
    probes, length = torch.full((6,), 2000), torch.full((6,), 0.01).double()
    normal = _normal(oracle, on_it, everyone, probes, length).flatten(1)
    assert (torch.cosine_similarity(normal, plane.weight.flatten()[None]) > 0.93).all()
    assert (oracle.left == 10**6 - 2000).all()


def test_the_normal_is_where_it_should_be_far_from_the_plane_too():
    # All probes are misclassified: their mean is all there is, and it is finite.
    plane = Plane(torch.ones(1, 8, 8))
    x = at_distance(plane, "l2", 0.1)
    oracle, everyone = oracle_of(plane, x, "l2"), torch.ones(6, dtype=torch.bool)
    deep = torch.full_like(x, 0.7)
    normal = _normal(oracle, deep, everyone, torch.full((6,), 20), torch.full((6,), 0.01))
    assert normal.isfinite().all() and (normal.flatten(1).norm(dim=1) > 0).all()


def test_the_normal_is_the_sum_of_what_each_answer_is_beyond_their_mean():
    plane = Plane(torch.randn(1, 8, 8).double())
    x = at_distance(plane, "l2", 0.5)
    point = x + 0.502 * plane.weight / plane.weight.norm()  # beyond the boundary: most probes are misclassified
    oracle, everyone = oracle_of(plane, x, "l2"), torch.ones(6, dtype=torch.bool)
    normal = _normal(oracle, point, everyone, torch.full((6,), 50), torch.full((6,), 0.01).double())
    probes = torch.stack(plane.asked)
    directions = (probes - point).flatten(2)
    torch.testing.assert_close(directions.norm(dim=2), torch.full((50, 6), 0.01).double())
    answers = torch.stack([misclassified(plane, part) for part in probes]).double() * 2 - 1
    assert (answers.mean(dim=0).abs() < 1).all() and (answers.mean(dim=0) > 0.1).any()
    expected = ((answers - answers.mean(dim=0))[:, :, None] * directions).sum(dim=0)
    torch.testing.assert_close(normal.flatten(1), expected)


@every_norm
def test_an_iteration_probes_a_hundredth_of_the_distance_away_and_steps_by_its_share(norm, monkeypatch):
    plane, seen, steps = Plane(torch.randn(1, 8, 8)), [], []

    def normal(oracle, point, walking, probes, length):
        seen.append((oracle.area.size(point - oracle.x), length, probes.clone()))
        return _normal(oracle, point, walking, probes, length)

    def step(oracle, point, walking, direction, length):
        steps.append((oracle.area.size(direction), length))
        return _step(oracle, point, walking, direction, length)

    monkeypatch.setattr("overproof.attacks.hopskipjump._normal", normal)
    monkeypatch.setattr("overproof.attacks.hopskipjump._step", step)
    x = at_distance(plane, norm, 0.5 if norm == "l2" else 0.05)
    hunt(HopSkipJump(norm=norm, eps=Radius("1e-3"), queries=200, samples=9), plane, x)
    assert len(seen) >= 4
    for number, ((distance, length, probes), (size, stride)) in enumerate(zip(seen, steps, strict=True), start=1):
        torch.testing.assert_close(length, 0.01 * distance)
        torch.testing.assert_close(stride, distance / math.sqrt(number))
        torch.testing.assert_close(size, torch.ones_like(size))
        if number < len(seen) - 1:  # the last ones spend what is left
            assert (probes == round(9 * math.sqrt(number))).all()


def test_each_example_sends_its_own_number_of_probes():
    plane = Plane(torch.randn(1, 8, 8))
    x = at_distance(plane, "l2", 0.1, n=4)
    oracle = oracle_of(plane, x, "l2")
    walking = torch.tensor([True, True, False, True])
    normal = _normal(oracle, x, walking, torch.tensor([5, 1, 9, 12]), torch.full((4,), 0.01))
    assert normal.isfinite().all() and (normal[2] == 0).all()
    assert (10**6 - oracle.left).tolist() == [5, 1, 0, 12]


def test_a_step_is_halved_until_it_is_misclassified():
    plane = Plane(torch.ones(1, 8, 8).double())
    x = torch.full((3, 1, 8, 8), 0.3).double()
    point = torch.full_like(x, 0.501)
    # Towards the clean side: 0.1, 0.05, 0.025, ... are too far until 0.001 is left; the third may go where it likes.
    normal = torch.stack([-torch.ones(1, 8, 8), -torch.ones(1, 8, 8), torch.ones(1, 8, 8)]).double()
    length, everyone = torch.tensor([0.1, 0.003, 0.2]).double(), torch.ones(3, dtype=torch.bool)
    oracle = oracle_of(plane, x, "linf")
    stepped = _step(oracle, point, everyone, normal, length)
    moved = (stepped - point).flatten(1)[:, 0]
    assert moved.tolist() == pytest.approx([-0.1 / 2**7, -0.003 / 2**2, 0.2], abs=1e-8)
    assert (10**6 - oracle.left).tolist() == [8, 3, 1]


def test_a_step_that_never_stays_misclassified_is_given_up():
    plane = Plane(torch.ones(1, 8, 8))
    x, point = torch.full((1, 1, 8, 8), 0.3), torch.full((1, 1, 8, 8), 0.5 + 1e-6)
    oracle = oracle_of(plane, x, "linf")
    stepped = _step(oracle, point, torch.tensor([True]), -torch.ones_like(x), torch.tensor([1.0]))
    assert torch.equal(stepped, point) and oracle.left.tolist() == [10**6 - 15]


@every_norm
def test_a_misclassified_image_at_exactly_eps_counts(norm):
    x = torch.full((1, 1, 1, 1), 0.25, dtype=torch.float64)
    oracle = oracle_of(Plane(torch.ones(1, 1, 1, dtype=torch.float64)), x, norm, eps=0.5)
    assert oracle.ask(x + 0.5, torch.tensor([True])).all()
    assert torch.equal(oracle.best, x + 0.5) and not oracle.open.any()


def test_no_noise_is_drawn_once_every_example_has_some():
    x = torch.full((3, 1, 8, 8), 0.3)
    everywhere = Plane(torch.zeros(1, 8, 8))
    everywhere.forward = lambda z: torch.tensor([[0.0, 1.0]]).expand(len(z), 2)
    torch.manual_seed(1)
    _noise(oracle_of(everywhere, x, "l2"))
    after = torch.rand(1)
    torch.manual_seed(1)
    torch.rand_like(x)
    assert torch.equal(torch.rand(1), after)


def oracle_of(plane, x, norm, *, eps=1e-9, queries=10**6):
    """Return an oracle whose ball is too small for anything to be found."""
    return _Oracle(x, Misclassification.on(plane, torch.zeros(len(x), dtype=torch.int64)), ball(norm, eps), queries)


# --- cost -------------------------------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("queries", [1, 2, 14, 40, 150])
def test_no_example_asks_more_than_its_queries(norm, queries):
    plane = Plane(torch.randn(1, 8, 8))
    x = at_distance(plane, norm, 0.5 if norm == "l2" else 0.05)
    x_adv, goal = hunt(HopSkipJump(norm=norm, eps=Radius("1e-3"), queries=queries), plane, x)
    assert (goal.cost.forward <= queries).all() and (goal.cost.forward >= min(queries, 8)).all()
    assert goal.cost.forward.sum() == sum(len(part) for part in plane.asked)
    assert torch.equal(x_adv, x)


@every_norm
@pytest.mark.parametrize(("share", "breaks"), [(0.2, True), (0.7, True), (1.02, False)])
def test_an_example_stops_at_its_first_misclassified_image_within_the_ball(norm, share, breaks):
    plane, eps = Plane(torch.randn(1, 8, 8)), Radius("0.5") if norm == "l2" else Radius("0.05")
    x = at_distance(plane, norm, share * eps, n=1)
    x_adv, _ = hunt(HopSkipJump(norm=norm, eps=eps, queries=500), plane, x)
    asked = torch.cat(plane.asked)
    hits = misclassified(plane, asked) & (ball(norm, 1.0).size(asked - x) <= eps)
    assert int(hits.sum()) == breaks
    assert torch.equal(x_adv, asked[-1:] if breaks else x) and hits[-1] == breaks


@every_norm
def test_an_example_does_not_wait_for_the_others(norm):
    plane = Plane(torch.randn(1, 8, 8))
    eps = Radius("0.5") if norm == "l2" else Radius("0.05")
    x = at_distance(plane, norm, torch.tensor([0.1, 0.2, 0.3, 1.2, 1.5, 1.8]) * eps)
    x_adv, goal = hunt(HopSkipJump(norm=norm, eps=eps, queries=400), plane, x)
    assert misclassified(plane, x_adv).tolist() == [True] * 3 + [False] * 3
    assert (ball(norm, 1.0).size(x_adv - x) <= eps).all()
    assert torch.equal(x_adv[3:], x[3:])
    assert (goal.cost.forward[:3] < 350).all() and (goal.cost.forward[3:] > 350).all()


def test_a_model_that_is_never_wrong_costs_the_tries_of_the_start():
    model = Never(torch.randn(1, 8, 8))
    x = torch.rand(4, 1, 8, 8)
    x_adv, goal = hunt(HopSkipJump(), model, x)
    assert torch.equal(x_adv, x) and x_adv.data_ptr() != x.data_ptr()
    assert goal.cost.forward.tolist() == [100] * 4


def test_without_a_judge_nothing_is_misclassified():
    plane = Plane(torch.randn(1, 8, 8))
    x = at_distance(plane, "l2", 0.1)
    one = Misclassification.on(plane, torch.zeros(6, dtype=torch.int64))
    blind = Misclassification(search=plane, judge=None, y=one.y, index=one.index, cost=one.cost)
    assert torch.equal(HopSkipJump(norm="l2", eps=Radius("1"))(plane, x, blind), x)


@every_norm
def test_only_images_are_asked_about(norm):
    plane = Plane(torch.randn(3, 8, 9))
    x = (at_distance(plane, norm, 0.01) + 0.6 * torch.randn(6, 3, 8, 9)).clamp(0, 1)
    x = x[~misclassified(plane, x)]
    plane.asked.clear()
    hunt(HopSkipJump(norm=norm, eps=Radius("1e-3"), queries=300), plane, x)
    asked = torch.cat(plane.asked)
    assert len(asked) > 250 and asked.isfinite().all()
    assert (asked >= 0).all() and (asked <= 1).all()


# --- what it leaves alone ---------------------------------------------------------------------------------------------


@every_norm
def test_the_seed_decides(norm):
    plane = Plane(torch.randn(1, 8, 8))
    x = at_distance(plane, norm, 0.3 if norm == "l2" else 0.03)
    attack = HopSkipJump(norm=norm, eps=Radius("0.4") if norm == "l2" else Radius("0.05"), queries=600)
    first, again, other = (hunt(attack, plane, x, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_searches_in_eval_mode_and_gives_the_mode_back():
    plane = Plane(torch.randn(1, 8, 8)).train()
    x = at_distance(plane, "l2", 0.3).requires_grad_()
    x_adv, goal = hunt(HopSkipJump(norm="l2", eps=Radius("0.6"), queries=300), plane, x)
    assert plane.training and not any(plane.modes)
    assert not x_adv.requires_grad and x.grad is None
    assert (goal.cost.backward == 0).all()


def test_it_asks_nothing_but_whether_an_image_is_misclassified():
    plane = Plane(torch.randn(1, 8, 8))
    x, y = at_distance(plane, "l2", 0.3), torch.zeros(6, dtype=torch.int64)
    results = []
    for scale in (1.0, 1e-3):
        torch.manual_seed(0)
        results.append(
            HopSkipJump(norm="l2", eps=Radius("0.4"))(
                plane, x, Misclassification.on(lambda z, s=scale: s * plane(z), y)
            )
        )
    assert torch.equal(*results)
    assert misclassified(plane, results[0]).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm": "l1"}, "hopskipjump is defined for l2 and linf, not for l1"),
        ({"queries": 0}, "queries and samples must be at least 1, got 0 and 100"),
        ({"samples": 0}, "queries and samples must be at least 1, got 2000 and 0"),
        ({"eps": Radius("8")}, r"eps 8 is not in \[0, 1\] pixel units; did you mean 8/255\?"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        HopSkipJump(**options)


def test_its_repr_rebuilds_it():
    attack = HopSkipJump(norm="l2", eps=Radius("1/2"), queries=7, samples=3)
    rebuilt = eval(repr(attack), {"HopSkipJump": HopSkipJump, "Radius": Radius})
    assert rebuilt == attack and attack.kind == "hopskipjump" and math.isclose(rebuilt.eps, 0.5)
    assert (HopSkipJump().queries, HopSkipJump().samples, HopSkipJump().eps.text) == (2000, 100, "8/255")


def test_one_query_and_one_sample_are_allowed():
    attack = HopSkipJump(queries=1, samples=1)
    assert (attack.queries, attack.samples) == (1, 1)

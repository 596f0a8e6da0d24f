import math

import pytest
import torch
from torch import nn

from overproof.attacks.ball import Radius, ball
from overproof.attacks.objectives import Misclassification
from overproof.attacks.square import Square, Windows, _corner, _stripes, _tiles, _transfer, eta
from overproof.functional import margin

NORMS = ("linf", "l2", "l1")
EPS = {"linf": Radius("0.1"), "l2": Radius("0.8"), "l1": Radius("5")}
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
POWER = {"l2": 2, "l1": 1}
SHAPES = [(1, 8, 8), (3, 8, 11), (1, 28, 28), (3, 16, 12)]
every_norm = pytest.mark.parametrize("norm", NORMS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


class Plane(nn.Module):
    """Two classes either side of a plane through the grey image; remembers the images it was asked about."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.asked, self.modes = weight, [], []

    def forward(self, x):
        self.asked.append(x.clone())
        self.modes.append(self.training)
        side = (x - 0.5).flatten(1) @ self.weight.flatten()
        return torch.stack([torch.zeros_like(side), side], dim=1)


class Constant(Plane):
    """Never misclassified, and no image is better than another."""

    def forward(self, x):
        return super().forward(0 * x + 0.5) + torch.tensor([1.0, 0.0])


def at_distance(plane, norm, distance, n=6):
    """Return grey, noisy images on the clean side, ``distance`` from the plane in the norm, and their labels."""
    x = 0.5 + 0.05 * torch.randn(n, *plane.weight.shape, dtype=plane.weight.dtype)
    weight = plane.weight
    excess = (x - 0.5).flatten(1) @ weight.flatten() + distance * weight.flatten().norm(DUAL[norm])
    x = x - excess.reshape(-1, 1, 1, 1) * weight / weight.square().sum()
    assert (x > 0).all() and (x < 1).all()
    return x, torch.zeros(n, dtype=torch.int64)


def edges(shape, n=5, dtype=torch.float32):
    """Return images of which many pixels are exactly 0 or 1."""
    return (1.4 * torch.rand(n, *shape, dtype=dtype) - 0.2).clamp(0, 1)


def never_wrong(weight):
    model = Plane(weight)
    inner = model.forward
    model.forward = lambda x: inner(x) + torch.tensor([1e3, 0.0])
    return model


def hunt(attack, model, x, y=None, seed=3):
    torch.manual_seed(seed)
    goal = Misclassification.on(model, torch.zeros(len(x), dtype=torch.int64) if y is None else y)
    return attack(model, x, goal), goal


# --- truth by geometry: the distance to a plane is known --------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "shape", "distance", "ratio"),
    [
        ("linf", (1, 8, 8), 0.05, 1.5),
        ("linf", (3, 8, 11), 0.05, 1.2),
        ("linf", (1, 16, 16), 0.02, 2.0),
        ("l2", (1, 8, 8), 0.5, 1.5),
        ("l2", (3, 8, 11), 0.5, 2.5),
        ("l1", (1, 8, 8), 1.0, 3.0),
    ],
)
def test_breaks_what_is_clearly_breakable(norm, shape, distance, ratio):
    plane = Plane(torch.randn(shape))
    x, y = at_distance(plane, norm, distance)
    x_adv, goal = hunt(Square(norm=norm, eps=Radius(ratio * distance), queries=2000), plane, x, y)
    assert (margin(plane(x), y) > 0).all()
    assert (plane(x_adv).argmax(dim=1) != y).all()
    assert (goal.cost.forward < 2000).all()


def test_stripes_alone_break_where_every_column_counts_alike():
    # One column, one channel: the right sign is drawn at once or the square of the first query brings it.
    plane = Plane(torch.ones(1, 8, 8))
    x, y = at_distance(plane, "linf", 0.05)
    _, goal = hunt(Square(eps=Radius("0.075"), queries=60), plane, x, y)
    assert (goal.cost.forward < 60).all()


@every_norm
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 11)], ids=str)
def test_never_breaks_below_the_distance(norm, shape):
    plane = Plane(torch.randn(shape).double())
    x, y = at_distance(plane, norm, 0.4 if norm != "linf" else 0.04)
    eps = Radius(0.999 * (0.4 if norm != "linf" else 0.04))
    x_adv, goal = hunt(Square(norm=norm, eps=eps, queries=400), plane, x, y)
    assert (plane(x_adv).argmax(dim=1) == y).all()
    assert (goal.cost.forward == 400).all()


@every_norm
def test_it_comes_near_the_worst_score_of_a_smooth_plane(norm, worst_case):
    # A slope that changes sign once is what stripes, squares and eta are made for.
    slope = torch.linspace(-1, 1, 12)[None, None, :].expand(1, 12, 12).clone()
    x = edges((1, 12, 12))
    model = never_wrong(slope)
    x_adv, _ = hunt(Square(norm=norm, eps=EPS[norm], queries=700), model, x)
    gained = ((x_adv - x) * slope).flatten(1).sum(dim=1)
    possible = worst_case(norm, slope.expand_as(x), x, EPS[norm])
    assert (gained <= possible + 1e-4).all()
    assert (gained >= {"linf": 0.95, "l2": 0.6, "l1": 0.45}[norm] * possible).all()


# --- slow twins -------------------------------------------------------------------------------------------------------


def windows_drawn(n, shape, side):
    top = torch.randint(shape[1] - side + 1, (n, 1)).flatten().tolist()
    left = torch.randint(shape[2] - side + 1, (n, 1)).flatten().tolist()
    return [(slice(None), slice(a, a + side), slice(b, b + side)) for a, b in zip(top, left, strict=True)]


@every_shape
@pytest.mark.parametrize("side", [1, 2, 8])
def test_a_corner_is_what_a_loop_over_images_gives(shape, side):
    n, eps = 7, 0.1
    x = edges(shape, n, torch.float64)
    begun = _stripes(x, eps, 2)
    point = begun.clone().flatten(1)
    windows = Windows(side, 2, torch.Size(shape), x)
    torch.manual_seed(4)
    at, before = _corner(point, x.flatten(1), eps, windows)
    torch.manual_seed(4)
    places, signs = windows_drawn(n, shape, side), 2.0 * torch.randint(2, (n, shape[0], 1)) - 1
    expected = begun.clone()
    for i, place in enumerate(places):
        low, high = (x[i] - eps).clamp(0, 1), (x[i] + eps).clamp(0, 1)
        change = 2 * eps * signs[i][..., None]
        changed = (begun[i][place] + change).clamp(low[place], high[place])
        if torch.allclose(changed, begun[i][place]):
            changed = (begun[i][place] - change).clamp(low[place], high[place])
        expected[i][place] = changed
    torch.testing.assert_close(point.view_as(x), expected)
    assert (point.view_as(x) != begun).flatten(1).any(dim=1).all()
    point.scatter_(1, at, before)
    assert torch.equal(point.view_as(x), begun)


@every_shape
@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("side", [3, 7])
def test_a_transfer_is_what_a_loop_over_images_gives(shape, norm, side):
    n, eps, power = 7, float(EPS[norm]), POWER[norm]
    x = edges(shape, n, torch.float64)
    begun = x + torch.rand_like(x) * (_tiles(x, eps, power) - x)  # no window cancels eta
    point = begun.clone().flatten(1)
    windows = Windows(side, power, torch.Size(shape), x)
    torch.manual_seed(4)
    at, before = _transfer(point, x.flatten(1), eps, windows)
    torch.manual_seed(4)
    receivers, givers = windows_drawn(n, shape, side), windows_drawn(n, shape, side)
    turned, signs = torch.rand(n, 1, 1) < 0.5, 2.0 * torch.randint(2, (n, shape[0], 1)) - 1
    assert turned.any() and not turned.all()
    pattern = eta(side, power, x)
    for i, (receiver, giver) in enumerate(zip(receivers, givers, strict=True)):
        delta = begun[i] - x[i]
        either = torch.zeros(shape, dtype=torch.bool)
        either[receiver] = either[giver] = True
        unspent = eps**power - delta.abs().pow(power).sum()
        changed = delta.clone()
        changed[giver] = 0
        for channel in range(shape[0]):
            own = delta[receiver][channel]
            new = (pattern.T if turned[i] else pattern) * signs[i, channel] + own / own.norm(power)
            budget = unspent / shape[0] + (delta * either)[channel].abs().pow(power).sum()
            changed[receiver][channel] = new / new.norm(power) * budget ** (1 / power)
        assert changed.norm(power) == pytest.approx(eps)
        torch.testing.assert_close(point[i].view(shape), (x[i] + changed).clamp(0, 1))
    point.scatter_(1, at, before)
    assert torch.equal(point.view_as(x), begun)


def test_windows_reach_every_place_and_differ_between_images():
    windows = Windows(3, 2, torch.Size((2, 5, 6)), torch.zeros(1))
    at = windows.draw(2000)
    first = at[:, 0]
    assert sorted(first.unique().tolist()) == [6 * row + column for row in range(3) for column in range(4)]
    share = first.bincount(minlength=16)[first.unique()] / 2000
    assert (share - 1 / 12).abs().max() < 0.03
    assert (at[:, 9:] - at[:, :9] == 30).all()  # the same place in the other channel


# --- what the search keeps --------------------------------------------------------------------------------------------


@every_norm
@every_shape
def test_it_asks_only_about_images_inside_the_ball_and_keeps_the_best(norm, shape):
    x, model = edges(shape), never_wrong(torch.randn(shape))
    x_adv, goal = hunt(Square(norm=norm, eps=EPS[norm], queries=160), model, x)
    asked = torch.stack(model.asked)
    assert asked.shape == (160, *x.shape)
    assert (asked >= 0).all() and (asked <= 1).all()
    slack = x[0].numel() ** (norm != "linf") * torch.finfo(x.dtype).eps
    assert (ball(norm, 1.0).size((asked - x).flatten(0, 1)) <= EPS[norm] + slack).all()
    score = torch.stack([goal.with_loss("margin").score(model(part)) for part in asked])
    end = goal.with_loss("margin").score(model(x_adv))
    assert torch.equal(end, score.amax(dim=0))
    assert (end > score[0]).all()
    assert len(score.unique()) > 100


@every_norm
def test_more_queries_continue_the_same_search_and_never_lose(norm):
    x, model = edges((3, 8, 8)), never_wrong(torch.randn(3, 8, 8))
    ends = [hunt(Square(norm=norm, eps=EPS[norm], queries=queries), model, x)[0] for queries in (1, 5, 40, 200)]
    scores = torch.stack([(end * model.weight).flatten(1).sum(dim=1) for end in ends])
    assert (scores.diff(dim=0) >= 0).all()
    assert (scores[-1] > scores[0]).all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_away_from_0_and_1_the_whole_radius_is_used(norm):
    x, model = torch.full((3, 3, 9, 9), 0.5), never_wrong(torch.randn(3, 9, 9))
    for queries in (1, 2, 300):
        x_adv, _ = hunt(Square(norm=norm, eps=Radius("0.2"), queries=queries), model, x)
        torch.testing.assert_close(ball(norm, 1.0).size(x_adv - x), torch.full((3,), 0.2))


def test_every_linf_result_is_a_corner_of_the_ball():
    x = torch.full((3, 3, 8, 9), 0.5)
    x_adv, _ = hunt(Square(eps=EPS["linf"], queries=100), never_wrong(torch.randn(3, 8, 9)), x)
    torch.testing.assert_close((x_adv - x).abs(), torch.full_like(x, 0.1))


@pytest.mark.parametrize("channels", [1, 3])
def test_no_linf_query_asks_about_the_point_itself(channels):
    model = never_wrong(torch.zeros(channels, 8, 8))  # nothing is ever better, so the point is the start
    hunt(Square(eps=EPS["linf"], queries=700), model, edges((channels, 8, 8), 3))
    asked = torch.stack(model.asked)
    assert (asked[1:] != asked[0]).flatten(2).any(dim=2).all()


def test_a_start_without_a_score_is_left():
    class Undefined(Plane):
        def forward(self, x):
            return super().forward(x) + torch.tensor([10.0, torch.nan if len(self.asked) == 1 else 0.0])

    model = Undefined(torch.randn(1, 8, 8))
    # The judge calls a NaN logit the largest; without a judge nothing is misclassified.
    y = torch.zeros(4, dtype=torch.int64)
    start = Misclassification.on(model, y)
    goal = Misclassification(search=model, judge=None, y=y, index=start.index, cost=start.cost)
    x_adv = Square(eps=EPS["linf"], queries=2)(model, edges((1, 8, 8), 4), goal)
    assert torch.equal(x_adv, model.asked[1])


# --- cost -------------------------------------------------------------------------------------------------------------


@every_norm
def test_what_is_misclassified_costs_nothing_more(norm):
    model = Plane(torch.zeros(1, 8, 8))  # ties go to class 0: label 1 is misclassified by the start, label 0 never
    x, y = edges((1, 8, 8), 6), torch.tensor([0, 1, 0, 0, 1, 1])
    x_adv, goal = hunt(Square(norm=norm, eps=EPS[norm], queries=30), model, x, y)
    assert goal.cost.forward.tolist() == [30, 1, 30, 30, 1, 1]
    assert [len(part) for part in model.asked] == [6] + [3] * 29
    assert torch.equal(x_adv[y == 1], model.asked[0][y == 1])
    assert torch.equal(goal.cost.backward, torch.zeros(6, dtype=torch.int64))


@every_norm
def test_each_example_keeps_the_image_that_broke_it(norm):
    plane = Plane(torch.randn(1, 8, 8))
    x, y = at_distance(plane, norm, {"linf": 0.04, "l2": 0.3, "l1": 0.8}[norm], n=20)
    x[::4] = x[::4] - 0.2 * plane.weight / plane.weight.abs().max()  # a few that hold longer
    x = x.clamp(0, 1)
    x_adv, goal = hunt(Square(norm=norm, eps=EPS[norm], queries=150), plane, x, y)
    misclassified = plane(x_adv).argmax(dim=1) != y
    assert misclassified.any() and goal.cost.forward.unique().numel() > 2
    assert (goal.cost.forward[~misclassified] == 150).all()
    slack = x[0].numel() * torch.finfo(x.dtype).eps
    assert (ball(norm, 1.0).size(x_adv - x) <= EPS[norm] + slack).all()  # every row is its own image's


@pytest.mark.parametrize("queries", [1, 2, 13])
@every_norm
def test_no_example_asks_more_than_its_queries(norm, queries):
    _, goal = hunt(
        Square(norm=norm, queries=queries, eps=EPS[norm]), never_wrong(torch.randn(3, 8, 8)), edges((3, 8, 8))
    )
    assert (goal.cost.forward == queries).all()


def test_all_misclassified_ends_at_once():
    model = Plane(torch.zeros(1, 8, 8))
    hunt(Square(eps=EPS["linf"]), model, edges((1, 8, 8)), torch.ones(5, dtype=torch.int64))
    assert len(model.asked) == 1


# --- what it leaves alone ---------------------------------------------------------------------------------------------


@every_norm
def test_it_needs_no_gradient(norm):
    class Cut(Plane):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            return super().forward(x.detach()).detach().round(decimals=2)

    plane = Cut(torch.randn(1, 8, 8))
    x, y = at_distance(plane, norm, {"linf": 0.04, "l2": 0.2, "l1": 0.3}[norm])
    x.requires_grad_()
    x_adv, _ = hunt(Square(norm=norm, eps=EPS[norm], queries=1000), plane, x, y)
    assert not x_adv.requires_grad and x.grad is None
    with torch.no_grad():
        assert (plane(x_adv).argmax(dim=1) != y).all()


@every_norm
def test_the_seed_decides(norm):
    x, attack = edges((3, 8, 8)), Square(norm=norm, eps=EPS[norm], queries=60)
    first, again, other = (hunt(attack, never_wrong(torch.ones(3, 8, 8)), x, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_searches_in_eval_mode_and_gives_every_mode_back(tiny_classifier, tiny_batch, modes):
    model, (x, y) = tiny_classifier(), tiny_batch
    model.backbone[1].eval()
    before, kept, clean = modes(model), {name: value.clone() for name, value in model.state_dict().items()}, x.clone()
    Square(queries=5)(model, x, Misclassification.on(model, y))
    assert modes(model) == before
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert torch.equal(x, clean)
    plane = Plane(torch.zeros(1, 8, 8)).train()
    hunt(Square(queries=3), plane, edges((1, 8, 8)))
    assert plane.modes == [False] * 3 and plane.training


@every_norm
def test_it_maximises_the_margin_whatever_the_goal_was_after(norm):
    model, x = never_wrong(torch.randn(1, 8, 8)), edges((1, 8, 8))
    results = []
    for loss in ("cross_entropy", "margin"):
        torch.manual_seed(0)
        goal = Misclassification.on(model, torch.zeros(5, dtype=torch.int64), loss=loss)
        results.append(Square(norm=norm, eps=EPS[norm], queries=50)(model, x, goal))
    assert torch.equal(*results)


# --- schedule, pattern, options ---------------------------------------------------------------------------------------


def test_p_is_halved_after_the_iterations_of_the_paper():
    attack, borders = Square(queries=100, p_init=0.8), (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    assert attack.share(0) == 0.8
    for halvings, border in enumerate(borders):
        assert attack.share(border) == pytest.approx(0.8 / 2**halvings)
        assert attack.share(border + 1) == pytest.approx(0.8 / 2 ** (halvings + 1))
    assert attack.share(10**6) == pytest.approx(0.8 / 512)
    # Not rescaled: fewer queries see the same start of the schedule.
    assert [Square(queries=q).share(300) for q in (400, 5000)] == [0.1, 0.1]


@pytest.mark.parametrize(
    ("norm", "iteration", "side"),
    [
        ("linf", 0, 25), ("linf", 11, 18), ("linf", 201, 9), ("linf", 2001, 3), ("linf", 9000, 1),
        ("l2", 0, 25), ("l2", 11, 19), ("l2", 201, 9), ("l2", 2001, 3), ("l1", 501, 7), ("l1", 9000, 3),
    ],
)  # fmt: skip
def test_the_side_of_a_square_on_28_pixels(norm, iteration, side):
    assert Square(norm=norm).side(iteration, 28, 28) == side


def test_a_square_fits_an_image_that_is_not_square():
    assert Square(p_init=1.0).side(0, 4, 64) == 4
    assert Square(norm="l2", p_init=1.0).side(0, 4, 64) == 4
    assert Square(norm="l2").side(9000, 2, 2) == 2
    assert Square().side(9000, 8, 8) == 1


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("side", [2, 3, 4, 5, 6, 9, 25])
def test_eta_is_two_pyramids_of_opposite_sign_and_length_one(side, power):
    pattern = eta(side, power, torch.zeros(0, dtype=torch.float64))
    upper, lower = pattern[: side // 2], pattern[side // 2 :]
    assert pattern.shape == (side, side)
    assert (upper > 0).all() and (lower < 0).all()
    assert pattern.norm(power) == pytest.approx(1)
    assert upper.norm(power) == pytest.approx(lower.norm(power))
    for half in (upper, -lower):  # nested rectangles, written as the paper draws them
        rows, expected = len(half), torch.zeros_like(half)
        for k in range(side // 2 + 1):
            row, column = rows // 2, side // 2
            expected[max(row - k, 0) : row + k + 1, max(column - k, 0) : column + k + 1] += 1 / (k + 1) ** 2
        torch.testing.assert_close(half / half.sum(), expected / expected.sum())


def test_eta_of_three_pixels_is_known():
    row, centre, edge = math.sqrt(1.25**2 + 2 * 0.25**2), 1.25, 0.25
    low = math.sqrt(1.25**2 + 5 * 0.25**2)
    expected = torch.tensor(
        [[edge / row, centre / row, edge / row], [-edge / low] * 3, [-edge / low, -centre / low, -edge / low]]
    )
    torch.testing.assert_close(eta(3, 2, torch.zeros(0)), expected / math.sqrt(2))


def test_stripes_have_one_sign_per_channel_and_column():
    delta = _stripes(torch.full((9, 3, 6, 8), 0.5), 0.1, 2) - 0.5
    assert torch.equal(delta, delta[:, :, :1].expand_as(delta))
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.1))
    assert len(delta[:, :, 0].flatten(0, 1).unique(dim=0)) > 20


@pytest.mark.parametrize(
    ("shape", "side", "margins"),
    [((1, 28, 28), 5, (1, 1)), ((3, 8, 11), 3, (1, 1)), ((1, 8, 40), 3, (1, 0)), ((1, 40, 8), 3, (0, 1))],
    ids=str,
)
def test_tiles_are_patterns_turned_and_signed_at_random(shape, side, margins):
    x = torch.full((4, *shape), 0.5, dtype=torch.float64)
    delta = (_tiles(x, 0.3, 2) - x) / 0.3
    pattern = eta(side, 2, x)
    rest = [size % side - margin for size, margin in zip(shape[1:], margins, strict=True)]  # below and on the right
    assert all(0 <= behind - margin <= 1 for behind, margin in zip(rest, margins, strict=True))
    inner = delta[:, :, margins[0] :, margins[1] :].unfold(2, side, side).unfold(3, side, side)
    scale = inner.flatten(4).norm(dim=4)[..., None, None]
    assert delta.flatten(1).norm(dim=1).tolist() == pytest.approx([1.0] * 4)
    assert scale.max() == pytest.approx(float(scale.min()))
    kinds = torch.stack([pattern, -pattern, pattern.T, -pattern.T])
    matches = ((inner / scale)[..., None, :, :] - kinds).abs().amax(dim=(-1, -2)) < 1e-9
    assert (matches.sum(dim=-1) == 1).all()
    assert matches.flatten(0, -2).any(dim=0).all()
    assert delta.count_nonzero() == inner.numel()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"p_init": 0.0}, r"p_init is a share of the image, in \(0, 1\], got 0.0"),
        ({"p_init": 1.5}, r"p_init is a share of the image, in \(0, 1\], got 1.5"),
        ({"p_init": math.nan}, r"p_init is a share of the image, in \(0, 1\], got nan"),
        ({"eps": Radius("8")}, r"eps 8 is not in \[0, 1\] pixel units; did you mean 8/255\?"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Square(**options)


def test_its_repr_rebuilds_it():
    attack = Square(norm="l2", eps=Radius("1/2"), queries=7, p_init=0.3)
    rebuilt = eval(repr(attack), {"Square": Square, "Radius": Radius})
    assert rebuilt == attack and str(rebuilt.eps) == "1/2" and attack.kind == "square"
    assert (Square().queries, Square().p_init, Square().eps.text) == (5000, 0.8, "8/255")  # as in AutoAttack


def test_one_query_and_the_whole_image_are_allowed():
    attack = Square(queries=1, p_init=1.0)
    assert (attack.queries, attack.p_init) == (1, 1.0)

"""Bounds on the difference of two networks' confidences: they hold, the joint ones are no looser, splitting helps."""

import itertools
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from benchmarks import pairs as narrowing
from benchmarks.pairs import bound_together, narrow
from torch import nn

from overproof.bounds import pair as module
from overproof.bounds import softmax
from overproof.bounds import split as splitting
from overproof.bounds.crown import METHODS, BoundOptions, bound, intermediate
from overproof.bounds.graph import join_graphs
from overproof.bounds.pair import PairBounds, bound_pair, specs
from overproof.bounds.region import Bounds, Region
from overproof.bounds.slopes import AlphaOptimizer
from overproof.bounds.split import Budget, split
from overproof.bounds.trace import trace

from .networks import CLASSES, ROUNDING, affine_of, assert_holds, normal, points, random_network, settled, uniform

RADII = {"linf": 0.06, "l2": 0.3}
QUICK = ("ibp", "crown_ibp", "crown")
every_norm = pytest.mark.parametrize("norm", RADII)
every_method = pytest.mark.parametrize("method", METHODS)


def bound_options(method, steps=3):
    return BoundOptions(method=method, optimizer=AlphaOptimizer(steps=steps))


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one on which a second passes at every look."""
    looks = itertools.count()
    monkeypatch.setattr(splitting, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))
    monkeypatch.setattr(narrowing, "time", SimpleNamespace(monotonic=lambda: 0.0))


class Case:
    """A teacher, a student, a region around N images, and a class for each: the teacher's, but for the last image."""

    def __init__(self, teacher, student, shape, *, norm="linf", eps=None, count=3, seed=0):
        self.networks = teacher, student
        self.teacher, self.student = (trace(network, shape).graph() for network in self.networks)
        self.both = join_graphs(self.teacher, self.student)
        self.region = Region.around(uniform(count, *shape, seed=seed), eps or RADII[norm], norm)
        self.classes = teacher(self.region.box.centre).argmax(dim=1)
        if count > 1:
            self.classes[-1] = (self.classes[-1] + 1) % self.teacher.classes

    def bound_together(self, method="crown", **options):
        return bound_together(self.teacher, self.student, self.region, self.classes, bound_options(method, **options))

    def swapped(self, method="crown"):
        return bound_together(self.student, self.teacher, self.region, self.classes, bound_options(method))

    def gap(self, x, number=None):
        """Return ``f_T - f_S`` of points ``[P, N, C, H, W]``, in the examples' classes, ``[P, N]``."""
        classes = self.classes if number is None else self.classes[[number]]
        index = classes.expand(len(x), -1)[..., None]
        f_t, f_s = (
            network(x.flatten(0, 1)).unflatten(0, x.shape[:2]).softmax(dim=2).gather(2, index).squeeze(2)
            for network in self.networks
        )
        return f_t - f_s

    def reached(self, count=300):
        """Return the least and the greatest difference found by sampling and by an ascent from the best samples."""
        found = points(self.region, count)
        ends = []
        for sign in (1.0, -1.0):
            value = sign * self.gap(found)
            best, place = value.max(dim=0)
            x = found[place, torch.arange(len(self.region))]
            size = (self.region.box.upper - self.region.box.lower).amax() / 4
            for step in range(6):
                tracked = x.clone().requires_grad_()
                (slope,) = torch.autograd.grad(sign * self.gap(tracked[None]).sum(), tracked)
                x = self.inside(x + size * 0.7**step * slope.sign())
                best = torch.maximum(best, sign * self.gap(x[None])[0])
            ends.append(sign * best)
        return Bounds(ends[1], ends[0])

    def inside(self, x):
        """Return the points moved into the region."""
        x = torch.minimum(torch.maximum(x, self.region.box.lower), self.region.box.upper)
        if self.region.centre is not None:
            away = x - self.region.centre
            length = away.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-12)
            x = self.region.centre + away * (self.region.eps / length).clamp(max=1)
        return x

    def one(self, number=0, method="crown"):
        """Return the layers of one example, and what is known of it."""
        at = torch.tensor([number])
        region, classes = self.region.at(at), self.classes[at]
        layers = intermediate(self.both, region, bound_options(method))
        return region, classes, layers, bound_pair(self.both, region, classes, layers, bound_options(method))

    def narrow(self, number=0, *, budget=None, enough=0.0):
        """Return what is known of one example, and what splitting makes of it."""
        region, classes, layers, known = self.one(number)
        budget = budget or Budget(seconds=8, batch=8)
        return known, narrow(self.both, region, classes, layers, known, budget, enough)


@cache
def networks_of_one_shape():
    """Return pairs of random residual graphs that take the same images."""
    by_shape = {}
    for seed in range(40):
        network, shape = random_network(seed)
        by_shape.setdefault(shape, []).append(network)
    found = [(a, b, shape) for shape, nets in by_shape.items() for a, b in itertools.pairwise(nets)]
    assert len(found) >= 12
    return found[:12]


@cache
def case(seed, norm="linf"):
    teacher, student, shape = networks_of_one_shape()[seed]
    return Case(teacher, student, shape, norm=norm, seed=seed)


def small(seed, *, channels=3, classes=2, scale=1.5, inputs=(1, 4, 4)):
    """Return a small convolutional network whose margins are of the size of one."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(inputs[0], channels, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes)
    network = nn.Sequential(*layers)
    network(torch.zeros(1, *inputs))
    network[3].weight.data.mul_(scale), network[0].weight.data.mul_(scale)
    return settled(network).requires_grad_(False)


def width(bounds):
    return (bounds.upper - bounds.lower).sum().item()


# --- soundness, and joint against separate ----------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("seed", range(7))
def test_no_point_is_outside_and_joint_is_within_separate(seed, norm):
    made = case(seed, norm)
    inner = made.reached()
    for method in QUICK:
        found = made.bound_together(method)
        assert_holds(found.separate, found.joint, slack=0)
        assert_holds(found.joint, inner)
        assert_holds(Bounds(-torch.ones(3), torch.ones(3)), found.separate, slack=1e-12)


@every_norm
@pytest.mark.parametrize("seed", range(0, 12, 4))
def test_no_point_is_outside_alpha_s_bounds(seed, norm):
    made = case(seed, norm)
    found = made.bound_together("alpha")
    assert_holds(found.separate, found.joint, slack=0)
    assert_holds(found.joint, made.reached())


@every_norm
@every_method
@pytest.mark.parametrize("seed", range(4))
def test_two_classes(seed, method, norm):
    """A single margin each, and networks of different widths."""
    made = Case(small(seed), small(seed + 50, channels=2), (1, 4, 4), norm=norm, seed=seed)
    found = made.bound_together(method)
    assert found.teacher.lower.shape == (3, 1)
    assert_holds(found.separate, found.joint, slack=0)
    assert_holds(found.joint, made.reached())


@pytest.mark.parametrize("seed", range(3))
def test_margins_are_those_of_each_network_alone_and_separate_is_their_difference(seed):
    made = case(seed)
    for method in QUICK:
        found = made.bound_together(method)
        own = torch.stack([torch.eye(CLASSES)[[j for j in range(CLASSES) if j != c]] for c in made.classes.tolist()])
        rows = own - torch.eye(CLASSES)[made.classes][:, None]  # z_j - z_c, ascending j
        for graph, margins in ((made.teacher, found.teacher), (made.student, found.student)):
            alone = bound(graph, made.region, rows, method)
            torch.testing.assert_close(margins, alone, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.separate, softmax.separate(found.teacher, found.student), rtol=0, atol=0)


def test_joint_information_pays():
    """On random pairs a little; on a student that is its teacher but for some noise, most of the difference."""
    for noise, most in ((1.0, 0.995), (0.05, 0.6)):
        apart, together = 0.0, 0.0
        for seed in range(5):
            teacher, other = small(seed, classes=3), small(seed + 50, classes=3)
            student = small(seed, classes=3)
            for mine, its in zip(student.parameters(), other.parameters(), strict=True):
                mine.lerp_(its, noise)
            found = Case(teacher, student, (1, 4, 4), eps=0.05, seed=seed).bound_together()
            apart, together = apart + width(found.separate), together + width(found.joint)
        print(noise, together / apart)
        assert together < most * apart


def test_the_slopes_of_the_cuts_are_of_different_directions():
    # A multiple of a half plane is the same one.
    assert len({a / (a + b) for a, b in module._RATIOS}) == len(module._RATIOS)


def test_every_slope_of_the_cuts_tightens_the_range(monkeypatch):
    ratios = module._RATIOS

    def range_with(kept):
        monkeypatch.setattr(module, "_RATIOS", kept)
        return width(case(2).bound_together().joint)

    whole = range_with(ratios)
    for number, ratio in enumerate(ratios):
        gain = range_with(ratios[:number] + ratios[number + 1 :]) - whole
        # That of the first network's logsumexp alone is seldom better than its box, and not here.
        assert gain > (-ROUNDING if ratio == (1.0, 0.0) else 1e-6)


@every_method
@pytest.mark.parametrize("seed", range(3))
def test_teacher_and_student_exchanged_negate_the_gap(seed, method):
    made = case(seed)
    found, other = made.bound_together(method), made.swapped(method)
    assert_equal(other.teacher, found.student)
    for mine, its in ((found.separate, other.separate), (found.joint, other.joint)):
        assert_equal(mine, Bounds(-its.upper, -its.lower))


def assert_equal(one, other):
    for mine, its in zip(one, other, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", QUICK)
def test_an_example_s_bounds_do_not_depend_on_its_batch(method):
    made = case(5)
    found = made.bound_together(method)
    for number in range(3):
        at = torch.tensor([number])
        alone = bound_together(made.teacher, made.student, made.region.at(at), made.classes[at], method)
        for mine, its in zip(vars(found).values(), vars(alone).values(), strict=True):
            assert_equal(mine.at(at), its)


def test_chunks_do_not_change_anything():
    made = case(1)
    parts = bound_together(
        made.teacher, made.student, made.region, made.classes, BoundOptions(method="crown", memory=20_000)
    )
    assert_equal(parts.joint, made.bound_together("crown").joint)


def test_single_precision_is_off_by_its_rounding_only():
    for seed in range(3):
        made = case(seed)
        graphs = (graph.to(torch.float32) for graph in (made.teacher, made.student))
        single = bound_together(*graphs, made.region.to(dtype=torch.float32), made.classes, "crown")
        assert single.joint.lower.dtype == torch.float32
        for mine, its in zip(single.joint, made.bound_together("crown").joint, strict=True):
            torch.testing.assert_close(mine.double(), its, rtol=0, atol=1e-4)


def test_weights_that_are_not_numbers_prove_nothing():
    broken = small(1)
    broken[0].weight[0, 0, 1, 1] = torch.nan
    for networks in ((broken, small(2)), (small(2), broken)):
        for method in METHODS:
            found = Case(*networks, (1, 4, 4)).bound_together(method)
            for bounds in (found.separate, found.joint):
                assert not (bounds.lower > -1).any() and not (bounds.upper < 1).any()


# --- exact answers ----------------------------------------------------------------------------------------------------


def test_specs_are_margins_over_both_logits():
    z_t, z_s = normal(4, 5), normal(4, 5, seed=1)
    classes = torch.tensor([0, 2, 4, 1])
    teacher, student = specs(classes, 5)
    assert teacher.shape == student.shape == (4, 4, 10)
    logits = torch.cat([z_t, z_s], dim=1)
    for rows, z in ((teacher, z_t), (student, z_s)):
        found = torch.einsum("njk,nk->nj", rows.double(), logits)
        for n, c in enumerate(classes.tolist()):
            others = [j for j in range(5) if j != c]
            torch.testing.assert_close(found[n], z[n, others] - z[n, c])


def linear(margin, offset=0.0):
    """Return a network of two classes, linear in the pixels [1, 2, 2], whose margin z_1 - z_0 has these weights."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double().requires_grad_(False)
    (
        network[1].weight.copy_(torch.stack([-margin / 3, 2 * margin / 3])),
        network[1].bias.copy_(torch.tensor([0.0, offset])),
    )
    return network


CROWNS = ("crown_ibp", "crown", "alpha")


@every_norm
@pytest.mark.parametrize("method", CROWNS)
@pytest.mark.parametrize(("ratio", "offset"), [(1.0, 0.0), (1.0, 0.7), (2.0, 0.0), (0.5, -0.4), (0.0, 0.3)])
def test_a_student_whose_margin_is_a_multiple_of_its_teacher_s(ratio, offset, method, norm, worst_case):
    """m_S = r m_T + k leaves one variable, and the gap is the best of a line: exact where the cuts have its slope."""
    slope = 2 * normal(4, seed=3)
    made = Case(linear(slope), linear(ratio * slope, offset), (1, 2, 2), norm=norm, eps=0.15, count=1)
    made.region = Region.around(torch.full((1, 1, 2, 2), 0.5).double(), 0.15, norm)
    made.classes = torch.zeros(1, dtype=torch.long)
    middle = (slope * 0.5).sum()
    half = worst_case(norm, slope.view(1, 1, 2, 2), made.region.box.centre, 0.15)
    m = torch.linspace(-1, 1, 200_001).double() * half + middle
    gap = (-m).sigmoid() - (-(ratio * m + offset)).sigmoid()
    found = made.bound_together(method)
    assert_equal(found.teacher, Bounds((middle - half)[:, None], (middle + half)[:, None]))
    torch.testing.assert_close(found.joint, Bounds(gap.amin()[None], gap.amax()[None]), rtol=0, atol=1e-7)
    if ratio:
        assert width(found.joint) < 0.8 * width(found.separate)


@pytest.mark.parametrize("method", CROWNS)
def test_networks_on_different_pixels_have_nothing_in_common(method):
    """Then what each may do alone, both may do at once: separate bounds are exact, and so are joint ones."""
    slopes = torch.tensor([1.5, -2.0, 0.0, 0.0]).double(), torch.tensor([0.0, 0.0, 1.0, 0.5]).double()
    made = Case(*(linear(slope, 0.1) for slope in slopes), (1, 2, 2), eps=0.2, count=2)
    found = made.bound_together(method)
    corners = torch.stack(
        [
            torch.stack([side.flatten(1)[:, p] for side, p in zip(choice, range(4), strict=True)], dim=1)
            for choice in itertools.product(made.region.box, repeat=4)
        ]
    )
    gap = made.gap(corners.view(16, 2, 1, 2, 2))
    truth = Bounds(gap.amin(dim=0), gap.amax(dim=0))
    assert_equal(found.separate, truth)
    assert_equal(found.joint, truth)


def test_margins_of_a_linear_pair_are_exact(worst_case):
    networks = [settled(nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.LazyLinear(4).double())) for _ in range(2)]
    shape = (1, 3, 3)
    for network in networks:
        network(torch.zeros(1, *shape).double())
        network.requires_grad_(False)
    made = Case(*networks, shape, eps=0.1)
    found = made.bound_together("crown")
    matrices = [affine_of(network, shape) for network in networks]
    for (matrix, offset), margins in zip(matrices, (found.teacher, found.student), strict=True):
        for n, c in enumerate(made.classes.tolist()):
            for place, j in enumerate(k for k in range(4) if k != c):
                row, x = (matrix[j] - matrix[c]).view(1, *shape), uniform(3, *shape)[[n]]
                value = (row * x).sum() + offset[j] - offset[c]
                up, down = worst_case("linf", row, x, 0.1), worst_case("linf", -row, x, 0.1)
                torch.testing.assert_close(margins.upper[n, place], value + up[0])
                torch.testing.assert_close(margins.lower[n, place], value - down[0])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_student_that_is_its_teacher_has_no_gap(seed, classes):
    """None that can be seen where no sign is open, and little where some are; apart it looks like a gap."""
    network = small(seed, classes=classes)
    still = Case(network, network, (1, 4, 4), eps=1e-4, seed=seed).bound_together()
    assert width(still.separate) > 1e-4
    assert width(still.joint) < 1e-9
    made = Case(network, network, (1, 4, 4), eps=0.05, seed=seed).bound_together()
    assert (made.separate.upper > 1e-3).all() and (made.separate.lower < -1e-3).all()
    assert (made.joint.upper >= -1e-12).all() and (made.joint.lower <= 1e-12).all()
    assert width(made.joint) < 0.5 * width(made.separate)


# --- splitting --------------------------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("seed", range(3))
def test_splitting_cuts_nothing_and_is_never_looser(clock, seed, norm):
    made = case(seed, norm)
    inner = made.reached()
    for number in range(2):
        known, better = made.narrow(number, budget=Budget(seconds=3))
        assert_holds(known.joint, better.joint, slack=0)
        assert_holds(better.joint, inner.at(torch.tensor([number])))
        assert better.teacher is known.teacher and better.separate is known.separate


def test_splitting_closes_the_gap_of_a_student_that_is_its_teacher():
    """The signs of teacher and student are told apart one by one; where they contradict each other there is nothing."""
    network = small(3)
    made = Case(network, network, (1, 4, 4), eps=0.2, count=1)
    known, better = made.narrow(budget=Budget(seconds=20, batch=16, optimizer=AlphaOptimizer(steps=10)), enough=0.02)
    assert width(known.joint) > 0.2
    assert -0.02 <= better.joint.lower.item() <= 0 <= better.joint.upper.item() <= 0.02


def test_splitting_comes_close_to_the_truth():
    """On images of two pixels, where a grid knows it; both sides, as the larger one is always next."""
    closer, before = 0.0, 0.0
    for seed in range(5):
        torch.manual_seed(seed)
        networks = [
            settled(nn.Sequential(nn.Flatten(), nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))).requires_grad_(False)
            for _ in range(2)
        ]
        for network in networks:
            network[1].weight.mul_(3), network[3].weight.mul_(2)
        made = Case(*networks, (1, 1, 2), eps=0.25, count=1, seed=seed)
        (low, high) = (side.flatten() for side in made.region.box)
        lines = [a + torch.linspace(0, 1, 151).double() * (b - a) for a, b in zip(low, high, strict=True)]
        grid = torch.cartesian_prod(*lines)
        gap = made.gap(grid.view(-1, 1, 1, 1, 2))
        truth = Bounds(gap.amin(dim=0), gap.amax(dim=0))
        known, better = made.narrow(budget=Budget(seconds=3, batch=16, optimizer=AlphaOptimizer(steps=10)))
        assert_holds(better.joint, truth)
        size = [max(bounds.upper.item(), -bounds.lower.item()) for bounds in (truth, known.joint, better.joint)]
        before, closer = before + size[1] - size[0], closer + size[2] - size[0]
    print(before, closer)
    assert closer < 0.5 * before


def test_no_time_changes_nothing():
    made = case(0)
    known, same = made.narrow(budget=Budget(seconds=0))
    assert_equal(known.joint, same.joint)


def spied(monkeypatch):
    """Keep every proof, and the goal it had."""
    proofs = []

    def spy(*words, goal, budget):
        proofs.append((goal, split(*words, goal=goal, budget=budget)))
        return proofs[-1][1]

    monkeypatch.setattr(module, "split", spy)
    return proofs


def test_what_is_enough_already_is_not_split(monkeypatch):
    proofs = spied(monkeypatch)
    made = case(2)
    known, _ = made.narrow(budget=Budget(seconds=0))
    size = max(known.joint.upper.item(), -known.joint.lower.item())
    _, same = made.narrow(enough=size)
    assert proofs == []
    assert_equal(known.joint, same.joint)


def test_enough_stops_early(clock, monkeypatch):
    proofs = spied(monkeypatch)
    made = Case(small(3), small(53), (1, 4, 4), eps=0.15, count=1)
    parts, larger = [], []
    known, best = made.narrow(budget=Budget(seconds=12))
    size, least = (max(c.joint.upper.item(), -c.joint.lower.item()) for c in (known, best))
    for share in (0.1, 0.5, 0.9):
        proofs.clear()
        enough = size + share * (least - size)
        _, better = made.narrow(budget=Budget(seconds=12), enough=enough)
        parts.append(sum(proof.parts for _, proof in proofs))
        larger.append(max(better.joint.upper.item(), -better.joint.lower.item()))
        assert larger[-1] <= enough + ROUNDING
        assert all(goal >= enough for goal, _ in proofs)
    assert parts == sorted(parts) and parts[0] < parts[-1]
    assert larger[0] > larger[-1]


def test_the_larger_side_is_split_first(clock, monkeypatch):
    """Until it is no larger than the other; whichever of the networks is the more confident."""
    teacher, student, shape = networks_of_one_shape()[0]
    turns = set()
    for networks in ((teacher, student), (student, teacher)):
        proofs = spied(monkeypatch)
        made = Case(*networks, shape, eps=0.05, count=1)
        made.classes = teacher(made.region.box.centre).argmax(dim=1)
        known, better = made.narrow(budget=Budget(seconds=4))
        upper, lower = known.joint.upper.item(), -known.joint.lower.item()
        turns.add(upper > lower)
        goal, proof = proofs[0]
        assert goal == pytest.approx(max(0.0, 0.95 * min(upper, lower)))
        assert proof.worst >= (better.joint.upper.item() if upper > lower else -better.joint.lower.item()) - ROUNDING
    assert turns == {True, False}


def test_known_bounds_are_kept_where_splitting_proves_less(clock):
    """As when the known ones came from elsewhere."""
    made = case(4)
    region, classes, layers, known = made.one()
    inner = made.reached().at(torch.tensor([0]))
    told = PairBounds(known.teacher, known.student, known.separate, Bounds(inner.lower - 1e-3, inner.upper + 1e-3))
    better = narrow(made.both, region, classes, layers, told, Budget(seconds=2))
    assert_holds(told.joint, better.joint, slack=0)
    assert_holds(better.joint, inner)


def test_ten_classes_of_which_few_matter():
    """Margins that have no weight in any softmax are not asked about, but stay within their bounds."""
    teacher, student = small(0, classes=10, scale=3.0), small(50, classes=10, scale=3.0)
    for network in (teacher, student):
        network[3].bias[4:] -= 6
    made = Case(teacher, student, (1, 4, 4), eps=0.1, count=1)
    known, better = made.narrow(budget=Budget(seconds=1))
    question = module._Question(known.teacher, known.student)
    assert 0 < len(question.asked) < 9
    assert_holds(known.joint, better.joint, slack=0)
    assert_holds(better.joint, made.reached())


def test_a_pair_without_relus_is_left_as_it_is():
    made = Case(linear(normal(4)), linear(normal(4, seed=1)), (1, 2, 2), eps=0.2, count=1)
    known, same = made.narrow()
    assert_equal(known.joint, same.joint)

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overproof.attacks.ball import Radius, ball
from overproof.attacks.objectives import as_objective
from overproof.attacks.pgd import PGD
from overproof.data.draws import drawing
from overproof.functional import cross_entropy, margin
from overproof.processes import Part, Processes

NORMS = ("linf", "l2", "l1")
EPS = {"linf": Radius("0.2"), "l2": Radius("0.5"), "l1": Radius("3")}
every_norm = pytest.mark.parametrize("norm", NORMS)


class Watched:
    """An objective that remembers the points it was asked about."""

    def __init__(self, objective):
        self.objective, self.points = objective, []

    def __call__(self, x):
        self.points.append(x.detach().clone())
        return self.objective(x)


@pytest.fixture
def student(tiny_classifier):
    """Return a network in train mode with one BatchNorm that its owner froze."""
    network = tiny_classifier()
    network.backbone[1].eval()
    return network


def against(student, y, score=cross_entropy):
    return lambda x: score(student(x), y)


def size(norm, x_adv, x):
    return ball(norm, 1.0).size(x_adv - x)


# --- truth by geometry: on a linear model the worst score is known ----------------------------------------------------


def linear(classes, pixels=48, bias=()):
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()
    nn.init.normal_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    for index, value in enumerate(bias):
        nn.init.constant_(model[1].bias[index : index + 1], value)
    return model.eval()


def slope_towards(model, rival, y, x):
    """Return the gradient of ``logit[rival] - logit[y]``, shaped like the images."""
    weight = model[1].weight.detach()
    return (weight[rival] - weight[y]).reshape(x.shape)


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize(
    ("attack", "low", "reached"),
    [
        # linf: a corner of the box around x, cut off by [0, 1]; reached exactly.
        (PGD(norm="linf", eps=EPS["linf"], steps=10), 0.0, 1 - 1e-9),
        (PGD(norm="linf", eps=EPS["linf"], steps=1, start="none"), 0.0, 1 - 1e-9),
        # l2 away from 0 and 1: the first step points where the last one does; from elsewhere it has to turn.
        (PGD(norm="l2", eps=EPS["l2"], steps=10, start="none"), 0.5, 1 - 1e-9),
        (PGD(norm="l2", eps=EPS["l2"], steps=100), 0.5, 0.97),
        # l2 cut off by [0, 1]: the projection is not the nearest point, so a little is left.
        (PGD(norm="l2", eps=Radius("2"), steps=100, start="none"), 0.0, 0.99),
        # l1: a few pixels run into 0 or 1, the budget goes on to the next ones.
        (PGD(norm="l1", eps=EPS["l1"], steps=100, start="none"), 0.0, 0.97),
        (PGD(norm="l1", eps=Radius("0.4"), steps=100), 0.5, 0.9),
        (PGD(norm="l1", eps=Radius("12"), steps=100, start="none"), 0.0, 0.97),
    ],
    ids=["linf", "fgsm", "l2", "l2-uniform", "l2-box", "l1", "l1-uniform", "l1-large"],
)
def test_reaches_the_worst_score_of_two_classes(attack, low, reached, n, worst_case):
    model = linear(2)
    # Interior images keep 0.5 to either side of every pixel; others fill [0, 1], its ends included.
    x = torch.full((n, 3, 4, 4), 0.5).double() if low else (1.2 * torch.rand(n, 3, 4, 4).double() - 0.1).clamp(0, 1)
    y = torch.arange(n) % 2
    possible = worst_case(attack.norm, slope_towards(model, 1 - y, y, x), x, attack.eps)
    for score in (cross_entropy, lambda logits, y: -margin(logits, y)):
        x_adv = attack(model, x, against(model, y, score))
        gained = margin(model(x), y) - margin(model(x_adv), y)
        assert (gained <= possible + 1e-9).all()
        assert (gained >= reached * possible).all()


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize(
    ("attack", "reached"),
    [
        (PGD(norm="linf", eps=Radius("0.05"), steps=10), 1 - 1e-9),
        (PGD(norm="l2", eps=EPS["l2"], steps=10, start="none"), 1 - 1e-9),
        (PGD(norm="l1", eps=Radius("0.5"), steps=40, start="none"), 0.85),
    ],
    ids=NORMS,
)
def test_reaches_the_worst_score_of_four_classes(attack, reached, n, worst_case):
    # The bias lets class 1 lead the rivals by far, so that the worst score is the worst against class 1.
    model = linear(4, bias=(30.0, 15.0, 0.0, 0.0))
    x, y = torch.full((n, 3, 4, 4), 0.5).double(), torch.zeros(n, dtype=torch.int64)
    clean = model(x)
    worst = torch.stack(
        [
            (clean[:, rival] - clean[:, 0])
            + worst_case(attack.norm, slope_towards(model, torch.full_like(y, rival), y, x), x, attack.eps)
            for rival in (1, 2, 3)
        ]
    )
    assert (worst.argmax(dim=0) == 0).all()
    x_adv = attack(model, x, lambda x: -margin(model(x), y))
    possible = worst[0] + margin(clean, y)
    gained = margin(clean, y) - margin(model(x_adv), y)
    assert (gained <= possible + 1e-9).all()
    assert (gained >= reached * possible).all()


def test_l1_spends_its_budget_beyond_the_pixels_that_are_full(worst_case):
    # 64 grey pixels and a budget for sixteen of them, while a step moves three: the full ones must make room.
    slope = torch.randn(4, 1, 8, 8).double()
    x = torch.full_like(slope, 0.5)
    x_adv = PGD(norm="l1", eps=Radius("8"), steps=100, start="none")(
        nn.Identity(), x, lambda z: (slope * z).flatten(1).sum(dim=1)
    )
    gained = (slope * (x_adv - x)).flatten(1).sum(dim=1)
    assert (gained >= 0.98 * worst_case("l1", slope, x, 8.0)).all()


def test_one_step_from_the_clean_image_is_fgsm(student, tiny_batch):
    student.eval()
    x, y = tiny_batch
    point = x.clone().requires_grad_()
    F.cross_entropy(student(point), y, reduction="sum").backward()
    expected = (x + 8 / 255 * point.grad.sign()).clamp(0, 1)
    found = PGD(steps=1, start="none")(student, x, against(student, y))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_one_l2_step_is_the_normalised_gradient(student, tiny_batch):
    student.eval()
    x, y = 0.3 + 0.4 * tiny_batch.x, tiny_batch.y
    point = x.clone().requires_grad_()
    F.cross_entropy(student(point), y, reduction="sum").backward()
    length = point.grad.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    found = PGD(norm="l2", eps=Radius("0.2"), steps=1, start="none")(student, x, against(student, y))
    torch.testing.assert_close(found, x + 0.2 * point.grad / length, rtol=0, atol=1e-6)


# --- best, restarts ---------------------------------------------------------------------------------------------------


def jagged(x):
    """Return a score with many hills, on which the last iterate is rarely the best."""
    return torch.sin(40 * x).flatten(1).sum(dim=1)


@every_norm
def test_the_best_iterate_is_never_worse_than_the_last(norm):
    x = torch.rand(8, 3, 4, 4)
    attack = {"norm": norm, "eps": EPS[norm], "steps": 5}
    scores = []
    for best in (False, True):
        torch.manual_seed(3)
        scores.append(jagged(PGD(**attack, best=best)(nn.Identity(), x, jagged)))
    assert (scores[1] >= scores[0]).all()
    assert (scores[1] > scores[0]).any()


@every_norm
def test_the_best_iterate_is_the_best_point_visited(norm):
    watched = Watched(jagged)
    found = PGD(norm=norm, eps=EPS[norm], steps=5, best=True)(nn.Identity(), torch.rand(8, 3, 4, 4), watched)
    visited = torch.stack([jagged(point) for point in watched.points])
    assert len(watched.points) == 6
    assert torch.equal(jagged(found), visited.amax(dim=0))


@every_norm
@pytest.mark.parametrize("best", [False, True])
def test_restarts_are_never_worse_than_their_first(norm, best):
    x, attack = torch.rand(8, 3, 4, 4), {"norm": norm, "eps": EPS[norm], "steps": 3, "best": best}
    scores = []
    for restarts in (1, 4):
        torch.manual_seed(3)
        scores.append(jagged(PGD(**attack, restarts=restarts)(nn.Identity(), x, jagged)))
    assert (scores[1] >= scores[0]).all()
    assert (scores[1] > scores[0]).any()


def test_restarts_without_a_random_start_are_all_the_same():
    x = torch.rand(4, 3, 4, 4)
    one, three = (PGD(start="none", restarts=restarts, steps=3)(nn.Identity(), x, jagged) for restarts in (1, 3))
    assert torch.equal(one, three)


@pytest.mark.parametrize(
    ("options", "asked"),
    [({}, 5), ({"best": True}, 6), ({"restarts": 3}, 18), ({"restarts": 2, "best": True}, 12)],
    ids=str,
)
def test_it_asks_no_more_often_than_it_must(options, asked):
    watched = Watched(jagged)
    PGD(steps=5, **options)(nn.Identity(), torch.rand(2, 3, 4, 4), watched)
    assert len(watched.points) == asked


# --- what it leaves alone ---------------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("start", ["uniform", "normal", "none"])
def test_the_images_stay_and_the_result_carries_no_graph(norm, start, student, tiny_batch):
    x = tiny_batch.x.clone().requires_grad_()
    x_adv = PGD(norm=norm, eps=EPS[norm], steps=2, start=start)(student, x, against(student, tiny_batch.y))
    assert torch.equal(x, tiny_batch.x)
    assert x.grad is None
    assert not x_adv.requires_grad
    assert x_adv.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("attack", [PGD(steps=2), PGD(steps=2, best=True, restarts=2)], ids=["plain", "best"])
def test_the_weights_and_their_gradients_stay(attack, student, tiny_batch):
    first, *others = student.parameters()
    first.grad = torch.full_like(first, 3.0)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    attack(student, tiny_batch.x, against(student, tiny_batch.y))
    assert torch.equal(first.grad, torch.full_like(first, 3.0))
    assert [value.grad for value in others] == [None] * len(others)
    assert all(value.requires_grad for value in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_autocast_remembers_nothing_of_the_scores_that_are_compared(student, tiny_batch):
    # Up to torch 2.10 the weights would get no gradient afterwards.
    remembered = []

    def objective(x):
        if not torch.is_grad_enabled():
            remembered.append(torch.is_autocast_cache_enabled())
        return cross_entropy(student(x), tiny_batch.y)

    with torch.autocast("cpu", torch.bfloat16):
        PGD(steps=2, best=True)(student, tiny_batch.x, objective)
    assert remembered == [False]


def test_it_searches_in_eval_mode_and_gives_every_mode_back(student, tiny_batch, modes):
    before, seen = modes(student), []

    def objective(x):
        seen.append(modes(student))
        return cross_entropy(student(x), tiny_batch.y)

    PGD(steps=2)(student, tiny_batch.x, objective)
    assert before["backbone.1"] is False and before["backbone.4"] is True
    assert all(not any(during.values()) for during in seen)
    assert modes(student) == before


def test_modes_come_back_when_the_objective_raises(student, tiny_batch, modes):
    before = modes(student)

    def objective(x):
        raise RuntimeError("no score today")

    with pytest.raises(RuntimeError, match="no score today"):
        PGD(steps=2)(student, tiny_batch.x, objective)
    assert modes(student) == before


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_only_a_search_in_train_mode_moves_batchnorm(mode, student, tiny_batch, modes):
    frozen, free = student.backbone[1], student.backbone[4]
    before, was = modes(student), (frozen.running_mean.clone(), free.running_mean.clone())
    PGD(steps=3, mode=mode)(student, tiny_batch.x, against(student, tiny_batch.y))
    assert torch.equal(frozen.running_mean, was[0])
    assert torch.equal(free.running_mean, was[1]) == (mode == "eval")
    assert int(free.num_batches_tracked) == (3 if mode == "train" else 0)
    assert modes(student) == before


def test_train_mode_means_the_mode_the_model_is_in(student, tiny_batch):
    student.eval()
    state = {name: value.clone() for name, value in student.state_dict().items()}
    PGD(steps=2, mode="train")(student, tiny_batch.x, against(student, tiny_batch.y))
    assert all(torch.equal(value, state[name]) for name, value in student.state_dict().items())


def test_it_works_where_gradients_are_switched_off(student, tiny_batch):
    objective = against(student, tiny_batch.y)
    results = []
    for enabled in (True, False):
        torch.manual_seed(1)
        with torch.set_grad_enabled(enabled):
            results.append(PGD(steps=3)(student, tiny_batch.x, objective))
    assert torch.equal(*results)


# --- precision --------------------------------------------------------------------------------------------------------


@every_norm
def test_under_bf16_autocast_the_pixels_stay_float32_and_inside(norm, student, tiny_batch):
    x, y = tiny_batch
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = PGD(norm=norm, eps=EPS[norm], steps=3)(student, x, against(student, y))
    assert x_adv.dtype == torch.float32
    assert (x_adv >= 0).all() and (x_adv <= 1).all()
    assert (size(norm, x_adv, x) <= EPS[norm] * (1 + 1e-5)).all()
    student.eval()
    assert (cross_entropy(student(x_adv), y) > cross_entropy(student(x), y)).all()


@every_norm
def test_float64_images_are_searched_in_float64(norm, tiny_classifier, tiny_batch):
    student, x = tiny_classifier(dtype=torch.float64).eval(), tiny_batch.x.double()
    x_adv = PGD(norm=norm, eps=EPS[norm], steps=3, best=True)(student, x, against(student, tiny_batch.y))
    assert x_adv.dtype == torch.float64
    assert (size(norm, x_adv, x) <= EPS[norm] * (1 + 1e-12)).all()


# --- start and step ---------------------------------------------------------------------------------------------------


def first_point(x, **options):
    watched = Watched(jagged)
    x_adv = PGD(**{"steps": 1, **options})(nn.Identity(), x, watched)
    return watched.points[0], x_adv


def test_start_none_begins_at_the_image():
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(first_point(x, start="none")[0], x)


def test_start_normal_is_a_thousandth_of_a_standard_normal():
    x = torch.full((40, 3, 16, 16), 0.5)
    noise = (first_point(x, start="normal")[0] - x) / 0.001
    assert noise.mean().abs() < 0.02
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert noise.abs().max() > 3


def test_start_uniform_is_a_draw_from_the_ball():
    x = torch.full((40, 3, 16, 16), 0.5)
    torch.manual_seed(5)
    start, _ = first_point(x, eps=Radius("0.1"))
    torch.manual_seed(5)
    torch.testing.assert_close(start, x + torch.empty_like(x).uniform_(-0.1, 0.1))


@pytest.mark.parametrize("start", ["uniform", "normal"])
@pytest.mark.parametrize("clip_start", [True, False])
def test_clip_start_decides_whether_the_first_point_is_an_image(start, clip_start):
    x = torch.rand(4, 3, 8, 8).round()
    begun, ended = first_point(x, start=start, clip_start=clip_start)
    outside = ((begun < 0) | (begun > 1)).any()
    assert bool(outside) is not clip_start
    assert (ended >= 0).all() and (ended <= 1).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_start_larger_than_the_ball_is_never_returned(norm):
    # 0.001 times a normal leaves a ball of this radius; the score falls away from x, so nothing beats the start.
    x, eps = torch.full((4, 3, 8, 8), 0.5), Radius("1e-4")
    attack = PGD(norm=norm, eps=eps, start="normal", best=True, steps=1)
    begun = Watched(lambda z: (z - 0.5).square().flatten(1).sum(dim=1))
    x_adv = attack(nn.Identity(), x, begun)
    assert (size(norm, x_adv, x) <= eps * 1.01).all()


def test_the_default_step_is_two_and_a_half_radii_over_the_steps():
    x, watched = torch.full((2, 3, 4, 4), 0.5), Watched(lambda z: z.flatten(1).sum(dim=1))
    PGD(eps=Radius("0.2"), steps=10, start="none")(nn.Identity(), x, watched)
    moved = [float((b - a).abs().max()) for a, b in zip(watched.points, watched.points[1:], strict=False)]
    assert moved[:5] == pytest.approx([0.05] * 4 + [0.0], abs=1e-6)  # 2.5 * 0.2 / 10, until the radius is used up


def test_a_step_is_taken_as_given():
    x, watched = torch.full((2, 3, 4, 4), 0.5), Watched(lambda z: z.flatten(1).sum(dim=1))
    x_adv = PGD(eps=Radius("0.2"), step=Radius("0.01"), steps=3, start="none")(nn.Identity(), x, watched)
    torch.testing.assert_close(watched.points[1], x + 0.01)
    torch.testing.assert_close(x_adv, x + 0.03)


# --- ramp -------------------------------------------------------------------------------------------------------------


def test_a_ramp_grows_eps_and_step_linearly():
    attack = PGD(eps=Radius("0.2"), step=Radius("0.1"), ramp=0.5)
    half = attack.at(0.25)
    assert (half.eps, half.step, half.ramp) == (pytest.approx(0.1), pytest.approx(0.05), 0.0)
    assert 0 < attack.at(0.0).eps < 1e-4
    assert attack.at(0.5) is attack and attack.at(1.0) is attack
    assert attack.at(0.1).eps < attack.at(0.2).eps < attack.at(0.499).eps < 0.2


def test_a_ramp_scales_a_default_step_through_eps_and_keeps_the_rest():
    attack = PGD(norm="l2", eps=Radius("0.2"), steps=7, restarts=2, start="normal", best=True, ramp=1.0)
    half = attack.at(0.5)
    assert half.step is None
    assert half == PGD(norm="l2", eps=half.eps, steps=7, restarts=2, start="normal", best=True)


def test_a_ramp_of_steps_takes_every_number_equally_long_and_reaches_equally_far():
    attack = PGD(eps=Radius("0.2"), step=Radius("0.05"), steps=5, steps_ramp=0.8)
    found = [attack.at(progress / 1000) for progress in range(1000)]
    assert [one.steps for one in found] == sorted(one.steps for one in found)
    assert [sum(one.steps == steps for one in found) for steps in range(2, 6)] == pytest.approx(
        [200, 200, 200, 400], abs=1
    )
    for one in found:
        assert one.steps * one.step == pytest.approx(0.25)
        assert (one.eps, str(one.eps)) == (attack.eps, "0.2")
    assert attack.at(0.8) is attack and attack.at(1.0) is attack
    assert found[0] == PGD(eps=Radius("0.2"), step=Radius(0.125), steps=2)


def test_a_ramp_of_steps_leaves_a_default_step_to_the_number_of_steps():
    assert PGD(steps=10, steps_ramp=1.0).at(0.5) == PGD(steps=6)
    assert PGD(steps=1, steps_ramp=1.0).at(0.0).steps == 1


def test_both_ramps_at_once():
    attack = PGD(eps=Radius("0.2"), step=Radius("0.1"), steps=4, ramp=0.5, steps_ramp=1.0)
    early, late = attack.at(0.25), attack.at(0.75)
    assert (early.steps, early.eps, early.step) == (2, pytest.approx(0.1), pytest.approx(0.1))
    assert (late.steps, late.eps, late.step) == (4, 0.2, pytest.approx(0.1))
    swapped = PGD(eps=Radius("0.2"), steps=4, ramp=1.0, steps_ramp=0.5).at(0.75)
    assert (swapped.steps, swapped.eps) == (4, pytest.approx(0.15))


def test_without_a_ramp_the_search_is_always_the_same():
    attack = PGD()
    assert attack.at(0.0) is attack


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eps": Radius("8")}, r"eps 8 is not in \[0, 1\] pixel units; did you mean 8/255\?"),
        ({"steps": 0}, "steps and restarts must be at least 1, got 0 and 1"),
        ({"restarts": 0}, "steps and restarts must be at least 1, got 10 and 0"),
        ({"ramp": -0.1}, r"ramp is a share of the run, in \[0, 1\], got -0.1"),
        ({"ramp": 1.1}, r"ramp is a share of the run, in \[0, 1\], got 1.1"),
        ({"steps_ramp": 2}, r"steps_ramp is a share of the run, in \[0, 1\], got 2"),
        ({"best": True, "clip_start": False}, "best may return the start, so it needs clip_start: .*"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        PGD(**options)


def test_its_repr_rebuilds_it():
    attack = PGD(norm="l2", eps=Radius("0.5"), step=Radius("1/10"), steps=3, best=True, ramp=0.25)
    rebuilt = eval(repr(attack), {"PGD": PGD, "Radius": Radius})
    assert rebuilt == attack and str(rebuilt.step) == "1/10"


def test_ascent_is_the_score_and_its_slope():
    x = torch.rand(3, 2, 2, 2)
    with torch.no_grad():
        score, gradient = as_objective(lambda z: z.pow(3).flatten(1).sum(dim=1)).ascend(x)
    torch.testing.assert_close(score, x.pow(3).flatten(1).sum(dim=1))
    torch.testing.assert_close(gradient, 3 * x.square())
    assert not score.requires_grad and not gradient.requires_grad and not x.requires_grad


def test_momentum_follows_the_decaying_sum_of_normalised_gradients():
    """Dong et al. 2018, equation 6, step by step by hand: the score's slope changes sign on the way."""
    x = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)

    def score(z):
        first, second = z[:, 0, 0, 0], z[:, 0, 0, 1]
        return torch.where(first < 0.55, 4 * first, 2.475 - 0.5 * first) + 0.1 * second

    attack = PGD(eps=Radius("0.3"), step=Radius("0.1"), steps=2, start="none", momentum=0.9)
    found = attack(nn.Identity(), x, score)
    at, memory = x.clone(), torch.zeros_like(x)
    for _ in range(2):
        slope = torch.tensor([4 if float(at[0, 0, 0, 0]) < 0.55 else -0.5, 0.1], dtype=torch.float64).view_as(x)
        memory = 0.9 * memory + slope / slope.abs().mean()
        at = (at + 0.1 * memory.sign()).clamp(0.2, 0.8)
    assert torch.equal(found, at)
    assert not torch.equal(found, replace(attack, momentum=0.0)(nn.Identity(), x, score))


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_momentum_is_a_share(momentum):
    with pytest.raises(ValueError, match="momentum is the share kept of earlier gradients"):
        PGD(momentum=momentum)


@every_norm
@pytest.mark.parametrize("start", ["uniform", "normal"])
def test_processes_that_share_a_batch_find_what_a_single_one_finds(norm, start):
    x, goal = torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8)
    attack = PGD(norm=norm, eps=EPS[norm], steps=2, restarts=2, start=start, best=True)
    torch.manual_seed(1)
    whole = attack(nn.Identity(), x, lambda point: (point - goal).square().flatten(1).sum(dim=1))
    for rank in range(2):
        part = Part(Processes(rank, 2), 5)
        own = part.rows(goal)
        torch.manual_seed(1)
        with drawing(part):
            found = attack(
                nn.Identity(), part.rows(x), lambda point, own=own: (point - own).square().flatten(1).sum(dim=1)
            )
        torch.testing.assert_close(found, part.rows(whole), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "values"),
    [("steps", (1,)), ("restarts", (1,)), ("momentum", (0.0, 1.0)), ("ramp", (0.0, 1.0)), ("steps_ramp", (0.0, 1.0))],
)
def test_an_option_may_be_at_its_ends(option, values):
    for value in values:
        assert getattr(PGD(**{option: value}), option) == value


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_of_equally_good_iterates_the_first_is_kept(norm):
    # A score that never changes and promises to: every step is taken, and none is better than the image itself.
    attack, x = PGD(norm=norm, eps=Radius("0.1"), steps=3, start="none", best=True), torch.full((2, 3, 4, 4), 0.5)
    points = []

    def promise(z):
        points.append(z.detach().clone())
        return (z - z.detach()).flatten(1).sum(dim=1)

    found = attack(nn.Identity(), x, promise)
    assert torch.equal(found, x) and not torch.equal(points[-1], x)
    twice = replace(attack, restarts=2, start="uniform", best=False)
    points.clear()
    assert torch.equal(
        twice(nn.Identity(), x, promise), points[3]
    )  # the end of the first search: three steps, one look

from dataclasses import replace

import pytest
import torch
from torch import nn

from overproof.attacks.ball import Radius, ball
from overproof.attacks.fab import FAB
from overproof.attacks.objectives import Misclassification
from overproof.errors import InputError
from overproof.functional import difference, margin

NORMS = ("linf", "l2", "l1")
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
every_norm = pytest.mark.parametrize("norm", NORMS)


def linear(classes, pixels=48):
    """Return a network that is linear, with logits near 0 for grey images."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()
    nn.init.normal_(model[1].weight)
    model[1].bias.data = -0.5 * model[1].weight.data.sum(dim=1)
    return model.eval()


def greys(n):
    """Return images whose pixels are so far from 0 and 1 that the box plays no part."""
    return 0.5 + 0.03 * torch.randn(n, 3, 4, 4).double()


def slopes(model, y, target):
    weight = model[1].weight.detach()
    return (weight[target] - weight[y]).reshape(-1, 3, 4, 4)


def distance(norm, model, x, y, target):
    """Return how far the boundary between two classes of a linear network is: the margin over the dual norm."""
    with torch.no_grad():
        return -difference(model(x), y, target) / ball(DUAL[norm], 1.0).size(slopes(model, y, target))


def attacked(norm, eps, model, x, y, target=None):
    """Attack one example after the other, each with its own eps, for a few steps; return what was found."""
    found = []
    for i, radius in enumerate(eps.tolist()):
        goal = Misclassification.on(model, y[i : i + 1], target=None if target is None else target[i : i + 1])
        found.append(FAB(norm=norm, eps=Radius(radius), steps=12)(model, x[i : i + 1], goal))
    return torch.cat(found)


def sound(norm, eps, model, x, y, found):
    """Return who is misclassified; all must be inside ball and box, and who is not must be untouched."""
    assert found.shape == x.shape and found.dtype == x.dtype and not found.requires_grad
    assert ((found >= 0) & (found <= 1)).all()
    assert (ball(norm, 1.0).size(found - x) <= torch.as_tensor(eps, dtype=x.dtype)).all()
    with torch.no_grad():
        misclassified = model(found).argmax(dim=1) != y
    assert torch.equal(found[~misclassified], x[~misclassified])
    return misclassified


# --- truth by geometry: how far the boundary of a linear network is ---------------------------------------------------


@every_norm
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("targeted", [False, True])
def test_it_finds_the_nearest_boundary_and_no_nearer_one(norm, classes, targeted):
    model, x = linear(classes), greys(4)
    y = model(x).argmax(dim=1)
    rivals = (y + torch.arange(1, classes)[:, None]) % classes
    least, index = torch.stack([distance(norm, model, x, y, rival) for rival in rivals]).min(dim=0)
    assert (least > 0).all()
    target = rivals.gather(0, index[None])[0] if targeted else None
    above, below = 1.01 * least, 0.999 * least
    assert sound(norm, above, model, x, y, attacked(norm, above, model, x, y, target)).all()
    assert not sound(norm, below, model, x, y, attacked(norm, below, model, x, y, target)).any()


@every_norm
def test_a_target_that_is_not_the_nearest_is_reached_at_its_own_distance(norm):
    # Class 1 is kept far away, so that nothing else is misclassified on the way to class 2.
    model, x = linear(3), greys(8)
    model[1].bias.data += torch.tensor([0.0, -100.0, -1.0])
    keep = (model(x).argmax(dim=1) == 0).nonzero().flatten()
    x, y = x[keep], torch.zeros(len(keep), dtype=torch.int64)
    assert len(keep) > 2
    target = torch.full_like(y, 2)
    eps = 1.01 * distance(norm, model, x, y, target)
    assert sound(norm, eps, model, x, y, attacked(norm, eps, model, x, y, target)).all()
    assert not sound(norm, eps, model, x, y, attacked(norm, eps, model, x, y, target - 1)).any()


@every_norm
@pytest.mark.parametrize("targeted", [False, True])
def test_it_finds_the_way_where_the_box_is_in_it(norm, targeted, worst_case):
    model, x = linear(2), (1.6 * torch.rand(3, 3, 4, 4).double() - 0.3).clamp(0, 1)
    y = model(x).argmax(dim=1)
    lead, slope = margin(model(x), y).detach(), slopes(model, y, 1 - y)
    # The distance is the eps at which the most that can be gained within the ball and the box is the whole lead.
    low, high = torch.zeros(3).double(), torch.full((3,), 48.0).double()
    for _ in range(25):
        middle = (low + high) / 2
        gained = torch.cat([worst_case(norm, slope[i : i + 1], x[i : i + 1], float(middle[i])) for i in range(3)])
        low, high = torch.where(gained < lead, middle, low), torch.where(gained < lead, high, middle)
    assert (high > 1.02 * distance(norm, model, x, y, 1 - y)).any()  # the box is in the way indeed
    high = high.clamp(max=0.99) if norm == "linf" else high
    target = 1 - y if targeted else None
    assert sound(norm, 1.01 * high, model, x, y, attacked(norm, 1.01 * high, model, x, y, target)).all()
    assert not sound(norm, 0.999 * high, model, x, y, attacked(norm, 0.999 * high, model, x, y, target)).any()


# --- the slow twin: algorithm 1 as it is written, one example, one pass after the other -------------------------------


class Watched:
    """Logits that remember the points whose gradient was asked for."""

    def __init__(self, model):
        self.model, self.points = model, []

    def __call__(self, x):
        if x.requires_grad:
            self.points.append(x.detach().clone())
        return self.model(x)


def visited(attack, model, x, y, target):
    """Return the points at which algorithm 1 linearises, ``[steps, ...]``, and how often it went back to them."""
    area, dual = ball(attack.norm, attack.eps), ball(DUAL[attack.norm], 1.0)
    point, points, back = x, [], 0
    for _ in range(attack.steps):
        if int(model(point).argmax()) != int(y):
            point, back = (1 - attack.backstep) * x + attack.backstep * point, back + 1
        points.append(point)
        classes = [int(target)] if target is not None else [k for k in range(4) if k != int(y)]
        planes = []
        for k in classes:
            leaf = point.clone().requires_grad_()
            logits = model(leaf)[0]
            lead = logits[k] - logits[int(y)]
            (w,) = torch.autograd.grad(lead, leaf)
            f = float(lead.detach())
            planes.append((abs(f) / float(dual.size(w)), f, w))
        _, f, w = min(planes, key=lambda plane: plane[0])
        d1 = area.shortest(point, w, torch.tensor([-f]))
        d2 = area.shortest(x, w, torch.tensor([float((w * (point - x)).sum()) - f]))
        a1, a2 = (max(float(area.size(d)), 1e-8) for d in (d1, d2))
        alpha = min(a1 / (a1 + a2), attack.bias)
        point = (1 - alpha) * (point + attack.overshoot * d1) + alpha * (x + attack.overshoot * d2)
        point = point.clamp(0, 1)
    return torch.cat(points), back


@every_norm
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": 0.4, "overshoot": 1.3, "backstep": 0.6}], ids=["paper", "other"])
def test_it_walks_as_algorithm_1_does(norm, targeted, options, tiny_classifier, tiny_batch):
    model, x = tiny_classifier(dtype=torch.float64).eval(), tiny_batch.x.double()
    y = model(x).argmax(dim=1)
    target = (y + 1) % 4 if targeted else None
    attack = FAB(norm=norm, eps=Radius("1e-9"), steps=8, **options)
    watched = Watched(model)
    attack(model, x, Misclassification.on(watched, y, target=target))
    walked = torch.stack(watched.points[:: 1 if targeted else 3])
    assert len(watched.points) == (8 if targeted else 24)
    went_back = 0
    for i in range(len(x)):
        expected, back = visited(attack, model, x[i : i + 1], y[i], None if target is None else target[i])
        torch.testing.assert_close(walked[:, i], expected, rtol=0, atol=1e-6)
        went_back += back
    assert went_back > 0


# --- what it returns --------------------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("targeted", [False, True])
def test_of_many_examples_some_break_and_all_stay_sound(norm, targeted, tiny_classifier, tiny_batch):
    model, x = tiny_classifier().eval(), torch.cat([tiny_batch.x, torch.rand(26, 3, 8, 8)])
    y = model(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % 4  # wrong from the start
    eps = Radius({"linf": "0.02", "l2": "0.2", "l1": "1"}[norm])
    target = (y + 1) % 4 if targeted else None
    found = FAB(norm=norm, eps=eps, steps=10)(model, x, Misclassification.on(model, y, target=target))
    misclassified = sound(norm, eps, model, x, y, found)
    assert torch.equal(found[:3], x[:3])
    assert misclassified[:3].all() and 3 < int(misclassified.sum()) < len(x)


@every_norm
def test_neither_the_seed_nor_the_company_nor_the_chunk_matters(norm, tiny_classifier, tiny_batch):
    model, x = tiny_classifier(dtype=torch.float64).eval(), tiny_batch.x.double()
    y = model(x).argmax(dim=1)
    attack = FAB(norm=norm, eps=Radius({"linf": "0.05", "l2": "0.5", "l1": "3"}[norm]), steps=10)
    state = torch.get_rng_state()
    found = attack(model, x, Misclassification.on(model, y))
    assert torch.equal(torch.get_rng_state(), state)
    assert (found != x).any()
    torch.manual_seed(99)
    assert torch.equal(attack(model, x, Misclassification.on(model, y)), found)
    torch.testing.assert_close(attack(model, x, replace(Misclassification.on(model, y), chunk=4)), found)
    for i in range(len(x)):
        torch.testing.assert_close(
            attack(model, x[i : i + 1], Misclassification.on(model, y[i : i + 1])), found[i : i + 1]
        )


def test_the_loss_of_the_goal_does_not_matter(tiny_classifier, tiny_batch):
    model, x = tiny_classifier().eval(), tiny_batch.x
    y = model(x).argmax(dim=1)
    one, other = (
        FAB(eps=Radius("0.05"), steps=5)(model, x, Misclassification.on(model, y, loss=loss))
        for loss in ("dlr", "margin")
    )
    assert torch.equal(one, other) and (one != x).any()


@every_norm
@pytest.mark.parametrize("targeted", [False, True])
def test_a_flat_network_is_left_alone(norm, targeted):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([2.0, 1.0, 0.0])
    x, y = torch.rand(4, 3, 4, 4), torch.zeros(4, dtype=torch.int64)
    goal = Misclassification.on(model, y, target=y + 1 if targeted else None)
    assert torch.equal(FAB(norm=norm, steps=3)(model, x, goal), x)


@every_norm
def test_a_boundary_without_a_gradient_does_not_hide_the_others(norm):
    model, x = linear(3), greys(4)
    model[1].weight.data[1], model[1].bias.data[1] = model[1].weight.data[0], model[1].bias.data[0] - 1e-3
    model[1].bias.data[2] -= 0.3
    keep = (model(x).argmax(dim=1) == 0).nonzero().flatten()
    x, y = x[keep], torch.zeros(len(keep), dtype=torch.int64)
    assert len(keep) > 1
    eps = 1.01 * distance(norm, model, x, y, y + 2)
    assert sound(norm, eps, model, x, y, attacked(norm, eps, model, x, y)).all()


@every_norm
def test_numbers_that_are_none_do_no_harm_to_the_neighbours(norm):
    model, x = linear(3), greys(5)
    y = model(x).argmax(dim=1)
    reach = 1.05 * torch.stack([distance(norm, model, x, y, (y + k) % 3) for k in (1, 2)]).amin(dim=0).amax()
    attack = FAB(norm=norm, eps=Radius(float(reach)), steps=10)

    def search(z):
        logits = model(z)
        marked = (z.detach().flatten(1)[:, :1] - x[1].flatten()[0]).abs() < 1e-9
        return logits.masked_fill(marked, torch.nan)

    goal = replace(Misclassification.on(model, y), search=search)
    found = attack(model, x, goal)
    assert found.isfinite().all()
    others = torch.tensor([0, 2, 3, 4])
    assert sound(norm, reach, model, x[others], y[others], found[others]).all()


def test_a_target_that_is_the_label_and_a_goal_without_a_judge_find_nothing(tiny_classifier, tiny_batch):
    model, x = tiny_classifier().eval(), tiny_batch.x
    y = model(x).argmax(dim=1)
    attack = FAB(eps=Radius("0.5"), steps=3)
    assert torch.equal(attack(model, x, Misclassification.on(model, y, target=y)), x)
    assert torch.equal(attack(model, x, replace(Misclassification.on(model, y), judge=None)), x)


def test_no_examples_are_no_work(tiny_classifier):
    model, nothing = tiny_classifier(), torch.empty(0, 3, 8, 8)
    assert FAB()(model, nothing, Misclassification.on(model, torch.empty(0, dtype=torch.int64))).shape == nothing.shape


def test_a_misclassified_image_at_exactly_eps_counts():
    # One pixel, every number a sum of powers of two: the full step from 1/4 ends on the boundary at 1/2, where the tie
    # goes to class 0, which is wrong.
    def tie(z):
        return torch.cat([z.flatten(1) - 0.5, torch.zeros(len(z), 1, dtype=z.dtype)], dim=1)

    x, y = torch.full((1, 1, 1, 1), 0.25, dtype=torch.float64), torch.ones(1, dtype=torch.int64)
    attack = FAB(eps=Radius("1/4"), overshoot=1.0, steps=1)
    assert torch.equal(attack(nn.Identity(), x, Misclassification.on(tie, y)), x + 0.25)
    assert torch.equal(replace(attack, steps=3)(nn.Identity(), x, Misclassification.on(tie, y)), x + 0.25)


# --- what it costs ----------------------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("targeted", [False, True])
def test_who_is_misclassified_costs_nothing_more_and_only_who_is_outside_is_asked_twice(norm, classes, targeted):
    model, x = linear(classes), greys(40)
    y = model(x).argmax(dim=1)
    away, index = torch.stack([distance(norm, model, x, y, (y + k) % classes) for k in range(1, classes)]).min(dim=0)
    rows = torch.stack([away.argsort()[20], away.argmin(), away.argmax()])
    x, y, target = x[rows], y[rows], ((y + 1 + index) % classes)[rows]
    y[0] = (y[0] + 1) % classes
    eps = Radius(1.06 * float(away.min()))
    assert away.max() > 2 * eps
    goal = Misclassification.on(model, y, target=target if targeted else None)
    FAB(norm=norm, eps=eps, steps=10)(model, x, goal)
    # Wrong from the start; misclassified by the first step; out of reach, and outside the ball at each step but the
    # first.
    planes = 1 if targeted else classes - 1
    assert goal.cost.backward.tolist() == [1, planes + 1, 10 * planes]
    counted = 0 if targeted else 1  # the classes, on the first image
    assert goal.cost.forward.tolist() == [1 + counted, planes + 1, 10 * planes + 9]


# --- what it leaves alone ---------------------------------------------------------------------------------------------


def test_the_images_the_weights_and_every_mode_stay(tiny_classifier, tiny_batch, modes):
    model, x = tiny_classifier(), tiny_batch.x.clone().requires_grad_()
    model.backbone[1].eval()
    before, state, during = modes(model), {k: v.clone() for k, v in model.state_dict().items()}, []

    def search(z):
        during.append(modes(model))
        return model(z)

    found = FAB(steps=2)(model, x, replace(Misclassification.on(model, tiny_batch.y), search=search))
    assert not found.requires_grad and found.data_ptr() != x.data_ptr()
    assert torch.equal(x, tiny_batch.x) and x.grad is None
    assert modes(model) == before and during and not any(any(seen.values()) for seen in during)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


# --- options ----------------------------------------------------------------------------------------------------------


def test_a_network_of_one_class_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    with pytest.raises(InputError, match=r"^FAB needs a network of at least two classes"):
        FAB()(model, torch.rand(2, 3, 4, 4), Misclassification.on(model, torch.zeros(2, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eps": Radius("8")}, r"eps 8 is not in \[0, 1\] pixel units; did you mean 8/255\?"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"bias": -0.1}, r"bias is a share, in \[0, 1\], got -0.1"),
        ({"bias": 1.5}, r"bias is a share, in \[0, 1\], got 1.5"),
        ({"overshoot": 0.99}, "overshoot must be at least 1 to reach the boundary, got 0.99"),
        ({"backstep": 0.0}, "backstep is a share between 0 and 1, got 0.0"),
        ({"backstep": 1.0}, "backstep is a share between 0 and 1, got 1.0"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        FAB(**options)


def test_its_repr_rebuilds_it_and_the_paper_sets_the_defaults():
    attack = FAB(norm="l2", eps=Radius("0.5"), steps=3)
    assert eval(repr(attack), {"FAB": FAB, "Radius": Radius}) == attack
    assert (attack.kind, attack.bias, attack.overshoot, attack.backstep) == ("fab", 0.1, 1.05, 0.9)
    assert FAB().steps == 100


@pytest.mark.parametrize(
    ("option", "values"), [("steps", (1,)), ("bias", (0.0, 1.0)), ("overshoot", (1.0,)), ("backstep", (1e-9, 1 - 1e-9))]
)
def test_an_option_may_be_at_its_ends(option, values):
    for value in values:
        assert getattr(FAB(**{option: value}), option) == value

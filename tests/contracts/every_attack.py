"""What holds for every attack, in every norm, whatever its options."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from overproof.attacks.apgd import APGD
from overproof.attacks.ball import Radius, ball
from overproof.attacks.fab import FAB
from overproof.attacks.hopskipjump import HopSkipJump
from overproof.attacks.objectives import Misclassification
from overproof.attacks.pgd import PGD
from overproof.attacks.square import Square
from overproof.data.images import Batch
from overproof.functional import cross_entropy, dlr
from overproof.testing import AttackContract
from overproof.testing.attacks import BALLS, assert_inside, found_by, in_balls, predictions, rightly

VARIANTS = {
    "pgd": PGD(steps=3),
    "fgsm": PGD(steps=1, start="none"),
    "normal": PGD(steps=3, start="normal"),
    "unclipped": PGD(steps=3, clip_start=False),
    "long-step": PGD(steps=3, step=Radius("1")),
    "best": PGD(steps=3, best=True, start="none"),
    "best-normal": PGD(steps=3, best=True, start="normal"),
    "restarts": PGD(steps=2, restarts=2),
    "best-restarts": PGD(steps=2, restarts=2, best=True),
    "ramped": PGD(steps=3, ramp=0.5).at(0.01),
}
# What an evaluation attacks with: each is told when an example is misclassified.
HUNTS = {
    "apgd": APGD(steps=4),
    "apgd-restarts": APGD(steps=2, restarts=2),
    "fab": FAB(steps=4),
    "square": Square(queries=15),
    "hopskipjump": HopSkipJump(norm="l2", queries=60, samples=4),
}
UNDEFINED = {("hopskipjump", "l1")}
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
LARGE_AND_TINY = ("l2-large", "l1-tiny")  # where the geometry is at stake, and PGD has shown it


def where(attack, threat):
    norm = BALLS[threat][0]
    return (attack.kind, norm) not in UNDEFINED and (attack.kind == "pgd" or threat not in LARGE_AND_TINY)


def in_every_ball(variants):
    return pytest.mark.parametrize("attack", in_balls(variants, where))


every_search = in_every_ball(VARIANTS)
every_hunt = in_every_ball(HUNTS)
every_attack = in_every_ball(VARIANTS | HUNTS)


@pytest.fixture
def model(tiny_classifier):
    """Return a network in train mode with one BatchNorm that its owner froze."""
    network = tiny_classifier()
    network.backbone[1].eval()
    return network


class TestEveryAttack(AttackContract):
    @pytest.fixture(params=in_balls(VARIANTS | HUNTS, where))
    def attack(self, request):
        return request.param


class Crossroads(nn.Module):
    """A linear network in float64 that says 0 of grey images, with class 1 within 0.3 eps and class 2 within 0.6 eps.

    Each has pixels of its own, so that the way to one is no step towards the other; no image is of class 3.
    """

    def __init__(self, norm, eps):
        super().__init__()
        weight = torch.rand(2, 192, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) / 2 + 0.5
        weight[:, ::3] *= -1
        weight[0, :96], weight[1, 96:] = 0, 0
        self.weight = nn.Parameter(weight)
        self.reach = torch.tensor([0.3, 0.6]) * eps * ball(DUAL[norm], 1.0).size(weight)

    def forward(self, x):
        seen = (x - 0.5).flatten(1) @ self.weight.T - self.reach
        return torch.cat([torch.zeros_like(seen[:, :1]), seen, torch.full_like(seen[:, :1], -100)], dim=1)

    @staticmethod
    def batch():
        noise = torch.rand(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) - 0.5
        # Nearly grey: what is within 0.3 eps of the smallest radius is so of all of these, too.
        return Batch(0.5 + 1e-7 * noise, torch.zeros(6, dtype=torch.int64))


@every_attack
def test_it_gives_back_other_images_and_those_of_the_seed(attack, model, tiny_batch):
    batch = rightly(model, tiny_batch)
    x_adv = found_by(attack, model, batch)
    if not isinstance(attack, FAB | HopSkipJump):  # these give back the image where they find nothing
        assert not torch.equal(x_adv, batch.x)
    if isinstance(attack, FAB) or getattr(attack, "start", None) == "none":
        assert torch.equal(found_by(attack, model, batch, seed=6), x_adv)


@every_attack
def test_another_score_may_be_maximised(attack, tiny_classifier, tiny_batch):
    model = tiny_classifier(dtype=torch.float64).eval()
    batch = rightly(model, tiny_batch._replace(x=tiny_batch.x.double()))
    x_adv, other = found_by(attack, model, batch, "dlr"), found_by(attack, model, batch, "cross_entropy")
    assert_inside(attack, x_adv, batch.x)
    if isinstance(attack, PGD | APGD):
        assert (dlr(model(x_adv), batch.y) - dlr(model(batch.x), batch.y)).mean() > 0
        assert not torch.equal(x_adv, other)
    else:  # these maximise the margin, whatever the goal's loss, or look at no score at all
        assert torch.equal(x_adv, other)


@every_attack
def test_where_nothing_is_drawn_an_example_does_not_see_the_others(attack, tiny_classifier, tiny_batch):
    model = tiny_classifier(dtype=torch.float64).eval()
    batch = rightly(model, tiny_batch._replace(x=tiny_batch.x.double()))
    one = batch._replace(x=batch.x[:1], y=batch.y[:1])
    if isinstance(attack, FAB) or getattr(attack, "start", None) == "none":
        found = found_by(attack, model, one)
        torch.testing.assert_close(found, found_by(attack, model, batch)[:1], rtol=0, atol=1e-9)


@every_attack
def test_it_may_be_sent_towards_a_target(attack):
    model, batch = Crossroads(attack.norm, attack.eps), Crossroads.batch()
    goal = Misclassification.on(model, batch.y, loss="margin")
    if not isinstance(attack, FAB | HopSkipJump):
        goal = replace(goal, judge=None)  # else it ends with the first wrong class on its way

    def towards(target, attack=attack):
        torch.manual_seed(5)
        aim = goal if target is None else goal.towards(torch.full_like(batch.y, target))
        x_adv = attack(model, batch.x, aim)
        assert_inside(attack, x_adv, batch.x)
        return model(x_adv)

    if isinstance(attack, HopSkipJump):  # only asks whether an image is misclassified
        assert torch.equal(towards(2), towards(None))
    elif isinstance(attack, FAB):
        for target in (1, 2):
            assert (towards(target).argmax(dim=1) == target).all()
        assert (towards(None).argmax(dim=1) == 1).all()
    elif isinstance(attack, Square):  # it never goes back behind its start, which is drawn
        risen = towards(2)[:, 2] - towards(2, replace(attack, queries=1))[:, 2]
        assert (risen >= 0).all() and risen.mean() > 0
        assert (towards(2) - towards(1))[:, 2].mean() > 0 > (towards(2) - towards(1))[:, 1].mean()
    else:
        for target in (1, 2):
            before = model(batch.x)
            if attack.norm == "l1" and getattr(attack, "start", None) == "normal":
                # Three steps do not lead back from a wrong corner of a tiny ball: it has risen from there.
                before = towards(target, replace(attack, step=Radius("1e-15")))
            assert (towards(target) > before)[:, target].all()
        assert ((towards(2) - towards(1))[:, 1:3].sign() == torch.tensor([-1, 1])).all()


@every_attack
def test_chunks_change_nothing(attack, tiny_classifier, tiny_batch):
    """What is drawn is drawn for the whole batch, and only the passes of the network are in chunks."""
    model = tiny_classifier(dtype=torch.float64).eval()
    batch = rightly(model, tiny_batch._replace(x=tiny_batch.x.double()))
    sizes = []

    def asked(x):
        sizes.append(len(x))
        return model(x)

    def found(chunk, target, judge):
        goal = Misclassification.on(asked, batch.y, loss="margin", target=target)
        goal = replace(goal, judge=judge, chunk=chunk)
        sizes.clear()
        torch.manual_seed(5)
        x_adv = attack(model, batch.x, goal)
        assert min(sizes) > 0  # no pass over nobody
        return x_adv, goal.cost, max(sizes)

    for target, judge in ((None, lambda x: asked(x)), ((batch.y + 1) % 4, asked)):
        (whole, cost, most), (parts, cost_of_parts, most_of_parts) = (found(chunk, target, judge) for chunk in (6, 4))
        # Another size of a batch may add in another order. In float64 that is some 1e-15, and no sign hangs on it.
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)
        assert torch.equal(cost_of_parts.forward, cost.forward) and torch.equal(cost_of_parts.backward, cost.backward)
        assert (most, most_of_parts) == (6, 4)


@every_search
def test_a_flat_score_does_no_harm(attack, model, tiny_batch):
    def ends(attack):
        torch.manual_seed(5)
        return attack(model, tiny_batch.x, lambda x: 0 * model(x).sum(dim=1))

    x_adv = ends(attack)
    assert_inside(attack, x_adv, tiny_batch.x)
    if attack.start == "none":
        assert torch.equal(x_adv, tiny_batch.x)
    # It stays at its start, which every further projection leaves in its place but for rounding.
    torch.testing.assert_close(x_adv, ends(replace(attack, steps=1)), rtol=0, atol=1e-6)


@every_search
def test_it_maximises(attack, model, tiny_batch):
    # Not each example each time, unless the best is kept from the image itself on; but on average.
    x_adv = found_by(attack, model, tiny_batch)
    model.eval()
    gained = cross_entropy(model(x_adv), tiny_batch.y) - cross_entropy(model(tiny_batch.x), tiny_batch.y)
    if attack.best and attack.start == "none":
        assert (gained >= 0).all()
    assert gained.mean() > 0


# --- what a hunt adds -------------------------------------------------------------------------------------------------


@every_hunt
def test_a_flat_network_does_no_harm_and_is_not_misclassified(attack, model, tiny_batch):
    y = torch.zeros_like(tiny_batch.y)  # what all equal logits say
    goal = Misclassification.on(lambda x: 0 * model(x), y, loss="margin")
    assert_inside(attack, attack(model, tiny_batch.x, goal), tiny_batch.x)
    assert (goal.cost.forward > 1).all()  # nobody was done early


@every_hunt
def test_what_the_goal_says_is_misclassified_is_returned_misclassified(attack, model, tiny_batch):
    """Each example that was ever misclassified inside the ball comes back as an image that is."""
    batch, told = rightly(model, tiny_batch), torch.zeros(6, dtype=torch.bool)
    goal = Misclassification.on(model, batch.y, loss="margin")

    class Telling(Misclassification):
        def _misclassified(self, logits, x):
            misclassified = super()._misclassified(logits, x)
            # Rounding: a corner of the ball may measure a little more than eps.
            nearby = ball(attack.norm, attack.eps).size(x - batch.x[self.index]) <= attack.eps * (1 + 1e-5)
            told[self.index] |= misclassified & nearby
            return misclassified

    telling = Telling(**{field.name: getattr(goal, field.name) for field in fields(goal)})
    torch.manual_seed(5)
    x_adv = attack(model, batch.x, telling)
    misclassified = predictions(model, x_adv) != batch.y
    assert torch.equal(misclassified, told)


@every_hunt
def test_cost_is_counted_and_an_image_that_is_wrong_already_costs_next_to_nothing(attack, model, tiny_batch):
    y = predictions(model, tiny_batch.x)
    wrong = torch.arange(6) % 2 == 0
    goal = Misclassification.on(model, torch.where(wrong, (y + 1) % 4, y), loss="margin")
    attack(model, tiny_batch.x, goal)
    forward, backward = goal.cost.forward, goal.cost.backward
    assert (forward >= 1).all() and (backward <= forward).all()
    if isinstance(attack, Square | HopSkipJump):
        assert (backward == 0).all() and (forward <= attack.queries).all()
    if attack.eps < 0.1 or isinstance(attack, FAB):  # hardly any other image is within reach
        assert forward[wrong].sum() < forward[~wrong].sum()


@every_hunt
def test_without_a_judge_nothing_is_misclassified_and_nothing_stops(attack, model, tiny_batch):
    batch = rightly(model, tiny_batch)
    goal = replace(Misclassification.on(model, batch.y, loss="margin"), judge=None)
    x_adv = attack(model, batch.x, goal)
    assert_inside(attack, x_adv, batch.x)
    passes = goal.cost.forward
    assert passes.amax() - passes.amin() <= isinstance(attack, FAB)  # which counts the classes on one image
    if isinstance(attack, FAB | HopSkipJump):
        assert torch.equal(x_adv, batch.x)

import math

import pytest
import torch
from torch import nn

from overproof.attacks.ball import Radius, Threat
from overproof.attacks.pgd import PGD
from overproof.data.images import pixels
from overproof.data.sources import Digits
from overproof.diagnostics.gradient_masking import EXAMPLES, _monotone, probe
from overproof.diagnostics.reliability import Reliability
from overproof.errors import InputError
from overproof.functional import cross_entropy
from overproof.models.architectures.convnet import ConvNet
from overproof.models.classifier import Classifier

LINF, L2, L1 = (Threat(norm=norm, eps=Radius(eps)) for norm, eps in (("linf", "0.1"), ("l2", "0.5"), ("l1", "2")))
WIDE = Threat(norm="linf", eps=Radius("0.5"))  # breaks everything at once: quick where the searches do not matter
NAMES = [
    "determinism",
    "batch composition",
    "gradients",
    "logit scale",
    "ends",
    "linearity",
    "large eps",
    "monotone",
    "steps",
    "restarts",
    "noise",
]


def trained(attack=None):
    """Train a small network on the digits; on attacked ones where an attack is given."""
    train = Digits().load("train")
    x, y = pixels(train.images), train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = ConvNet(channels=(8, 16), kernel=3, stride=2, hidden=(32,)).build(train.signature)
        model = Classifier(layers, train.signature)
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for chosen in (part for _ in range(12) for part in torch.randperm(len(y)).split(100)):
            shown, label = x[chosen], y[chosen]
            if attack:
                shown = attack(model, shown, lambda z, label=label: cross_entropy(model(z), label))
            optimizer.zero_grad()
            cross_entropy(model(shown), label).mean().backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def natural():
    return trained()


@pytest.fixture(scope="module")
def robust():
    return trained(PGD(eps=Radius("0.15"), steps=2))


@pytest.fixture(scope="module")
def networks(natural, robust):
    return {"natural": natural, "robust": robust}


@pytest.fixture
def with_batchnorm(natural):
    """Return the natural network behind a BatchNorm whose running statistics are those of the digits."""
    norm = nn.BatchNorm2d(1, momentum=None)
    norm(pixels(Digits().load("train").images))
    norm.weight.data, norm.bias.data = norm.running_var.sqrt(), norm.running_mean.clone()
    return before(norm, natural)


@pytest.fixture(scope="module")
def digits():
    test = Digits().load("test")
    return pixels(test.images)[:96], test.labels[:96]


class Before(nn.Module):
    """A layer in front of a network."""

    def __init__(self, layer, network):
        super().__init__()
        self.layer, self.network = layer, network

    def forward(self, x):
        return self.network(self.layer(x))


def before(layer, model):
    return Classifier(Before(layer, model.backbone), model.signature).eval()


def after(layer, model):
    return Classifier(Before(model.backbone, layer), model.signature).eval()


def examined(model, digits, threat=LINF, seed=0):
    return {check.name: check for check in probe(model, *digits, threat, seed=seed)}


def levels(checks):
    return {name: check.level for name, check in checks.items() if check.level != "fine"}


# --- honest networks pass ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "threat", "seed"),
    [
        ("natural", LINF, 0),
        ("natural", L2, 1),
        ("robust", LINF, 0),
        ("robust", LINF, 1),
        ("robust", L2, 2),
    ],
    ids=str,
)
def test_an_honest_network_passes(name, threat, seed, networks, digits):
    checks = examined(networks[name], digits, threat, seed)
    assert list(checks) == NAMES
    assert levels(checks) == {}
    assert Reliability(checks=tuple(checks.values())).result == "pass"
    if threat is LINF:  # the two networks are what their names say
        assert (checks["monotone"].figures["eps 0.1"] > 0.6) == (name == "robust")


@pytest.mark.parametrize(
    ("norm", "eps", "robust"), [("linf", "0.5", 0), ("linf", "1", 0), ("l2", "4", 0), ("l2", "1e-4", 1)]
)
def test_a_network_that_loses_everything_or_nothing_is_still_honest(norm, eps, robust, natural, digits):
    x, y = digits
    threat = Threat(norm=norm, eps=Radius(eps))
    checks = examined(natural, (x[:48], y[:48]), threat)
    assert levels(checks) == {}
    assert checks["monotone"].figures[f"eps {threat.eps:g}"] == robust


def test_l1_batchnorm_in_eval_mode_and_small_logits_are_honest(natural, with_batchnorm, digits):
    x, y = digits
    few = x[:16], y[:16]
    assert levels(examined(natural, few, L1)) == {}
    assert levels(examined(with_batchnorm, few, WIDE)) == {}
    assert levels(examined(after(lambda z: z / 1000, natural), few, WIDE)) == {}


# --- masks are caught, each by the check that names it ---------------------------------------------------------------


def rounded(x):
    return torch.round(x * 8) / 8


def thermometer(x):
    return torch.stack([(x > level / 16).float() for level in range(16)]).mean(dim=0)


class Disturbed(nn.Module):
    def forward(self, x):
        return x + 0.05 * torch.randn_like(x)


def shattered(x):
    return x + 0.02 * torch.sin(2000 * x)


def clamped(x):
    # As torch.clamp is from 2.14 on.
    return torch.where((x > 0) & (x < 1), x, x.detach())


MASKS = {
    "rounded": (lambda model: before(rounded, model), "gradients", "fail"),
    "thermometer": (lambda model: before(thermometer, model), "gradients", "fail"),
    "scaled": (lambda model: after(lambda z: 1e4 * z, model), "logit scale", "fail"),
    "clamped": (lambda model: before(clamped, model), "ends", "fail"),
    "noisy": (lambda model: before(Disturbed(), model), "determinism", "fail"),
    "shattered": (lambda model: before(shattered, model), "linearity", "fail"),
}


@pytest.mark.parametrize(("name", "threat"), [("natural", LINF), ("robust", L2)], ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_is_caught_by_the_sign_that_names_it(mask, name, threat, networks, digits):
    make, check, level = MASKS[mask]
    x, y = digits
    checks = examined(make(networks[name]), (x[:32], y[:32]), threat)
    assert checks[check].level == level
    network_alone = {"determinism", "batch composition", "gradients", "logit scale", "ends"}
    assert network_alone & set(levels(checks)) <= {check}  # and what does not apply is not blamed
    assert Reliability(checks=tuple(checks.values())).result == "fail"


def test_gradients_that_are_lost_at_the_ends_are_noticed_however_small_they_are_beside_them(natural, digits):
    x, y = digits
    model = after(lambda z: z / 1e4, before(clamped, natural))
    assert examined(model, (x[:16], y[:16]), WIDE)["ends"].level == "fail"


def test_logits_without_a_graph_are_a_finding_and_not_a_crash(natural, digits):
    model = after(torch.detach, natural)
    x, y = digits
    checks = examined(model, (x[:32], y[:32]))
    assert checks["gradients"].level == "fail" and checks["gradients"].figures["share"] == 1
    # Nothing was promised, so no promise was broken.
    assert checks["linearity"].finding.startswith("on 0 of 0 images") and checks["linearity"].level == "fine"


@pytest.mark.parametrize("statistics", ["train mode", "none kept"])
def test_batchnorm_on_batch_statistics_is_caught_as_its_owner_left_it(statistics, with_batchnorm, digits, modes):
    model = with_batchnorm
    norm = model.backbone.layer
    if statistics == "train mode":
        norm.train()
    else:
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    state, was = {name: value.clone() for name, value in model.state_dict().items()}, modes(model)
    x, y = digits
    seen = set()
    model.register_forward_pre_hook(lambda *_: seen.add(norm.training))
    checks = examined(model, (x[:48], y[:48]), WIDE)
    assert seen == {statistics == "train mode"}  # no probe repairs what it examines
    assert checks["batch composition"].level == "fail"
    assert checks["determinism"].level == "fine"
    assert modes(model) == was
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_dropout_that_was_left_on_is_a_random_layer(natural, digits):
    x, y = digits
    model, few = before(nn.Dropout(0.1), natural), (x[:16], y[:16])
    assert examined(model, few, WIDE)["determinism"].level == "fine"
    assert examined(model.train(), few, WIDE)["determinism"].level == "fail"


def test_logits_that_are_no_numbers_fail(natural, digits):
    x, y = digits
    checks = examined(after(lambda z: z + math.nan, natural), (x[:16], y[:16]))
    assert checks["determinism"].level == checks["batch composition"].level == "fail"


# --- the searches -----------------------------------------------------------------------------------------------------


class Grey(nn.Module):
    """Two classes, told apart by the mean grey value."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, x):
        z = self.logit(x.flatten(1).mean(dim=1))
        return torch.stack([torch.zeros_like(z), z], dim=1)


def searched(logit, threat=LINF):
    """Probe a network of the mean grey value on grey images around 0.5, all of class 0."""
    signature = Digits().load("test").signature
    x = (0.5 + 0.01 * torch.linspace(-1, 1, 40)).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
    model = Classifier(Grey(logit), signature)
    return examined(model, (x, torch.zeros(40, dtype=torch.int64)), threat)


def test_a_network_that_no_image_breaks_stands_under_any_eps():
    checks = searched(lambda grey: -1 - grey)
    assert checks["large eps"].level == "fail" and checks["large eps"].figures == {"share": 1.0, "eps": 1.0}
    assert levels(checks) == {"large eps": "fail"}


def test_a_bump_that_only_small_steps_find_makes_accuracy_rise_with_the_radius():
    # Grey 0.55 to 0.6 is class 1, and beyond it the slope leads on to nowhere: larger balls are lured past it.
    def logit(grey):
        return torch.where((grey > 0.54) & (grey < 0.562), 1.0 + grey, grey - 2)

    checks = searched(logit)
    assert checks["monotone"].level == "suspect"
    assert "rises by" in checks["monotone"].finding


@pytest.mark.parametrize(
    ("gained", "lost", "level"),
    [(9, 0, "fine"), (10, 0, "suspect"), (0, 10, "fine"), (21, 6, "fine"), (22, 6, "suspect")],
)
def test_a_rise_is_one_beyond_three_standard_errors(gained, lost, level):
    # gained - lost against 3 sqrt(gained + lost): 9 and 9, 10 and 9.49, -10, 15 and 15.59, 16 and 15.87.
    small, large = torch.zeros(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    small[:30] = large[:30] = True
    small[30 : 30 + lost] = True
    large[40 : 40 + gained] = True
    check = _monotone({0.1: small, 0.2: large})
    assert check.level == level
    assert check.figures["eps 0.1"] == pytest.approx(0.3 + lost / 100)
    assert check.figures["eps 0.2"] == pytest.approx(0.3 + gained / 100)
    rises = f"rises by {gained - lost} points when eps grows from 0.1 to 0.2"
    assert (rises in check.finding) == (level == "suspect")


def test_a_search_that_needs_more_steps_is_noticed():
    # A strip too narrow for steps of a tenth of the radius, wide enough for a tenth of that.
    def logit(grey):
        return torch.where((grey > 0.5525) & (grey < 0.556), 1.0 + grey, grey - 2)

    checks = searched(logit)
    assert checks["steps"].level in ("suspect", "fail")
    assert "100 steps instead of 10" in checks["steps"].finding


def test_a_search_that_depends_on_its_start_is_noticed():
    # A valley at 0.512: from above it the slope leads to class 1, from below to nowhere; most starts are below.
    def logit(grey):
        return torch.where(grey > 0.512, 10 * grey - 5.5, 0.132 - grey)

    checks = searched(logit)
    assert checks["restarts"].level == "suspect"
    assert "5 restarts" in checks["restarts"].finding


def test_noise_that_does_better_than_gradients_is_noticed():
    # The gradient leads to brighter images; any image that is rough enough is class 1.
    class Rough(nn.Module):
        def forward(self, x):
            z = x.flatten(1).mean(dim=1) - 2
            rough = (x.flatten(1).std(dim=1) > 0.08).float()
            return torch.stack([torch.zeros_like(z), z + 5 * rough], dim=1)

    signature = Digits().load("test").signature
    x, y = torch.full((40, 1, 8, 8), 0.5), torch.zeros(40, dtype=torch.int64)
    checks = examined(Classifier(Rough(), signature), (x, y))
    assert checks["noise"].level == "fail"
    assert checks["noise"].figures == {"share": 1.0}


# --- bookkeeping ------------------------------------------------------------------------------------------------------


def test_the_seed_decides_and_random_states_stay(natural, digits):
    x, y = digits
    noisy, few = before(Disturbed(), natural), (x[:8], y[:8])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = probe(noisy, *few, WIDE, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert probe(noisy, *few, WIDE, seed=1) == first
    assert probe(noisy, *few, WIDE, seed=2) != first


def test_only_correct_examples_are_attacked_and_at_most_so_many(natural, digits):
    x, y = digits
    with torch.no_grad():
        y = natural(x).argmax(dim=1)
    y[::2] = (y[::2] + 1) % 10
    assert "of 48 images" in examined(natural, (x, y), WIDE)["gradients"].finding
    many = (x.repeat(4, 1, 1, 1), y.repeat(4))
    assert f"of {EXAMPLES} images" in examined(natural, many, WIDE)["gradients"].finding


def test_one_example_is_enough_and_accuses_nobody(natural, digits):
    x, _ = digits
    y = natural(x[:1]).argmax(dim=1)
    checks = examined(natural, (x[:1], y))
    assert levels(checks) == {}
    # It is searched at half the radius, once, twice, four times, and at all there is.
    assert [key for key in checks["monotone"].figures if key.startswith("eps ")] == [
        *("eps 0.05", "eps 0.1", "eps 0.2", "eps 0.4", "eps 1")
    ]
    # A share of one or two is an accident: only a whole that is certain, such as a random layer, counts.
    assert levels(examined(before(rounded, natural), (x[:1], natural(rounded(x[:1])).argmax(dim=1)))) == {}


def test_where_nothing_is_correct_that_is_the_finding(natural, digits):
    x, _ = digits
    y = (natural(x).argmax(dim=1) + 1) % 10
    checks = examined(natural, (x, y))
    assert list(checks) == ["determinism", "batch composition", "examples"]
    assert checks["examples"].level == "suspect" and "none of 96 images" in checks["examples"].finding


@pytest.mark.parametrize(("images", "labels"), [(0, 0), (3, 2)])
def test_images_without_labels_are_refused(images, labels, natural):
    with pytest.raises(InputError, match=rf"as many labels, got \[{images}, 1, 8, 8\] and \[{labels}\]"):
        probe(natural, torch.zeros(images, 1, 8, 8), torch.zeros(labels, dtype=torch.int64), LINF, seed=0)


def test_the_network_alone_is_asked_five_times_the_same_then_in_other_company(natural, digits):
    x, y = digits
    asked = []
    handle = natural.register_forward_pre_hook(lambda _, words: asked.append(words[0].clone()))
    checks = probe(natural, x[:40], y[:40], LINF, seed=0, gradients=False)
    handle.remove()
    assert [check.name for check in checks] == NAMES[:2]
    same = [torch.equal(part, x[:40]) for part in asked]
    assert sum(len(part) == 40 for part in asked) == 5 + 2 and sum(same) == 5 + 1
    assert sum(part.shape == x[:40].shape and torch.equal(part, x[:40].flip(0)) for part in asked) == 1
    pairs = [part for part in asked if len(part) == 2]
    assert len(asked) == 5 + 2 + len(pairs) and len(pairs) == 16
    for image, pair in zip(x, pairs, strict=False):
        assert torch.equal(pair, torch.stack([1 - image, image]))

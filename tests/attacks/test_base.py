"""``attack(model, x, y)``: labels, any network, any precision; and what is refused in one sentence."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overproof.attacks.apgd import APGD
from overproof.attacks.ball import ball
from overproof.attacks.fab import FAB
from overproof.attacks.hopskipjump import HopSkipJump
from overproof.attacks.objectives import Misclassification
from overproof.attacks.pgd import PGD
from overproof.attacks.square import Square
from overproof.errors import InputError
from overproof.functional import cross_entropy, margin

ATTACKS = {
    "pgd": PGD(steps=4),
    "pgd-best": PGD(steps=3, best=True, restarts=2),
    "apgd": APGD(steps=5),
    "fab": FAB(steps=4),
    "square": Square(queries=20),
    "hopskipjump": HopSkipJump(queries=80, samples=4),
}
GRADIENTS = ("pgd", "pgd-best", "apgd", "fab")
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
EPS = 0.1


def network(seed=0, dtype=torch.float32, classes=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, classes)
        )
    layers[1].running_mean.uniform_(-0.1, 0.1)
    return layers.to(dtype)


@pytest.fixture
def x(tiny_batch):
    return tiny_batch.x


def right(model, x):
    """Return the labels that the network gives in eval mode."""
    was = [module.training for module in model.modules()]
    model.eval()
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    for module, training in zip(model.modules(), was, strict=True):
        module.training = training
    return y


def wide(attack):
    return replace(attack, eps=EPS)


def called(attack, *words, seed=3, **options):
    torch.manual_seed(seed)
    return attack(*words, **options)


@every_attack
def test_labels_give_what_the_inner_call_gives(attack, x):
    model, attack = network().eval(), wide(attack)
    y = right(model, x)
    if isinstance(attack, PGD):
        inner = called(attack, model, x, lambda p: cross_entropy(model(p), y))
    else:
        inner = called(attack, model, x, Misclassification.on(model, y))
    assert torch.equal(called(attack, model, x, y), inner)
    assert torch.equal(called(attack, model, x, y=y), inner)


@every_attack
def test_what_is_maximised_may_be_named(attack, x):
    model, attack = network().eval(), wide(attack)
    goal = Misclassification.on(model, right(model, x))
    assert torch.equal(called(attack, model, x, objective=goal), called(attack, model, x, goal))


@every_attack
def test_modes_weights_and_gradients_are_as_before(attack, x, modes):
    model = network().train()
    model[0].eval()
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 7.0)
    model[4].weight.requires_grad_(False)
    was, before = modes(model), {name: value.clone() for name, value in model.state_dict().items()}
    found = called(wide(attack), model, x, right(model, x))
    assert modes(model) == was
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all((weight.grad == 7).all() for weight in model.parameters())
    assert [weight.requires_grad for weight in model.parameters()] == [True] * 4 + [False, True]
    assert not found.requires_grad


def test_a_search_that_fails_gives_the_modes_back(x, modes):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.asked = network(), 0

        def forward(self, x):
            self.asked += 1
            if self.asked > 2:
                raise ZeroDivisionError("later")
            return self.inner(x)

    model = Failing().train()
    was = modes(model)
    with pytest.raises(ZeroDivisionError, match="later"):
        PGD(steps=5)(model, x, torch.zeros(6, dtype=torch.int64))
    assert modes(model) == was


@every_attack
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(attack, x, dtype):
    """Rounded to the images' precision, a pixel moves by at most half a unit in the last place below 1."""
    model, images = network(dtype=dtype).eval(), x.to(dtype)
    attack = wide(attack)
    found = called(attack, model, images, right(model, images))
    assert found.dtype == dtype and found.isfinite().all() and found.amin() >= 0 and found.amax() <= 1
    unit = torch.finfo(dtype).eps / 4 + torch.finfo(torch.float32).eps
    assert ball("linf", EPS).size(found.double() - images.double()).amax() <= EPS + unit
    if attack.needs == "gradients" and not isinstance(attack, FAB):
        with torch.no_grad():
            assert (cross_entropy(model(found).float(), right(model, images)) >= 0).all()
            moved = F.cross_entropy(model(found).float(), right(model, images))
            assert moved > F.cross_entropy(model(images).float(), right(model, images))


def test_half_precision_steps_that_are_smaller_than_a_unit_add_up(x):
    """In bfloat16 a step of 1/2550 from 0.75 would be rounded away; in float32 forty of them are not."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2, bias=False)).to(torch.bfloat16)
    images = torch.full((2, 3, 8, 8), 0.75, dtype=torch.bfloat16)
    y = torch.zeros(2, dtype=torch.int64)
    found = PGD(eps="4/255", step="1/2550", steps=40, start="none")(model, images, y)
    assert (found - images).abs().amax() >= 3 / 255


@every_attack
def test_weights_of_another_precision_are_met_with_theirs(attack, x):
    model = network(dtype=torch.bfloat16).eval()
    y = right(model, x.bfloat16())
    found = called(wide(attack), model, x, y)
    assert found.dtype == torch.float32 and ball("linf", EPS).size(found - x).amax() <= EPS + 1e-6


@every_attack
def test_channels_last_stays_so_and_is_what_the_network_sees(attack, x):
    seen = []

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return self.inner(x)

    model = Looking().eval()
    y = right(model, x)
    seen.clear()
    images = x.contiguous(memory_format=torch.channels_last)
    found = called(wide(attack), model, images, y)
    assert found.is_contiguous(memory_format=torch.channels_last) and all(seen)
    assert found.shape == x.shape


@every_attack
def test_a_function_of_pixels_is_a_network(attack, x):
    model, attack = network().eval(), wide(attack)
    y = right(model, x)
    assert torch.equal(called(attack, lambda p: model(p), x, y), called(attack, model, x, y))


def test_a_compiled_network_is_attacked(x):
    model = network().eval()
    y = right(model, x)
    compiled = torch.compile(model, backend="aot_eager")
    for attack in (PGD(steps=3, eps=EPS), APGD(steps=3, eps=EPS)):
        torch.testing.assert_close(called(attack, compiled, x, y), called(attack, model, x, y))
    compiled.train()
    called(PGD(steps=2), compiled, x, y)
    assert compiled.training and model.training


def test_an_exported_program_has_no_modes_and_is_attacked(x):
    model = network().eval()
    y = right(model, x)
    program = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(called(PGD(steps=3), program, x, y), called(PGD(steps=3), model, x, y))


@every_attack
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(attack, mode, x):
    model, attack = network().eval(), wide(attack)
    y = right(model, x)
    wanted = called(attack, model, x, y)
    with mode():
        assert torch.equal(called(attack, model, x.clone(), y.clone()), wanted)


@every_attack
def test_a_network_that_writes_into_its_input_gets_copies(attack, x):
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return self.inner(x.mul_(2).sub_(0.5))

    class Reading(Writing):
        def forward(self, x):
            return self.inner(x * 2 - 0.5)

    writing, reading = Writing().eval(), Reading().eval()
    reading.load_state_dict(writing.state_dict())
    y, before, attack = right(reading, x), x.clone(), wide(attack)
    assert torch.equal(called(attack, writing, x, y), called(attack, reading, x, y))
    assert torch.equal(x, before)


@every_attack
def test_no_images_give_no_images(attack, x):
    found = attack(network(), x[:0], torch.zeros(0, dtype=torch.int64))
    assert found.shape == (0, 3, 8, 8)


@every_attack
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_labels_may_be_any_integers(attack, dtype, x):
    model, attack = network().eval(), wide(attack)
    y = right(model, x)
    assert torch.equal(called(attack, model, x, y.to(dtype)), called(attack, model, x, y))


def test_the_loss_and_the_target_are_those_of_the_options(x):
    model = network().eval()
    y = right(model, x)
    target = (y + 1) % 4
    attack = PGD(steps=3, eps=EPS)

    def shifted(p):
        return model(p).gather(1, target[:, None]).squeeze(1) - model(p).gather(1, y[:, None]).squeeze(1)

    torch.testing.assert_close(
        called(attack, model, x, y, loss="margin", target=target), called(attack, model, x, shifted)
    )
    by_margin = called(attack, model, x, y, loss="margin")
    torch.testing.assert_close(by_margin, called(attack, model, x, lambda p: -margin(model(p), y)))
    alike = torch.full_like(y, 2)
    others = y != 2
    assert torch.equal(
        called(attack, model, x[others], y[others], target=2),
        called(attack, model, x[others], y[others], target=alike[others]),
    )


BAD = {
    "uint8": (lambda x, y: ((x * 255).byte(), y), "floating-point numbers in .*got torch.uint8; divide by 255"),
    "of 255": (lambda x, y: (x * 255, y), r"lie in \[0, 1\].*; divide by 255"),
    "normalised": (lambda x, y: (x * 4 - 2, y), "make normalisation a layer"),
    "nan": (lambda x, y: (x / 0 * 0, y), "not numbers"),
    "no batch": (lambda x, y: (x[0, 0, 0], y), r"must be \[N, C, H, W\], got \[8\]"),
    "no tensor": (lambda x, y: (x.numpy(), y), "must be a tensor"),
    "floats": (lambda x, y: (x, y.float()), r"labels must be integers \[N\].*torch.float32"),
    "bools": (lambda x, y: (x, y.bool()), "labels must be integers"),
    "one-hot": (lambda x, y: (x, F.one_hot(y, 4)), r"6 images need as many labels \[N\], got \[6, 4\]"),
    "too few": (lambda x, y: (x, y[:5]), r"6 images need as many labels \[N\], got \[5\]"),
    "too large": (lambda x, y: (x, y + 4), r"label [4-7] is outside 0..3, the model's 4 logits"),
    "negative": (lambda x, y: (x, y - 4), "label -[1-4] is outside 0..3"),
}


@every_attack
@pytest.mark.parametrize("bad", BAD)
def test_bad_images_and_labels_are_one_sentence(attack, bad, x):
    change, sentence = BAD[bad]
    model = network()
    with pytest.raises(InputError, match=sentence) as found:
        attack(model, *change(x, right(model, x)))
    assert "\n" not in str(found.value)
    assert model.training


class Answering(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.inner, self.answer = network(), answer

    def forward(self, x):
        return self.answer(self.inner(x))


ANSWERS = {
    "a dict": (lambda z: {"logits": z}, r"must return logits \[N, K\] as one tensor, got an object of type dict"),
    "none": (lambda z: None, "got None"),
    "one row less": (lambda z: z[:-1], "images must give floating-point logits"),
    "one logit": (lambda z: z[:, :1], "with K at least 2"),
    "a map": (lambda z: z[:, :, None, None], "images must give floating-point logits"),
    "classes": (lambda z: z.argmax(dim=1), "images must give floating-point logits"),
    "nan": (lambda z: z * torch.nan, "not finite"),
    "an error": (lambda z: z.view(-1, 77), "the model raised RuntimeError"),
}


@every_attack
@pytest.mark.parametrize("answer", ANSWERS)
def test_bad_answers_are_one_sentence(attack, answer, x):
    change, sentence = ANSWERS[answer]
    with pytest.raises(InputError, match=sentence) as found:
        attack(Answering(change), x, torch.zeros(6, dtype=torch.int64))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("hide", [lambda z: z.detach(), lambda z: z.detach().requires_grad_()])
@pytest.mark.parametrize("name", ATTACKS)
def test_a_network_without_gradients_is_for_searches_without_gradients(name, hide, x):
    model, y = Answering(hide), torch.zeros(6, dtype=torch.int64)
    if name not in GRADIENTS:
        assert ATTACKS[name](model, x, y).shape == x.shape
        return
    with pytest.raises(InputError, match="gives none to the pixels; use Square or HopSkipJump"):
        ATTACKS[name](model, x, y)


def test_bad_options_are_one_sentence(x):
    model, y = network().eval(), torch.zeros(6, dtype=torch.int64)
    for words, options, sentence in (
        ((), {}, "needs the labels y"),
        ((y,), {"objective": lambda p: p}, "not both"),
        ((lambda p: p,), {"loss": "dlr"}, "belong to labels"),
        ((y,), {"loss": "hinge"}, "there is no loss 'hinge'"),
        ((y,), {"target": 0}, "the target of 6 of 6 images is their own label"),
        ((y,), {"target": 4}, "target 4 is outside 0..3"),
        ((y,), {"target": y[:3]}, "6 images need as many target classes"),
    ):
        with pytest.raises(InputError, match=sentence):
            PGD()(model, x, *words, **options)
    with pytest.raises(InputError, match="square maximises the margin and has no use for the loss 'dlr'"):
        Square()(model, x, y, loss="dlr")
    with pytest.raises(InputError, match="has no use for a target"):
        HopSkipJump()(model, x, y, target=1)
    with pytest.raises(InputError, match="apgd must know which images are misclassified"):
        APGD()(model, x, lambda p: model(p).sum(dim=1))
    with pytest.raises(InputError, match="got the class Linear"):
        PGD()(nn.Linear, x, y)
    with pytest.raises(InputError, match="got None"):
        PGD()(None, x, y)


def test_an_objective_without_the_pixels_is_one_sentence(x):
    weight = torch.ones(6, requires_grad=True)
    with pytest.raises(InputError, match="does not depend on the pixels"):
        PGD()(network(), x, lambda p: weight * 2)


def test_draws_are_of_the_global_generator(x):
    model = network().eval()
    y = right(model, x)
    first, again, other = (called(PGD(steps=1), model, x, y, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)

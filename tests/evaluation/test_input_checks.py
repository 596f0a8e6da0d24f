import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overproof.errors import InputError
from overproof.evaluation.input_checks import admit, gradients_of, need_gradients
from overproof.functional import dlr
from overproof.models.classifier import Classifier
from overproof.signature import Signature

STATISTICS = {
    "the statistics of CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "the statistics of ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "the statistics of MNIST": ((0.1307,), (0.3081,)),
    "pixels in [-1, 1]": ((0.5,) * 3, (0.5,) * 3),
    "pixels in [0, 255]": ((0.0,) * 3, (0.003922,) * 3),
}


class Nearest(nn.Module):
    """Knows what its pixels look like per class, and answers with the negative squared distance to each: ``[N, K]``.

    A network that works on the pixels it was made for and goes astray on others, in closed form.
    """

    def __init__(self, patterns, radius=torch.inf):
        super().__init__()
        self.register_buffer("patterns", patterns)
        self.radius = radius

    def forward(self, x):
        distance = (x[:, None] - self.patterns).square().flatten(2).mean(dim=2)
        # Further away than the radius from everything, it says class 0, as a saturated network would.
        lost = (distance.amin(dim=1) > self.radius).to(x.dtype)
        return -distance + 1e4 * lost[:, None] * F.one_hot(torch.zeros_like(lost).long(), len(self.patterns))


class Returns(nn.Module):
    """A network that gives what a function makes of the logits of another one."""

    def __init__(self, inner, function):
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, x):
        return self.function(self.inner(x))


def draw(classes=4, n=200, channels=3, dtype=torch.float32):
    """Return one pattern per class that spans [0, 1], ``n`` noisy images of them, and their labels in turn."""
    generator = torch.Generator().manual_seed(classes)
    patterns = torch.rand(classes, channels, 6, 6, generator=generator)
    low, high = patterns.amin(dim=(1, 2, 3), keepdim=True), patterns.amax(dim=(1, 2, 3), keepdim=True)
    patterns = (patterns - low) / (high - low)
    y = torch.arange(n) % classes
    x = (patterns[y] + 0.1 * torch.randn(n, channels, 6, 6, generator=generator)).clamp(0, 1)
    return patterns.to(dtype), x.to(dtype), y


def normalised(x, mean, std):
    return (x - torch.tensor(mean).reshape(1, -1, 1, 1)) / torch.tensor(std).reshape(1, -1, 1, 1)


def refuses(sentence, model, x, y):
    with pytest.raises(InputError, match=f"^{re.escape(f'net: {sentence}')}$"):
        admit(model, x, y, where="net")


def warns(sentence, model, x, y):
    assert admit(model, x, y, where="net") == (f"net: {sentence}",)


# --- an honest network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 5, 200])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_an_honest_network_passes_without_a_warning(classes, n, dtype):
    patterns, x, y = draw(classes, n, dtype=dtype)
    assert admit(Nearest(patterns), x, y, where="net") == ()
    assert admit(Returns(Nearest(patterns), lambda z: z.log_softmax(dim=1)), x, y, where="net") == ()


def test_a_tiny_network_passes_with_its_mode_and_statistics_as_they_were(tiny_classifier, tiny_batch, modes):
    model = tiny_classifier()
    model.backbone[1].eval()
    before, state = modes(model), {name: value.clone() for name, value in model.state_dict().items()}
    y = model.eval()(tiny_batch.x).argmax(dim=1)
    model.train().backbone[1].eval()
    assert admit(model, tiny_batch.x, y, where="net") == ()
    assert gradients_of(model, tiny_batch.x)
    assert modes(model) == before and before[""]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_log_probabilities_attack_alike(tiny_classifier, tiny_batch):
    """The softmax is the same and so are differences of logits: why they need no complaint."""
    logits = tiny_classifier().eval()(tiny_batch.x)
    logs = logits.log_softmax(dim=1)
    torch.testing.assert_close(logs.softmax(dim=1), logits.softmax(dim=1))
    torch.testing.assert_close(dlr(logs, tiny_batch.y), dlr(logits, tiny_batch.y), rtol=1e-4, atol=1e-5)


def test_an_honest_network_is_asked_once():
    patterns, x, y = draw()
    calls = []
    model = Nearest(patterns)
    model.register_forward_hook(lambda *_: calls.append(1))
    admit(model, x, y, where="net")
    assert len(calls) == 1


# --- the batch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: 255 * x, "pixels must lie in [0, 1], these span [0, 255]; divide by 255"),
        (
            lambda x: 4 * x - 2,
            "pixels must lie in [0, 1], these span [-2, 2]; make normalisation a layer of the network",
        ),
        (lambda x: x + 2e-6, "pixels must lie in [0, 1], these span [2e-06, 1]; divide by 255"),
        (lambda x: x.masked_fill(x == 1, torch.nan), "some pixels are not finite numbers"),
        (lambda x: x.masked_fill(x == 1, torch.inf), "some pixels are not finite numbers"),
        (
            lambda x: (255 * x).to(torch.uint8),
            "expected floating-point pixels [N, C, H, W], got torch.uint8 [200, 3, 6, 6]",
        ),
        (lambda x: x[:, 0], "expected floating-point pixels [N, C, H, W], got torch.float32 [200, 6, 6]"),
    ],
)
def test_pixels_that_are_none_are_refused(change, sentence):
    patterns, x, y = draw()
    refuses(sentence, Nearest(patterns), change(x), y)


def test_pixels_may_be_off_by_rounding():
    patterns, x, y = draw()
    assert admit(Nearest(patterns), x + 5e-7, y, where="net") == ()
    assert admit(Nearest(patterns), x - 5e-7, y, where="net") == ()


def test_an_empty_batch_is_refused():
    patterns, x, y = draw()
    refuses("there are no images to evaluate it on, the batch is [0, 3, 6, 6]", Nearest(patterns), x[:0], y[:0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda y: None, "there are no labels; an attack needs the right class of every image"),
        (lambda y: y[1:], "200 images need as many int64 labels, got torch.int64 [199]"),
        (lambda y: y[:, None], "200 images need as many int64 labels, got torch.int64 [200, 1]"),
        (lambda y: y.int(), "200 images need as many int64 labels, got torch.int32 [200]"),
        (lambda y: y.float(), "200 images need as many int64 labels, got torch.float32 [200]"),
        (lambda y: y + 1, "label 4 is outside 0..3, its 4 logits"),
        (lambda y: y - 1, "label -1 is outside 0..3, its 4 logits"),
    ],
)
def test_labels_that_are_none_are_refused(change, sentence):
    patterns, x, y = draw()
    refuses(sentence, Nearest(patterns), x, change(y))


# --- the logits -------------------------------------------------------------------------------------------------------


def spoil(z, value, rows):
    z = z.clone()
    z[:rows, 1] = value
    return z


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_counted(value):
    patterns, x, y = draw()
    model = Returns(Nearest(patterns), lambda z: spoil(z, value, 7))
    refuses("the logits of 7 of 200 examples are not finite", model, x, y)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda z: z.argmax(dim=1), "torch.int64 [200]"),
        (lambda z: z.argsort(dim=1), "torch.int64 [200, 4]"),
        (lambda z: z[:, :1], "torch.float32 [200, 1]"),
        (lambda z: z[1:], "torch.float32 [199, 4]"),
        (lambda z: z[..., None], "torch.float32 [200, 4, 1]"),
    ],
)
def test_logits_of_another_shape_are_refused(function, got):
    patterns, x, y = draw()
    sentence = f"200 images must give floating-point logits [200, K] with K at least 2, got {got}"
    refuses(sentence, Returns(Nearest(patterns), function), x, y)


def test_what_is_no_tensor_is_refused():
    patterns, x, y = draw()
    model = Returns(Nearest(patterns), lambda z: (z, z))
    refuses("it must return logits [N, K], got an object of type tuple", model, x, y)


def test_a_classifier_must_keep_to_its_signature():
    patterns, x, y = draw()
    model = Classifier(Nearest(patterns), Signature(channels=3, height=6, width=6, classes=5))
    refuses("it returns 4 logits, but it is for 3x6x6, 5 classes", model, x, y)


SATURATES = (
    "it returns probabilities, on which attacks saturate and robustness looks better than it is; "
    "return logits: leave the softmax out"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 200])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_probabilities_are_refused(classes, n, dtype):
    patterns, x, y = draw(classes, n, dtype=dtype)
    model = Returns(Nearest(patterns), lambda z: (20 * z).softmax(dim=1))
    refuses(SATURATES, model, x, y)
    signature = Signature(channels=3, height=6, width=6, classes=classes)
    refuses(SATURATES, Classifier(model, signature), x, y)  # which turns bfloat16 into float32


def test_the_mean_of_the_softmax_of_several_networks_is_still_probabilities():
    patterns, x, y = draw()
    model = Returns(Nearest(patterns), lambda z: (z.softmax(dim=1) + (9 * z).softmax(dim=1)) / 2)
    refuses(SATURATES, model, x, y)


def test_logits_that_add_up_to_one_once_are_logits():
    """The one image given has such logits by accident; others have not."""
    patterns, x, y = draw(2, 1)
    wanted = torch.tensor([0.7, 0.3])
    offset = wanted - Nearest(patterns)(x)[0]
    assert admit(Returns(Nearest(patterns), lambda z: z + offset), x, y, where="net") == ()


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z.softmax(dim=1) + 0.01,
        lambda z: 1.01 * z.softmax(dim=1),
        lambda z: 2 * (20 * z).softmax(dim=1) - 0.25,
    ],
    ids=["shifted", "scaled", "negative"],
)
def test_rows_that_almost_are_probabilities_pass(function):
    patterns, x, y = draw()
    assert admit(Returns(Nearest(patterns), function), x, y, where="net") == ()


# --- accuracy ---------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A network that gives these logits, whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits[: len(x)]


def fixed(correct, n, classes):
    """Return a network that is right on the first ``correct`` of ``n`` images alone, those images, and their labels."""
    y = torch.arange(n) % classes
    answers = torch.where(torch.arange(n) < correct, y, (y + 1) % classes)
    return Fixed(5 * F.one_hot(answers, classes).float()), torch.rand(n, 3, 6, 6), y


@pytest.mark.parametrize(("correct", "n", "classes"), [(50, 100, 2), (10, 100, 10), (3, 100, 10), (2, 200, 100)])
def test_guessing_is_warned_of(correct, n, classes):
    model, x, y = fixed(correct, n, classes)
    told = "clean images are classified correctly, which is no better than always answering the most frequent class "
    told += f"({1 / classes:.1%})"
    warns(f"{correct} of {n} {told}", model, x, y)


@pytest.mark.parametrize("n", [1, 3, 100])
@pytest.mark.parametrize("classes", [2, 10])
def test_no_right_answer_at_all_is_warned_of(n, classes):
    model, x, y = fixed(0, n, classes)
    warns(f"none of {n} clean images is classified correctly; are the labels in its order?", model, x, y)


@pytest.mark.parametrize(
    ("correct", "n", "classes"),
    # Clearly better than guessing; and too few examples to tell.
    [(65, 100, 2), (20, 100, 10), (8, 200, 100), (1, 2, 2), (3, 4, 2), (5, 6, 2), (1, 3, 10)],
)
def test_a_weak_network_and_a_small_batch_are_not_warned_of(correct, n, classes):
    assert admit(*fixed(correct, n, classes), where="net") == ()


# --- normalisation outside --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATISTICS)
def test_a_network_that_wants_normalised_pixels_is_refused_with_what_it_wants(name):
    mean, std = STATISTICS[name]
    patterns, x, y = draw(4, 200, channels=len(mean))
    inner = Nearest(normalised(patterns, mean, std), radius=0.05 / min(std) ** 2)
    passed = admit(
        Classifier(inner, Signature(channels=len(mean), height=6, width=6, classes=4), mean=mean, std=std),
        x,
        y,
        where="net",
    )
    assert passed == ()  # with the layer that the sentence asks for
    with pytest.raises(InputError) as caught:
        admit(inner, x, y, where="net")
    found = re.fullmatch(
        r"net: (.*)% of 200 clean images are classified correctly as they are, but 100.0% under (.*), so it wants "
        r"normalised inputs; make normalisation a layer, with the numbers it was trained with, such as (.*)",
        str(caught.value),
    )
    plain, statistics, layer = found.groups()
    assert float(plain) <= 50
    # CIFAR-10 and ImageNet are so alike that no accuracy tells them apart; the first one is named.
    named = name.replace("ImageNet", "CIFAR-10")
    mean, std = STATISTICS[named]
    assert statistics == named and layer == f"Classifier(backbone, signature, mean={mean}, std={std})"


class Reads(nn.Module):
    """A network for K patterns that is right where the pixels' batch mean is near ``mean``, and else says one class."""

    def __init__(self, patterns, mean, says=0, close=0.05):
        super().__init__()
        self.inner, self.mean, self.says, self.close = Nearest(patterns), mean, says, close

    def forward(self, x):
        if (x.mean() - self.mean).abs() < self.close:
            flat = x.flatten(1)
            # Whatever the scale: each image and each pattern is standardised on its own.
            return self.inner(((flat - flat.mean(1, True)) / flat.std(1, keepdim=True)).reshape(x.shape))
        return 5 * F.one_hot(torch.full((len(x),), self.says), len(self.inner.patterns)).to(x.dtype)


def standardised(patterns):
    flat = patterns.flatten(1)
    return ((flat - flat.mean(1, True)) / flat.std(1, keepdim=True)).reshape(patterns.shape)


def wants_batch(n=200, classes=4):
    """Return a network that works only where the batch has mean 0 to a thousandth, and images of an odd mean."""
    patterns, x, y = draw(classes, n)
    return Reads(standardised(patterns), 0.0, close=1e-3), 0.8 * x, y


def test_without_published_statistics_those_of_the_batch_are_tried():
    model, x, y = wants_batch()
    mean = tuple(round(float(value), 4) for value in x.double().mean(dim=(0, 2, 3)))
    std = tuple(round(float(value), 4) for value in x.double().std(dim=(0, 2, 3), correction=0))
    refuses(
        f"25.0% of 200 clean images are classified correctly as they are, but 100.0% under the statistics of the "
        f"batch, so it wants normalised inputs; make normalisation a layer, with the numbers it was trained with, "
        f"such as Classifier(backbone, signature, mean={mean}, std={std})",
        model,
        x,
        y,
    )


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.7])
def test_dark_images_are_not_laid_at_the_networks_door(factor):
    """The statistics of the batch undo what happened to the images, so an honest network gains as much."""
    model, x, y = wants_batch()
    (warning,) = admit(model, factor * x, y, where="net")
    assert warning.startswith("net: 25.0% of 200 clean images are classified correctly as they are, but 100.0% under ")
    assert warning.endswith("does it lack a normalisation layer, or are these images unusually dark or flat?")


def test_of_several_published_statistics_the_best_are_named():
    """CIFAR-10's blue is nearly right for this network: 180 of 200, where ImageNet's gives all."""

    class Picky(nn.Module):
        def forward(self, x):
            blue = (x.amin(dim=(0, 2, 3)) - normalised(torch.zeros(1, 3, 1, 1), *wanted).flatten())[2].abs()
            right = torch.arange(len(x)) < (200 if blue < 1e-3 else 180 if blue < 0.2 else 50)
            return 5 * F.one_hot(answers(y, right), 4).float()

    wanted = STATISTICS["the statistics of ImageNet"]
    _, x, y = draw(4, 200)
    with pytest.raises(InputError, match=r"but 100\.0% under the statistics of ImageNet, so "):
        admit(Picky(), x, y, where="net")


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    # Of 200: right on plain pixels, right on normalised ones; four classes, so guessing gives 50.
    [
        (50, 200, True),
        (100, 200, True),  # a third of what it can do beyond guessing is left
        (124, 200, True),
        (125, 200, False),  # half is left: it works on plain pixels after a fashion
        (150, 200, False),
        (159, 200, False),
        (50, 100, True),  # works half of the time
        (50, 99, False),
    ],
)
def test_a_refusal_needs_a_network_that_works_normalised_and_hardly_without(before, after, refused):
    model, x, y = two_faced(before, after)
    if refused:
        with pytest.raises(InputError, match="so it wants normalised inputs"):
            admit(model, x, y, where="net")
    else:
        (warning,) = admit(model, x, y, where="net")
        assert "does it lack a normalisation layer" in warning


class TwoFaced(nn.Module):
    """A network with these answers on pixels in [0, 1] and those on pixels below 0."""

    def __init__(self, plain, below):
        super().__init__()
        self.plain, self.below = plain, below

    def forward(self, x):
        return 5 * F.one_hot(self.below if x.amin() < 0 else self.plain, 4).float()


def answers(y, right):
    return torch.where(right, y, (y + 1) % 4)


def two_faced(before, after, n=200):
    """Return a network that is right on the first ``before`` plain and the first ``after`` normalised of n images."""
    _, x, y = draw(4, n)
    number = torch.arange(n)
    return TwoFaced(answers(y, number < before), answers(y, number < after)), x, y


@pytest.mark.parametrize(
    ("n", "before", "after", "found"),
    [
        (25, 0, 25, False),  # 25 changes, all for the better: 5 standard deviations, and no more
        (26, 0, 26, True),
        (200, 60, 100, False),  # 20 points, and no more
        (200, 60, 101, True),
        (200, 160, 200, False),
        (200, 159, 200, True),
    ],
)
def test_a_gain_must_be_large_and_beyond_chance(n, before, after, found):
    model, x, y = two_faced(before, after, n)
    try:
        told = " ".join(admit(model, x, y, where="net"))
    except InputError as problem:
        told = str(problem)
    assert ("% under " in told) == found


def test_a_gain_is_counted_on_the_examples_that_changed():
    """60 gained and 20 lost of 100 are 40 points but only 4.5 standard deviations; 60 and 10 are 6."""
    _, x, y = draw(4, 100)
    number = torch.arange(100)
    for lost, found in ((20, False), (10, True)):
        before, after = number < lost, (number >= lost) & (number < lost + 60)
        model = TwoFaced(answers(y, before), answers(y, after))
        try:
            told = " ".join(admit(model, x, y, where="net"))
        except InputError as problem:
            told = str(problem)
        assert ("% under " in told) == found


def test_a_network_that_collapses_to_one_class_is_not_better_for_it():
    """Two classes with exchanged labels: 0 right, but 60 once every answer is the same, which is no sense."""
    _, x, _ = draw(2, 100)
    y = (torch.arange(100) >= 60).long()
    model = TwoFaced(1 - y, torch.zeros_like(y))
    warns("none of 100 clean images is classified correctly; are the labels in its order?", model, x, y)


def test_other_channels_than_one_and_three_are_tried_too():
    patterns, x, y = draw(4, 200, channels=4)
    model = Nearest(2 * patterns - 1, radius=0.15)
    with pytest.raises(InputError, match=r"under pixels in \[-1, 1\], so .* mean=\(0.5, 0.5, 0.5, 0.5\)"):
        admit(model, x, y, where="net")


# --- gradients --------------------------------------------------------------------------------------------------------


class Elsewhere(nn.Module):
    """A network as it comes out of another runtime: by way of numpy."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(torch.from_numpy(x.detach().numpy()))


class Switched(nn.Module):
    """A network that switches gradients off itself."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.no_grad():
            return self.inner(x)


def without_grad(model):
    return Returns(model, lambda z: z.detach())


def rounded(model):
    return Returns(model, lambda z: z.round())


def undefined(model):
    return Returns(model, lambda z: z + torch.full_like(z, torch.nan))


def flat(model):
    return Returns(model, lambda z: 0 * z)


def lost_pixels(model):
    """Return a network whose logits have a gradient, but for its weights alone."""
    weight = nn.Parameter(torch.ones(4))
    found = Returns(model, lambda z: z.detach() * weight)
    found.weight = weight
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 9])
def test_an_ordinary_network_has_gradients(n, dtype):
    patterns, x, _ = draw(4, n, dtype=dtype)
    model = Nearest(patterns)
    assert gradients_of(model, x)
    assert gradients_of(Returns(model, lambda z: 1e4 * z), x)  # where cross-entropy is flat
    need_gradients("pgd", model, x, where="net")
    assert not x.requires_grad


@pytest.mark.parametrize("make", [rounded, undefined, flat, lost_pixels])
def test_gradients_that_are_zero_or_no_numbers_are_gradients(make):
    """The attack runs, and the reliability verdict says what it is worth."""
    patterns, x, _ = draw()
    model = make(Nearest(patterns))
    assert gradients_of(model, x)
    need_gradients("apgd-ce", model, x, where="net")


@pytest.mark.parametrize("make", [Elsewhere, Switched, without_grad])
def test_a_network_without_a_graph_has_none_and_is_told_what_to_use(make):
    patterns, x, _ = draw()
    model = make(Nearest(patterns))
    with torch.no_grad():
        assert model(x).shape == (200, 4)
    assert not gradients_of(model, x)
    with pytest.raises(InputError, match=r"^apgd-ce needs gradients and net gives none; use square, hopskipjump or, "):
        need_gradients("apgd-ce", model, x, where="net")


def test_gradients_are_seen_where_they_are_switched_off_around():
    patterns, x, _ = draw()
    with torch.no_grad():
        assert gradients_of(Nearest(patterns), x)


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_weights_are_frozen_afterwards_and_the_others_are_not(frozen, tiny_classifier):
    """A frozen network gives gradients to the pixels; one that detaches them gives none, but to its weights."""
    model = tiny_classifier()
    first, *others = model.parameters()
    first.requires_grad_(not frozen)
    assert gradients_of(model, torch.rand(2, 3, 8, 8))
    assert first.requires_grad != frozen and all(weight.requires_grad for weight in others)
    assert all(weight.grad is None for weight in model.parameters())


def test_weights_are_frozen_again_when_the_network_raises(tiny_classifier):
    model = tiny_classifier().requires_grad_(False)
    with pytest.raises(RuntimeError):
        gradients_of(model, torch.rand(2, 5, 8, 8))
    assert not any(weight.requires_grad for weight in model.parameters()) and model.training


def test_at_most_eight_images_are_asked_in_eval_mode(tiny_classifier, modes):
    model, seen = tiny_classifier(), []
    model.register_forward_pre_hook(lambda module, args: seen.append((len(args[0]), any(modes(module).values()))))
    assert gradients_of(model, torch.rand(20, 3, 8, 8))
    assert seen == [(8, False)] and model.training


def test_a_full_device_is_not_mistaken_for_a_missing_gradient():
    def full(z):
        raise torch.OutOfMemoryError("full")

    patterns, x, _ = draw()
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        gradients_of(Returns(Nearest(patterns), full), x)

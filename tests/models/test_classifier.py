import pytest
import torch
from torch import nn

from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.classifier import Classifier, linear_layer, parameter_count
from overproof.signature import Signature

SIGNATURE = Signature(channels=3, height=8, width=8, classes=5)
MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 1.0)


@pytest.fixture
def x():
    return torch.rand(4, 3, 8, 8)


def ours(**options):
    return Classifier(ConvNet(channels=(4,), hidden=(6,)).build(SIGNATURE), SIGNATURE, **options)


def foreign(**options):
    """Return a network that is not ours, with a linear layer that is not its last one."""
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 7), nn.Tanh(), nn.Linear(7, 5), nn.Softplus()
    )
    return Classifier(layers, SIGNATURE, **options)


def hooks(network):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


# --- normalisation ----------------------------------------------------------------------------------------------------


def test_normalisation_is_exact(x):
    model = ours(mean=MEAN, std=STD)
    expected = torch.stack([(x[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    assert torch.equal(model.normalised(x), expected)
    assert torch.equal(model(x), model.backbone(expected))


def test_without_normalisation_the_pixels_go_in_as_they_are(x):
    model = ours()
    assert model.normalised(x) is x
    assert torch.equal(model(x), model.backbone(x))


def test_normalisation_is_saved_but_not_learnt():
    model = ours(mean=MEAN, std=STD)
    assert {"mean", "std"} <= set(model.state_dict())
    assert not {"mean", "std"} & {name for name, _ in model.named_parameters()}
    assert model.double().mean.dtype == torch.float64


@pytest.mark.parametrize(
    "options",
    [{"mean": MEAN}, {"std": STD}, {"mean": MEAN[:1], "std": STD[:1]}, {"mean": MEAN, "std": STD[:2]}],
    ids=["mean", "std", "one", "unequal"],
)
def test_mean_and_std_come_together_one_per_channel(options):
    with pytest.raises(ValueError, match=r"^mean and std need one number per channel \(3\), got "):
        ours(**options)


@pytest.mark.parametrize("std", [(0.2, 0.0, 0.2), (0.2, -0.1, 0.2)])
def test_a_std_that_is_not_positive_is_refused(std):
    with pytest.raises(ValueError, match=r"^std must be positive, got "):
        ours(mean=MEAN, std=std)


# --- features ---------------------------------------------------------------------------------------------------------


def test_features_of_our_network_are_what_its_head_reads(x):
    model = ours(mean=MEAN, std=STD)
    logits, hidden = model.features(x)
    assert torch.equal(logits, model(x))
    assert torch.equal(hidden, model.backbone.embed(model.normalised(x)))
    assert torch.equal(model.head(hidden), logits)
    assert hidden.shape == (4, 6)


def test_features_of_a_foreign_network_are_the_input_of_its_linear_layer_layer(x):
    model = foreign(mean=MEAN, std=STD)
    logits, hidden = model.features(x)
    assert torch.equal(logits, model(x))
    assert torch.equal(hidden, model.backbone[:4](model.normalised(x)))
    assert model.head is model.backbone[4]


def test_features_cost_one_forward_pass(x):
    model, calls = foreign(), []
    handle = model.backbone[0].register_forward_hook(lambda *_: calls.append(1))
    model.features(x)
    handle.remove()
    assert len(calls) == 1


def test_gradients_flow_through_the_features(x):
    for model in (ours(), foreign()):
        point = x.clone().requires_grad_()
        model.features(point)[1].sum().backward()
        assert point.grad.abs().sum() > 0


def test_the_hook_is_gone_afterwards_also_when_the_network_fails(x):
    model = foreign()
    model.features(x)
    assert hooks(model) == 0
    with pytest.raises(RuntimeError):
        model.features(x[:, :1])
    assert hooks(model) == 0


def test_a_network_without_a_linear_layer_has_no_features(x):
    model = Classifier(nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()), SIGNATURE)
    assert model(x).shape == (4, 5)
    with pytest.raises(ValueError, match=r"^Sequential has no linear layer, so it has no penultimate representation$"):
        model.features(x)


def test_the_linear_layer_layer_is_the_last_one_defined():
    nested = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.ReLU())
    assert linear_layer(nested) is nested[1][0]


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ours, foreign])
def test_logits_and_features_are_float32_under_bf16_autocast(make, x):
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        logits, (again, hidden), inside = model(x), model.features(x), model.head(torch.rand(2, model.head.in_features))
    assert inside.dtype == torch.bfloat16  # the layers did compute in bf16
    assert logits.dtype == again.dtype == hidden.dtype == torch.float32
    torch.testing.assert_close(logits, model(x), rtol=0.1, atol=0.1)


def test_float64_stays_float64(x):
    model = ours(mean=MEAN, std=STD).double()
    logits, hidden = model.features(x.double())
    assert logits.dtype == hidden.dtype == model(x.double()).dtype == torch.float64


def test_parameters_are_counted():
    model = Classifier(MLP(hidden=(10,)).build(SIGNATURE), SIGNATURE, mean=MEAN, std=STD)
    assert parameter_count(model) == (192 * 10 + 10) + (10 * 5 + 5)


def test_a_network_that_writes_into_its_input_does_not_change_the_images(x):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(x[0].numel(), 4)

        def forward(self, images):
            return self.fc(images.mul_(0.5).flatten(1))

    model, before = Classifier(Writes(), SIGNATURE), x.clone()
    first = model(x)
    assert torch.equal(x, before)
    assert torch.equal(model(x), first)
    assert torch.equal(model.features(x)[0], first)
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(point).sum(), point)
    torch.testing.assert_close(gradient.flatten(1)[0], 0.5 * model.backbone.fc.weight.sum(dim=0))


def test_one_inside_another_network_can_be_traced(x):
    inner = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4)), SIGNATURE)
    traced = torch.fx.symbolic_trace(nn.Sequential(inner))
    assert torch.equal(traced(x), inner(x))

import math

import pytest
import torch

from overproof.functional import kl
from overproof.methods.distillation import check_mix, check_weights, softened_kl


def test_the_divergence_keeps_its_size_as_the_temperature_grows():
    student, teacher = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    for temperature in (0.5, 1.0, 4.0, 30.0):
        expected = temperature**2 * kl(student, teacher, temperature)
        torch.testing.assert_close(softened_kl(student, teacher, temperature, "batch"), expected)
    assert softened_kl(student, teacher, 30.0, "batch").min() > 0.05
    assert kl(student, teacher, 30.0).max() < 0.01


def test_class_scale_is_the_mean_that_torch_takes_by_default():
    student, teacher = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    found = softened_kl(student, teacher, 3.0, "class")
    torch.testing.assert_close(found, softened_kl(student, teacher, 3.0, "batch") / 6)
    default = torch.nn.KLDivLoss(reduction="none")((student / 3).log_softmax(1), (teacher / 3).softmax(1)).mean()
    torch.testing.assert_close(found.mean(), 9 * default)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan, math.inf])
def test_a_weight_outside_0_to_1_is_refused(alpha):
    with pytest.raises(ValueError, match=f"^alpha is the share of the distillation term .*, got {alpha}$"):
        check_mix(alpha, 1.0)


@pytest.mark.parametrize("temperature", [0.0, -4.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f"^temperature must be positive, got {temperature}$"):
        check_mix(0.5, temperature)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_both_ends_are_allowed(alpha):
    check_mix(alpha, 1e-3)


@pytest.mark.parametrize("weight", [-0.1, math.nan])
def test_a_negative_weight_is_refused_by_name(weight):
    with pytest.raises(ValueError, match=f"^factor is a weight and cannot be negative, got {weight}$"):
        check_weights(beta=0.0, factor=weight)

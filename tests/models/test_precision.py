import pytest
import torch
from torch import nn

from overproof.models.precision import choose_precision, computes_bf16, tensor_float

CPU = torch.device("cpu")
NARROW, WIDE = nn.Conv2d(3, 63, 1), nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 64, 1))


@pytest.fixture(params=[True, False], ids=["native", "emulated"])
def native(request, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)
    return request.param


def test_auto_is_bf16_only_where_it_is_native_and_the_network_wide(native):
    assert computes_bf16(CPU) is native
    assert choose_precision("auto", CPU, WIDE) == ("bf16" if native else "fp32")
    assert choose_precision("auto", CPU, NARROW) == "fp32"
    assert choose_precision("auto", CPU, nn.Linear(3, 512)) == "fp32"


def test_depthwise_convolutions_are_computed_in_fp32_on_processors_alone(native, monkeypatch):
    depthwise = nn.Sequential(WIDE, nn.Conv2d(64, 64, 3, groups=64))
    grouped = nn.Sequential(WIDE, nn.Conv2d(64, 64, 3, groups=2))
    assert choose_precision("auto", CPU, depthwise) == "fp32"
    assert choose_precision("auto", CPU, grouped) == ("bf16" if native else "fp32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert choose_precision("auto", torch.device("cuda"), depthwise) == "bf16"


def test_a_wish_is_granted(native):
    assert choose_precision("bf16", CPU, NARROW) == "bf16"
    assert choose_precision("fp32", CPU, WIDE) == "fp32"


@pytest.mark.parametrize(("capability", "wanted"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_graphics_card_is_asked_for_its_generation(monkeypatch, capability, wanted):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_precision("auto", torch.device("cuda"), WIDE) == wanted


def test_an_unknown_device_computes_in_fp32():
    assert choose_precision("auto", torch.device("meta"), WIDE) == "fp32"


@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_is_allowed_or_not_and_afterwards_as_before(allowed):
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    with pytest.raises(KeyError), tensor_float(allowed):
        assert (matrices.allow_tf32, convolutions.allow_tf32) == (allowed, allowed)
        raise KeyError
    assert (matrices.allow_tf32, convolutions.allow_tf32) == before

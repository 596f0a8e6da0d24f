import pytest
import torch
from torch import nn

from overproof.attacks.labelled import AskedNetwork, check_images, like_pixels, working_pixels
from overproof.errors import InputError


def test_a_network_is_asked_as_often_as_without_us():
    asked = []

    def model(x):
        asked.append(len(x))
        return x.flatten(1)[:, :3]

    x = torch.rand(4, 1, 2, 2)
    network = AskedNetwork(model, x, gradients=True)
    for _ in range(3):
        assert torch.equal(network(x), x.flatten(1)[:, :3])
    assert asked == [4, 4, 4]


def test_logits_are_of_the_pixels_own_dtype():
    for given in (torch.float32, torch.float64):
        x = torch.rand(2, 1, 2, 2, dtype=given)
        for dtype in (torch.float16, torch.float32, torch.float64):
            network = AskedNetwork(lambda x, dtype=dtype: x.flatten(1).to(dtype), x, gradients=False)
            assert network(x).dtype == network(x).dtype == given


def test_a_pixel_may_be_outside_by_rounding_alone():
    x = torch.tensor([[1 + 5e-7, -5e-7, 0.5]])
    check_images(x)
    assert working_pixels(x).tolist() == [[1, 0, 0.5]]
    with pytest.raises(InputError, match="lie in"):
        check_images(x * 1.01)


def test_what_is_found_is_like_the_images():
    x = torch.rand(2, 3, 4, 4, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    found = like_pixels(torch.rand(2, 3, 4, 4), x)
    assert found.dtype == torch.float16 and found.is_contiguous(memory_format=torch.channels_last)


def test_memory_that_runs_out_is_nobodys_input():
    def model(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    x = torch.rand(2, 1, 2, 2)
    with pytest.raises(torch.OutOfMemoryError):
        AskedNetwork(model, x, gradients=False)(x)


def test_the_users_modules_are_found_in_it():
    inner = nn.Linear(4, 3)
    network = AskedNetwork(inner, torch.rand(2, 4), gradients=True)
    assert inner in set(network.modules()) and len(list(network.parameters())) == 2

import pytest
import torch
from torch import nn

from overproof.errors import InputError
from overproof.evaluation.in_memory import check_given, given_classifier, given_images, undisturbed


def network():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(192, 4))


@pytest.fixture
def x(tiny_batch):
    return tiny_batch.x


def test_a_network_becomes_a_classifier_that_answers_alike(x, modes):
    model = network().train()
    was = modes(model)
    found = given_classifier(model, x)
    assert modes(model) == was and str(found.signature) == "3x8x8, 4 classes"
    with undisturbed(found, x.device), torch.no_grad():
        assert torch.equal(found(x), model(x))
    assert modes(model) == was


def test_one_of_ours_is_itself_and_is_for_its_own_images(tiny_classifier, x):
    ours = tiny_classifier()
    assert given_classifier(ours, x) is ours
    with pytest.raises(InputError, match="the model is for 3x8x8, 4 classes, the images are 3x4x4"):
        given_classifier(ours, x[:, :, :4, :4])


def test_images_of_any_precision_and_bytes(x):
    y = torch.arange(6, dtype=torch.int32) % 4
    for pixels, dtype in ((x.double(), torch.float32), (x.half(), torch.float32), ((x * 255).byte(), torch.uint8)):
        check_given(pixels, y)
        found = given_images(pixels, y, 4, x.device)
        assert (
            found.images.dtype == dtype and found.labels.dtype == torch.int64 and found.classes == ("0", "1", "2", "3")
        )
    with pytest.raises(InputError, match=r"label 3 is outside 0\.\.2"):
        given_images(x, y, 3, x.device)


def test_what_is_given_is_copied(x):
    y = torch.zeros(6, dtype=torch.int64)
    found = given_images(x, y, 4, x.device)
    found.images.zero_()
    found.labels.fill_(3)
    assert x.any() and not y.any()


def test_nothing_is_no_evaluation(x):
    with pytest.raises(InputError, match="there are no images"):
        check_given(x[:0], torch.zeros(0, dtype=torch.int64))


def test_generators_are_given_back(x):
    model = network()
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    with undisturbed(model, x.device):
        torch.manual_seed(99)
    assert torch.equal(torch.rand(3), wanted)

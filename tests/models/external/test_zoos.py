from types import SimpleNamespace

import pytest
from torch import nn

from overproof.errors import InputError
from overproof.models.external import zoos
from overproof.models.external.loading import load_external
from overproof.models.external.zoos import load_pretrained
from overproof.signature import Signature


@pytest.fixture
def torchvision(monkeypatch):
    """A stand-in: nothing is downloaded here."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    preset = SimpleNamespace(crop_size=[8], mean=[0.1, 0.2, 0.3], std=[0.3, 0.2, 0.1])
    models = SimpleNamespace(
        get_model_weights=lambda name: SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: preset)),
        get_model=lambda name, weights: {"small": network}[name],
        list_models=lambda: ["small"],
    )
    monkeypatch.setattr(zoos, "package", lambda name, **_: SimpleNamespace(models=models))
    return network


def test_torchvisions_networks_come_with_their_size_and_normalisation(torchvision):
    found = load_pretrained("torchvision:small", where="x")
    assert (found.network, found.sizes) == (torchvision, ((3, 8, 8),))
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))
    model = load_external("torchvision:small", Signature(channels=3, height=8, width=8, classes=5))
    assert model.backbone is torchvision
    assert model.normalises


def test_other_sizes_and_names_are_one_sentence(torchvision):
    with pytest.raises(InputError, match="torchvision:small: it is for 3x8x8 images, the data are 3x9x9"):
        load_external("torchvision:small", Signature(channels=3, height=9, width=9, classes=5))
    # Whatever the package defines beside its networks is not called.
    with pytest.raises(InputError, match="torchvision:set_image_backend: torchvision cannot load it"):
        load_external("torchvision:set_image_backend", Signature(channels=3, height=8, width=8, classes=5))

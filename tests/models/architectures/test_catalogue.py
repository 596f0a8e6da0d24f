import importlib
import pkgutil
from dataclasses import fields, is_dataclass

import pytest
import torch

from overproof.models import architectures
from overproof.models.architectures.architecture import Architecture, Signature
from overproof.models.architectures.catalogue import FAMILIES, NAMED, find_architecture
from overproof.models.architectures.resnet import ResNet
from overproof.models.external.module import External


def test_every_family_of_the_package_is_listed():
    defined = {
        value
        for module in pkgutil.iter_modules(architectures.__path__)
        for value in vars(importlib.import_module(f"overproof.models.architectures.{module.name}")).values()
        if isinstance(value, type) and issubclass(value, Architecture) and value not in (Architecture, External)
    }
    assert defined == set(FAMILIES.values())


def test_a_family_is_a_frozen_dataclass_whose_first_field_is_its_kind():
    for kind, family in FAMILIES.items():
        assert is_dataclass(family) and family.__dataclass_params__.frozen
        assert (fields(family)[0].name, fields(family)[0].default) == ("kind", kind)


@pytest.mark.parametrize("name", NAMED)
def test_every_named_network_builds_for_cifar(name):
    with torch.device("meta"):
        network = find_architecture(name).build(Signature(channels=3, height=32, width=32, classes=10))
    assert network.head.out_features == 10


def test_a_name_means_what_the_field_means():
    assert find_architecture("resnet18") == ResNet(depth=18)


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("resnet19", "resnet18"), ("WRN_34_10", "wrn-34-10"), ("mobilenet", "mobilenetv2")]
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=f"no network named '{wrong}'; the nearest name is '{nearest}'"):
        find_architecture(wrong)

"""Pretrained networks of timm and torchvision, with what they were trained on: sizes of images and a normalisation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from overproof.environment import package
from overproof.errors import InputError
from overproof.models.external.imports import describe_exception, like

Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pretrained:
    """A network with its weights; ``sizes`` ``(C, H, W)`` that it is for and ``mean``, ``std`` where they are known."""

    network: nn.Module
    sizes: tuple[Size, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def load_pretrained(word: str, *, where: str) -> Pretrained:
    """Return the network of ``timm:NAME`` or ``torchvision:NAME``; raise ``InputError`` where it cannot be had."""
    zoo, _, name = word.partition(":")
    return ZOOS[zoo](name, where)


def _timm(name: str, where: str) -> Pretrained:
    timm = package("timm", extra="zoo", where=where)
    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as problem:  # unknown names, downloads and weights fail each in its own way
        hint = "" if timm.is_model(name) else like(name, timm.list_models(pretrained=True))
        raise InputError(f"{where}: timm cannot load it{hint} ({describe_exception(problem)})") from problem
    known = network.pretrained_cfg
    return Pretrained(
        network=network,
        sizes=tuple(tuple(known[key]) for key in ("input_size", "test_input_size") if known.get(key)),
        mean=tuple(known.get("mean") or ()),
        std=tuple(known.get("std") or ()),
    )


def _torchvision(name: str, where: str) -> Pretrained:
    models = package("torchvision", extra="zoo", where=where).models
    try:
        weights = models.get_model_weights(name).DEFAULT
        network, transforms = models.get_model(name, weights=weights), weights.transforms()
    except Exception as problem:
        hint = "" if name in models.list_models() else like(name, models.list_models())
        raise InputError(f"{where}: torchvision cannot load it{hint} ({describe_exception(problem)})") from problem
    crop = tuple(getattr(transforms, "crop_size", ()))  # one number, for a square
    return Pretrained(
        network=network,
        sizes=((3, crop[0], crop[-1]),) if crop else (),
        mean=tuple(getattr(transforms, "mean", ())),
        std=tuple(getattr(transforms, "std", ())),
    )


ZOOS: Mapping[str, Callable[[str, str], Pretrained]] = {"timm": _timm, "torchvision": _torchvision}

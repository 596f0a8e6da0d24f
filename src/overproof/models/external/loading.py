"""Networks that are not ours, by the word a user types: a module of their own, RobustBench's, timm's, torchvision's."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from overproof.errors import InputError, nearest
from overproof.models.asking import check_weights_exist, try_batches
from overproof.models.classifier import Classifier
from overproof.models.external.imports import arguments, describe_exception, import_named, importable, like, thing
from overproof.models.external.zoos import ZOOS, load_pretrained
from overproof.models.mode import default_type_kept, put_into_mode
from overproof.signature import Signature
from overproof.trust import ZOOS as NO_MODULES

_FORMS = "package.module:factory, FILE.onnx, robustbench:[DATASET/THREAT/]NAME, timm:NAME or torchvision:NAME"


def load_external(
    name: str, signature: Signature, *, options: Mapping[str, Any] | None = None, beside: Path | None = None
) -> Classifier:
    """Return the network a word stands for, as a ``Classifier`` in eval mode on the device its maker put it on.

    ``package.module:factory`` imports the module (from the current folder and from ``beside``, too), calls the factory
    with ``options`` and takes what it returns: a ``Classifier``, an ``nn.Module`` from pixels ``[N, C, H, W]`` in
    [0, 1] to logits ``[N, K]``, or any callable from tensor to tensor; the name of an ``nn.Module`` itself stands for
    that module. Of ``num_classes``, ``in_channels`` and ``image_size`` the factory is given what it cannot do without.
    ``robustbench:NAME`` is RobustBench's CIFAR-10 Linf network, ``robustbench:DATASET/THREAT/NAME`` any of its others.
    ``timm:NAME`` and ``torchvision:NAME`` are networks with their pretrained weights, whose own mean and std become the
    normalisation.

    Eval mode is entered through the network's own ``train(False)``, exactly as an evaluation does: a factory that
    leaves its network in train mode has forgotten, and one that means a part of it to stay random overrides ``train``.
    The modes and the device of what a plain callable hides are its own affair.

    Raises ``InputError`` for a word without meaning, a network that cannot be made, and one that does not map two
    images of the signature to ``[2, classes]`` numbers.
    """
    kind, _, rest = name.partition(":")
    if rest and kind in _ZOOS:
        if options:
            raise InputError(f"{name}: options are for a factory of your own; this network comes as it was trained")
        return fitting(_ZOOS[kind](name, rest, signature), signature, name)
    # The network is tried in here, so that what it imports at its first call is found as well.
    with importable(*([] if beside is None else [beside]), Path.cwd()), default_type_kept():
        network = call_factory(name, options or {}, signature)
        return fitting(network if isinstance(network, Classifier) else Classifier(network, signature), signature, name)


class _Called(nn.Module):
    """A callable from tensor to tensor as a network without parameters."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        """Return what the callable returns, on the device of the pixels."""
        answer = self.function(x)
        return answer.to(x.device) if isinstance(answer, Tensor) else answer


# --- a module of the user's own ---------------------------------------------------------------------------------------


def call_factory(name: str, options: Mapping[str, Any], signature: Signature | None) -> nn.Module:
    """Return the network that the factory of ``package.module:factory`` makes, or the network itself that it names.

    Raises ``InputError`` for a word without meaning, and for a network that cannot be made.
    """
    kind, _, rest = name.partition(":")
    if kind in NO_MODULES or not (rest.isidentifier() and all(part.isidentifier() for part in kind.split("."))):
        raise InputError(f"{name}: no networks are called {kind!r}{nearest(kind, _ZOOS)}; write {_FORMS}")
    factory = import_named(name)
    if isinstance(factory, nn.Module):
        if options:
            raise InputError(f"{name}: this is a network, not a factory, and takes no options")
        return factory
    if not callable(factory):
        raise InputError(f"{name}: this is {thing(factory)}, neither a factory nor an nn.Module")
    advice = f"write them behind it, {name}?name=value&name=value"
    given = arguments(factory, options, signature, word=name, advice=advice, needed_only=True)
    try:
        network = factory(**given)
    except (Exception, SystemExit) as problem:
        raise InputError(f"{name}: the factory raised {describe_exception(problem)}") from problem
    if isinstance(network, type) or not callable(network):
        raise InputError(f"{name}: the factory returned {thing(network)}, not an nn.Module or a function of pixels")
    return network if isinstance(network, nn.Module) else _Called(network)


# --- the zoos ---------------------------------------------------------------------------------------------------------


def _robustbench(name: str, _: str, signature: Signature) -> Classifier:
    return Classifier(robustbench(name), signature)


def robustbench(name: str) -> nn.Module:
    """Return the network of ``robustbench:[DATASET/THREAT/]NAME``; raise ``InputError`` where it cannot be had.

    Its networks take pixels in [0, 1]; whatever normalisation they have is inside.
    """
    rest = name.partition(":")[2]
    *place, model = rest.split("/")
    if len(place) not in (0, 2):
        raise InputError(f"{name}: write robustbench:NAME or robustbench:DATASET/THREAT/NAME")
    dataset, threat = place or ("cifar10", "Linf")
    load_model = _robustbench_part("utils", name).load_model
    try:
        network: nn.Module = load_model(model_name=model, dataset=dataset, threat_model=threat)
        return network
    except Exception as problem:  # unknown names, downloads and weights fail each in its own way
        zoo = _robustbench_part("model_zoo", name).model_dicts
        known = {f"{data.value}/{what.value}/{each}" for data in zoo for what in zoo[data] for each in zoo[data][what]}
        wanted = f"{dataset}/{threat}/{model}"
        if wanted not in known:
            raise InputError(f"{name}: RobustBench has no {wanted}{like(wanted, known)}") from problem
        raise InputError(f"{name}: RobustBench cannot load it ({describe_exception(problem)})") from problem


def _load_pretrained(name: str, _: str, signature: Signature) -> Classifier:
    network = load_pretrained(name, where=name)
    size = (signature.channels, signature.height, signature.width)
    if network.sizes and size not in network.sizes:
        meant = " or ".join("x".join(map(str, each)) for each in network.sizes)
        raise InputError(
            f"{name}: it is for {meant} images, the data are {signature}; where another size is meant, resize inside "
            f"a network of your own (package.module:factory)"
        )
    return Classifier(network.network, signature, mean=network.mean, std=network.std)


_ZOOS: Mapping[str, Callable[[str, str, Signature], Classifier]] = {
    "robustbench": _robustbench,
    **dict.fromkeys(ZOOS, _load_pretrained),
}


def _robustbench_part(part: str, name: str) -> ModuleType:
    try:
        return import_module(f"robustbench.{part}")
    except Exception as problem:  # its requirements leave out packages that it imports
        raise InputError(
            f"{name}: RobustBench cannot be imported here ({describe_exception(problem)}); no extra of ours brings it, "
            f"install it from https://github.com/RobustBench/robustbench"
        ) from problem


# --- what every network must do ---------------------------------------------------------------------------------------


def fitting(model: Classifier, signature: Signature, name: str) -> Classifier:
    """Return the model in eval mode, or raise ``InputError`` unless it maps images, also one, to rows of logits."""
    if model.signature != signature:
        raise InputError(f"{name}: it is for {model.signature}, the data are {signature}")
    check_weights_exist(model, where=name)
    place = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    put_into_mode(model.to(place), training=False)
    image = torch.full((signature.channels, signature.height, signature.width), 0.5, device=place)
    logits = try_batches(lambda x: model.backbone(model.normalised(x)), image, where=name)
    if logits.shape[1] != signature.classes:
        raise InputError(f"{name}: it returns {logits.shape[1]} logits, the data have {signature.classes} classes")
    return model

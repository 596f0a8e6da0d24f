"""A checkpoint of other code as a network: its tensors, the architecture that somebody says they are of, or a chain."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from overproof.errors import InputError
from overproof.models.architectures.architecture import Architecture
from overproof.models.architectures.catalogue import NAMED
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.plain_resnet import plain_resnets
from overproof.models.classifier import Classifier
from overproof.models.external.chain import ChainWord, Recognised, find_chain
from overproof.models.external.checkpoints import Weights, find_weights, load_into, names_that_fit
from overproof.models.external.imports import read_options
from overproof.models.external.untrusted import read_config_beside, tensor_maps
from overproof.models.weights import build
from overproof.reading import parsing
from overproof.recipe import build_value, plain
from overproof.signature import Signature
from overproof.trust import ZOOS
from overproof.wording import one_line

_OF_CHAIN = ("stride", "padding")  # options of the word
_SHOWN = 4  # networks that a sentence names
_TOLERANCE = 1e-4  # a published mean has four digits
_CHANNELS = 100  # that are read of a normalisation; images have three


def weights_in(
    tree: Mapping[str, Any],
    said: Architecture | ChainWord,
    shape: Signature,
    *,
    where: Path,
    name: str,
    classes: int = 0,
    key: str = "",
) -> tuple[Weights, Architecture]:
    """Return the weights that a file holds of what the user said it is, and the architecture that this is.

    Raises ``InputError`` (see ``models.external.checkpoints`` and ``models.external.chain``).
    """
    try:
        with parsing("its tensors", f"a {name}"):
            if isinstance(said, Architecture):
                return find_weights(tree, said, shape, name=name, classes=classes, key=key), said
            chain = _chain_in(tree, said, shape, key)
            if not isinstance(chain, Recognised):
                called, other = chain
                return find_weights(tree, other, shape, name=called, classes=classes, key=key), other
            weights = find_weights(chain.tensors, chain.architecture, shape, name="chain", classes=classes)
            unused = tuple(sorted({*weights.unused, *chain.unused}))
            return replace(weights, place=chain.place, unused=unused), chain.architecture
    except InputError as problem:
        raise InputError(f"{where}: {problem}") from problem


def _chain_in(
    tree: Mapping[str, Any], word: ChainWord, shape: Signature, key: str
) -> Recognised | tuple[str, Architecture]:
    """Return the chain that a file holds, or the other network and what it is called; raise ``InputError``."""
    try:
        return find_chain(tree, word, shape, key=key)
    except InputError as problem:
        if word.sure:
            raise
        maps = dict(tensor_maps(tree))
        # A file does not say the strides of our own chains either.
        names = [name for name in names_that_fit(maps, shape, key) if not isinstance(NAMED[name], ConvNet | MLP)]
        others: dict[str, Architecture] = {name: NAMED[name] for name in names}
        for place, tensors in maps.items() if not names else ():
            residuals = plain_resnets(tensors, shape) if key in ("", place) else []
            others |= {_yaml(one): one for one in residuals}
        if not others:
            raise
        if len(others) > 1:
            told = " or ".join(f"'{each}'" for each in list(others)[:_SHOWN])
            raise InputError(f"several networks fit its tensors; choose with --model {told}") from problem
        return next(iter(others.items()))


def _yaml(architecture: Architecture) -> str:
    """Return an architecture as --model takes it."""
    return json.dumps(plain(architecture)).replace('"', "")


Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def network_of(
    weights: Weights, architecture: Architecture, shape: Signature, *, where: Path, given: Normalisation
) -> Classifier:
    """Return the network of weights that were found in a file, in eval mode, with its one known normalisation.

    ``given`` are the mean and std that the user says. Raises ``InputError`` where two that are known differ.
    """
    mean, std = _normalisation(where, given, (weights.mean, weights.std))
    network = build(architecture, replace(shape, classes=weights.classes), mean=mean, std=std).eval()
    load_into(network.backbone, weights)
    return network


def read_architecture(
    model: str | Architecture, *, where: str = "--model", options: Mapping[str, Any] | None = None
) -> tuple[str, Architecture | ChainWord]:
    """Return the architecture that a name, a YAML text or a word for code means, and what it is called.

    ``auto`` and ``chain?stride=2&padding=1,1`` mean what is found in the file. ``options`` are those that were written
    apart from the word. Raises ``InputError``.
    """
    if isinstance(model, Architecture):
        return model.kind, model
    word, _, query = model.partition("?")
    if word in ("auto", "chain"):
        said = {**read_options(query, where=f"{where} {word}"), **(options or {})}
        return "chain", _chain(word, said, where)
    try:
        text = yaml.safe_load(model)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise InputError(f"{where} {model}: not readable as YAML") from problem
    if isinstance(text, str) and text.partition(":")[0] in ZOOS and ":" in text:
        raise InputError(
            f"{where} {model}: a zoo's networks need no import; write {model} where a teacher is named, or a factory "
            "of your own that makes one for weights of yours"
        )
    text = {"kind": text, **options} if options else text
    architecture = build_value(Architecture, text, where=where)
    assert isinstance(architecture, Architecture)
    return (text if isinstance(text, str) else architecture.label), architecture


def _chain(word: str, options: Mapping[str, Any], where: str) -> ChainWord:
    for name in options:
        if name not in _OF_CHAIN or word == "auto":
            takes = "no options; chain takes stride and padding" if word == "auto" else f"no {name!r}"
            raise InputError(f"{where} {word}: it takes {takes}")
    return ChainWord(sure=word == "chain", **{name: _whole(name, value, where) for name, value in options.items()})


def _whole(name: str, value: Any, where: str) -> tuple[int, ...]:
    parts = value if isinstance(value, list) else str(value).split(",")
    if not all(re.fullmatch("[0-9]{1,6}", str(part).strip()) for part in parts):
        told = one_line(str(value), 100)
        raise InputError(f"{where} chain: {name}={told}: write whole numbers, one for each convolution, such as 2,2")
    return tuple(int(part) for part in parts)


def _normalisation(file: Path, given: Normalisation, inside: Normalisation) -> Normalisation:
    """Return the one normalisation that is known; raise ``InputError`` where two of them differ."""
    beside = read_config_beside(file) if file.suffix == ".safetensors" else {}
    config = beside.get("pretrained_cfg") or beside
    known: dict[str, Normalisation] = {
        "--mean and --std": given,
        "the file's own normalising layer": inside,
        "config.json": (_numbers(config, "mean", file), _numbers(config, "std", file)),
    }
    said = {name: pair for name, pair in known.items() if any(pair)}
    for name, pair in said.items():
        if not all(isfinite(value) for part in pair for value in part):
            raise InputError(f"{file}: {name} ({_words(pair)}) are not finite")
    first = next(iter(said.items()), None)
    if first is None:
        return (), ()
    for name, pair in said.items():
        flat, other = ([value for part in each for value in part] for each in (pair, first[1]))
        if len(flat) != len(other) or any(abs(a - b) > _TOLERANCE for a, b in zip(flat, other, strict=True)):
            raise InputError(
                f"{file}: {first[0]} ({_words(first[1])}) and {name} ({_words(pair)}) contradict each other"
            )
    return first[1]


def _numbers(config: Any, name: str, file: Path) -> tuple[float, ...]:
    """Return the numbers that a ``config.json`` has under a name, none where it has nothing there."""
    numbers = (config.get(name) if isinstance(config, Mapping) else None) or ()
    with parsing(file.with_name("config.json"), f"the {name} of a normalisation, one number per channel"):
        if not isinstance(numbers, list | tuple):
            raise TypeError(type(numbers).__name__)
        return tuple(float(value) for value in numbers[:_CHANNELS])


def _words(pair: Normalisation) -> str:
    return " / ".join(", ".join(f"{value:g}" for value in part) or "none" for part in pair)

"""``teacher import``: somebody else's checkpoint becomes a run folder."""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from overproof.building import code_folders
from overproof.data.sources import Source
from overproof.environment import versions
from overproof.errors import InputError
from overproof.files import make_folder
from overproof.models.architecture import Architecture
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.layouts import Weights, find_weights, load_into
from overproof.models.untrusted import described_beside, parse_untrusted
from overproof.models.weights import build, save_model
from overproof.reading import parsing, read_bytes
from overproof.recipe import build as build_value
from overproof.recipe import data_source, plain
from overproof.run import Run
from overproof.signature import Signature

_TOLERANCE = 1e-4  # a published mean has four digits
_CHANNELS = 100  # that are read of a normalisation; images have three


def import_teacher(
    file: Path | str,
    *,
    model: str | Architecture,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    classes: int = 0,
    data: Source | str | None = None,
    size: tuple[int, int, int] = (3, 32, 32),
    key: str = "",
    digest: str = "",
    out: Path | str | None = None,
) -> Run:
    """Read a checkpoint that other code wrote and write the network as a run folder; return the run.

    ``file`` is a PyTorch or safetensors file, or a folder with ``model.safetensors``. ``model`` is an architecture, its
    name (``wrn-34-10``) or its YAML (``{kind: wide, depth: 28}``). ``mean`` and ``std`` are the normalisation that the
    network was trained with, per channel in [0, 1] pixel units; one that lies in the file, or in a ``config.json``
    beside it, is taken from there. ``classes`` is checked against the file's. ``data`` gives names of classes and the
    ``size`` (channels, height, width) of the images, and is what the run is evaluated on. ``key`` chooses among several
    networks in the file, ``digest`` is its expected SHA-256. ``out`` defaults to ``runs/<the file's name>``. Nothing in
    the file is run, and nothing is written before the network is whole. Raises ``InputError``.
    """
    file = Path(file)
    file = file / "model.safetensors" if file.is_dir() else file
    folder = Path("runs") / file.stem if out is None else Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already; choose another --out")
    name, architecture = read_architecture(model)
    body = read_bytes(file)
    tree = parse_untrusted(body, file, digest=digest)
    source = data_source(data) if isinstance(data, str) else data
    images = source.load("test") if source else None
    channels, height, width = size
    shape = images.signature if images else Signature(channels=channels, height=height, width=width, classes=0)
    found = weights_in(tree, architecture, shape, where=file, name=name, classes=classes, key=key)
    if images and found.classes != len(images.classes):
        raise InputError(f"{file}: it is for {found.classes} classes, {images.name} has {len(images.classes)}")
    network = network_of(found, architecture, shape, where=file, given=(mean, std))
    make_folder(folder)
    facts = {
        "name": folder.name,
        "parameters": parameter_count(network),
        "versions": versions(),
        "selected_on": "unknown",
        "imported": {
            "file": file.name,
            "sha256": sha256(body).hexdigest(),
            "place": found.place,
            "prefix": found.prefix,
            "unused": list(found.unused),
            "data": plain(source) if source else None,
        },
        **({"code_folders": places} if (places := code_folders(source, folder)) else {}),
    }
    save_model(folder, network, architecture, images.classes if images else (), facts=facts)
    return Run(folder)


def weights_in(
    tree: Mapping[str, Any],
    architecture: Architecture,
    shape: Signature,
    *,
    where: Path,
    name: str,
    classes: int = 0,
    key: str = "",
) -> Weights:
    """Return the weights of an architecture that a file holds (see ``models.layouts``); raise ``InputError``."""
    try:
        with parsing("its tensors", f"a {name}"):
            return find_weights(tree, architecture, shape, name=name, classes=classes, key=key)
    except InputError as problem:
        raise InputError(f"{where}: {problem}") from problem


Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


def network_of(
    found: Weights, architecture: Architecture, shape: Signature, *, where: Path, given: Normalisation
) -> Classifier:
    """Return the network of weights that were found in a file, in eval mode, with its one known normalisation.

    ``given`` are the mean and std that the user says. Raises ``InputError`` where two that are known differ.
    """
    mean, std = _normalisation(where, given, (found.mean, found.std))
    network = build(architecture, replace(shape, classes=found.classes), mean=mean, std=std).eval()
    load_into(network.backbone, found)
    return network


def read_architecture(model: str | Architecture, *, where: str = "--model") -> tuple[str, Architecture]:
    """Return the architecture that a name or a YAML text means, and what it is called; raise ``InputError``."""
    if isinstance(model, Architecture):
        return model.kind, model
    try:
        text = yaml.safe_load(model)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise InputError(f"{where} {model}: not readable as YAML") from problem
    if isinstance(text, str) and ":" in text:
        raise InputError(
            f"{where} {model}: other packages' networks need no import; write {model} where a teacher is named"
        )
    architecture = build_value(Architecture, text, where=where)
    assert isinstance(architecture, Architecture)
    return (text if isinstance(text, str) else architecture.kind), architecture


def _normalisation(file: Path, given: Normalisation, inside: Normalisation) -> Normalisation:
    """Return the one normalisation that is known; raise ``InputError`` where two of them differ."""
    beside = described_beside(file) if file.suffix == ".safetensors" else {}
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
    found = (config.get(name) if isinstance(config, Mapping) else None) or ()
    with parsing(file.with_name("config.json"), f"the {name} of a normalisation, one number per channel"):
        if not isinstance(found, list | tuple):
            raise TypeError(type(found).__name__)
        return tuple(float(value) for value in found[:_CHANNELS])


def _words(pair: Normalisation) -> str:
    return " / ".join(", ".join(f"{value:g}" for value in part) or "none" for part in pair)

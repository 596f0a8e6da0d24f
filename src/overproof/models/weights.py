"""A network on disk: ``model.safetensors`` beside ``model.json``; no pickles, readable without overproof."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from overproof.errors import InputError, nearest
from overproof.files import write_atomically
from overproof.models.architecture import Architecture
from overproof.models.catalogue import FAMILIES
from overproof.models.classifier import Classifier
from overproof.signature import Signature


def build(
    architecture: Architecture,
    signature: Signature,
    *,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Classifier:
    """Return a freshly initialised classifier; raise ``InputError`` where the network does not fit the images."""
    try:
        return Classifier(architecture.build(signature), signature, mean=mean, std=std)
    except ValueError as problem:
        raise InputError(f"{architecture.kind} for {signature}: {problem}") from problem


def save_model(
    folder: Path,
    model: Classifier,
    architecture: Architecture,
    classes: tuple[str, ...],
    *,
    facts: Mapping[str, Any],
    name: str = "model",
) -> str:
    """Write ``name.safetensors``, then ``name.json``, each whole or not at all; return the weights' SHA-256.

    A crash between the two leaves a pair that ``load_model`` refuses, because the description holds the digest.
    """
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    body = save(weights)
    digest = sha256(body).hexdigest()
    description = {
        "architecture": asdict(architecture),  # type: ignore[call-overload]
        "signature": asdict(model.signature),
        "normalisation": {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
        if model.normalises
        else None,
        "classes": list(classes),
        "digest": digest,
        **facts,
    }
    write_atomically(folder / f"{name}.safetensors", body)
    write_atomically(folder / f"{name}.json", (json.dumps(description, indent=1) + "\n").encode())
    return digest


def load_model(folder: Path, name: str = "model") -> tuple[Classifier, dict[str, Any]]:
    """Read what ``save_model`` wrote; return the classifier in eval mode and its description.

    Raises ``InputError`` for a missing, damaged or exchanged file.
    """
    description = load_description(folder, name)
    description_file, weights_file = _description_file(folder, name), folder / f"{name}.safetensors"
    try:
        options = dict(description["architecture"])
        signature = Signature(**description["signature"])
        normalisation = description["normalisation"] or {"mean": (), "std": ()}
        mean, std = tuple(normalisation["mean"]), tuple(normalisation["std"])
    except (ValueError, KeyError, TypeError) as problem:
        raise InputError(f"{description_file}: not a model description of overproof ({problem!r})") from problem
    if sha256(weights_file.read_bytes()).hexdigest() != description["digest"]:
        raise InputError(f"{weights_file}: damaged or exchanged; its digest is not the one in {description_file.name}")
    try:
        weights = load_file(weights_file)
    except SafetensorError as problem:
        raise InputError(f"{weights_file}: not a readable safetensors file ({problem})") from problem
    try:
        model = build(from_plain(options), signature, mean=mean, std=std)
        model.load_state_dict(weights)
    except InputError as problem:
        raise InputError(f"{description_file}: {problem}") from problem
    except (RuntimeError, ValueError, TypeError) as problem:
        raise InputError(f"{description_file}: does not describe the network in {weights_file.name}") from problem
    return model.eval(), description


def load_description(folder: Path, name: str = "model") -> dict[str, Any]:
    """Read ``name.json`` (in a Hub repository ``config.json``) alone.

    Raises ``InputError`` where it or its weights are missing, or it is no description.
    """
    file = _description_file(folder, name)
    for needed in (file, folder / f"{name}.safetensors"):
        if not needed.is_file():
            raise InputError(f"{folder}: no {needed.name} here, so this is not a finished run")
    try:
        description: dict[str, Any] = json.loads(file.read_text())
        description["digest"]
    except (ValueError, KeyError, TypeError) as problem:  # a ValueError is broken JSON, or bytes that are no text
        raise InputError(f"{file}: not a model description of overproof ({problem!r})") from problem
    return description


def _description_file(folder: Path, name: str) -> Path:
    """Return the description's file: ``name.json``, or what the Hub calls the one of a repository."""
    file, hub = folder / f"{name}.json", folder / "config.json"
    return hub if name == "model" and hub.is_file() and not file.is_file() else file


def from_plain(options: Mapping[str, Any]) -> Architecture:
    """Return the architecture that ``dataclasses.asdict`` turned into plain values, JSON lists included."""
    kind = str(options.get("kind"))
    if kind not in FAMILIES:
        raise InputError(f"no architecture of kind {kind!r}{nearest(kind, FAMILIES)}")
    return FAMILIES[kind](**{key: _frozen(value) for key, value in options.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):  # the base of an adapted network
        return from_plain(value)
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def freeze(model: Classifier) -> Classifier:
    """Make a teacher silent by construction: eval mode, no gradient to its weights; returns the model."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def channels_last(model: torch.nn.Module) -> None:
    """Lay convolution weights out channels-last, in place; the numbers do not change, and shards stay as they are."""
    if not any(hasattr(value, "device_mesh") for value in model.parameters()):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

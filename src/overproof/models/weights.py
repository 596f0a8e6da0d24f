"""A network on disk: ``model.safetensors`` beside ``model.json``; no pickles, readable without overproof."""

import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from overproof.environment import memory
from overproof.errors import InputError, nearest
from overproof.files import write_atomically
from overproof.memory import ran_out
from overproof.models.architectures.architecture import Architecture
from overproof.models.architectures.catalogue import FAMILIES
from overproof.models.classifier import Classifier
from overproof.models.external.imports import importable
from overproof.models.external.module import External, external_of, source_of_code
from overproof.models.mode import put_into_mode
from overproof.reading import field, is_file, parsing, read_bytes, read_object, reason
from overproof.signature import Signature
from overproof.trust import check_named_code, module_word

_KEYS = {"architecture": dict, "signature": dict, "classes": list, "digest": str}
_LONGEST = 1 << 26  # bytes of a description; a thousand class names take some ten thousand
_MOST_PARAMETERS = 20_000  # tensors; the largest network that we know a recipe of has some hundreds


class _LargerError(InputError):
    """A network has more weight tensors than it may have."""


def build(
    architecture: Architecture,
    signature: Signature,
    *,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> Classifier:
    """Return a freshly initialised classifier.

    Raises ``InputError`` where the network does not fit the images, and where its weights do not fit into memory.
    """
    if external_of(architecture) is not None:
        return _make(architecture, signature, mean=mean, std=std)  # its sizes are only known once it is made
    planned = outline(architecture, signature, mean=mean, std=std)
    need = sum(value.numel() * value.element_size() for value in planned.state_dict().values())
    if need > memory():
        raise InputError(
            f"{architecture.kind} for {signature}: its weights alone take {need / 1e9:.1f} GB, this process may use "
            f"{memory() / 1e9:.1f} GB"
        )
    return _make(architecture, signature, mean=mean, std=std)


def outline(
    architecture: Architecture,
    signature: Signature,
    *,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    most: int = _MOST_PARAMETERS,
) -> Classifier:
    """Return the classifier without numbers (on torch's meta device): names and shapes of its weights, at no cost.

    A network that other people's code makes is made as it is: such code may not know of devices, and is trusted.
    Raises ``InputError`` where it does not fit the images, and as soon as it has more than ``most`` parameter tensors:
    a few bytes of a description may ask for millions of layers.
    """
    if external_of(architecture) is not None:
        return _make(architecture, signature, mean=mean, std=std)
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise _LargerError(f"{architecture.kind} for {signature}: more than {most:,} weight tensors")

    handle = register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"):
            return _make(architecture, signature, mean=mean, std=std)
    finally:
        handle.remove()


def _make(architecture: Architecture, signature: Signature, **normalisation: tuple[float, ...]) -> Classifier:
    try:
        external = external_of(architecture)
        representation = "" if external is None else external.features
        model = Classifier(architecture.build(signature), signature, representation=representation, **normalisation)
        for name, value in model.state_dict().items() if external else ():
            if not isinstance(value, Tensor) or value.is_quantized:
                what = "quantised numbers" if isinstance(value, Tensor) else f"an object of type {type(value).__name__}"
                raise InputError(f"{architecture.kind}: {name} is {what}; what a run keeps of a network are tensors")
        return model
    except InputError:
        raise
    except ValueError as problem:
        raise InputError(f"{architecture.kind} for {signature}: {problem}") from problem
    except (RuntimeError, TypeError, OverflowError) as problem:
        if ran_out(problem):
            raise
        # Sizes that are no sizes: negative, no integers, or too large for any machine.
        raise InputError(
            f"{architecture.kind} for {signature}: no such network can be made ({reason(problem)})"
        ) from problem


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
    body = save(unshare(model.state_dict()))
    digest = sha256(body).hexdigest()
    description = {
        "architecture": asdict(architecture),  # type: ignore[call-overload]
        **({"code": code} if (code := source_of_code(architecture, folder)) else {}),
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


def unshare(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return tensors as safetensors takes them: on the CPU, whole, and each with memory of its own.

    Tied weights, and a part of a network under two names, share theirs. Quantised tensors are their integers with scale
    and zero point, and a tuple (packed weights) its tensors; what else a network calls its state is left out.
    """
    seen: set[int] = set()
    copies = {}
    for name, value in _tensors(weights):
        own = value.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        copies[name] = own.clone() if place in seen else own
        seen.add(place)
    return copies


def _tensors(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if isinstance(value, tuple | list):
            yield from _tensors({f"{name}.{number}": each for number, each in enumerate(value)})
        elif isinstance(value, Tensor) and value.is_quantized:
            yield name, value.int_repr()
            by_channel = value.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
            scale = value.q_per_channel_scales() if by_channel else torch.tensor(value.q_scale(), dtype=torch.float64)
            zero = value.q_per_channel_zero_points() if by_channel else torch.tensor(value.q_zero_point())
            yield from ((f"{name}.scale", scale), (f"{name}.zero_point", zero))
        elif isinstance(value, Tensor):
            yield name, value


def load_model(
    folder: Path, name: str = "model", *, own: bool = True, trust_code: bool = False
) -> tuple[Classifier, dict[str, Any]]:
    """Read what ``save_model`` wrote; return the classifier in eval mode and its description.

    ``own`` says that the folder is the user's: then code that makes the network is imported from the folder that the
    run was started in, or the current one. Any other code, and that of a stranger's files, needs ``trust_code``.
    Raises ``InputError`` for a missing, damaged or exchanged file, and for code that may not be run or is not there.
    """
    description = load_description(folder, name)
    description_file, weights_file = _description_file(folder, name), folder / f"{name}.safetensors"
    body = read_bytes(weights_file)
    if sha256(body).hexdigest() != description["digest"]:
        raise InputError(f"{weights_file}: damaged or exchanged; its digest is not the one in {description_file.name}")
    with parsing(weights_file, "safetensors"):
        weights = load(body)
    mismatch = f"{description_file}: does not describe the network in {weights_file.name}"
    with parsing(description_file, "a model description of overproof"):
        signature = Signature(**description["signature"])
        normalisation = description["normalisation"] or {"mean": (), "std": ()}
        inside = {part: tuple(map(float, normalisation[part])) for part in ("mean", "std")}
    try:
        architecture = from_plain(description["architecture"])
        places = _code_places(architecture, folder, description, own=own, trust_code=trust_code)
        # By names and shapes alone: nothing is built that the file does not hold.
        with importable(*places):
            planned = outline(architecture, signature, **inside, most=len(weights)).state_dict()
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as problem:
        if isinstance(problem, InputError) and not isinstance(problem, _LargerError):
            raise InputError(f"{description_file}: {problem}") from problem
        raise InputError(mismatch) from problem  # options that the network does not have, or not so
    if _shapes(planned) != _shapes(weights):
        raise InputError(mismatch)
    with importable(*places):
        model = build(architecture, signature, **inside)
    _warn_of_change(description)
    model.load_state_dict(weights)
    return model.eval(), description


def _code_places(
    architecture: Architecture, folder: Path, description: Mapping[str, Any], *, own: bool, trust_code: bool
) -> tuple[Path, ...]:
    """Return the folders in which the code of a network is looked for; raise ``InputError`` where it may not be run."""
    external = external_of(architecture)
    if external is None or module_word(external.factory) is None:
        return ()
    where = f"{_description_file(folder, 'model')}"
    if not own and not trust_code:
        raise InputError(
            f"{where}: its network is made by {external.factory}, code that is not part of the file; where you trust "
            "it and have it here, add --trust-code"
        )
    code = description.get("code")
    said = code.get("folder") if isinstance(code, dict) else None
    places = (Path.cwd(), *([(folder / said).resolve()] if own and isinstance(said, str) else []))
    check_named_code(external.factory, folders=places, where=where, trust_code=trust_code)
    return places


def _warn_of_change(description: Mapping[str, Any]) -> None:
    """Warn where the module that made a network is not the one that made it when it was trained."""
    code = description.get("code")
    if not isinstance(code, dict) or code.get("module") not in sys.modules:
        return
    file = getattr(sys.modules[code["module"]], "__file__", None)
    if file and sha256(read_bytes(Path(file))).hexdigest() != code.get("sha256"):
        warnings.warn(f"{file} has changed since this network was trained; its weights still fit", stacklevel=4)


def load_description(folder: Path, name: str = "model") -> dict[str, Any]:
    """Read ``name.json`` (in a Hub repository ``config.json``) alone.

    Raises ``InputError`` where it or its weights are missing, or it is no description.
    """
    file = _description_file(folder, name)
    for needed in (file, folder / f"{name}.safetensors"):
        if not is_file(needed):
            raise InputError(f"{folder}: no {needed.name} here, so this is not a finished run")
    try:
        description = read_object(file, limit=_LONGEST)
        for key, kind in _KEYS.items():
            field(description, key, kind, where=file)
        if not all(isinstance(one, str) for one in description["classes"]):
            raise InputError(f"{file}: the names of classes are texts")
    except InputError as problem:
        said = str(problem).removeprefix(f"{file}: ")
        raise InputError(f"{file}: not a model description of overproof ({said})") from problem
    return description


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def _description_file(folder: Path, name: str) -> Path:
    """Return the description's file: ``name.json``, or what the Hub calls the one of a repository."""
    file, hub = folder / f"{name}.json", folder / "config.json"
    return hub if name == "model" and is_file(hub) and not is_file(file) else file


def from_plain(options: Mapping[str, Any]) -> Architecture:
    """Return the architecture that ``dataclasses.asdict`` turned into plain values, JSON lists included."""
    kind = str(options.get("kind"))
    if kind == External.kind:
        return External(**options)
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
    put_into_mode(model, training=False)
    return model

"""A network in memory as the commands take it: an ``nn.Module`` and images, and no folder of results unless asked."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from overproof.attacks.ball import Threat
from overproof.attacks.radius import read_norm
from overproof.data.images import Labelled
from overproof.data.sources import Source
from overproof.errors import InputError
from overproof.evaluation.given import check_given, device_of, given_classifier, given_images, signature_of
from overproof.models.classifier import Classifier, parameter_count
from overproof.recipe import data_source
from overproof.run import Run
from overproof.verbs.examinee import Examinee, examinee
from overproof.verbs.networks import digest_of

Subject = Run | Path | str | nn.Module
"""What can be evaluated and certified: a run, a word that names a network, or the network itself."""
_TEMPORARY = "overproof-"
_FIRST = torch.arange(2)


@contextmanager
def kept_where_asked(subject: Subject, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the options of a command, with a folder for its results that is gone afterwards where none is wanted.

    Only the results of a network in memory are not written without ``out``: they have no place of their own. Such a
    network stays on its device, and the global generators are given back.
    """
    given = dict(options)
    if given.get("norm") is not None:
        given["norm"] = read_norm(given["norm"])
    if not isinstance(subject, nn.Module):
        yield given
        return
    device = device_of(subject, torch.empty(0))
    given.setdefault("device", str(device))  # the user's module stays where it is
    with (
        torch.inference_mode(False),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        TemporaryDirectory(prefix=_TEMPORARY) as folder,
    ):
        if given.get("out") is None:
            for name in ("save_adversarial", "resume"):
                if given.get(name):
                    raise InputError(
                        f"{name} needs a folder: say where the results of this network go, with out=FOLDER"
                    )
            given["out"] = folder
        yield given


def carried_out(course: Generator[Any, None, dict[str, Any]]) -> dict[str, Any]:
    """Do work that yields its progress, to its end; return its result."""
    while True:
        try:
            next(course)
        except StopIteration as end:
            found: dict[str, Any] = end.value
            return found


def subject_of(
    subject: Subject, data: Source | str | tuple[Tensor, Tensor] | None, *, readable: bool, classes_by_position: bool
) -> Examinee:
    """Return whom a word or a module names, with its images; raise ``InputError``.

    ``readable`` says that the layers of a module must be found in it, as bounds need it.
    """
    if isinstance(subject, nn.Module):
        return _in_memory(subject, data, readable)
    if not isinstance(subject, Run | Path | str):
        raise InputError(
            f"a network is an nn.Module, a Run, a run folder or a word such as package.module:factory, got an object "
            f"of type {type(subject).__name__}"
        )
    if isinstance(data, tuple):
        raise InputError(f"{subject}: images as tensors are for a network in memory; name a source of images instead")
    return examinee(subject, data, classes_by_position=classes_by_position)


def _in_memory(module: nn.Module, data: Source | str | tuple[Tensor, Tensor] | None, readable: bool) -> Examinee:
    name = type(module.backbone if isinstance(module, Classifier) else module).__name__
    if data is None:
        raise InputError(f"{name}: say on which images, with data=(x, y) or data='digits'")
    model, images = _with_images(module, data, name)
    if readable and model is not module:
        model = Classifier(module, model.signature).to(device_of(module, images.labels))
    return Examinee(
        name=name,
        folder=Path("evaluations") / name,
        model=model,
        images=images,
        threat=Threat(),
        facts={
            "run": name,
            "method": "foreign",
            "architecture": name,
            "recipe_seed": None,
            "model_digest": digest_of(model),
            "selected_on": "unknown",
            "parameters": parameter_count(model),
        },
    )


def _with_images(
    module: nn.Module, data: Source | str | tuple[Tensor, Tensor], name: str
) -> tuple[Classifier, Labelled]:
    if isinstance(data, tuple | list):
        if len(data) != 2:
            raise InputError(f"{name}: data is (x, y), images and their labels, got {len(data)} values")
        x, y = data
        check_given(x, y)
        model = given_classifier(module, x)
        return model, given_images(x, y, model.signature.classes, x.device, name="tensors")
    images = (data if isinstance(data, Source) else data_source(data)).open("test")
    task = images.signature
    (sample,) = images.at(_FIRST).decoded().batches(2)
    model = given_classifier(module, sample.x)
    if model.signature != signature_of(sample.x, task.classes):
        raise InputError(f"{name}: the network is for {model.signature}, the images are {task}")
    return model, images

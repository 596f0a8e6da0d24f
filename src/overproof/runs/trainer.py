"""What a training needs before its first step: images, teachers and networks, read and checked against each other."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from overproof.data.draws import seed_at
from overproof.data.encoded import EncodedSet
from overproof.data.extra import Mixture, open_extra
from overproof.data.images import ImageSet, check_held_out, check_trainable, hold_out, stratified_subset
from overproof.data.loader import Loader
from overproof.data.sources import Extra, Hub
from overproof.data.survey import surveyed
from overproof.errors import InputError
from overproof.models.architectures.architecture import Architecture
from overproof.models.batchnorm import least_batch
from overproof.models.classifier import Classifier
from overproof.models.external.imports import importable
from overproof.models.weights import build
from overproof.processes import Processes
from overproof.recipe import Recipe
from overproof.runs.agreement import check_same_images, check_same_teachers, check_shareable
from overproof.runs.initial import begin_with, read_weights, with_pretrained
from overproof.runs.loaded import digest_of
from overproof.runs.networks import load_teacher
from overproof.runs.normalisation import Normalisation, normalisation
from overproof.runs.summary import (
    Beginning,
    device_line,
    images_line,
    network_line,
    notes_of,
    per_class_line,
    source_line,
)
from overproof.signature import Signature
from overproof.training.loop import Loop
from overproof.training.parallel import sharded
from overproof.training.soft_labels import needs_no_labels, takes_soft_labels

_Images = ImageSet | EncodedSet


@dataclass(frozen=True, kw_only=True)
class Stage:
    """All that a run needs before its first step."""

    loop: Loop
    architecture: Architecture
    classes: tuple[str, ...]
    held_out: ImageSet
    data: str
    """The digest of the images that are learnt from."""
    notes: tuple[str, ...]
    """What was read of the data, and what was left out."""
    teachers: Mapping[str, str]  # the SHA-256 of each role's weights
    init: Mapping[str, Any] | None = None
    """Which weights the student began with."""
    lengths: tuple[int, ...] = ()
    """How many epochs the run was to have before it was extended, each time."""


def set_up(
    recipe: Recipe,
    device: torch.device,
    processes: Processes,
    shard_teachers: bool,
    beside: Path | None,
    *,
    initial: bool = True,
    trust_code: bool = False,
) -> Generator[Beginning, None, Stage]:
    """Read the images, build and load the networks; yield what is known as soon as it is, return all of it.

    ``initial`` is False for a run that goes on: its weights are in the checkpoint. ``trust_code`` runs code that the
    files of teachers name, wherever it lies. Raises ``InputError`` for what does not fit together. Writes nothing.
    """

    extra: Extra | None = getattr(recipe.data, "extra", None)  # other people's sources have none

    def read_images() -> tuple[_Images, _Images, _Images]:
        if recipe.augment.mixes and not takes_soft_labels(recipe.method):
            raise InputError(
                f"method {recipe.method.kind!r} reads labels as classes, and augment.mixup and augment.cutmix make "
                "them shares of classes; set both to 0 or choose another method"
            )
        if extra is not None:
            _check_labels(recipe, extra)
        if shard_teachers and recipe.method.bounds_teachers:
            raise InputError(
                f"method {recipe.method.kind!r} bounds its teacher, which takes whole weights; leave --shard-teachers "
                "out, or set its teacher_bounds to clean"
            )
        images = surveyed(recipe.data)
        kept, held = hold_out(images, recipe.selection.fraction, recipe.seed)
        check_held_out(images, kept)
        check_trainable(kept, recipe.training.batch)
        check_shareable(len(kept), recipe.training.batch, processes)
        return images, kept, held

    def read_teachers() -> tuple[dict[str, Classifier], Architecture]:
        teachers = {
            role: load_teacher(role, path, images, beside=beside, trust_code=trust_code)
            for role, path in recipe.teachers.items()
        }
        with importable(*places):
            return teachers, _fit(recipe, teachers)

    places = () if beside is None else (beside,)
    yield Beginning(lines=(source_line(recipe.name, recipe.data),))
    images, kept, held = processes.together(read_images)
    splits = {"train": kept, "held out": held}
    yield Beginning(lines=(images_line(splits), *notes_of(images)))
    if processes.leads:
        yield Beginning(lines=_with_test(recipe, splits))
    check_same_images(images, processes)
    teachers, architecture = processes.together(read_teachers)
    digests = {role: digest_of(teacher) for role, teacher in teachers.items()}
    check_same_teachers(digests, processes)
    word, weights = with_pretrained(recipe.init, recipe.student) if recipe.init else "", None
    if word and initial:
        weights = processes.together(
            lambda: read_weights(word, teachers, images.signature, beside=beside, trust_code=trust_code)
        )
    placed = recipe.loading.place(kept, device)
    norm = processes.together(lambda: normalisation(recipe.normalise, placed, word, weights))
    if recipe.normalise.of == "data":
        yield Beginning(lines=(f"normalise: data: {norm}",))
    with importable(*places):
        student = _network(recipe, architecture, images.signature, norm, "initial weights").to(device)
        auxiliary_models = {
            name: _network(recipe, architecture, images.signature, norm, name).to(device)
            for name in recipe.method.auxiliary_models
        }
    init = None
    if weights is not None:
        taken = begin_with(student, word, weights)
        init = {"source": recipe.init, "digest": weights.digest, "used": len(taken.used), "made": list(taken.made)}
        yield Beginning(lines=(f"init: {word}: {taken}",))
    yield Beginning(
        lines=(
            network_line("student", recipe.student.label, student),
            *(
                network_line(f"auxiliary model {name}", recipe.student.label, one)
                for name, one in auxiliary_models.items()
            ),
            *(network_line(f"teacher {role}", str(recipe.teachers[role]), one) for role, one in teachers.items()),
        )
    )
    prepared = [student, *auxiliary_models.values()]
    for teacher in teachers.values():
        if shard_teachers and processes.count > 1:
            sharded(teacher, processes, device)
        else:
            prepared.append(teacher.to(device))
    mixed = None
    if extra is not None:
        second = processes.together(lambda: open_extra(extra, images.signature))
        mixed = Mixture(placed, second, extra.fraction, taught=extra.labels == "teacher")
        share = f"{extra.fraction:g} of every batch"
        yield Beginning(lines=(f"extra images: {second.name}: {len(second):,}, {share}, labels: {extra.labels}",))
    recipe.performance.prepare(prepared, device)
    least = max(map(least_batch, [student, *auxiliary_models.values()]))
    loader = Loader(
        mixed or placed, recipe.training.batch, recipe.augment, recipe.seed, processes, least, recipe.training.balance
    )
    loop = Loop(
        recipe.method,
        student,
        teachers,
        loader,
        recipe.training.on(device),
        recipe.seed,
        auxiliary_models=auxiliary_models,
    )
    stage = Stage(
        loop=loop,
        architecture=architecture,
        classes=images.classes,
        data=kept.digest if mixed is None else sha256(f"{kept.digest}{mixed.extra.digest}".encode()).hexdigest(),
        notes=images.notes,
        held_out=held.at(stratified_subset(held, recipe.selection.examples, recipe.seed)).decoded().to(device),
        teachers=digests,
        init=init,
    )
    amount = f"{recipe.training.epochs:,} epochs of {len(loader):,} batches of {loader.batch:,} images"
    shared = f" on {processes.count} processes" if processes.count > 1 else ""
    graphs = recipe.performance.compiles(loop.device) == "graphs"
    computing = device_line(loop.device, loop.precision, graphs=graphs)
    yield Beginning(lines=(f"method: {recipe.method.kind}; {amount}{shared}", computing))
    return stage


def _check_labels(recipe: Recipe, extra: Extra) -> None:
    """Raise ``InputError`` where the method needs what the extra images do not have."""
    kind = recipe.method.kind
    if extra.labels == "none" and not needs_no_labels(recipe.method):
        raise InputError(
            f"method {kind!r} needs a label of every image, and data.extra.labels: none gives extra images none; use "
            "labels: theirs or teacher, or a method that needs none (such as rslad, adaad or igdm)"
        )
    if extra.labels == "teacher" and not recipe.method.roles:
        raise InputError(f"data.extra.labels: teacher: method {kind!r} has no teacher; use labels: theirs")
    if recipe.augment.mixes and extra.labels != "theirs":
        raise InputError(
            "augment.mixup and augment.cutmix mix labels, and extra images have none of their own before they are "
            "shown; set both to 0 or use data.extra.labels: theirs"
        )


def _with_test(recipe: Recipe, splits: Mapping[str, _Images]) -> tuple[str, ...]:
    """Return the images per class, those of the test split too where it is here, and what it says of itself."""
    if isinstance(recipe.data, Hub):
        return (f"{per_class_line(splits)} (the test split is fetched by evaluate)",)
    try:
        test = recipe.data.open("test")
        whole = {**splits, "test": test} if test.classes == next(iter(splits.values())).classes else splits
    except InputError:  # that there is none has been said
        return (per_class_line(splits),)
    said = notes_of(splits["train"])
    return per_class_line(whole), *(note for note in notes_of(test) if note not in said)


def _fit(recipe: Recipe, teachers: Mapping[str, Classifier]) -> Architecture:
    try:
        return recipe.method.adapt_student(recipe.student, teachers)
    except ValueError as problem:
        raise InputError(f"method {recipe.method.kind!r} cannot use this teacher: {problem}") from problem


def _network(
    recipe: Recipe, architecture: Architecture, signature: Signature, norm: Normalisation, name: str
) -> Classifier:
    torch.manual_seed(seed_at(recipe.seed, name))
    return build(architecture, signature, mean=norm.mean, std=norm.std)

"""``teacher check``: is this network worth learning from? Asked before hours are spent on it."""

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from overproof.allocation import keep_freed_memory
from overproof.attacks.ball import Norm
from overproof.attacks.pgd import PGD
from overproof.attacks.suites import Suite
from overproof.commands.train import training
from overproof.data.images import ImageSet, stratified_subset
from overproof.data.sources import Npz
from overproof.diagnostics.teacher_check import (
    Student,
    TeacherCheck,
    better_reading,
    class_order,
    confidence_in_errors,
    readings,
)
from overproof.diagnostics.transferability import transferability
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError
from overproof.evaluation.attacked import judge
from overproof.evaluation.calibration import calibration
from overproof.evaluation.input_checks import admit, need_gradients
from overproof.files import make_folder
from overproof.methods.pgd_at import PGDAT
from overproof.models.classifier import Classifier
from overproof.models.external.onnx_network import lacking_of
from overproof.recipe import Recipe, plain, read
from overproof.runs.folder import Run
from overproof.runs.resolve import resolve
from overproof.runs.sources import AnySource, Images
from overproof.runs.subject import choose_suite, draw_batch, evaluation_task
from overproof.shipped import find_recipe, shipped_recipe

EXAMPLES = 500
ALONE_UPDATES = 400
"""So long is the student of a recipe trained without a teacher before its images are tried on one."""
ALONE_IMAGES = 8192
"""On at most so many of the recipe's training images."""


def check_teacher(
    run: AnySource,
    *,
    data: Images | None = None,
    eps: str | float | None = None,
    norm: Norm | None = None,
    examples: int = EXAMPLES,
    student: AnySource | Recipe | None = None,
    seed: int = 0,
    device: str = "auto",
    out: Path | str | None = None,
    trust_code: bool = False,
) -> tuple[TeacherCheck, dict[str, Any]]:
    """Check a network's fitness as a teacher on test images; write ``teacher.json``, return verdict and contents.

    ``run`` is any source (see ``resolve.find_network``); one that does not know its images needs ``data``. ``examples``
    images of the test split (0: all) go through clean accuracy, the ``quick`` attacks at ``eps`` in ``norm`` (default:
    the run's own), the usual readings of pixels, the orders of classes, and calibration. ``student`` names a run that
    was trained alone, or a recipe, whose student is then trained alone for ``ALONE_UPDATES`` updates on some of its
    images: a teacher should be more robust than it, and feel what is searched on it (see ``transferability``).
    ``trust_code`` runs code that the files of a run name, wherever it lies. What is found of a network in memory is
    written only where ``out`` says. Figures are for this decision; ``evaluate`` gives those to be quoted. Raises
    ``InputError``.
    """
    keep_freed_memory()
    subject, place = evaluation_task(run, data, classes_by_position=True, trust_code=trust_code), pick_device(device)
    threat, suite = choose_suite(subject, ("quick",), norm, eps)
    if threat is None:
        raise InputError(f"{subject.name}: an eps of 0 attacks nothing; a teacher is checked under attack")
    images = subject.images.at(subject.rows(examples, seed)).decoded().to(place)
    model = subject.model.to(place)
    if white := next((trial.name for trial in suite.attacks if trial.family == "white_box"), None):
        need_gradients(white, model, draw_batch(images, seed).x, where=f"{subject.name}{lacking_of(model.backbone)}")
    seen = readings(model, torch.cat([part.x for part in images.batches(500)]), images.labels)
    warnings: tuple[str, ...] = ()
    if better_reading(seen) is None:  # else that is what is wrong, and the verdict says so
        batch = draw_batch(images, seed)
        warnings = admit(model, batch.x, batch.y, where=subject.name)
    verdicts = judge(model, images, suite.attacks, seed=seed)
    alone = None if student is None else _student_alone(student, images, seed, device, trust_code)
    transfer = None
    if alone is not None:
        search = PGD(norm=threat.norm, eps=threat.eps)
        transfer = transferability(model, alone[1].to(place), images, search, seed=seed)
    clean, attacked = verdicts.state["clean_logits"], verdicts.state["attacked_logits"]
    result = TeacherCheck(
        clean=verdicts.clean,
        robust=verdicts.worst,
        readings=seen,
        order=class_order(clean, verdicts.labels),
        calibration=calibration(clean, verdicts.labels),
        errors_clean=confidence_in_errors(clean, verdicts.labels),
        errors_attacked=confidence_in_errors(attacked, verdicts.labels),
        student=None if alone is None else _judged(*alone, images, suite, seed),
        transferability=transfer,
    )
    content = {
        **subject.facts,
        **result.plain(),
        "data": {"name": images.name, "split": "test", "examples": len(images), "of": len(subject.images)},
        "threat": plain(threat),
        "suite": suite.name,
        "seed": seed,
        "warnings": list(warnings),
        "versions": versions(),
        "hardware": hardware(place),
    }
    if out is not None or not isinstance(run, nn.Module):
        folder = subject.folder if out is None else Path(out)
        make_folder(folder)
        Run(folder).write_json("teacher.json", content)
    return result, content


def _judged(name: str, student: Classifier, images: ImageSet, suite: Suite, seed: int) -> Student:
    verdicts = judge(student, images, suite.attacks, seed=seed)
    return Student(name=name, clean=verdicts.clean, robust=verdicts.worst)


def _student_alone(
    source: AnySource | Recipe, images: ImageSet, seed: int, device: str, trust_code: bool
) -> tuple[str, Classifier]:
    """Return a name and a network: a run's as it is, a recipe's after a short training without a teacher."""
    if isinstance(source, Recipe):
        recipe, beside = source, None
    elif (file := _recipe_file(source)) is not None:
        recipe, beside = read(file, trust_code=trust_code), file.parent
    else:
        student = resolve(source, images.signature, trust_code=trust_code)
        return student.known.title, student.model
    with TemporaryDirectory() as folder:
        alone = _shortened(recipe, Path(folder) / "images.npz", seed)
        for _ in training(alone, Path(folder) / "run", device=device, beside=beside, trust_code=trust_code):
            pass
        model, _ = Run(Path(folder) / "run").model()
    if model.signature != images.signature:
        raise InputError(f"recipe {recipe.name}: its images are {model.signature}, the teacher's {images.signature}")
    return f"the student of recipe {recipe.name} after {ALONE_UPDATES} updates", model


def _recipe_file(source: AnySource) -> Path | None:
    """Return the file of the recipe that a word means; None for a word that means a network."""
    if not isinstance(source, str | Path):
        return None
    place = Path(source)
    if place.suffix not in (".yaml", ".yml") and (place.exists() or shipped_recipe(str(source)) is None):
        return None
    return find_recipe(str(source))


def _shortened(recipe: Recipe, file: Path, seed: int) -> Recipe:
    """Return a recipe of adversarial training for the same student, on a part of the images that it writes to ``file``.

    PGD of two steps, which is enough for a search on it to find what it is blind to.
    """
    images = recipe.data.open("train")
    images = images.at(stratified_subset(images, ALONE_IMAGES, seed)).decoded()
    x, y = (part.cpu().numpy() for part in (images.images, images.labels))
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    kept = len(images) - math.ceil(recipe.selection.fraction * len(images))
    search = PGD(norm=recipe.threat.norm, eps=recipe.threat.eps, steps=2, ramp=0.5)
    epochs = math.ceil(ALONE_UPDATES / max(1, kept // recipe.training.batch))
    return replace(
        recipe,
        name="alone",
        data=Npz(path=str(file)),
        teachers={},
        method=PGDAT(inner=search),
        training=replace(recipe.training, epochs=epochs, teacher_cache=False),
        selection=replace(recipe.selection, every=epochs),
        trackers=(),
    )

"""``teacher check``: is this network worth learning from? Asked before hours are spent on it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from overproof.allocation import keep_freed_memory
from overproof.attacks.ball import Norm
from overproof.attacks.suites import Suite
from overproof.data.images import ImageSet
from overproof.diagnostics.teacher_check import (
    Student,
    TeacherCheck,
    better_reading,
    class_order,
    confidence_in_errors,
    readings,
)
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError
from overproof.evaluation.attacked import judge
from overproof.evaluation.calibration import calibration
from overproof.evaluation.input_checks import admit, need_gradients
from overproof.files import make_folder
from overproof.models.external.onnx_network import lacking_of
from overproof.recipe import plain
from overproof.runs.folder import Run
from overproof.runs.resolve import resolve
from overproof.runs.sources import AnySource, Images
from overproof.runs.subject import choose_suite, draw_batch, evaluation_task

EXAMPLES = 500


def check_teacher(
    run: AnySource,
    *,
    data: Images | None = None,
    eps: str | float | None = None,
    norm: Norm | None = None,
    examples: int = EXAMPLES,
    student: AnySource | None = None,
    seed: int = 0,
    device: str = "auto",
    out: Path | str | None = None,
    trust_code: bool = False,
) -> tuple[TeacherCheck, dict[str, Any]]:
    """Check a network's fitness as a teacher on test images; write ``teacher.json``, return verdict and contents.

    ``run`` is any source (see ``resolve.find_network``); one that does not know its images needs ``data``. ``examples``
    images of the test split (0: all) go through clean accuracy, the ``quick`` attacks at ``eps`` in ``norm`` (default:
    the run's own), the usual readings of pixels, the orders of classes, and calibration. ``student`` names a run that
    was trained alone: a teacher should be more robust than it. ``trust_code`` runs code that the files of a run name,
    wherever it lies. What is found of a network in memory is written only where ``out`` says. Figures are for this
    decision; ``evaluate`` gives those to be quoted. Raises ``InputError``.
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
    clean, attacked = verdicts.state["clean_logits"], verdicts.state["attacked_logits"]
    result = TeacherCheck(
        clean=verdicts.clean,
        robust=verdicts.worst,
        readings=seen,
        order=class_order(clean, verdicts.labels),
        calibration=calibration(clean, verdicts.labels),
        errors_clean=confidence_in_errors(clean, verdicts.labels),
        errors_attacked=confidence_in_errors(attacked, verdicts.labels),
        student=None if student is None else _alone(student, images, suite, seed, trust_code),
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


def _alone(source: AnySource, images: ImageSet, suite: Suite, seed: int, trust_code: bool) -> Student:
    student = resolve(source, images.signature, trust_code=trust_code)
    verdicts = judge(student.model.to(images.images.device), images, suite.attacks, seed=seed)
    return Student(name=student.known.title, clean=verdicts.clean, robust=verdicts.worst)

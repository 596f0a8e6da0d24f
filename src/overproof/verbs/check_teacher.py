"""``teacher check``: is this network worth learning from? Asked before hours are spent on it."""

from pathlib import Path
from typing import Any

import torch

from overproof.allocation import keep_freed_memory
from overproof.attacks.ball import Norm
from overproof.data.images import ImageSet
from overproof.data.sources import Source
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError
from overproof.evaluation.admission import admit
from overproof.evaluation.attacked import judge
from overproof.evaluation.calibration import calibration
from overproof.evaluation.suitability import (
    Student,
    Suitability,
    better_reading,
    class_order,
    confidence_in_errors,
    readings,
)
from overproof.evaluation.trial import Suite
from overproof.files import make_folder
from overproof.recipe import plain
from overproof.run import Run
from overproof.verbs.examinee import chosen_suite, examinee, shown
from overproof.verbs.networks import find_network

EXAMPLES = 500


def check_teacher(
    run: Run | Path | str,
    *,
    data: Source | str | None = None,
    eps: str | float | None = None,
    norm: Norm | None = None,
    examples: int = EXAMPLES,
    student: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    out: Path | str | None = None,
) -> tuple[Suitability, dict[str, Any]]:
    """Check a network's fitness as a teacher on test images; write ``teacher.json``, return verdict and contents.

    ``run`` is a run folder, a Hub repository or another package's network (with ``data``). ``examples`` test images
    (0: all) go through clean accuracy, the ``quick`` attacks at ``eps`` in ``norm`` (default: the run's own), the usual
    readings of pixels, the orders of classes, and calibration. ``student`` names a run that was trained alone: a
    teacher should be more robust than it. Figures are for this decision; ``evaluate`` gives those to be quoted. Raises
    ``InputError``.
    """
    keep_freed_memory()
    subject, place = examinee(run, data, classes_by_position=True), pick_device(device)
    threat, suite = chosen_suite(subject, ("quick",), norm, eps)
    if threat is None:
        raise InputError(f"{subject.name}: an eps of 0 attacks nothing; a teacher is checked under attack")
    images = subject.images.at(subject.rows(examples, seed)).decoded().to(place)
    model = subject.model.to(place)
    seen = readings(model, torch.cat([part.x for part in images.batches(500)]), images.labels)
    warnings: tuple[str, ...] = ()
    if better_reading(seen) is None:  # else that is what is wrong, and the verdict says so
        batch = shown(images, seed)
        warnings = admit(model, batch.x, batch.y, where=subject.name)
    verdicts = judge(model, images, suite.attacks, seed=seed)
    clean, attacked = verdicts.marks["clean_logits"], verdicts.marks["attacked_logits"]
    found = Suitability(
        clean=verdicts.clean,
        robust=verdicts.worst,
        readings=seen,
        order=class_order(clean, verdicts.labels),
        calibration=calibration(clean, verdicts.labels),
        errors_clean=confidence_in_errors(clean, verdicts.labels),
        errors_attacked=confidence_in_errors(attacked, verdicts.labels),
        student=None if student is None else _alone(student, images, suite, seed),
    )
    content = {
        **subject.facts,
        **found.plain(),
        "data": {"name": images.name, "split": "test", "examples": len(images), "of": len(subject.images)},
        "threat": plain(threat),
        "suite": suite.name,
        "seed": seed,
        "warnings": list(warnings),
        "versions": versions(),
        "hardware": hardware(place),
    }
    folder = subject.folder if out is None else Path(out)
    make_folder(folder)
    Run(folder).write_json("teacher.json", content)
    return found, content


def _alone(word: Path | str, images: ImageSet, suite: Suite, seed: int) -> Student:
    model = find_network(word, images.signature).model.to(images.images.device)
    verdicts = judge(model, images, suite.attacks, seed=seed)
    return Student(name=str(word), clean=verdicts.clean, robust=verdicts.worst)

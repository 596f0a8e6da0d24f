"""Reading a run folder for a reader: what it holds, written by this version of overproof or by an older one."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from overproof.errors import InputError
from overproof.models.cost import multiply_adds
from overproof.models.external.module import external_of
from overproof.models.weights import build, from_plain
from overproof.reading import parsing, reason
from overproof.recipe import plain
from overproof.report.charts import brackets, of_run, per_class, radii, survivors
from overproof.report.findings import Findings, Other
from overproof.report.pictures import read_pictures
from overproof.report.provenance import commands, missing
from overproof.report.table import tables
from overproof.report.text import as_csv, as_latex, as_markdown
from overproof.runs.folder import Run
from overproof.runs.results import CERTIFICATE, EVALUATION
from overproof.signature import Signature


def findings(folder: Path, *, trust_code: bool = False) -> Findings:
    """Return what a run holds; raise ``InputError`` where it is not evaluated, or not the network that is there.

    Code that its files name is run with ``trust_code`` alone.
    """
    run = Run(folder)
    with parsing(folder, "a run's results"):
        result = _read(run, trust_code)
    _check(result)
    return result


def _read(run: Run, trust_code: bool) -> Findings:
    folder, evaluation = run.folder, read_evaluation(run)
    certificate, notes = _certificate(run, evaluation)
    home = Run(EVALUATION.folder(folder, evaluation))
    file, kept = home.folder / "adversarial.safetensors", evaluation.get("adversarial")
    pictures = read_pictures(file) if kept and file.is_file() else None
    if kept and kept.get("images") and pictures is None:
        notes = (
            *notes,
            f"misclassified images: {file.name} is missing, or of an older version without the clean images",
        )
    return Findings(
        evaluation=evaluation,
        folder=str(folder),
        certificate=certificate,
        metrics=run.metrics(),
        examples=home.examples(),
        recipe=plain(run.recipe()) if _is_trained(run) else None,
        classes=_classes(run, evaluation),
        multiply_adds=_multiply_adds(run, evaluation, trust_code),
        lengths=_lengths(run),
        pictures=pictures,
        notes=notes,
        others=_others(run, evaluation, certificate),
    )


def read_evaluation(run: Run) -> dict[str, Any]:
    """Return a run's evaluation; raise ``InputError`` where there is none, or of another network.

    Schema 1 (overproof 0.1) is read as 2: what it did not record is absent.
    """
    folder, evaluation = run.folder, run.evaluation()
    if evaluation is None and (proved := run.certificate()) is not None:
        evaluation = _of_certificate(proved, folder)
    if evaluation is None:
        run.recipe()  # no run folder at all is another sentence
        if not (folder / "model.json").is_file():
            raise InputError(
                f"{folder}: not finished yet; continue it with: overproof train ... --out {folder} --resume"
            )
        raise InputError(f"{folder}: not evaluated yet; run: overproof evaluate {folder}")
    schema = evaluation.get("schema")
    if schema not in (1, EVALUATION.schema):
        raise InputError(
            f"{folder}: its evaluation.json is of schema {schema!r}, this version of overproof reads 1 and "
            f"{EVALUATION.schema}; evaluate it again"
        )
    # What was found about a foreign network lies in a folder without the network.
    if _is_trained(run) and evaluation.get("model_digest") != run.description()["digest"]:
        raise InputError(f"{folder}: its network has changed since it was evaluated; run: overproof evaluate {folder}")
    return _migrate(evaluation) if schema == 1 else evaluation


def _of_certificate(certificate: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what a certificate says of accuracy, where no evaluation was made: its own attack is a short one.

    Raises ``InputError`` for one of another version, and one by smoothing, which attacks nothing.
    """
    if certificate.get("kind") != "bounds" or certificate.get("schema") != CERTIFICATE.schema:
        raise InputError(f"{folder}: not evaluated yet; run: overproof evaluate {folder}")
    names = ("run", "method", "architecture", "recipe_seed", "model_digest", "selected_on", "parameters")
    caution = "the certificate's short attack alone; evaluate may break more"
    return {
        **{name: certificate[name] for name in names if name in certificate},
        **{name: certificate[name] for name in ("data", "threat", "seed", "batch", "warnings", "versions", "hardware")},
        "schema": EVALUATION.schema,
        "suite": {"name": "certify", "survivors": False, "caution": caution},
        "search_precision": "fp32",
        "clean": certificate["clean"],
        "attacks": {},
        "worst": certificate["standing"],
        "reliability": None,
        "teacher": None,
    }


def _migrate(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation of schema 1 as one of 2: every attack met every example, and three options had one value."""
    evaluation = {**evaluation, "suite": {"name": "recipe", "survivors": False, "caution": ""}}
    for attack in evaluation.get("attacks", {}).values():
        trial = attack.get("trial")
        if trial is not None:
            attack["trial"] = {
                "targets": 0,
                "surrogate": False,
                **trial,
                "attack": {"momentum": 0.0, **trial["attack"]},
            }
    return evaluation


def _others(run: Run, evaluation: dict[str, Any], certificate: dict[str, Any] | None) -> tuple[Other, ...]:
    """Return what else is kept about the same network; what cannot be read as a result is left out."""
    kept = [(one, "evaluation") for one in EVALUATION.others(run.folder, evaluation)]
    if certificate is not None:
        kept += [(one, "certificate") for one in CERTIFICATE.others(run.folder, certificate)]
    others = []
    for one, what in kept:
        with suppress(KeyError, TypeError, ValueError, AttributeError, InputError):
            others.append(Other.of(str(one.folder), one.result, what))
    return tuple(others)


def _is_trained(run: Run) -> bool:
    return (run.folder / "recipe.yaml").is_file()


def _certificate(run: Run, evaluation: dict[str, Any]) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return the certificate of the evaluated network, or None and why it is left out."""
    certificate = run.certificate()
    if certificate is None:
        return None, ()
    if certificate.get("schema") != CERTIFICATE.schema:
        return None, (f"certificate.json: of schema {certificate.get('schema')!r}, not {CERTIFICATE.schema}",)
    if certificate.get("model_digest") != evaluation.get("model_digest"):
        return None, ("certificate.json: of another network than evaluation.json",)
    return certificate, ()


def _classes(run: Run, evaluation: dict[str, Any]) -> tuple[str, ...]:
    if "classes" in evaluation:
        return tuple(map(str, evaluation["classes"]))
    return tuple(run.description()["classes"]) if _is_trained(run) else ()


def _lengths(run: Run) -> tuple[int, ...]:
    return tuple(map(int, run.description().get("extended_from", ()))) if _is_trained(run) else ()


def _multiply_adds(run: Run, evaluation: dict[str, Any], trust_code: bool) -> int | None:
    """Return what the evaluation recorded, or count again.

    A foreign network of an older version has none, and one that code makes none unless that code is trusted.
    """
    if "multiply_adds" in evaluation or not _is_trained(run):
        recorded = evaluation.get("multiply_adds")
        return None if recorded is None else int(recorded)
    description = run.description()
    signature = Signature(**description["signature"])
    architecture = from_plain(description["architecture"])
    if external_of(architecture) is not None:
        return multiply_adds(run.model(trust_code=True)[0], signature) if trust_code else None
    with torch.device("meta"):
        network = build(architecture, signature)
    return multiply_adds(network, signature)


def _check(result: Findings) -> None:
    """Raise ``InputError`` for results that no page can show."""
    try:
        for part in (of_run, per_class, commands, missing):
            part(result)
        for across in (radii, brackets):
            across([result])
        survivors([result], [0])
        laid = tables([result])
        for written in (as_csv, as_markdown, as_latex):
            written(laid)
    except Exception as problem:  # a file that anybody may have written holds anything
        raise InputError(
            f"{result.folder}: its results are not as overproof writes them ({reason(problem)}); evaluate it again"
        ) from problem

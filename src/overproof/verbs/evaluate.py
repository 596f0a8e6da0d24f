"""``evaluate``: the only reader of the test split; writes what it found beside the network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from overproof.attacks.ball import Norm, Radius, Threat
from overproof.data.images import balanced_subset
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError, nearest
from overproof.evaluation.attacked import Trial, Verdicts, judge
from overproof.models.classifier import parameter_count
from overproof.recipe import plain
from overproof.run import Run

SCHEMA = 1


def evaluate(
    run: Run | Path | str,
    *,
    attacks: tuple[str, ...] = (),
    eps: str | float | None = None,
    norm: Norm | None = None,
    examples: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Attack a run's network on the test split; write and return ``evaluation.json``, and write ``examples.jsonl``.

    ``attacks`` picks trials of the recipe by name (all). ``eps`` and ``norm`` replace the recipe's threat. ``examples``
    takes a seeded, class-balanced subset (0: all). Raises ``InputError``.
    """
    run = run if isinstance(run, Run) else Run(Path(run))
    recipe = run.recipe()
    model, description = run.model()
    threat = _threat(recipe.threat, norm, eps)
    trials = tuple(_under(trial, threat) for trial in _picked(recipe.evaluation.attacks, attacks))
    place = pick_device(device)
    images = recipe.data.load("test")
    if images.signature != model.signature:
        raise InputError(f"{run.folder}: the network is for {model.signature}, the test images are {images.signature}")
    count = recipe.evaluation.examples if examples is None else examples
    if count < 0:
        raise InputError(f"examples must be 0 (all) or more, got {count}")
    chosen = balanced_subset(images, count or len(images), seed)
    subset = images.at(chosen)
    verdicts = judge(model.to(place), subset.to(place), trials, batch=recipe.evaluation.batch, seed=seed)
    found = {
        "schema": SCHEMA,
        "run": recipe.name,
        "method": recipe.method.kind,
        "architecture": recipe.student.kind,
        "parameters": parameter_count(model),
        "recipe_seed": recipe.seed,
        "model_digest": description["digest"],
        "selected_on": description["selected_on"],
        "data": {
            "name": images.name,
            "split": "test",
            "examples": len(subset),
            "of": len(images),
            "digest": subset.digest,
        },
        "threat": plain(threat),
        "seed": seed,
        **_figures(verdicts, trials),
        "versions": versions(),
        "hardware": hardware(place),
    }
    run.write_lines("examples.jsonl", _lines(verdicts, chosen.tolist()))
    run.write_json("evaluation.json", found)
    return found


def _figures(verdicts: Verdicts, trials: tuple[Trial, ...]) -> dict[str, Any]:
    clean = verdicts.clean
    return {
        "clean": clean.plain(),
        "attacks": {
            trial.name: {
                **verdicts.attacks[trial.name].plain(),
                # Weighted robust accuracy (MTARD): half clean, half robust.
                "w_robust": (clean.share + verdicts.attacks[trial.name].share) / 2,
                "trial": plain(trial),
            }
            for trial in trials
        },
        "worst": verdicts.worst.plain(),
    }


def _lines(verdicts: Verdicts, indices: list[int]) -> list[dict[str, Any]]:
    return [
        {"index": index, "label": label, "prediction": prediction, "broken_by": broken_by}
        for index, label, prediction, broken_by in zip(
            indices,
            verdicts.labels.tolist(),
            verdicts.predictions.tolist(),
            verdicts.broken_by(),
            strict=True,
        )
    ]


def _threat(threat: Threat, norm: Norm | None, eps: str | float | None) -> Threat:
    try:
        return Threat(norm=norm or threat.norm, eps=threat.eps if eps is None else Radius(eps))
    except ValueError as problem:
        raise InputError(str(problem)) from problem


def _under(trial: Trial, threat: Threat) -> Trial:
    """Return the trial in this threat model; a step length made for another radius is dropped with it."""
    if (trial.attack.norm, trial.attack.eps) == (threat.norm, threat.eps):
        return trial
    return replace(trial, attack=replace(trial.attack, norm=threat.norm, eps=threat.eps, step=None))


def _picked(trials: tuple[Trial, ...], names: tuple[str, ...]) -> tuple[Trial, ...]:
    known = {trial.name: trial for trial in trials}
    for name in names:
        if name not in known:
            raise InputError(f"the recipe has no attack {name!r}{nearest(name, known)}")
    return tuple(known[name] for name in names) or trials

"""``train``: from a recipe to a run folder, resumable to the bit."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from overproof.data.draws import seed_at
from overproof.data.images import ImageSet, balanced_subset, check_trainable, hold_out
from overproof.data.loader import Loader
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError
from overproof.evaluation.attacked import judge
from overproof.files import write_atomically
from overproof.models.architecture import Architecture
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.weights import build, freeze, save_model
from overproof.recipe import Recipe, differences, dump, read
from overproof.run import Run
from overproof.shipped import find_recipe
from overproof.signature import Signature
from overproof.training.checkpoint import load_checkpoint, save_checkpoint
from overproof.training.cost import passes
from overproof.training.loop import Loop, Progress
from overproof.verbs.tracking import tracked

_SHORT = 16  # a method's memory up to this many numbers is a trajectory worth keeping, beyond it a working buffer


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Accuracy on the held-out part, clean and under the selection's trial, after ``epoch`` finished epochs."""

    epoch: int
    clean: float
    robust: float

    def better_than(self, other: "Validation | None") -> bool:
        """Whether this epoch is chosen over the other: more robust, then more accurate, then earlier."""
        return other is None or (self.robust, self.clean) > (other.robust, other.clean)


@dataclass(frozen=True, kw_only=True)
class News:
    """What a run has to say at one moment: its progress, and validation where an epoch was validated."""

    progress: Progress
    epochs: int
    learning_rate: float
    validation: Validation | None = None
    best: Validation | None = None
    warnings: tuple[str, ...] = ()


def train(
    recipe: Recipe | Path | str, out: Path | str | None = None, *, resume: bool = False, device: str = "auto"
) -> Run:
    """Train to the end and return the run.

    ``recipe`` is a value, a file, or the name of a shipped recipe; ``out`` defaults to ``runs/<the recipe's name>``.
    Raises ``InputError`` for what cannot be used, before anything is written.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read(find_recipe(str(recipe)))
    folder = default_folder(recipe) if out is None else Path(out)
    for _ in training(recipe, folder, resume=resume, device=device):
        pass
    return Run(folder)


def default_folder(recipe: Recipe) -> Path:
    """Return where a run goes when nobody says: ``runs/<the recipe's name>``."""
    return Path("runs") / recipe.name


def training(recipe: Recipe, out: Path, *, resume: bool = False, device: str = "auto") -> Iterator[News]:
    """Train step by step: yield news at every look at the losses; everything of value is on disk before each yield."""
    run = Run(out)
    resuming = _check_folder(recipe, run, resume)
    stage = _set_up(recipe, pick_device(device))
    loop, epochs = stage.loop, recipe.training.epochs
    best: Validation | None = None
    records: list[dict[str, Any]] = []
    warnings: list[str] = []
    if resuming:
        state, refused = load_checkpoint(run.checkpoints)
        warnings += [f"{sentence}; the one before is used" for sentence in refused]
        loop.restore(state)
        best = Validation(**state["best"]) if state["best"] else None
        # A crash may fall between writing the metrics and the checkpoint; the epoch after it is then run again.
        records = run.metrics()[: loop.epoch]
    with tracked(recipe, out, since=loop.epoch) as tell:
        if not resuming:
            _begin(run, recipe, loop)
        saved = time.monotonic()
        clock = _Clock()
        for progress in loop.run():
            latest = None
            if progress.whole:
                seconds = clock.read()
                last = progress.epoch == epochs
                if progress.epoch % recipe.selection.every == 0 or last:
                    network = loop.network()
                    latest = validate(network, stage.held_out, recipe, progress.epoch, loop.precision)
                    if best and collapsed(best, latest):
                        warnings.append(
                            f"catastrophic overfitting: robust accuracy fell from {100 * best.robust:.1f} % (epoch "
                            f"{best.epoch}) to {100 * latest.robust:.1f} % while clean accuracy stayed"
                        )
                    names = ["model"] if latest.better_than(best) else []
                    for name in [*names, "last"] if last else names:
                        facts = {**_facts(recipe, loop), **_chosen(latest)}
                        save_model(out, network, stage.architecture, stage.classes, facts=facts, name=name)
                    best = latest if names else best
                records.append(_record(progress, loop, latest, best, seconds))
                run.write_metrics(records)
                tell(records[-1])
            if progress.whole or time.monotonic() - saved > 60 * recipe.training.checkpoint_minutes:
                _save(run, loop, best)
                saved = time.monotonic()
            if progress.whole:
                clock = _Clock()
            yield News(
                progress=progress,
                epochs=epochs,
                learning_rate=loop.optimiser.param_groups[0]["lr"],
                validation=latest,
                best=best,
                warnings=tuple(warnings),
            )
            warnings = []


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """All that a run needs before its first step."""

    loop: Loop
    architecture: Architecture
    classes: tuple[str, ...]
    held_out: ImageSet


class _Clock:
    """Wall time, and the processor time of this process, which other work on the machine does not stretch."""

    def __init__(self) -> None:
        self._wall, self._processor = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "seconds": round(time.monotonic() - self._wall, 3),
            "processor_seconds": round(time.process_time() - self._processor, 3),
        }


def _set_up(recipe: Recipe, device: torch.device) -> _Stage:
    """Read the images, build and load the networks; raise ``InputError`` for what does not fit together."""
    images = recipe.data.load("train")
    kept, held = hold_out(images, recipe.selection.fraction, recipe.seed)
    check_trainable(kept, recipe.training.batch)
    teachers = {role: load_teacher(role, path, images).to(device) for role, path in recipe.teachers.items()}
    architecture = _fitted(recipe, teachers)
    student = _network(recipe, architecture, images.signature, "initial weights").to(device)
    companions = {
        name: _network(recipe, architecture, images.signature, name).to(device) for name in recipe.method.companions
    }
    loader = Loader(kept.to(device), recipe.training.batch, recipe.augment, recipe.seed)
    return _Stage(
        loop=Loop(recipe.method, student, teachers, loader, recipe.training, recipe.seed, companions=companions),
        architecture=architecture,
        classes=images.classes,
        held_out=held.at(balanced_subset(held, recipe.selection.examples, recipe.seed)).to(device),
    )


def _begin(run: Run, recipe: Recipe, loop: Loop) -> None:
    """Make the run folder with its first state and its recipe."""
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"{run.folder}: cannot be made ({problem.strerror})") from problem
    # The recipe marks a run as started, so it comes after the first state: a kill in between leaves no riddle.
    _save(run, loop, None)
    write_atomically(run.folder / "recipe.yaml", dump(recipe).encode())


def validate(network: Classifier, images: ImageSet, recipe: Recipe, epoch: int, precision: str) -> Validation:
    """Attack the network on the held-out images with the selection's trial, in the precision of the training."""
    device = images.images.device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        verdicts = judge(network, images, (recipe.selection.trial,), seed=recipe.seed)
    return Validation(epoch=epoch, clean=verdicts.clean.share, robust=verdicts.worst.share)


def load_teacher(role: str, path: str, images: ImageSet) -> Classifier:
    """Return a teacher from a run folder, frozen; raise ``InputError`` where it is for other images or classes."""
    teacher, description = Run(Path(path)).model()
    if teacher.signature != images.signature:
        raise InputError(
            f"teacher {role!r} ({path}) was trained for {teacher.signature}, the data are {images.signature}"
        )
    if tuple(description["classes"]) != images.classes:
        pairs = zip(description["classes"], images.classes, strict=True)
        index, (theirs, ours) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"teacher {role!r} ({path}) was trained on other classes: its {index} is {theirs!r}, here it is {ours!r}"
        )
    return freeze(teacher)


def collapsed(best: Validation, latest: Validation) -> bool:
    """Whether robust accuracy fell to less than half of its best while clean accuracy kept 90 % of its own.

    The mark of catastrophic overfitting in one-step training (Wong et al. 2020); a network that diverges loses both.
    """
    return latest.robust < best.robust / 2 and latest.clean > 0.9 * best.clean


def overfitting(run: Run) -> str:
    """Return one line on robust overfitting: the best validated epoch against the last."""
    records = [record["validation"] for record in run.metrics() if record["validation"]]
    if not records:
        return "no epoch was validated"
    last = records[-1]
    best = max(records, key=lambda record: (record["robust"], record["clean"], -record["epoch"]))
    drop = 100 * (best["robust"] - last["robust"])
    verdict = f"robust overfitting costs {drop:.1f} points" if drop >= 1 else "no robust overfitting to speak of"
    return (
        f"best epoch {best['epoch']}: {100 * best['robust']:.1f} % robust on held-out images; "
        f"last epoch {last['epoch']}: {100 * last['robust']:.1f} %; {verdict}"
    )


def _check_folder(recipe: Recipe, run: Run, resume: bool) -> bool:
    """Return whether there is a run to continue; raise ``InputError`` where it would be overwritten or is another."""
    started = (run.folder / "recipe.yaml").is_file()
    if run.folder.exists() and not run.folder.is_dir():
        raise InputError(f"{run.folder}: is a file, a run needs a folder; choose another --out")
    if not resume:
        if run.folder.exists() and any(run.folder.iterdir()):
            raise InputError(f"{run.folder}: exists already; continue it with --resume or choose another --out")
        return False
    if not started:
        return False
    changed = differences(run.recipe(), recipe)
    if changed:
        raise InputError(
            f"{run.folder}: the recipe is not the one this run was started with ({'; '.join(changed)}); "
            "use the old recipe or another --out"
        )
    return True


def _fitted(recipe: Recipe, teachers: Mapping[str, Classifier]) -> Architecture:
    try:
        return recipe.method.fitted(recipe.student, teachers)
    except ValueError as problem:
        raise InputError(f"method {recipe.method.kind!r} cannot use this teacher: {problem}") from problem


def _network(recipe: Recipe, architecture: Architecture, signature: Signature, name: str) -> Classifier:
    torch.manual_seed(seed_at(recipe.seed, name))
    return build(architecture, signature, mean=recipe.normalise.mean, std=recipe.normalise.std)


def _save(run: Run, loop: Loop, best: Validation | None) -> None:
    state = {**loop.state(), "best": asdict(best) if best else {}}
    save_checkpoint(run.checkpoints, state, loop.epoch * len(loop.loader) + loop.batch)


def _facts(recipe: Recipe, loop: Loop) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "recipe_digest": recipe.digest,
        "parameters": parameter_count(loop.student),
        "precision": loop.precision,
        "versions": versions(),
    }


def _chosen(validation: Validation) -> dict[str, Any]:
    return {"selected_on": "held-out part of the training split", "validation": asdict(validation)}


def _record(
    progress: Progress, loop: Loop, latest: Validation | None, best: Validation | None, seconds: dict[str, float]
) -> dict[str, Any]:
    return {
        "epoch": progress.epoch,
        "terms": dict(progress.means),
        "learning_rate": loop.optimiser.param_groups[0]["lr"],
        "validation": asdict(latest) if latest else None,
        "best_epoch": best.epoch if best else None,
        **seconds,
        "passes": {
            name: {"forward": found.forward * progress.batches, "backward": found.backward * progress.batches}
            for name, found in passes(loop.method).items()
        },
        "state": {name: value.tolist() for name, value in loop.memory.items() if value.numel() <= _SHORT},
        "precision": loop.precision,
        "hardware": hardware(loop.device),
    }

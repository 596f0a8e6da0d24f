"""``train``: from a recipe to a run folder, resumable to the bit."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from overproof.allocation import keep_freed_memory
from overproof.data.draws import seed_at
from overproof.data.encoded import EncodedSet
from overproof.data.images import ImageSet, check_trainable, hold_out, stratified_subset
from overproof.data.loader import Loader
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError
from overproof.evaluation.answers import is_constant
from overproof.evaluation.attacked import judge
from overproof.evaluation.shards import Shard
from overproof.files import make_folder, write_atomically
from overproof.locking import exclusive, lock_name
from overproof.models.architecture import Architecture
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.precision import tensor_float
from overproof.models.weights import build, save_model
from overproof.processes import ALONE, Processes, lost
from overproof.reading import parsing
from overproof.recipe import Recipe, differences, dump, read
from overproof.run import Run
from overproof.shipped import find_recipe
from overproof.signature import Signature
from overproof.training.checkpoint import load_checkpoint, save_checkpoint
from overproof.training.cost import passes_of_epoch
from overproof.training.loop import Loop, Progress
from overproof.training.parallel import sharded, splits_batchnorm
from overproof.verbs.agreement import check_same_images, check_same_recipe, check_same_teachers, check_shareable
from overproof.verbs.networks import digest_of, load_teacher
from overproof.verbs.tracking import tracked

_Images = ImageSet | EncodedSet
_SHORT = 16  # a method's memory up to this many numbers is a trajectory worth keeping, beyond it a working buffer


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Accuracy on the held-out part, clean and under the selection's trial, after ``epoch`` finished epochs.

    ``examples`` are the images it was measured on. ``constant`` says that the network gave nearly every image the same
    class (see ``evaluation.answers``).
    """

    epoch: int
    clean: float
    robust: float
    constant: bool = False
    examples: int = 0

    def better_than(self, other: "Validation | None") -> bool:
        """Whether this epoch is chosen over the other: not constant, then more robust, more accurate, earlier.

        A constant answer cannot be attacked: where one class is frequent, its robust accuracy beats an honest one's.
        """
        if other is None:
            return True
        mine, others = ((not one.constant, one.robust, one.clean) for one in (self, other))
        return mine > others


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
    recipe: Recipe | Path | str,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    shard_teachers: bool = False,
    trust_code: bool = False,
) -> Run:
    """Train to the end and return the run.

    ``recipe`` is a value, a file, or the name of a shipped recipe; ``out`` defaults to ``runs/<the recipe's name>``.
    ``shard_teachers`` leaves each of several processes its share of the teachers' weights. ``trust_code`` runs code
    that the file names wherever it lies (see ``trust``). Raises ``InputError`` for what cannot be used, before anything
    is written.
    """
    beside = None
    if not isinstance(recipe, Recipe):
        file = find_recipe(str(recipe))
        recipe, beside = read(file, trust_code=trust_code), file.parent
    folder = default_folder(recipe) if out is None else Path(out)
    for _ in training(recipe, folder, resume=resume, device=device, shard_teachers=shard_teachers, beside=beside):
        pass
    return Run(folder)


def default_folder(recipe: Recipe) -> Path:
    """Return where a run goes when nobody says: ``runs/<the recipe's name>``."""
    return Path("runs") / recipe.name


def training(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    shard_teachers: bool = False,
    beside: Path | None = None,
) -> Iterator[News]:
    """Train step by step: yield news at every look at the losses; everything of value is on disk before each yield.

    ``beside`` is the folder of the recipe's file: modules that the recipe names may lie in it, too.
    Started by ``accelerate launch`` or ``torchrun``, all processes train together; the leading one writes and has news.
    """
    processes = Processes.here(cpu=device == "cpu")
    try:
        with tensor_float(recipe.performance.tf32):
            for news in _course(recipe, Run(out), resume, device, processes, shard_teachers, beside):
                if processes.leads:
                    yield news
    except RuntimeError as problem:
        if processes.count > 1 and lost(problem):
            raise InputError(
                f"another of the {processes.count} processes has gone; the last checkpoint is in "
                f"{Run(out).checkpoints}, continue with --resume"
            ) from problem
        raise


def _course(
    recipe: Recipe,
    run: Run,
    resume: bool,
    device: str,
    processes: Processes,
    shard_teachers: bool,
    beside: Path | None,
) -> Iterator[News]:
    """Train as one of several processes; yield the same news in each."""
    check_same_recipe(recipe, processes)
    with ExitStack() as held:
        # Held until the end, by the leading process alone: two trainings in one folder would undo each other's files.
        resuming = processes.from_leader(partial(_enter_folder, recipe, run, resume, held))
        yield from _trained(recipe, run, resuming, device, processes, shard_teachers, beside)


def _enter_folder(recipe: Recipe, run: Run, resume: bool, held: ExitStack) -> bool:
    """Take hold of the run's folder; return whether there is a run to continue in it."""
    if run.folder.exists() and not run.folder.is_dir():
        raise InputError(f"{run.folder}: is a file, a run needs a folder; choose another --out")
    held.enter_context(exclusive(run.folder, "train"))
    return _check_folder(recipe, run, resume)


def _trained(
    recipe: Recipe,
    run: Run,
    resuming: bool,
    device: str,
    processes: Processes,
    shard_teachers: bool,
    beside: Path | None,
) -> Iterator[News]:
    keep_freed_memory()
    stage = _set_up(recipe, pick_device(device), processes, shard_teachers, beside)
    loop, epochs = stage.loop, recipe.training.epochs
    best: Validation | None = None
    records: list[dict[str, Any]] = []
    warnings: list[str] = []
    if resuming:
        state, refused = processes.from_leader(lambda: load_checkpoint(run.checkpoints))
        warnings += [f"{sentence}; the one before is used" for sentence in refused]
        if state.get("data", stage.data) != stage.data:
            raise InputError(f"{run.folder}: the training images are not those this run was started with; restore them")
        loop.restore(state)
        with parsing(run.checkpoints, "a training state of overproof"):
            best = Validation(**state["best"]) if state["best"] else None
        # A crash may fall between writing the metrics and the checkpoint; the epoch after it is then run again.
        records = run.metrics()[: loop.epoch]
    with tracked(recipe, run.folder, since=loop.epoch) if processes.leads else nullcontext() as tell:
        if not resuming:
            _begin(run, recipe, stage)
        if loop.training != recipe.training:
            warnings.append(f"{hardware(loop.device)} computes no bf16: fp32 is used")
        if splits_batchnorm(loop.student, processes):
            warnings.append(
                f"BatchNorm sees one of {processes.count} parts of each batch: torch synchronises it on GPUs only"
            )
        saved = time.monotonic()
        clock = _Clock()
        for progress in loop.run():
            latest = None
            if progress.whole:
                seconds = clock.read()
                last = progress.epoch == epochs
                if progress.epoch % recipe.selection.every == 0 or last:
                    network = loop.network()
                    latest = validate(network, stage.held_out, recipe, progress.epoch, loop.precision, processes)
                    if best and collapsed(best, latest):
                        warnings.append(
                            f"catastrophic overfitting: robust accuracy fell from {100 * best.robust:.1f} % (epoch "
                            f"{best.epoch}) to {100 * latest.robust:.1f} % while clean accuracy stayed"
                        )
                    if latest.constant and last:
                        warnings.append(
                            f"after epoch {progress.epoch} the network answers one class for nearly all held-out images"
                        )
                    names = ["model"] if latest.better_than(best) else []
                    for name in ([*names, "last"] if last else names) if processes.leads else ():
                        facts = {**_facts(recipe, stage), **_chosen(latest)}
                        save_model(run.folder, network, stage.architecture, stage.classes, facts=facts, name=name)
                    best = latest if names else best
                if processes.leads:
                    records.append(_record(recipe, progress, loop, latest, best, seconds))
                    run.write_metrics(records)
                if tell:
                    tell(records[-1])
            # Clocks differ, and saving takes all processes.
            if progress.whole or processes.from_leader(partial(_due, recipe, saved)):
                _save(run, stage, best)
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
    data: str
    """The digest of the images that are learnt from."""
    teachers: Mapping[str, str]  # the SHA-256 of each role's weights


class _Clock:
    """Wall time, and the processor time of this process, which other work on the machine does not stretch."""

    def __init__(self) -> None:
        self._wall, self._processor = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "seconds": round(time.monotonic() - self._wall, 3),
            "processor_seconds": round(time.process_time() - self._processor, 3),
        }


def _set_up(
    recipe: Recipe, device: torch.device, processes: Processes, shard_teachers: bool, beside: Path | None
) -> _Stage:
    """Read the images, build and load the networks; raise ``InputError`` for what does not fit together."""

    def read_all() -> tuple[_Images, _Images, _Images, dict[str, Classifier], Architecture]:
        if shard_teachers and recipe.method.bounds_teachers:
            raise InputError(
                f"method {recipe.method.kind!r} bounds its teacher, which takes whole weights; leave --shard-teachers "
                "out, or set its teacher_bounds to clean"
            )
        images = recipe.data.open("train")
        kept, held = hold_out(images, recipe.selection.fraction, recipe.seed)
        check_trainable(kept, recipe.training.batch)
        check_shareable(len(kept), recipe.training.batch, processes)
        teachers = {role: load_teacher(role, path, images, beside=beside) for role, path in recipe.teachers.items()}
        return images, kept, held, teachers, _fitted(recipe, teachers)

    images, kept, held, teachers, architecture = processes.together(read_all)
    check_same_images(images, processes)
    digests = {role: digest_of(teacher) for role, teacher in teachers.items()}
    check_same_teachers(digests, processes)
    student = _network(recipe, architecture, images.signature, "initial weights").to(device)
    companions = {
        name: _network(recipe, architecture, images.signature, name).to(device) for name in recipe.method.companions
    }
    prepared = [student, *companions.values()]
    for teacher in teachers.values():
        if shard_teachers and processes.count > 1:
            sharded(teacher, processes, device)
        else:
            prepared.append(teacher.to(device))
    recipe.performance.prepare(prepared, device)
    loader = Loader(recipe.loading.place(kept, device), recipe.training.batch, recipe.augment, recipe.seed, processes)
    return _Stage(
        loop=Loop(
            recipe.method,
            student,
            teachers,
            loader,
            recipe.training.on(device),
            recipe.seed,
            companions=companions,
        ),
        architecture=architecture,
        classes=images.classes,
        data=kept.digest,
        held_out=held.at(stratified_subset(held, recipe.selection.examples, recipe.seed)).decoded().to(device),
        teachers=digests,
    )


def _begin(run: Run, recipe: Recipe, stage: _Stage) -> None:
    """Make the run folder with its first state and its recipe."""
    stage.loop.processes.from_leader(lambda: make_folder(run.folder))
    # The recipe marks a run as started, so it comes after the first state: a kill in between leaves no riddle.
    _save(run, stage, None)
    stage.loop.processes.from_leader(lambda: write_atomically(run.folder / "recipe.yaml", dump(recipe).encode()))


def validate(
    network: Classifier,
    images: ImageSet,
    recipe: Recipe,
    epoch: int,
    precision: str,
    processes: Processes = ALONE,
) -> Validation:
    """Attack the network on the held-out images with the selection's trial, in the precision of the training."""
    device = images.images.device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        shard = Shard(processes.rank, processes.count)
        verdicts = judge(network, images, (recipe.selection.trial,), seed=recipe.seed, shard=shard)
    constant = is_constant(verdicts.predictions, verdicts.labels)
    return Validation(
        epoch=epoch,
        clean=verdicts.clean.share,
        robust=verdicts.worst.share,
        constant=constant,
        examples=len(verdicts.labels),
    )


def collapsed(best: Validation, latest: Validation) -> bool:
    """Whether robust accuracy fell to less than half of its best while clean accuracy kept 90 % of its own.

    The mark of catastrophic overfitting in one-step training (Wong et al. 2020); a network that diverges loses both.
    """
    return latest.robust < best.robust / 2 and latest.clean > 0.9 * best.clean


def _check_folder(recipe: Recipe, run: Run, resume: bool) -> bool:
    """Return whether there is a run to continue; raise ``InputError`` where it would be overwritten or is another."""
    started = (run.folder / "recipe.yaml").is_file()
    if not resume:
        if any(one.name != lock_name("train") for one in run.folder.iterdir()):
            raise InputError(f"{run.folder}: exists already; continue it with --resume or choose another --out")
        return False
    if not started:
        return False
    # How images are loaded changes no batch.
    changed = [one for one in differences(run.recipe(), recipe) if not one.startswith("loading.")]
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


def _save(run: Run, stage: _Stage, best: Validation | None) -> None:
    loop = stage.loop
    state = {**loop.state(), "best": asdict(best) if best else {}, "data": stage.data}
    if loop.processes.leads:
        save_checkpoint(run.checkpoints, state, loop.epoch * len(loop.loader) + loop.batch)


def _due(recipe: Recipe, saved: float) -> bool:
    return time.monotonic() - saved > 60 * recipe.training.checkpoint_minutes


def _facts(recipe: Recipe, stage: _Stage) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "recipe_digest": recipe.digest,
        "teachers": dict(stage.teachers),
        "parameters": parameter_count(stage.loop.student),
        "precision": stage.loop.precision,
        "versions": versions(),
    }


def _chosen(validation: Validation) -> dict[str, Any]:
    return {"selected_on": "held-out part of the training split", "validation": asdict(validation)}


def _record(
    recipe: Recipe,
    progress: Progress,
    loop: Loop,
    latest: Validation | None,
    best: Validation | None,
    seconds: dict[str, float],
) -> dict[str, Any]:
    return {
        "epoch": progress.epoch,
        "terms": dict(progress.means),
        "learning_rate": loop.optimiser.param_groups[0]["lr"],
        "validation": asdict(latest) if latest else None,
        "best_epoch": best.epoch if best else None,
        **seconds,
        "passes": {
            name: asdict(found)
            for name, found in passes_of_epoch(
                loop.method, progress.epoch - 1, loop.training.epochs, progress.batches
            ).items()
        },
        "state": {name: value.tolist() for name, value in loop.memory.items() if value.numel() <= _SHORT},
        "precision": loop.precision,
        "compile": recipe.performance.compiles(loop.device),
        "processes": loop.processes.count,
        **({"teacher_cache": found} if (found := loop.teachers.report()) else {}),
        "hardware": hardware(loop.device),
    }

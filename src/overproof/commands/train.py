"""``train``: from a recipe to a run folder, resumable to the bit."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from overproof.allocation import keep_freed_memory
from overproof.building import code_folders
from overproof.commands.clean import DROPPED, is_finished
from overproof.data.images import ImageSet
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError
from overproof.evaluation.answers import is_constant
from overproof.evaluation.attacked import judge
from overproof.evaluation.shards import Shard
from overproof.files import make_folder, write_atomically
from overproof.locking import exclusive, lock_name
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.precision import tensor_float
from overproof.models.weights import save_model
from overproof.processes import ALONE, Processes, lost
from overproof.reading import parsing
from overproof.recipe import Recipe, differences, dump, read
from overproof.runs.agreement import check_same_recipe
from overproof.runs.extending import extension, is_longer
from overproof.runs.folder import Run
from overproof.runs.summary import Beginning, results_line
from overproof.runs.trackers import check_trackers, track
from overproof.runs.trainer import Stage, set_up
from overproof.shipped import find_recipe
from overproof.stopping import Stop, Stopped
from overproof.training.checkpoint import checkpoints, drop_checkpoints, load_checkpoint, save_checkpoint
from overproof.training.cost import passes_of_epoch
from overproof.training.loop import Loop, Progress
from overproof.training.parallel import splits_batchnorm

_LOST_SECONDS = 10.0  # of training that a signal may cost while a network is validated
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
class TrainingEvent:
    """What a run has to say at one moment: its progress, and validation where an epoch was validated.

    ``images`` of ``total`` have been learnt from, each as often as there are epochs.
    """

    progress: Progress
    epochs: int
    learning_rate: float
    images: int
    total: int
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
    keep_checkpoint: bool = False,
    trust_code: bool = False,
) -> Run:
    """Train to the end and return the run.

    ``recipe`` is a value, a file, or the name of a shipped recipe; ``out`` defaults to ``runs/<the recipe's name>``.
    ``shard_teachers`` leaves each of several processes its share of the teachers' weights. ``keep_checkpoint`` leaves
    the exact state of the finished run beside its weights, which only training on needs. ``trust_code`` runs code that
    the file names wherever it lies (see ``trust``). Raises ``InputError`` for what cannot be used, before anything is
    written.
    """
    beside = None
    if not isinstance(recipe, Recipe):
        file = find_recipe(str(recipe))
        recipe, beside = read(file, trust_code=trust_code), file.parent
    folder = default_folder(recipe) if out is None else Path(out)
    options = {"resume": resume, "device": device, "shard_teachers": shard_teachers, "beside": beside}
    for _ in training(recipe, folder, keep_checkpoint=keep_checkpoint, trust_code=trust_code, **options):
        pass
    return Run(folder)


def default_folder(recipe: Recipe) -> Path:
    """Return where a run goes when nobody says: ``runs/<the recipe's name>``."""
    return Path("runs") / recipe.name


def training(recipe: Recipe, out: Path, **options: Any) -> Iterator[TrainingEvent]:
    """Train step by step: yield news at every look at the losses; everything of value is on disk before each yield.

    The options are those of ``iter_train``.
    """
    return (event for event in iter_train(recipe, out, **options) if isinstance(event, TrainingEvent))


def iter_train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    shard_teachers: bool = False,
    keep_checkpoint: bool = False,
    dry_run: bool = False,
    beside: Path | None = None,
    trust_code: bool = False,
    stop: Stop | None = None,
) -> Iterator[Beginning | TrainingEvent]:
    """Say what is about to be done as it becomes known, then train as ``training`` does.

    With ``dry_run`` nothing is written, and it ends before the first step. ``beside`` is the folder of the recipe's
    file: modules that the recipe names may lie in it, too. ``trust_code`` runs code that the files of teachers, and of
    weights to begin with, name wherever it lies. Where somebody asks it to ``stop`` while it trains, the
    state is saved after the step that is being taken, and ``Stopped`` raised.
    Started by ``accelerate launch`` or ``torchrun``, all processes train together; the leading one writes and has news.
    """
    processes = Processes.here(cpu=device == "cpu")
    wish = _Wish(
        resume=resume,
        shard_teachers=shard_teachers,
        keep_checkpoint=keep_checkpoint,
        dry_run=dry_run,
        trust_code=trust_code,
    )
    try:
        with tensor_float(recipe.performance.tf32):
            for event in _training_events(recipe, Run(out), device, processes, wish, beside, stop or Stop()):
                if processes.leads:
                    yield event
    except RuntimeError as problem:
        if processes.count > 1 and lost(problem):
            raise InputError(
                f"another of the {processes.count} processes has gone; the last checkpoint is in "
                f"{Run(out).checkpoints}, continue with --resume"
            ) from problem
        raise


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What was asked for beside the recipe."""

    resume: bool
    shard_teachers: bool
    keep_checkpoint: bool
    dry_run: bool
    trust_code: bool


def _training_events(
    recipe: Recipe,
    run: Run,
    device: str,
    processes: Processes,
    wish: _Wish,
    beside: Path | None,
    stop: Stop,
) -> Iterator[Beginning | TrainingEvent]:
    """Train as one of several processes; yield the same events in each."""
    check_same_recipe(recipe, processes)
    with ExitStack() as held:
        # Held until the end, by the leading process alone: two trainings in one folder would undo each other's files.
        enter = partial(_look_into, recipe, run, wish) if wish.dry_run else partial(_enter, recipe, run, wish, held)
        resuming = processes.from_leader(enter)
        keep_freed_memory()
        if resuming and processes.from_leader(partial(_is_over, run, recipe)):
            yield Beginning(lines=(f"{run.folder}: this run is finished ({DROPPED})",))
            return
        stage = yield from set_up(
            recipe,
            pick_device(device),
            processes,
            wish.shard_teachers,
            beside,
            initial=not resuming,
            trust_code=wish.trust_code,
        )
        if wish.dry_run:
            processes.from_leader(lambda: check_trackers(recipe))
        yield from _train_epochs(recipe, run, stage, resuming, processes, wish, stop)


def _look_into(recipe: Recipe, run: Run, wish: _Wish) -> bool:
    """Return whether there is a run to continue, and touch nothing."""
    _check_place(run)
    above = next(one for one in (run.folder, *run.folder.absolute().parents) if one.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{run.folder}: cannot be made or written in {above}; choose another --out")
    return run.folder.exists() and _check_folder(recipe, run, wish.resume)


def _enter(recipe: Recipe, run: Run, wish: _Wish, held: ExitStack) -> bool:
    """Take hold of the run's folder; return whether there is a run to continue in it."""
    _check_place(run)
    held.enter_context(exclusive(run.folder, "train"))
    return _check_folder(recipe, run, wish.resume)


def _check_place(run: Run) -> None:
    if run.folder.exists() and not run.folder.is_dir():
        raise InputError(f"{run.folder}: is a file, a run needs a folder; choose another --out")


def _train_epochs(
    recipe: Recipe,
    run: Run,
    stage: Stage,
    resuming: bool,
    processes: Processes,
    wish: _Wish,
    stop: Stop,
) -> Iterator[Beginning | TrainingEvent]:
    loop, epochs = stage.loop, recipe.training.epochs
    best: Validation | None = None
    records: list[dict[str, Any]] = []
    warnings: list[str] = []
    extended, unvalidated = False, tuple[Progress, ...]()
    if resuming:
        state, refused = processes.from_leader(lambda: load_checkpoint(run.checkpoints))
        warnings += [f"{sentence}; the one before is used" for sentence in refused]
        if state.get("data", stage.data) != stage.data:
            raise InputError(f"{run.folder}: the training images are not those this run was started with; restore them")
        loop.restore(state)
        with parsing(run.checkpoints, "a training state of overproof"):
            best = Validation(**state["best"]) if state["best"] else None
            lengths = tuple(map(int, state.get("lengths", ())))
        # A crash may fall between writing the metrics and the checkpoint; the epoch after it is then run again.
        if state.get("unvalidated"):
            unvalidated = (Progress(loop.epoch, 0, len(loop.loader), state["unvalidated"], whole=True),)
        records = run.metrics()[: loop.epoch - len(unvalidated)]
        before = processes.from_leader(run.recipe)
        if extended := before.training.epochs < epochs:
            longer = extension(before, recipe, loop.epoch + loop.batch / len(loop.loader))
            lengths += (before.training.epochs,)
            warnings += longer.warnings
            yield Beginning(lines=(longer.line,))
        stage = replace(stage, init=state.get("init"), lengths=lengths)  # the weights to begin with are not read again
    yield Beginning(lines=_going(run, loop, resuming, wish))
    begun = loop.epoch - len(unvalidated)
    if wish.dry_run:
        return
    with ExitStack() as held:
        tell = held.enter_context(track(recipe, run.folder, since=loop.epoch)) if processes.leads else None
        if not resuming:
            _begin(run, recipe, stage)
        elif extended:
            _save(run, stage, best)  # with its length until now, which the recipe then says no more
            processes.from_leader(partial(_write_recipe, run, recipe))
        if loop.training != recipe.training:
            warnings.append(f"{hardware(loop.device)} computes no bf16: fp32 is used")
        if loop.loader.left_out:
            warnings.append(loop.loader.left_out)
        if splits_batchnorm(loop.student, processes):
            warnings.append(
                f"BatchNorm sees one of {processes.count} parts of each batch: torch synchronises it on GPUs only"
            )
        saved = time.monotonic()
        clock = _Clock()
        held.enter_context(stop.noted())
        for progress in chain(unvalidated, loop.run(stop)):
            latest = None
            if progress.whole:
                seconds = clock.read()
                last = progress.epoch == epochs
                if progress.epoch % recipe.selection.every == 0 or last:
                    network = loop.network()
                    # A validation may take long: where more than a few seconds would be lost, a signal ends it.
                    if safe := processes.from_leader(partial(_has_passed, saved, _LOST_SECONDS)):
                        _save(run, stage, best, unvalidated=progress)
                    with _ended_at_once(stop, run, loop) if safe else nullcontext():
                        latest = validate(network, stage.held_out, recipe, progress.epoch, loop.precision, processes)
                    if best and has_collapsed(best, latest):
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
                        facts = {**_facts(recipe, stage, run), **_selection_facts(latest)}
                        save_model(run.folder, network, stage.architecture, stage.classes, facts=facts, name=name)
                    best = latest if names else best
                if processes.leads:
                    records.append(_record(recipe, progress, loop, latest, best, seconds))
                    run.write_metrics(records)
                if tell:
                    tell(records[-1])
            # Clocks differ, and so may who was asked to stop; saving takes all processes.
            asked = max(processes.gather(stop.number))
            due = processes.from_leader(partial(_has_passed, saved, 60 * recipe.training.checkpoint_minutes))
            if progress.whole or asked or due:
                _save(run, stage, best)
                saved = time.monotonic()
            if progress.whole:
                clock = _Clock()
            yield TrainingEvent(
                progress=progress,
                epochs=epochs,
                learning_rate=loop.learning_rate,
                images=_images(loop),
                total=epochs * len(loop.loader.images),
                validation=latest,
                best=best,
                warnings=tuple(warnings),
            )
            warnings = []
            if asked and loop.epoch < epochs:
                processes.wait()  # whoever ends first has the launcher end the others, which may be writing
                raise Stopped(asked, _stop_message(run, loop))
        if begun < epochs and not wish.keep_checkpoint:
            processes.from_leader(partial(drop_checkpoints, run.checkpoints))


def _going(run: Run, loop: Loop, resuming: bool, wish: _Wish) -> tuple[str, ...]:
    """Return where results go, and from where a run goes on."""
    names = ["recipe.yaml", "metrics.jsonl", "model.*", "last.*", "checkpoint/"]
    if not wish.keep_checkpoint:
        names[-1] += " (until the end)"
    lines = [results_line(run.folder, names)]
    if resuming:
        lines.append(f"it goes on after {_position(loop)}")
    if wish.dry_run:
        lines.append("dry run: all of this was read and fits; nothing was written")
    return tuple(lines)


def _position(loop: Loop) -> str:
    """Return in words what is done."""
    if not loop.batch:
        return f"epoch {loop.epoch} of {loop.training.epochs}"
    return f"batch {loop.batch} of {len(loop.loader)} in epoch {loop.epoch + 1} of {loop.training.epochs}"


@contextmanager
def _ended_at_once(stop: Stop, run: Run, loop: Loop) -> Iterator[None]:
    """Let a signal end a validation, which a resumed run begins again."""
    kept = f"stopped while epoch {loop.epoch} was validated; it is saved in {run.checkpoints}; continue with --resume"
    try:
        with stop.heeded():
            yield
    except KeyboardInterrupt:
        if not stop.number:
            raise
        raise Stopped(stop.number, kept) from None


def _stop_message(run: Run, loop: Loop) -> str:
    return f"stopped after {_position(loop)}, which is saved in {run.checkpoints}; continue with --resume"


def _images(loop: Loop) -> int:
    """Return how many images have been learnt from."""
    size = len(loop.loader.images)
    return loop.epoch * size + min(size, loop.batch * loop.loader.batch)


class _Clock:
    """Wall time, and the CPU time of this process, which other work on the machine does not stretch."""

    def __init__(self) -> None:
        self._wall, self._processor = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "seconds": round(time.monotonic() - self._wall, 3),
            "processor_seconds": round(time.process_time() - self._processor, 3),
        }


def _begin(run: Run, recipe: Recipe, stage: Stage) -> None:
    """Make the run folder with its first state and its recipe."""
    stage.loop.processes.from_leader(lambda: make_folder(run.folder))
    # The recipe marks a run as started, so it comes after the first state: a kill in between leaves no riddle.
    _save(run, stage, None)
    stage.loop.processes.from_leader(partial(_write_recipe, run, recipe))


def _write_recipe(run: Run, recipe: Recipe) -> None:
    write_atomically(run.folder / "recipe.yaml", dump(recipe).encode())


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


def has_collapsed(best: Validation, latest: Validation) -> bool:
    """Whether robust accuracy fell to less than half of its best while clean accuracy kept 90 % of its own.

    The mark of catastrophic overfitting in one-step training (Wong et al. 2020); a network that diverges loses both.
    """
    return latest.robust < best.robust / 2 and latest.clean > 0.9 * best.clean


def _check_folder(recipe: Recipe, run: Run, resume: bool) -> bool:
    """Return whether there is a run to continue; raise ``InputError`` where it would be overwritten or is another."""
    started = _has_started(run)
    if not resume:
        if any(one.name != lock_name("train") for one in run.folder.iterdir()):
            raise InputError(f"{run.folder}: exists already; continue it with --resume or choose another --out")
        return False
    if not started:
        return False
    # How images are loaded changes no batch.
    before = run.recipe()
    changed = [one for one in differences(before, recipe) if not one.startswith("loading.")]
    if is_longer(before, recipe, changed):
        if not checkpoints(run.checkpoints):
            more = f"from {before.training.epochs} to {recipe.training.epochs} epochs"
            raise InputError(f"{run.folder}: it cannot be extended {more}: {DROPPED}")
    elif changed:
        dropped = "" if checkpoints(run.checkpoints) else f" ({DROPPED})"
        raise InputError(
            f"{run.folder}: the recipe is not the one this run was started with ({'; '.join(changed)}); "
            f"use the old recipe or another --out{dropped}"
        )
    return True


def _has_started(run: Run) -> bool:
    return (run.folder / "recipe.yaml").is_file()


def _is_over(run: Run, recipe: Recipe) -> bool:
    """Whether nothing is left to do: the run has its results, and perhaps no checkpoint any more."""
    return is_finished(run, recipe.training.epochs) and not checkpoints(run.checkpoints)


def _save(run: Run, stage: Stage, best: Validation | None, unvalidated: Progress | None = None) -> None:
    """Save the state of a training, or that at the end of an epoch which is ``unvalidated`` yet."""
    loop = stage.loop
    said = {"data": stage.data, "init": stage.init, "lengths": list(stage.lengths)}
    said |= {"unvalidated": dict(unvalidated.means)} if unvalidated else {}
    state = {**loop.state(), "best": asdict(best) if best else {}, **said}
    if loop.processes.leads:
        save_checkpoint(run.checkpoints, state, loop.epoch * len(loop.loader) + loop.batch)


def _has_passed(since: float, seconds: float) -> bool:
    return time.monotonic() - since > seconds


def _facts(recipe: Recipe, stage: Stage, run: Run) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "recipe_digest": recipe.digest,
        "teachers": dict(stage.teachers),
        "parameters": parameter_count(stage.loop.student),
        "precision": stage.loop.precision,
        "data": {"notes": list(stage.notes)},
        **({"init": dict(stage.init)} if stage.init else {}),
        **({"extended_from": list(stage.lengths)} if stage.lengths else {}),
        **({"code_folders": folders} if (folders := code_folders(recipe, run.folder)) else {}),
        "versions": versions(),
    }


def _selection_facts(validation: Validation) -> dict[str, Any]:
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
        "learning_rate": loop.learning_rate,
        "validation": asdict(latest) if latest else None,
        "best_epoch": best.epoch if best else None,
        **seconds,
        "passes": {
            name: asdict(report)
            for name, report in passes_of_epoch(
                loop.method, progress.epoch - 1, loop.training.epochs, progress.batches
            ).items()
        },
        "state": {name: value.tolist() for name, value in loop.memory.items() if value.numel() <= _SHORT},
        "precision": loop.precision,
        "compile": recipe.performance.compiles(loop.device),
        "processes": loop.processes.count,
        **({"teacher_cache": report} if (report := loop.teachers.report()) else {}),
        "hardware": hardware(loop.device),
    }

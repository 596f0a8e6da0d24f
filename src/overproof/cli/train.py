"""The words of `overproof train`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table as Grid

from overproof.cli.completion import recipes
from overproof.cli.console import leads, out_console, say, stoppable, warn
from overproof.cli.options import Device, TrustCode
from overproof.cli.progress import Follower
from overproof.errors import InputError

if TYPE_CHECKING:
    from overproof.commands.sweep import Sweep
    from overproof.commands.train import TrainingEvent
    from overproof.recipe import Recipe
    from overproof.runs.plan import Plan
    from overproof.runs.summary import Beginning

_MORE = 75  # the exit status where the time is up and there is more to do (EX_TEMPFAIL)


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe or sweep file, or the name of a shipped recipe: mnist/ard.", autocompletion=recipes
        ),
    ],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Edit the recipe; may be repeated: --set method.inner.steps=20."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/<name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run, to the bit.")] = False,
    device: Device = "auto",
    jobs: Annotated[
        int | None, typer.Option(help="Cells of a sweep trained at a time; default: what the networks' size suggests.")
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="Stop a sweep after so long; exit status 75: cells are left, --resume continues.",
        ),
    ] = None,
    cell: Annotated[int | None, typer.Option(help="Train this cell of a sweep alone, counted from 0.")] = None,
    shard_teachers: Annotated[
        bool, typer.Option("--shard-teachers", help="Share the teachers' weights among the processes of this run.")
    ] = False,
    keep_checkpoint: Annotated[
        bool, typer.Option("--keep-checkpoint", help="Keep the finished run's exact state, to train on later.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and build everything, say what would be done, and write nothing.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Measure for 20 seconds, say what it would take, and train nothing.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Write the recipe that fits into 6h, 90m or 1h30m here; trains nothing."),
    ] = None,
    trust_code: TrustCode = False,
) -> None:
    """Train a student (or a teacher) by a recipe, or every cell of a sweep.

    Example: overproof train mnist/ard --set training.epochs=10
    """
    from overproof.commands.sweep import Sweep, read_sweep
    from overproof.commands.train import default_folder, iter_train
    from overproof.report.overfitting import overfitting
    from overproof.runs.folder import Run
    from overproof.shipped import find_recipe

    file = find_recipe(recipe)
    sweep = read_sweep(file, sets or (), trust_code=trust_code)
    if plan or budget is not None:
        trains = {"--resume": resume, "--shard-teachers": shard_teachers, "--keep-checkpoint": keep_checkpoint}
        _check_planned({**trains, "--jobs": jobs is not None, "--until": until is not None, "--dry-run": dry_run})
        if isinstance(sweep, Sweep) and cell is None:
            if budget is not None:
                raise InputError(f"{recipe}: --budget is for one recipe, this is a sweep; choose a cell with --cell")
            _plan_sweep(sweep, device, trust_code)
            return
        one = sweep.cell(cell or 0).recipe_in(out or sweep.folder) if isinstance(sweep, Sweep) else sweep
        _plan(one, file.parent, budget, out, device, trust_code)
        return
    if not isinstance(sweep, Sweep):
        if jobs is not None or cell is not None or until is not None:
            raise InputError(f"{recipe}: --jobs, --cell and --until are for sweeps, and this is a recipe")
        settled = sweep
        folder = out or default_folder(settled)
    elif cell is None:
        if until is not None and not until > 0:
            raise InputError(f"--until is a number of minutes above 0, got {until:g}")
        if shard_teachers:
            raise InputError(f"{recipe}: --shard-teachers is for one run on several processes, and this is a sweep")
        if dry_run:
            raise InputError(f"{recipe}: a dry run is of one run, and this is a sweep; choose a cell with --cell")
        options = {
            "resume": resume,
            "device": device,
            "keep_checkpoint": keep_checkpoint,
            "trust_code": trust_code,
            "deadline": float("inf") if until is None else monotonic() + 60 * until,
        }
        _train_sweep(sweep, out or sweep.folder, jobs, sets or (), options)
        return
    elif jobs is not None or until is not None:
        raise InputError("--jobs and --until are for all cells of a sweep, --cell for one of them; use one of the two")
    else:
        settled = sweep.cell(cell).recipe_in(out or sweep.folder)
        folder = (out or sweep.folder) / sweep.cell(cell).name
    with stoppable(f"the last checkpoint is in {folder / 'checkpoint'}, continue with --resume") as stop:
        events = iter_train(
            settled,
            folder,
            resume=resume,
            device=device,
            shard_teachers=shard_teachers,
            keep_checkpoint=keep_checkpoint,
            dry_run=dry_run,
            beside=file.parent,
            trust_code=trust_code,
            stop=stop,
        )
        _follow(events, settled.name)
    if leads() and not dry_run:
        say(overfitting(Run(folder).metrics()))
        say(f"run folder: {folder}")


def _check_planned(flags: dict[str, bool]) -> None:
    for flag, given in flags.items():
        if given:
            raise InputError(f"{flag} is for training, and --plan and --budget train nothing")


def _plan(recipe: "Recipe", beside: Path, budget: str | None, out: Path | None, device: str, trust_code: bool) -> None:
    from overproof.commands.plan import SECONDS, fit_budget, format_seconds, plan_recipe, read_budget, write_fitted

    options: dict[str, Any] = {"seconds": SECONDS, "device": device, "beside": beside, "trust_code": trust_code}
    if budget is None:
        _print_plans({recipe.name: plan_recipe(recipe, **options)})
        return
    seconds = read_budget(budget)
    fitted = fit_budget(recipe, seconds, **options)
    _print_plans({recipe.name: fitted.plan})
    file = out or Path(f"{recipe.name.rpartition('/')[2]}-{budget}.yaml")
    write_fitted(fitted.recipe, file)
    changes = "; ".join(fitted.changes) or "nothing was changed"
    say(f"fits into {format_seconds(seconds)}: {changes}")
    say(f"recipe: {file}; train it with: overproof train {file}")


def _plan_sweep(sweep: "Sweep", device: str, trust_code: bool) -> None:
    from overproof.commands.plan import SECONDS, plan_sweep

    plans = {}
    for planned in plan_sweep(sweep, seconds=SECONDS, device=device, trust_code=trust_code):
        plans[planned.name] = planned.plan
        if planned.measured:
            say(f"{planned.name}: measured")
    _print_plans(plans)


def _print_plans(plans: "dict[str, Plan]") -> None:
    """Print a line for each run, and their sum, one after the other."""
    from overproof.commands.plan import format_seconds

    grid = Grid(title="measured on this machine; every validation attacks all its images", title_justify="left")
    for name in ("run", "time", "batches", "passes of the student", "of teachers", "peak memory", "disk", "energy"):
        grid.add_column(name, justify="left" if name == "run" else "right")
    for name, plan in plans.items():
        counts = {key: one.forward + one.backward for key, one in plan.passes.items()}
        others = sum(count for key, count in counts.items() if key != "student")
        energy = "not told" if plan.joules is None else f"{plan.joules / 3.6e6:.3f} kWh"
        grid.add_row(
            name,
            format_seconds(plan.seconds),
            f"{plan.epochs * plan.batches:,}",
            f"{counts.get('student', 0):,}",
            f"{others:,}",
            f"{plan.memory / 1e9:.2f} GB",
            f"{plan.disk / 1e6:.1f} MB",
            energy,
        )
    if len(plans) > 1:
        grid.add_row("all, one after the other", format_seconds(sum(plan.seconds for plan in plans.values())))
    out_console.print(grid)


def _train_sweep(sweep: "Sweep", out: Path, jobs: int | None, sets: Sequence[str], options: dict[str, Any]) -> None:
    from overproof.commands.sweep import sweeping
    from overproof.report.overfitting import overfitting

    over = 0
    with stoppable("finished cells and checkpoints are kept, continue with --resume"):
        for ended in sweeping(sweep, out, jobs=jobs, sets=sets, **options):
            outcome = ended.problem or overfitting(ended.run.metrics())
            say(f"cell {ended.number} of {len(sweep.cells)}, {ended.cell.name}: {outcome}")
            over += 1
    say(f"run folders: {out}/*")
    if over < len(sweep.cells):
        say(f"the time is up with {len(sweep.cells) - over} of {len(sweep.cells)} cells left; continue with --resume")
        raise typer.Exit(_MORE)


def _follow(events: "Iterator[Beginning | TrainingEvent]", title: str) -> None:
    """Show a line per epoch, and where the run is: on a terminal a bar and the losses of the moment below it."""
    from overproof.runs.summary import Beginning

    with Follower(title) as follower:
        speed = _Speed()
        for item in events:
            if isinstance(item, Beginning):
                follower.begin(item)
                continue
            follower.open()
            for warning in item.warnings:
                warn(warning)
            if not speed.began:
                follower.start(item.images)  # the time of what came before is not known
            if item.progress.whole:
                say(_epoch_line(item))
            count = f"{item.progress.epoch}/{item.epochs} epochs"
            if not item.progress.whole:
                count += f", batch {item.progress.batch}/{item.progress.batches}"
            follower.show(item.images, item.total, count, _moment(item, speed.of(item.images)))


class _Speed:
    """Images per second between two looks that are at least a second apart."""

    def __init__(self) -> None:
        self.began = False
        self._at, self._images, self._speed = monotonic(), 0, 0.0

    def of(self, images: int) -> float:
        """Return the speed of the moment; 0 where it is not known yet."""
        now = monotonic()
        if not self.began:
            self.began, self._at, self._images = True, now, images
        elif now - self._at >= 1:
            self._speed = (images - self._images) / (now - self._at)
            self._at, self._images = now, images
        return self._speed


def _moment(item: "TrainingEvent", speed: float) -> str:
    """Return the losses and the learning rate of the epoch that is running, the speed, and the best epoch so far."""
    line = f"{_terms(item)}, lr {item.learning_rate:.2g}"
    if speed:
        line += f", {speed:,.0f} images/s"
    if item.best is None:
        return line
    best = f"clean {100 * item.best.clean:.1f} %, robust {100 * item.best.robust:.1f} %"
    return f"{line}; best epoch {item.best.epoch}: {best}"


def _epoch_line(item: "TrainingEvent") -> str:
    line = f"epoch {item.progress.epoch}/{item.epochs}: {_terms(item)}, lr {item.learning_rate:.2g}"
    if item.validation is None:
        return line
    validation = item.validation
    return f"{line}; held out: clean {100 * validation.clean:.1f} %, robust {100 * validation.robust:.1f} %"


def _terms(item: "TrainingEvent") -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in item.progress.means.items())

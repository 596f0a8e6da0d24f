"""The words of `overproof teacher import` and `overproof teacher check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table as Grid

from overproof.cli.console import out_console, say, stoppable, warn
from overproof.cli.options import SOURCE, Data, Device, Layout, NormName, TrustCode
from overproof.errors import InputError

if TYPE_CHECKING:
    from overproof.diagnostics.teacher_check import TeacherCheck

teacher = typer.Typer(no_args_is_help=True, help="Bring a teacher from elsewhere, and check that it can teach.")

_MODEL = (
    "Its architecture: auto (recognised from its tensors), a name (see: overproof list models), YAML, code of your own "
    "(package.module:factory?depth=8), or chain?stride=2,2&padding=1,1 for convolutions and linear layers in turn."
)


@teacher.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A PyTorch or safetensors file of any code.")],
    model: Annotated[str, typer.Option(help=_MODEL)],
    mean: Annotated[str, typer.Option(help="What was subtracted from pixels in [0, 1], e.g. 0.49,0.48,0.45.")] = "",
    std: Annotated[str, typer.Option(help="What they were divided by, e.g. 0.25,0.24,0.26.")] = "",
    classes: Annotated[int, typer.Option(help="How many classes it should have; 0: as many as the file has.")] = 0,
    data: Data = None,
    size: Annotated[str, typer.Option(help="Channels, height and width where no data are named.")] = "3x32x32",
    key: Annotated[str, typer.Option(help="Which entry, where the file holds several networks.")] = "",
    sha256: Annotated[str, typer.Option(help="The file's expected SHA-256.")] = "",
    out: Annotated[Path | None, typer.Option(help="The run folder; default runs/<the file's name>.")] = None,
) -> None:
    """Read somebody else's checkpoint, without running anything in it, and write a run folder.

    Example: overproof teacher import model_cifar_wrn.pt --model wrn-34-10 --data uoft-cs/cifar10
    """
    from overproof.commands.import_teacher import import_teacher

    run = import_teacher(
        file,
        model=model,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        classes=classes,
        data=data,
        size=_size(size),
        key=key,
        digest=sha256,
        out=out,
    )
    recognised = model.partition("?")[0] in ("auto", "chain")
    _print_imported(run.description(), recognised=recognised)
    say(f"run folder: {run.folder}; check it with: overproof teacher check {run.folder}")


@teacher.command()
def check(
    run: Annotated[str, typer.Argument(help=SOURCE)],
    data: Data = None,
    eps: Annotated[str | None, typer.Option(help="Another radius, e.g. 8/255.")] = None,
    norm: Annotated[NormName | None, typer.Option(help="Another norm.")] = None,
    examples: Annotated[int, typer.Option(help="So many test images, classes in proportion; 0: all.")] = 500,
    student: Annotated[
        str | None, typer.Option(help="A run trained without a teacher, to be surpassed; or a recipe.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the subset and of the attacks.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The folder of teacher.json; default the run's own.")] = None,
    device: Device = "auto",
    layout: Layout = None,
    trust_code: TrustCode = False,
) -> None:
    """Check whether a network is fit to teach: accuracy, a quick attack, pixel range, class order, calibration.

    Example: overproof teacher check runs/cifar10-teacher --examples 200 --student runs/cifar10-at
    """
    from overproof.commands.check_teacher import check_teacher
    from overproof.runs.sources import with_layout

    run = with_layout(run, layout)
    with stoppable("nothing was written"):
        result, content = check_teacher(
            run,
            data=data,
            eps=eps,
            norm=None if norm is None else norm.value,
            examples=examples,
            student=student,
            seed=seed,
            device=device,
            out=out,
            trust_code=trust_code,
        )
    for warning in content["warnings"]:
        warn(warning)
    _print_check(result, content)
    say(result.sentence)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError as problem:
        raise InputError(f"{option} {text}: write one number per channel, such as 0.49,0.48,0.45") from problem


def _size(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(part) for part in text.split("x"))
    except ValueError as problem:
        raise InputError(f"--size {text}: write channels, height and width, such as 3x32x32") from problem
    return channels, height, width


def _print_imported(description: "dict[str, Any]", *, recognised: bool) -> None:
    origin, size = description["imported"], description["signature"]
    where = ".".join(filter(None, (origin["place"], origin["prefix"].rstrip("."))))
    layer = description["normalisation"]
    inside = f"mean {_list(layer['mean'])}, std {_list(layer['std'])}" if layer else "none, it gets pixels in [0, 1]"
    if recognised:
        said = ", ".join(f"{name}: {value}" for name, value in description["architecture"].items())
        say(f"recognised as: {{{said}}}")
    say(f"weights: {description['parameters']:,} parameters{f', found under {where}' if where else ''}")
    say(f"images: {size['channels']}x{size['height']}x{size['width']}, {size['classes']} classes")
    say(f"normalisation: {inside}")
    if origin["unused"]:
        say(f"left out, because the network never uses it: {', '.join(origin['unused'])}")
    if not description["classes"]:
        say("its classes have no names; --data gives them, and teacher check compares their order")


def _list(values: "list[float]") -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _print_check(result: "TeacherCheck", content: "dict[str, Any]") -> None:
    threat, data = content["threat"], content["data"]
    grid = Grid(
        title=f"{content['run']}; {data['name']}, {data['examples']} of {data['of']} test images", title_justify="left"
    )
    grid.add_column("check")
    grid.add_column("found", justify="right")
    grid.add_row("clean, % correct", str(result.clean))
    grid.add_row(f"quick attack, {threat['norm']} eps {threat['eps']}, % correct", str(result.robust))
    for reading in result.readings[1:]:
        grid.add_row(f"pixels as {reading.name}, % correct", str(reading.correct))
    order = "the data's own" if result.order.kept else f"another ({result.order.correct} % correct)"
    grid.add_row("best order of classes", order)
    grid.add_row("calibration error, clean", f"{result.calibration.ece:.3f}")
    for name, value in (("clean", result.errors_clean), ("attacked", result.errors_attacked)):
        grid.add_row(f"mean confidence in errors, {name}", "no error" if value is None else f"{value:.2f}")
    if result.student is not None:
        grid.add_row(f"{result.student.name} under the same attack, % correct", str(result.student.robust))
    if (transfer := result.transferability) is not None:
        grid.add_row("attacked images of the student that transfer, %", str(transfer.share))
        grid.add_row(
            "teacher's entropy, clean / there", f"{transfer.entropy_clean:.2f} / {transfer.entropy_attacked:.2f}"
        )
        expected, low, high = (100 * value for value in transfer.predicted)
        published = "published at this share: ResNet-18 by RSLAD, CIFAR-10 8/255, %"
        grid.add_row(published, f"{expected:.1f} [{low:.1f}, {high:.1f}]")
    out_console.print(grid)

"""The words of `overproof certify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table as Grid

from overproof.cli.console import leads, out_console, say, say_where_kept, stoppable
from overproof.cli.decide import decide_instances, decide_query
from overproof.cli.options import (
    SOURCE,
    BoundName,
    BoundPrecision,
    ClassesByPosition,
    Data,
    Device,
    Layout,
    NormName,
    TrustCode,
)
from overproof.cli.progress import show_events

if TYPE_CHECKING:
    from overproof.commands.certify import CertificationEvent


def certify(
    run: Annotated[str | None, typer.Argument(help=SOURCE)] = None,
    other: Annotated[str | None, typer.Argument(help="With --query about two networks: the second file.")] = None,
    query: Annotated[Path | None, typer.Option(help="Decide this VNN-LIB query about the ONNX file.")] = None,
    instances: Annotated[Path | None, typer.Option(help="Decide every line of an instances.csv.")] = None,
    jobs: Annotated[int | None, typer.Option(help="With --instances: so many at a time; default 1.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Bracket the gap to this run or network as well.")] = None,
    eps: Annotated[str | None, typer.Option(help="Another radius, e.g. 8/255.")] = None,
    norm: Annotated[NormName | None, typer.Option(help="Another norm, linf or l2.")] = None,
    bound: Annotated[BoundName, typer.Option(help="How far the cascade of bounds goes.")] = BoundName.splitting,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Time of an example, attack, teacher and all (default 1), or of a query (default 60; its own if less)."
        ),
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="One more gap of confidences on the teacher's curve.")] = None,
    smoothing: Annotated[float | None, typer.Option(help="Smooth with this sigma in l2, instead of bounds.")] = None,
    samples: Annotated[int, typer.Option(help="Noisy images per example that smoothing counts.")] = 10_000,
    examples: Annotated[int | None, typer.Option(help="So many test images, classes in proportion; 0: all.")] = None,
    data: Data = None,
    seed: Annotated[int, typer.Option(help="Seed of the subset, the attacks and the noise.")] = 0,
    batch: Annotated[int, typer.Option(help="Examples that are certified together.")] = 100,
    classes_by_position: ClassesByPosition = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted certification.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Work out again what was asked before.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder of the results; default the run's own.")] = None,
    precision: Annotated[
        BoundPrecision | None,
        typer.Option(help="The arithmetic of bounds; float64 for queries by default, else float32."),
    ] = None,
    device: Device = "auto",
    layout: Layout = None,
    trust_code: TrustCode = False,
) -> None:
    """Prove what a network withstands; write certificate.json, certificate.jsonl and the counter-examples.

    As a verifier: with --query it prints sat, unsat, unknown or error on its last line; --instances writes results.csv.

    Example: overproof certify runs/mnist-ard --eps 0.1 --teacher runs/mnist-teacher --examples 1000
    """
    if query is not None or instances is not None:
        strange = {
            "--teacher": teacher is not None,
            "--eps": eps is not None,
            "--norm": norm is not None,
            "--bound": bound is not BoundName.splitting,
            "--gamma": gamma is not None,
            "--smoothing": smoothing is not None,
            "--samples": samples != 10_000,
            "--examples": examples is not None,
            "--data": data is not None,
            "--batch": batch != 100,
            "--classes-by-position": classes_by_position,
            "--device": device not in ("auto", "cpu"),
            "--layout": layout is not None,
            "--trust-code": trust_code,
        }
        networks = [word for word in (run, other) if word is not None]
        where, unfit = out or Path(), [name for name, given in strange.items() if given]
        if instances is None:
            unfit += [name for name, given in {"--jobs": jobs is not None, "--resume": resume}.items() if given]
            decide_query(
                networks,
                query,
                unfit,
                seconds=seconds,
                seed=seed,
                precision="float64" if precision is None else precision.value,
                out=where,
            )
        else:
            decide_instances(
                [*networks, *unfit, *(["--query"] if query is not None else [])],
                instances,
                out=where,
                jobs=1 if jobs is None else jobs,
                seconds=seconds,
                seed=seed,
                precision="float64" if precision is None else precision.value,
                resume=resume,
                overwrite=overwrite,
            )
        return
    if run is None:
        raise typer.BadParameter("Missing argument 'RUN'.")
    if other is not None or jobs is not None:
        given = "--jobs" if jobs is not None else repr(other)
        raise typer.BadParameter(f"{given} is for --query and --instances.")
    from overproof.commands.certify import iter_certify
    from overproof.commands.compare import write_report
    from overproof.runs.resolve import results_folder
    from overproof.runs.results import CERTIFICATE
    from overproof.runs.sources import with_layout

    run = with_layout(run, layout)
    events = iter_certify(
        run,
        teacher=teacher,
        eps=eps,
        norm=None if norm is None else norm.value,
        bound=bound.value,
        precision="float32" if precision is None else precision.value,
        seconds=1.0 if seconds is None else seconds,
        gamma=gamma,
        smoothing=smoothing,
        samples=samples,
        examples=examples,
        data=data,
        seed=seed,
        batch=batch,
        classes_by_position=classes_by_position,
        resume=resume,
        overwrite=overwrite,
        out=out,
        device=device,
        trust_code=trust_code,
        announce=True,
    )
    with stoppable("finished examples are kept, continue with --resume"):
        result = show_events(events, run, "example", _describe)
    if leads():
        _print_certificate(result)
        folder = results_folder(run, out)
        say_where_kept(CERTIFICATE, folder, result)
        if (folder / "evaluation.json").is_file():
            say(f"report: {write_report(folder)}")


def _describe(item: "CertificationEvent") -> tuple[str, str]:
    """Return the stage, and what is known of the examples."""
    return item.stage, f"verified {item.verified} %{item.where and f'; {item.where}'}"


def _print_certificate(result: "dict[str, Any]") -> None:
    threat, data, proven = result["threat"], result["data"], result["verified"]
    low, high = proven["interval"]
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in result["counts"].items())
    title = f"{result['run']}; {data['name']}, {data['examples']} of {data['of']} test images"
    say(f"{title}; {threat['norm']} eps {threat['eps']}")
    say(f"certified accuracy: {100 * proven['share']:.1f} [{100 * low:.1f}, {100 * high:.1f}] %; {counts}")
    if result["kind"] == "bounds":
        grid = Grid()
        for name in ("stage", "verified", "falsified", "seconds"):
            grid.add_column(name, justify="left" if name == "stage" else "right")
        for name, part in result["stages"].items():
            grid.add_row(name, str(part["verified"]), str(part["falsified"]), f"{part['seconds']:.1f}")
        out_console.print(grid)
        for sentence in (*result["not_afforded"], *(result["teacher"] or {}).get("not_afforded", ())):
            say(f"{sentence}; more with --seconds")
    else:
        say("of the smoothed network, which answers by vote under noise; the network itself has no certificate")
    if result["teacher"]:
        _print_brackets(result["teacher"])


def _print_brackets(result: "dict[str, Any]") -> None:
    say(f"beside {result['name']}, on {result['examples']} of {result['of']} images that it classifies correctly:")
    grid = Grid()
    for name in ("", "attacked: at least", "proven: at most"):
        grid.add_column(name, justify="right" if name else "left")
    for name, label in (("gap", "mean gap"), ("under", "mean, student less sure"), ("over", "mean, student surer")):
        grid.add_row(label, f"{result[name]['attacked']:.4f}", f"{result[name]['proven']:.4f}")
    out_console.print(grid)
    grid = Grid()
    for name in ("", "proven: at least, %", "not refuted: at most, %"):
        grid.add_column(name, justify="right" if name else "left")
    shares = [("same class", result["agreement"])]
    shares += [(f"same class and a gap of at most {one['gamma']:g}", one) for one in result["curve"]]
    for label, one in shares:
        grid.add_row(label, *(f"{100 * one[side]['share']:.1f}" for side in ("proven", "standing")))
    out_console.print(grid)
    if result["errors"]:
        say(f"{result['errors']} examples could not be compared; certificate.jsonl says why")

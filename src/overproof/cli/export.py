"""The words of `overproof export`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from overproof.cli.completion import formats
from overproof.cli.console import say
from overproof.cli.options import SOURCE, Data, Layout, TrustCode


def export(
    run: Annotated[str, typer.Argument(help=SOURCE)],
    to: Annotated[str, typer.Option(help="onnx, int8, torch, vnnlib or hub.", autocompletion=formats)],
    out: Annotated[
        Path | None, typer.Option(help="The file or folder; default in your own run, or exports/NAME.")
    ] = None,
    data: Data = None,
    layout: Layout = None,
    trust_code: TrustCode = False,
    opset: Annotated[int | None, typer.Option(help="onnx, int8: the operator set; default 18.")] = None,
    licence: Annotated[str | None, typer.Option(help="onnx, int8, hub: what is said of its licence.")] = None,
    calibration: Annotated[str | None, typer.Option(help="int8: minmax, entropy or percentile.")] = None,
    examples: Annotated[
        int | None, typer.Option(help="int8: training images that calibrate; vnnlib: test images asked about.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="vnnlib: ask about this run and the network as a pair.")] = None,
    eps: Annotated[str | None, typer.Option(help="vnnlib: another radius, e.g. 8/255.")] = None,
    gamma: Annotated[float | None, typer.Option(help="vnnlib: the difference of margins asked about.")] = None,
    timeout: Annotated[int | None, typer.Option(help="vnnlib: seconds per query in instances.csv.")] = None,
    seed: Annotated[int | None, typer.Option(help="vnnlib: seed of the images and of the attacks.")] = None,
    push: Annotated[str | None, typer.Option(help="hub: push it to this org/name as well.")] = None,
    private: Annotated[bool, typer.Option("--private", help="hub: nobody else may see what is pushed.")] = False,
) -> None:
    """Write a network as a file that runs elsewhere, once it is known to do the same there.

    Example: overproof export runs/mnist-ard --to int8 --calibration percentile
    """
    from overproof.commands.export import exporting
    from overproof.runs.sources import with_layout

    options = {
        "opset": opset,
        "licence": licence,
        "calibration": calibration,
        "examples": examples,
        "teacher": teacher,
        "eps": eps,
        "gamma": gamma,
        "timeout": timeout,
        "seed": seed,
        "push": push,
        "private": private or None,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    run = with_layout(run, layout)
    result = exporting(run, to=to, out=out, data=data, trust_code=trust_code, **given)
    say(f"{result['run']} -> {result['file']}")
    _SAID[to](result)


def _say_parity(result: "dict[str, Any]") -> None:
    say(f"{result['bytes']:,} bytes, sha256 {result['sha256'][:16]}")
    _say_batches("run from the file", result["parity"])


def _say_batches(how: str, parity: "list[dict[str, Any]]") -> None:
    say(f"{how}, beside the network itself:")
    for one in parity:
        images = " 1 image: " if one["batch"] == 1 else f"{one['batch']:2} images:"
        say(f"  {images} logits within {one['difference']:.1e}, same class {one['agreeing']} of {one['batch']}")


def _say_cost(result: "dict[str, Any]") -> None:
    whole, cost = result["float"], result["cost"]
    small = whole["bytes"] / result["bytes"]
    say(f"{result['bytes']:,} bytes, {small:.1f} times smaller than in float; sha256 {result['sha256'][:16]}")
    _say_batches("run in float, before quantising", whole["parity"])
    calibration = result["calibration"]
    say(f"calibrated by {calibration['method']} on {calibration['images']} training images")
    say(f"on {cost['images']} held-out images: same class as in float {cost['agreeing']} of {cost['images']}")
    for name, label in (("clean", "clean"), ("robust", f"under {' and '.join(cost['attacks'])}")):
        one = cost[name]
        paired = one["paired"]
        say(
            f"  {label}: correct in float {one['float']}, in INT8 {one['int8']}; lost {paired['only_before']}, "
            f"gained {paired['only_after']}; {_points(paired)}"
        )
    before, after = whole["latency"], result["latency"]
    say("one image on one thread here:")
    for name, one in (("float:", before), ("INT8: ", after)):
        say(f"  {name} median {one['median']:.3f} ms, p99 {one['p99']:.3f} ms")
    say(_pace(before["median"], after["median"]))


def _pace(before: float, after: float) -> str:
    """Return whether INT8 pays in time as well; medians within a tenth of each other are no difference."""
    if after > 1.1 * before:
        return f"INT8 is {after / before:.1f} times slower here: take it for its size, or measure it where it will run"
    if before > 1.1 * after:
        return f"INT8 is {before / after:.1f} times faster here"
    return "INT8 is as fast as float here"


def _points(paired: "dict[str, Any]") -> str:
    low, high = paired["interval"]
    return f"{100 * paired['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points"


def _say_queries(result: "dict[str, Any]") -> None:
    parts = [("robust", "VNN-LIB 1.0", "is another class possible?")]
    if result["pair"]:
        gamma, teacher = result["pair"]["gamma"], result["pair"]["teacher"]
        parts.append(
            ("pair", "VNN-LIB 2.0", f"can it and {teacher} disagree about the class, or their margins by {gamma:g}?")
        )
    say(f"within linf {result['eps']} of each of {len(result['images'])} test images:")
    for name, version, question in parts:
        known = result[name]["known"]
        say(f"  {name}/, {result[name]['queries']} queries in {version}: {question}")
        say(f"    known already: yes (sat) {known['sat']}, no (unsat) {known['unsat']}; open {known['open']}")


def _say_repository(result: "dict[str, Any]") -> None:
    say(f"files: {', '.join(result['files'])}")
    if result["address"]:
        say(f"pushed: {result['address']}")


_SAID: "Mapping[str, Callable[[dict[str, Any]], None]]" = {
    "onnx": _say_parity,
    "torch": _say_parity,
    "int8": _say_cost,
    "vnnlib": _say_queries,
    "hub": _say_repository,
}

"""The words of `overproof export`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from overproof.cli.completion import formats
from overproof.cli.console import say


def export(
    run: Annotated[str, typer.Argument(help="A run folder, package.module:factory, timm:NAME or robustbench:NAME.")],
    to: Annotated[str, typer.Option(help="onnx, int8, torch, vnnlib or hub.", autocompletion=formats)],
    out: Annotated[Path | None, typer.Option(help="The file or folder; default in the run folder.")] = None,
    data: Annotated[str | None, typer.Option(help="Images of a foreign network: digits, a hub id or a path.")] = None,
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
    from overproof.verbs.export import export as exporting

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
    given = {name: value for name, value in options.items() if value is not None}
    found = exporting(run, to=to, out=out, data=data, **given)
    say(f"{found['run']} -> {found['file']}")
    _SAID[to](found)


def _say_parity(found: "dict[str, Any]") -> None:
    say(f"{found['bytes']:,} bytes, sha256 {found['sha256'][:16]}")
    _say_batches("the network itself", found["parity"])


def _say_batches(beside: str, parity: "list[dict[str, Any]]") -> None:
    for one in parity:
        say(
            f"beside {beside}, batch {one['batch']}: logits differ by at most {one['difference']:.2g}, "
            f"same class {one['agreeing']} of {one['batch']}"
        )


def _say_cost(found: "dict[str, Any]") -> None:
    whole, cost = found["float"], found["cost"]
    say(f"{found['bytes']:,} bytes, in float {whole['bytes']:,}; sha256 {found['sha256'][:16]}")
    _say_batches("the network itself, in float", whole["parity"])
    calibration = found["calibration"]
    say(f"calibrated by {calibration['method']} on {calibration['images']} training images")
    say(f"on {cost['images']} held-out images: same class as in float {cost['agreeing']} of {cost['images']}")
    for name, label in (("clean", "clean"), ("robust", f"under {' and '.join(cost['attacks'])}")):
        one = cost[name]
        paired = one["paired"]
        say(
            f"{label}: correct in float {one['float']}, in INT8 {one['int8']}; lost {paired['only_before']}, "
            f"gained {paired['only_after']}; {_points(paired)}"
        )
    for name, one in (("float", whole["latency"]), ("INT8", found["latency"])):
        say(f"one image on one thread, {name}: median {one['median']:.3f} ms, p99 {one['p99']:.3f} ms")


def _points(paired: "dict[str, Any]") -> str:
    low, high = paired["interval"]
    return f"{100 * paired['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points"


def _say_queries(found: "dict[str, Any]") -> None:
    parts = [("robust", "VNN-LIB 1.0, is another class possible")]
    if found["pair"]:
        gamma = found["pair"]["gamma"]
        parts.append(("pair", f"VNN-LIB 2.0 with {found['pair']['teacher']}, another class or margins {gamma:g} apart"))
    for name, label in parts:
        known = found[name]["known"]
        say(
            f"{name}/: {found[name]['queries']} queries, {label} within linf {found['eps']}; known to be sat "
            f"{known['sat']}, unsat {known['unsat']}, open {known['open']}"
        )


def _say_repository(found: "dict[str, Any]") -> None:
    say(f"files: {', '.join(found['files'])}")
    if found["address"]:
        say(f"pushed: {found['address']}")


_SAID: "Mapping[str, Callable[[dict[str, Any]], None]]" = {
    "onnx": _say_parity,
    "torch": _say_parity,
    "int8": _say_cost,
    "vnnlib": _say_queries,
    "hub": _say_repository,
}

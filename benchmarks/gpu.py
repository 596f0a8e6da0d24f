"""``python -m benchmarks.gpu``: is the CUDA path right, and how fast is it; meant for 8 minutes on one GPU.

Self-contained: random images of CIFAR's shape. First it checks (a failed check is printed, and the exit status is 1),
then it measures, everything in turn in one process. Each part is written as soon as it is done, and a second run does
only what is missing: ``--out FILE`` (default ``benchmarks/results/gpu-<name>.json``). ``--device cpu --small`` runs the
same code where there is no GPU, to see that it works; nothing is kept of it.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.batched import ways
from benchmarks.loading import MODEL, make, resnet50
from benchmarks.loading import loop as images_loop
from benchmarks.ratio import Ratio, ratio
from benchmarks.steps import (
    CIFAR,
    CPU,
    ard,
    bare_passes,
    loop,
    matmul,
    network,
    noise,
    operations,
    search_passes,
    textbook_step,
)
from overproof.attacks.ball import Radius, Threat
from overproof.attacks.suites import SUITES
from overproof.bounds.crown import bound
from overproof.bounds.region import Region
from overproof.bounds.spec import margins
from overproof.bounds.trace import trace
from overproof.data.augment import Augment
from overproof.data.sources import Folder
from overproof.data.streaming import Loading
from overproof.environment import hardware, pick_device, versions
from overproof.evaluation.attacked import judge
from overproof.methods.catalogue import methods as catalogue
from overproof.methods.natural import Natural
from overproof.models.inference.fused import fused_for_attack, use_cuda_graphs
from overproof.models.precision import tensor_float
from overproof.models.weights import build, freeze
from overproof.training.performance import Performance

Part = Callable[["Bench"], dict[str, Any]]
NETWORKS = ("resnet18", "mobilenetv2")
COMPILED = ("off", "networks", "graphs")


class Bench:
    """Where to measure and how large: ``small`` is for a look at whether the code runs at all."""

    def __init__(self, place: torch.device, small: bool) -> None:
        self.place, self.small = place, small
        self.batch = 8 if small else 256
        self.steps = 1 if small else 10
        self.rounds = 1 if small else 5
        self.networks = ("resnet20",) if small else NETWORKS
        self.compiled = ("off",) if small else COMPILED

    def settled(self, work: Callable[[], object]) -> Callable[[], None]:
        """Return the work as it is timed: until the device has done all of it."""

        def timed() -> None:
            work()
            if self.place.type == "cuda":
                torch.cuda.synchronize()

        return timed

    def step(self, name: str, precision: str, compile: str = "off", steps: int = 1) -> Callable[[], object]:
        """Return a function that takes one epoch of so many ARD steps in our loop."""
        options = Performance(compile=compile)  # type: ignore[arg-type]
        run = loop(
            ard(self.steps), name, self.batch, precision, steps=steps, place=self.place, performance=options
        ).run()
        return lambda: next(run)


def same_as_on_the_processor(bench: Bench) -> dict[str, Any]:
    """The means of every method's terms over two steps of a small network, fp32 without TF32, on both devices.

    Random starts and augmentation are drawn on the device, so only methods without a search can be compared closely.
    """
    found = {}
    with tensor_float(False):
        for kind, cls in catalogue().items():
            sides = [
                next(loop(cls(), "cnn-small", 16, "fp32", steps=2, place=place, augment=Augment()).run()).means
                for place in (CPU, bench.place)
            ]
            found[kind] = max(abs(sides[0][name] - sides[1][name]) / max(1, abs(sides[0][name])) for name in sides[0])
    exact = max(found[kind] for kind in ("natural", "kd", "rrm", "ibp", "faithful"))
    return {"differences": found, "ok": exact < 1e-3}


def bounds_are_the_same(bench: Bench) -> dict[str, Any]:
    """IBP's and CROWN's margins of a small network on both devices."""
    found = {}
    for means in ("ibp", "crown"):
        sides = []
        for place in (CPU, bench.place):
            images = noise(4, place)
            region = Region.around(images.images.float() / 255, 1 / 255)
            graph = trace(freeze(network("cnn-small", 0, place)), (3, 32, 32)).graph()
            sides.append(bound(graph, region, margins(images.labels, 10), means).lower.cpu())  # type: ignore[arg-type]
        found[means] = float(((sides[0] - sides[1]).abs() / sides[0].abs().clamp_min(1)).max())
    return {"differences": found, "ok": max(found.values()) < 1e-3}


def nothing_waits(bench: Bench) -> dict[str, Any]:
    """No step of any method waits for the device: CUDA's own debug mode raises where one does."""
    if bench.place.type != "cuda":
        return {"ok": True, "note": "only CUDA can tell"}
    waits = {}
    for kind, cls in catalogue().items():
        one = loop(cls(), "resnet20", 16, "fp32", steps=4, place=bench.place)
        batches = one.loader.batches(0)
        one._learn(next(batches))  # the first may allocate, compile kernels and trace
        batch = next(batches)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            one._learn(batch)
        except RuntimeError as problem:
            waits[kind] = str(problem).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"waits": waits, "ok": not waits}


def replayed_as_asked(bench: Bench) -> dict[str, Any]:
    """Logits and gradients of a fused network, by CUDA graphs and without, while its weights move."""
    if bench.place.type != "cuda":
        return {"ok": True, "note": "only CUDA has graphs"}
    found = {}
    for precision, close in (("fp32", 1e-4), ("bf16", 2e-2)):
        plain, twin = network("resnet20", 0, bench.place), network("resnet20", 0, bench.place)
        use_cuda_graphs(twin)
        x = noise(16, bench.place).images.float() / 255
        apart = 0.0
        for _ in range(3):
            sides = []
            for one in (plain, twin):
                with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"), fused_for_attack(one):
                    point = x.clone().requires_grad_()
                    logits = one(point)
                    sides.append((logits.detach(), *torch.autograd.grad(logits.square().sum(), point)))
                with torch.no_grad():
                    for value in one.parameters():
                        value.mul_(1.01)
            for a, b in zip(*sides, strict=True):
                apart = max(apart, float((a - b).norm() / b.norm()))
        found[precision] = {"apart": apart, "ok": apart <= close}
    return {"differences": found, "ok": all(one["ok"] for one in found.values())}


def against_the_textbook(bench: Bench) -> dict[str, Any]:
    """A textbook fp32 NCHW step over our step, as it is and compiled; target 5 for ResNet-18."""
    found = {}
    for name in bench.networks:
        textbook = bench.settled(textbook_step(name, bench.batch, bench.steps, bench.place))
        for compile in bench.compiled:
            with tensor_float(False):  # as a textbook's fp32 is
                ours = bench.settled(bench.step(name, "bf16", compile))
                found[f"{name} {compile}"] = asdict(ratio(textbook, ours, bench.rounds))
    return found


def against_bare_passes(bench: Bench) -> dict[str, Any]:
    """Our step over its bare passes in the same precision; target 1.10."""
    found = {}
    for name in bench.networks:
        ours = bench.settled(bench.step(name, "bf16"))
        bare = bench.settled(bare_passes(ard(bench.steps), name, bench.batch, "bf16", place=bench.place))
        found[name] = asdict(ratio(ours, bare, bench.rounds))
    return found


def of_the_matmul_rate(bench: Bench) -> dict[str, Any]:
    """The share of the device's measured bf16 matmul rate that a ResNet-18 ARD step reaches; target 0.35."""
    n = 256 if bench.small else 8192
    product = bench.settled(matmul(n, bench.place))
    work = operations(ard(bench.steps), bench.networks[0], bench.batch)
    found: dict[str, Any] = {"operations": work}
    for compile in bench.compiled:
        one = ratio(bench.settled(bench.step(bench.networks[0], "bf16", compile)), product, bench.rounds)
        rate = work / one.seconds_a
        found[compile] = {"rate": rate, "share": rate / (2 * n**3 / one.seconds_b)}
    return found


def larger_searches(bench: Bench) -> dict[str, Any]:
    """Four searches on 128 images each over one on 512, their passes alone: what a larger search batch could save."""
    found = {}
    for name in bench.networks:
        one, four = (
            bench.settled(search_passes(name, CIFAR, size, "bf16", still=True, place=bench.place))
            for size in (bench.batch // 2, 2 * bench.batch)
        )
        found[name] = asdict(ratio(lambda one=one: [one() for _ in range(4)], four, bench.rounds))  # type: ignore[misc]
    return found


def teachers_at_once(bench: Bench) -> dict[str, Any]:
    """Two teachers of one shape, one after the other, over both at once as one network by ``vmap``."""
    found = {}
    for name in bench.networks:
        in_turn, at_once = (bench.settled(way) for way in ways(name, bench.batch, bench.place))
        found[name] = asdict(ratio(in_turn, at_once, bench.rounds))
    return found


def a_stream(bench: Bench) -> dict[str, Any]:
    """Training ResNet-50 on 224-pixel JPEGs: seconds from memory over seconds from a stream; target 0.9."""
    with tempfile.TemporaryDirectory() as folder:
        made, copies = (8, 1) if bench.small else (512, 16)
        make(Path(folder), made)
        for file in list(Path(folder).rglob("*.jpg")):
            for number in range(1, copies):
                shutil.copy(file, file.with_stem(f"{file.stem}-{number}"))
        encoded = Folder(path=folder).open("train")
        streamed = Loading(mode="streamed").place(encoded, bench.place)
        works = []
        for images in (encoded.decoded().to(bench.place), streamed):
            student = build(MODEL, encoded.signature) if bench.small else resnet50(encoded.signature)
            works.append(bench.settled(images_loop(images, Natural(), student.to(bench.place), bench.batch)))
        return asdict(ratio(*works, min(bench.rounds, 3)))


def an_epoch(bench: Bench) -> dict[str, Any]:
    """One epoch of PGD-10 ARD on 50,000 images, ResNet-18 from ResNet-18, our defaults; target 25 s."""
    found = {}
    for compile in bench.compiled:
        run = loop(
            ard(bench.steps),
            bench.networks[0],
            bench.batch,
            "bf16",
            steps=2 if bench.small else 50_000 // bench.batch,
            place=bench.place,
            performance=Performance(compile=compile),  # type: ignore[arg-type]
        ).run()
        if compile != "off":
            next(run)  # compiles, or records
        started = time.perf_counter()
        while not next(run).whole:
            pass
        found[compile] = time.perf_counter() - started
    return found


def an_evaluation(bench: Bench) -> dict[str, Any]:
    """Seconds of ``standard`` on a network that nothing breaks: every attack makes all of its passes."""
    images = noise(4 if bench.small else 500, bench.place)
    hard = freeze(network(bench.networks[0], 0, bench.place))
    answers = torch.cat([hard(batch.x).argmax(dim=1) for batch in images.batches(250)])
    # A radius of a millionth: random weights are hardly ever that near to another answer.
    attacks = SUITES["standard"](Threat(eps=Radius("1/1000000"))).attacks
    started = time.perf_counter()
    found = judge(hard, replace(images, labels=answers), attacks[: 1 if bench.small else None])
    return {"seconds": time.perf_counter() - started, "images": len(images), "left": found.worst.passed}


CHECKS: dict[str, Part] = {
    "same as on the CPU": same_as_on_the_processor,
    "bounds are the same": bounds_are_the_same,
    "nothing waits": nothing_waits,
    "replayed as asked": replayed_as_asked,
}
MEASURES: dict[str, Part] = {
    "against the textbook": against_the_textbook,
    "against bare passes": against_bare_passes,
    "of the matmul rate": of_the_matmul_rate,
    "an epoch": an_epoch,
    "an evaluation": an_evaluation,
    "larger searches": larger_searches,
    "teachers at once": teachers_at_once,
    "a stream": a_stream,
}


def main() -> None:
    """Check, measure what is not measured yet, write after every part, and print a short table last."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=main.__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="look whether the code runs; nothing is kept")
    options = parser.parse_args()
    place = pick_device(options.device)
    name = re.sub("[^a-z0-9]+", "-", hardware(place).lower()).strip("-")
    file = options.out or Path(__file__).parent / "results" / f"gpu-{name}.json"
    results = json.loads(file.read_text()) if file.is_file() and not options.small else {}
    results |= {"hardware": hardware(place), "versions": versions()}
    bench = Bench(place, options.small)
    for part, work in (CHECKS | MEASURES).items():
        if part in results and results[part].get("ok", True):
            continue
        started = time.perf_counter()
        results[part] = work(bench)
        print(f"{time.perf_counter() - started:6.1f} s  {part}: {json.dumps(results[part])}", flush=True)
        if not options.small:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(table(results)))
    sys.exit(0 if all(results[part]["ok"] for part in CHECKS) else 1)


def table(results: dict[str, Any]) -> list[str]:
    """Return a short table of a result file."""
    lines = [f"{results['hardware']}, torch {results['versions']['torch']}"]
    lines += [f"{part:<34} {'yes' if results[part]['ok'] else 'NO'}" for part in CHECKS]
    return lines + [f"{what:<58} {figure:<20} {target}".rstrip() for what, target, figure in figures(results) if figure]


def figures(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return what is measured, its target and what was found: nothing where it was not measured."""
    lines = []
    for name in NETWORKS:
        for compile in COMPILED:
            found = results.get("against the textbook", {}).get(f"{name} {compile}")
            target = ">= 5" if name == "resnet18" else ""
            lines.append((f"{name}, compile {compile}: textbook fp32 step / ours", target, _ratio(found)))
    for part, what, target in (
        ("against bare passes", "our step / bare passes", "<= 1.10"),
        ("larger searches", "four searches / one larger", ""),
        ("teachers at once", "teachers in turn / at once", ""),
    ):
        lines += [(f"{name}: {what}", target, _ratio(results.get(part, {}).get(name))) for name in NETWORKS]
    lines.append(("ResNet-50: images from memory / streamed", ">= 0.9", _ratio(results.get("a stream"))))
    for compile in COMPILED:
        share = results.get("of the matmul rate", {}).get(compile, {}).get("share")
        seconds = results.get("an epoch", {}).get(compile)
        lines += [
            (f"resnet18, compile {compile}: share of the bf16 matmul rate", ">= 0.35", _number(share, 2)),
            (f"resnet18, compile {compile}: seconds of an ARD epoch", "<= 25", _number(seconds, 1)),
        ]
    seconds = results.get("an evaluation", {}).get("seconds")
    lines.append(("resnet18: seconds of standard, 500 images, all left", "", _number(seconds, 1)))
    return lines


def _ratio(found: dict[str, Any] | None) -> str:
    return str(Ratio(**found)) if found else ""


def _number(found: float | None, digits: int) -> str:
    return "" if found is None else f"{found:.{digits}f}"


if __name__ == "__main__":
    main()

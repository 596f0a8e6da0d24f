"""``python -m benchmarks``: every claim, its target, what was measured; writes a JSON file per hardware."""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import torch

from benchmarks.attacks import attacked
from benchmarks.ratio import Ratio, ratio
from benchmarks.steps import (
    CIFAR,
    CPU,
    ard,
    bare_passes,
    loop_step,
    matmul,
    operations,
    search_passes,
    shortened,
    steps_worth_timing,
    textbook_step,
)
from benchmarks.textbook import KINDS
from benchmarks.textbook import step as scripted_step
from overproof.environment import hardware, versions
from overproof.methods.catalogue import methods as catalogue
from overproof.methods.witness import search_of
from overproof.models.architectures.convnet import ConvNet
from overproof.models.precision import computes_bf16
from overproof.signature import Signature

RESULTS = Path(__file__).parent / "results"
BOUNDED = {"ibp", "crown_ibp", "sabr", "mtl_ibp", "faithful"}


def timed(a: Callable[[], object], b: Callable[[], object], rounds: int) -> Ratio:
    """Return the ratio of the CPU's times where there is one thread, else of the clock's on the wall."""
    return ratio(a, b, rounds, process_time if torch.get_num_threads() == 1 else perf_counter)


@dataclass(frozen=True)
class Claim:
    """What is claimed, how it is bounded, and what was measured."""

    name: str
    target: str
    measured: Ratio
    holds: bool


def precision(rounds: int, batch: int) -> Iterator[Claim]:
    """Precision, layout and a fused network in our loop against the same step in fp32 NCHW."""
    for name in ("resnet18", "mobilenetv2"):
        found = timed(textbook_step(name, batch), loop_step(ard(), name, batch, "auto"), rounds)
        yield Claim(
            f"{name}, PGD-10 ARD, batch {batch}: fp32 NCHW step / our step, precision auto",
            ">= 2.0",
            found,
            found.median >= 2.0,
        )


def overhead(rounds: int, batch: int) -> Iterator[Claim]:
    """Our step against nothing but its network passes, same precision and layout."""
    for name in ("resnet18", "mobilenetv2"):
        found = timed(loop_step(ard(), name, batch, "bf16"), bare_passes(ard(), name, batch, "bf16"), rounds)
        yield Claim(
            f"{name}, PGD-10 ARD, batch {batch}: our step / its bare network passes",
            "<= 1.05",
            found,
            found.median <= 1.05,
        )


def methods(rounds: int, batch: int) -> Iterator[Claim]:
    """Every method's step, with a search of three steps, against the passes its cost counts.

    Training by bounds does more than its passes: ``benchmarks.bounds`` measures it.
    """
    for kind in sorted(set(catalogue()) - BOUNDED):
        method = shortened(kind)
        steps = steps_worth_timing(method)
        found = timed(
            loop_step(method, "resnet18", batch // 4, "bf16", steps),
            bare_passes(method, "resnet18", batch // 4, "bf16", steps),
            rounds,
        )
        yield Claim(
            f"{kind}, resnet18, batch {batch // 4}: our step / the passes it counts",
            "<= 1.05",
            found,
            found.median <= 1.05,
        )


def textbook(rounds: int, batch: int) -> Iterator[Claim]:
    """Steps written as the official scripts are, fp32 and NCHW, against ours, the same work each.

    A step without a search is short enough to be measured at the recipes' batch as well (four times as large).
    """
    for kind, name in (*((kind, "resnet18") for kind in KINDS), ("ard", "mobilenetv2")):
        method = catalogue()[kind]()
        search = search_of(method)
        for size in (batch // 2,) if search else (batch // 2, 2 * batch):
            found = timed(
                scripted_step(kind, name, size, search.steps if search else 0, CPU),
                loop_step(method, name, size, "auto"),
                rounds,
            )
            target = 2.2 if computes_bf16(CPU) else 1.0
            yield Claim(
                f"{kind}, {name}, batch {size}: the official script's way / our step",
                f">= {target}",
                found,
                found.median >= target,
            )


def still(rounds: int, batch: int) -> Iterator[Claim]:
    """A search's passes through a network in eval mode against those through a fused one.

    And those of a fused depthwise network in bf16 against fp32, which the precision ``auto`` takes for it.
    """
    small, mnist = ConvNet(channels=(8, 16), hidden=(64,)), Signature(channels=1, height=28, width=28, classes=10)
    passes = partial(search_passes, "mobilenetv2", CIFAR, batch // 2)
    pairs = {
        f"{name}, {precision}, batch {size}, 10 passes: in eval mode / fused": [
            partial(search_passes, architecture, like, size, precision, held) for held in (False, True)
        ]
        for name, architecture, like, size in (
            *((name, name, CIFAR, batch // 2) for name in ("resnet18", "mobilenetv2", "resnet20")),
            ("convnet 8-16", small, mnist, 2 * batch),
        )
        for precision in ("bf16", "fp32")
    }
    pairs[f"mobilenetv2, batch {batch // 2}, 10 fused passes: bf16 / fp32, which `auto` takes"] = [
        partial(passes, precision, True) for precision in ("bf16", "fp32")
    ]
    for title, (one, other) in pairs.items():
        found = timed(one(), other(), rounds)
        yield Claim(title, ">= 1.0", found, found.median >= 1)


def matmul_rate(rounds: int, batch: int) -> Iterator[Claim]:
    """The rate at which a step gets through its products, over that of one large bf16 product."""
    n = 4096
    found = timed(loop_step(ard(), "resnet18", batch, "bf16"), matmul(n), rounds)
    share = operations(ard(), "resnet18", batch) / found.seconds_a / (2 * n**3 / found.seconds_b)
    yield Claim(
        f"resnet18, PGD-10 ARD, batch {batch}: {100 * share:.0f} % of the bf16 matmul rate (ratio: step / product)",
        ">= 85 %",
        found,
        share >= 0.85,
    )


def evaluation(rounds: int, batch: int) -> Iterator[Claim]:
    """Attacks by pyautoattack against ours: a robust network's whole ``standard``, and passes of large networks."""
    for name, theirs, ours in attacked(batch):
        found = timed(theirs, ours, max(1, rounds // 2))
        yield Claim(f"{name}: pyautoattack / ours", ">= 3", found, found.median >= 3)


def startup(rounds: int, batch: int) -> Iterator[Claim]:
    """``import overproof`` beyond torch, and ``--help``; seconds, each in a fresh process."""
    del batch
    extra = ratio(_python("import torch, overproof"), _python("import torch"), rounds)
    yield Claim(
        f"import overproof beyond torch: {extra.seconds_a - extra.seconds_b:.3f} s (ratio with and without)",
        "< 0.3 s",
        extra,
        extra.seconds_a - extra.seconds_b < 0.3,
    )
    shown = ratio(_python("from overproof.cli import app; app(['--help'])"), _python("pass"), rounds)
    yield Claim(
        f"overproof --help: {shown.seconds_a:.2f} s (ratio to an empty interpreter)",
        "< 1 s",
        shown,
        shown.seconds_a < 1,
    )


def _python(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


SUITES = {
    "precision": precision,
    "overhead": overhead,
    "methods": methods,
    "textbook": textbook,
    "still": still,
    "matmul": matmul_rate,
    "evaluation": evaluation,
    "startup": startup,
}


def main() -> None:
    """Run the suites named (all), print a table, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("suites", nargs="*", default=list(SUITES), help=", ".join(SUITES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    place = hardware(torch.device("cpu"))
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{re.sub('[^a-z0-9]+', '-', place.lower()).strip('-')}.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    print(f"{place}; torch {torch.__version__}; {options.rounds} rounds, alternating; median [min, max]\n")
    for name in options.suites:
        claims = []
        for claim in SUITES[name](options.rounds, options.batch):
            claims.append(asdict(claim))
            verdict = "holds" if claim.holds else "FAILS"
            print(f"{verdict}  {claim.name}: {claim.measured}  (target {claim.target})", flush=True)
            # Written after every claim: a long suite that is stopped keeps what it has measured.
            results[name] = {"hardware": place, "versions": versions(), "claims": claims}
            file.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nwritten to {file}")


if __name__ == "__main__":
    main()

"""``python -m benchmarks.search [FOLDER]``: what each part of branch and bound is worth on queries of ``resnet_2b``.

``FOLDER`` (default ``../shared/reference/wild``) holds ``onnx`` and ``queries``. Each line leaves one part out. What
is counted are the parts that were bounded until everything was proved, which no other work on the machine changes, and
the CPU seconds of one thread. Writes ``benchmarks/results/search.json``. Needs the extra ``export``.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from time import monotonic, process_time
from typing import Any
from unittest.mock import patch

import torch

from overproof.bounds import split
from overproof.bounds.slopes import AlphaOptimizer
from overproof.certification import verifier
from overproof.certification.query import Answer
from overproof.commands import decide
from overproof.environment import hardware, versions

FILE = Path(__file__).parent / "results" / "search.json"
QUERIES = (10, 14, 22, 32)
SECONDS = 60.0
Proof = verifier._Proof


def asked(folder: Path, number: int) -> tuple[Any, Any]:
    """Return the graph and the cases of a query, as the verifier is given them."""
    kept: list[tuple[Any, Any]] = []

    def keep(_: object, graph: object, cases: object, **__: object) -> Answer:
        kept.append((graph, cases))
        return Answer("unknown")

    query = folder / "queries" / "cifar10_resnet" / f"resnet_2b_prop_{number}_eps_0.008.vnnlib.gz"
    with patch.object(decide, "verify", keep):
        decide.decide(folder / "onnx" / "resnet_2b.onnx", query, seconds=1.0)
    return kept[0]


@contextmanager
def cold() -> Iterator[None]:
    """Let every part begin at CROWN's slopes, without betas."""
    children = split._Tree.children

    def forgetful(tree: Any, parts: Any) -> Any:
        start = torch.cat([parts.lower.new_zeros(0), *tree._crown()]).expand_as(parts.slopes).bfloat16()
        return children(tree, replace(parts, slopes=start, betas=torch.zeros_like(start)))

    with patch.object(split._Tree, "children", forgetful):
        yield


@contextmanager
def budget(**changes: Any) -> Iterator[None]:
    """Let the search have other means."""
    with patch.object(verifier, "Budget", lambda **given: split.Budget(**given, **changes)):
        yield


@contextmanager
def together() -> Iterator[None]:
    """Split for all rows at once."""

    def joint(*words: Any, enough: float, budget: Any, rounding: Any) -> split.Proof:
        *graph, spec, lower = words
        found = split.split(
            *graph, spec, lambda rows: -rows.amin(dim=1), goal=-enough, budget=budget, rounding=rounding
        )
        return replace(found, worst=min(found.worst, -float(lower.amin())))

    with patch.object(verifier, "least", joint):
        yield


@contextmanager
def loose() -> Iterator[None]:
    """Keep CROWN's bounds of the layers."""
    with patch.object(verifier, "_TIGHTER", 0.0):
        yield


@contextmanager
def everything() -> Iterator[None]:
    """Change nothing."""
    yield


VARIANTS: dict[str, Callable[[], Any]] = {
    "everything": everything,
    "all rows split together": together,
    "layers bounded by CROWN alone": loose,
    "parts begin at CROWN's slopes": cold,
    "the greatest chord is split, none is tried": lambda: budget(tried=1),
    "one step of slopes and betas a part": lambda: budget(optimizer=AlphaOptimizer(steps=1, rate=0.1)),
    "ten steps of slopes and betas a part": lambda: budget(optimizer=AlphaOptimizer(steps=10, rate=0.1)),
}


def measured(graph: Any, cases: Any) -> dict[str, Any]:
    """Return how many parts a proof takes, its CPU seconds, and whether it was finished."""
    proof, started = Proof(graph, cases, list(range(len(cases)))), process_time()
    with torch.no_grad():
        proof.crown(inf)
        proof.split(monotonic() + SECONDS)
    return {"parts": proof.parts, "seconds": process_time() - started, "proved": not proof.open}


def main() -> None:
    """Measure every variant on every query, write after each and print."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/reference/wild")
    queries = {number: asked(folder, number) for number in QUERIES}
    rows: dict[str, Any] = {}
    for name, variant in VARIANTS.items():
        rows[name] = {}
        for number, question in queries.items():
            with variant():
                rows[name][number] = measured(*question)
        print(name, json.dumps(rows[name]), flush=True)
        found = {"seconds": SECONDS, "rows": rows, "hardware": hardware(torch.device("cpu")), "versions": versions()}
        FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""``python -m benchmarks.families``: which families of timm's networks can be bounded; why the others cannot.

Of every module of timm the network with the fewest parameters is taken, without its weights. Its BatchNorms have the
statistics of random images, and its bounds by intervals must hold for images of the region. Each is tried in a process
of its own, which ends where it takes too much memory or time. Writes ``benchmarks/results/families.json``. Needs the
extra ``zoo``.
"""

import json
import multiprocessing
import resource
import warnings
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overproof.bounds.crown import bound
from overproof.bounds.region import Region
from overproof.bounds.spec import logits
from overproof.bounds.trace import trace
from overproof.environment import hardware, versions
from overproof.errors import InputError
from overproof.memory import ran_out
from overproof.models.classifier import parameter_count

RESULTS = Path(__file__).parent / "results"
CLASSES, SIZES, LARGEST = 10, (64, 96, 128, 160), 100_000_000
RADII = (1e-5, 1e-3)
MEMORY, SECONDS = 12 * 2**30, 90.0
"""What one family may take."""


_TOO_MUCH = f"not decided within {SECONDS:.0f} s and {MEMORY // 2**30} GiB"


def smallest(family: str) -> tuple[str, int]:
    """Return the network of a module of timm with the fewest parameters, and their number."""
    import timm

    found = []
    for name in timm.list_models(module=family):
        with torch.device("meta"):
            try:
                found.append((parameter_count(timm.create_model(name, num_classes=CLASSES)), name))
            except (RuntimeError, NotImplementedError):  # it computes with its weights while it is made
                continue
    count, name = min(found)
    return name, count


def built(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network in eval mode, its BatchNorms settled, and an image of the smallest size that it takes."""
    import timm

    torch.manual_seed(0)
    for options, sizes in (({"img_size": SIZES[0]}, SIZES[:1]), ({}, SIZES)):
        try:
            network = timm.create_model(name, num_classes=CLASSES, **options).eval()
        except TypeError:  # it takes images of any size, or of one alone
            continue
        for size in (*sizes, *(() if options else (network.default_cfg["input_size"][-1],))):
            x = torch.rand(8, 3, size, size)
            try:
                with torch.no_grad():
                    network(x[:2])
            except (RuntimeError, AssertionError, ValueError):
                continue
            return _settled(network, x), x[:1]
    raise ValueError(f"{name} runs on images of none of these sizes")


def _settled(network: nn.Module, x: Tensor) -> nn.Module:
    """Return the network in eval mode, its BatchNorms with the statistics of images."""
    norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for part in norms:
        part.train()
        part.momentum = None
    with torch.no_grad():
        network(x)
    return network.eval()


def tried(name: str) -> dict[str, Any]:
    """Return whether a network is bounded, and whether its bounds hold; or the sentence that refuses it."""
    network, x = built(name)
    network, x = network.double(), x.double()  # intervals of a deep network may be wider than any float32
    row: dict[str, Any] = {"network": name, "parameters": parameter_count(network), "pixels": x.shape[-1]}
    try:
        graph = trace(network, tuple(x.shape[1:])).graph()
    except InputError as problem:
        return row | {"refused": str(problem).partition("; supported are")[0]}
    held, finite = True, True
    for eps in RADII:
        away = torch.cat([torch.rand(4, *x.shape[1:]).to(x) * 2 - 1, torch.randn(4, *x.shape[1:]).to(x).sign()])
        with torch.no_grad():
            bounds = bound(graph, Region.around(x, eps), logits(1, CLASSES).to(x), "ibp")
            reached = network((x + eps * away).clamp(0, 1))
        lower = bounds.lower.nan_to_num(nan=-inf, neginf=-inf)
        upper = bounds.upper.nan_to_num(nan=inf, posinf=inf)
        slack = 1e-9 * reached.abs().max()  # what float64 may round in a network as deep as this
        held &= bool(((reached >= lower - slack) & (reached <= upper + slack)).all())
        finite &= eps > min(RADII) or bool((lower.isfinite() & upper.isfinite()).all())
    return row | {"held": held, "finite": finite}


def row_of(family: str) -> dict[str, Any]:
    """Return the row of a family: of its smallest network, unless that is too large."""
    name, count = smallest(family)
    row: dict[str, Any] = {"network": name, "parameters": count}
    if count > LARGEST:
        return row | {"refused": "not tried: it is too large"}
    try:
        return tried(name)
    except MemoryError:
        return row | {"refused": _TOO_MUCH}
    except (RuntimeError, AssertionError, ValueError, TypeError, KeyError) as problem:
        if ran_out(problem):
            return row | {"refused": _TOO_MUCH}
        return row | {"refused": f"not tried: it does not run on images of these sizes ({type(problem).__name__})"}


def apart(family: str) -> dict[str, Any]:
    """Return the row of a family, worked out by another process within ``MEMORY`` and ``SECONDS``."""
    forked = multiprocessing.get_context("fork")
    here, there = forked.Pipe(duplex=False)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        there.send(row_of(family))

    process = forked.Process(target=work)
    process.start()
    there.close()
    try:
        found: dict[str, Any] = here.recv() if here.poll(SECONDS) else {"refused": _TOO_MUCH}
    except EOFError:  # the system ended it
        found = {"refused": _TOO_MUCH}
    process.kill()
    process.join()
    return {"network": smallest(family)[0], "parameters": smallest(family)[1]} | found


def main() -> None:
    """Try what the file does not hold yet of these versions, and write and print the rows."""
    import timm

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    place = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "timm": timm.__version__}
    file = RESULTS / "families.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    rows = before["families"] if {key: before.get(key) for key in place} == place else {}
    families = timm.list_modules()
    for family in families:
        if family not in rows:
            rows[family] = apart(family)
            print(family, json.dumps(rows[family]), flush=True)
            found = {each: rows[each] for each in families if each in rows}
            file.write_text(json.dumps({"families": found, "of": len(families), **place}, indent=1) + "\n")


if __name__ == "__main__":
    main()

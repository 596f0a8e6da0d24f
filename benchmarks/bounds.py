"""``python -m benchmarks.bounds``: tightness and cost of the bounds next to the reference's, and of training by them.

The networks, images and bounds are those of ``tests/reference/bounds`` (auto_LiRPA 0.7.1, float64, one thread). Times
are CPU seconds of one thread, the best of a few rounds, so that other work on the machine counts little; what is
compared is measured in turn. The reference's seconds are what its README states, from another machine. A part that is
in the result file already is not measured again, unless its name (or a beginning of it) is given.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.pairs import bound_together, narrow
from overproof.attacks.ball import Radius, Threat
from overproof.bounds.crown import BoundOptions, Method, bound, final, intermediate
from overproof.bounds.graph import Graph, join_graphs
from overproof.bounds.pair import bound_pair
from overproof.bounds.region import Bounds, Region
from overproof.bounds.spec import logits, margins
from overproof.bounds.split import Budget
from overproof.bounds.trace import trace
from overproof.data.augment import Augment
from overproof.data.images import ImageSet
from overproof.data.loader import Loader
from overproof.environment import hardware, versions
from overproof.methods import method as methods
from overproof.methods.ibp import IBP
from overproof.methods.natural import Natural
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.classifier import Classifier
from overproof.models.weights import build
from overproof.signature import Signature
from overproof.training.loop import Loop
from overproof.training.optimisation import Constant, Training

FOLDER = Path(__file__).parents[1] / "tests" / "reference" / "bounds"
FILE = Path(__file__).parent / "results" / "bounds.json"
MNIST = Signature(channels=1, height=28, width=28, classes=10)
RADII = (0.01, 0.02, 0.05, 0.1)
ARCHITECTURES = {
    "mlp_nat": MLP(hidden=(256, 256)),
    "cnn_pgd": ConvNet(channels=(16, 32), hidden=(100,)),
    "student_kd": ConvNet(channels=(4, 8), hidden=(50,)),
}
PAIR = ("cnn_pgd", "student_kd")

# What the reference's README says of its cost: seconds of one thread.
ALPHA_SECONDS = {
    ("cnn_pgd", 0.02): 46,
    ("cnn_pgd", 0.05): 20,
    ("cnn_pgd", 0.1): 23,
    ("mlp_nat", 0.02): 10,
    ("student_kd", 0.02): 10,
    ("student_kd", 0.05): 13,
}
PAIR_SECONDS = {"separate_crown": 19.5, "diffbox": 19.52, "cuts": 19.55}  # as separate, and 0.02 and 0.05 more
BEST = {0.01: 0.142, 0.02: 0.197}
SPLITTING: tuple[tuple[Method, float], ...] = (("crown", 1.0), ("crown", 4.0), ("alpha", 6.0))
"""How the layers are bounded, and how long is split."""

_EPS = Threat(eps=Radius("0.1"))
IBPS = {
    "ibp-ramp": IBP(threat=_EPS, scaled_start=False),  # with its regulariser
    "ibp": IBP(threat=_EPS, ramp=0.0, scaled_start=False),
    "ibp-alone": IBP(threat=_EPS, ramp=0.0, kappa=(0.0, 0.0), scaled_start=False),  # no clean pass
}

Figures = dict[str, Any]


def main() -> None:
    """Measure what is missing, and write ``benchmarks/results/bounds.json`` after every part."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("again", nargs="*", help="parts to measure again, or the beginnings of their names")
    words.add_argument("--rounds", type=int, default=3)
    given = words.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    known = json.loads(FILE.read_text())["parts"] if FILE.is_file() else {}
    where = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "rounds": given.rounds}
    for name, part in parts(given.rounds):
        if name in known and not any(name.startswith(word) for word in given.again):
            continue
        known[name] = {**part(), **where}
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps({"seconds": "CPU seconds, best of the rounds", "parts": known}, indent=1) + "\n")
        print(name, json.dumps(known[name] | {"hardware": "", "versions": ""}), flush=True)


def parts(rounds: int) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Yield the name of each measurement and what makes it."""
    for name in ARCHITECTURES:
        for eps in RADII:
            yield f"networks/{name}/{eps}", partial(bounds_of, name, eps, rounds)
    for eps in RADII:
        yield f"pair/{eps}", partial(bounds_of_pair, eps, rounds)
    for width in ((16, 32), (4, 8)):
        for method in IBPS:
            yield f"training/{method}/{width[0]}-{width[1]}", partial(training_step, method, width, rounds)
    for eps in BEST:
        for method, seconds in SPLITTING:
            yield f"splitting/{eps}/{method}/{seconds:g}", partial(splitting, eps, method, seconds)
    for name, eps in ALPHA_SECONDS:
        yield f"alpha/{name}/{eps}", partial(alpha_of, name, eps)


# --- what is bounded --------------------------------------------------------------------------------------------------


@cache
def graph(name: str, dtype: torch.dtype) -> Graph:
    """Return a reference network's graph."""
    weights = load_file(FOLDER / "networks" / f"{name}.safetensors")
    backbone = ARCHITECTURES[name].build(MNIST)
    backbone.load_state_dict({key: value for key, value in weights.items() if not key.startswith("norm_")})
    first = json.loads((FOLDER / "networks" / f"{name}.arch.json").read_text())["nodes"][0]
    scale = {"mean": first["mean"], "std": first["std"]} if first["op"] == "normalize" else {}
    network = Classifier(backbone, MNIST, **scale).to(dtype).eval().requires_grad_(False)
    return trace(network, (1, 28, 28)).graph()


@cache
def told(file: str) -> dict[str, Tensor]:
    """Return one of the reference's files."""
    return load_file(FOLDER / f"{file}.safetensors")


def region(eps: float, dtype: torch.dtype, count: int = 16) -> Region:
    """Return the region around the first images."""
    return Region.around(told("inputs")["images"][:count].to(dtype), eps)


def reference(file: str, name: str, count: int = 16) -> Bounds:
    """Return bounds of the reference's, of the first images."""
    return Bounds(told(file)[f"{name}.lower"][:count], told(file)[f"{name}.upper"][:count])


def mean_width(bounds: Bounds) -> float:
    """Return the mean width over examples and rows."""
    return round(float((bounds.upper - bounds.lower).double().mean()), 5)


def mean_larger(bounds: Bounds) -> float:
    """Return the mean over the examples of the larger absolute bound."""
    return round(float(torch.maximum(bounds.upper, -bounds.lower).double().mean()), 5)


def in_turn(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Return the least CPU seconds of each, measured one after the other, round by round."""
    seconds = [[_seconds(work) for work in works] for _ in range(rounds)]
    return [round(min(column), 4) for column in zip(*seconds, strict=True)]


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


# --- one network ------------------------------------------------------------------------------------------------------


def bounds_of(name: str, eps: float, rounds: int) -> Figures:
    """Return seconds and widths of the quick methods for all 16 images: margins are timed, logits compared."""
    labels, figures = told("inputs")["labels"], Figures()
    for dtype in (torch.float32, torch.float64):
        made, here = graph(name, dtype), region(eps, dtype)
        quick: tuple[Method, ...] = ("ibp", "crown_ibp", "crown")
        works = [partial(bound, made, here, margins(labels, 10), method) for method in quick]
        for method, seconds in zip(quick, in_turn(rounds, *works), strict=True):
            of_logits, of_margins = (bound(made, here, spec, method) for spec in (logits(16, 10), margins(labels, 10)))
            theirs = reference(f"bounds/{name}", f"eps{eps}.{method}.logits")
            one = figures.setdefault(method, {"reference_width": mean_width(theirs)})
            one[str(dtype).removeprefix("torch.")] = {
                "seconds": seconds,
                "width": mean_width(of_logits),
                "looser_by_at_most": _excess(of_logits, theirs),
                "certified": int((of_margins.lower > 0).all(dim=1).sum()),
            }
    return figures


def _excess(ours: Bounds, theirs: Bounds) -> float:
    return float(f"{max(float((theirs.lower - ours.lower).max()), float((ours.upper - theirs.upper).max())):.2g}")


def alpha_of(name: str, eps: float) -> Figures:
    """Return seconds and width of alpha-CROWN, 20 steps, for 8 images: margins and logits together, as in the README.

    Unlike the reference's, every neuron of every layer has its own slopes.
    """
    labels, figures = told("inputs")["labels"][:8], Figures()
    for dtype in (torch.float32, torch.float64):
        made, here, options = graph(name, dtype), region(eps, dtype, 8), BoundOptions(method="alpha")
        results: dict[str, Bounds] = {}

        def work(
            made: Graph = made,
            here: Region = here,
            options: BoundOptions = options,
            results: dict[str, Bounds] = results,
        ) -> None:
            layers = intermediate(made, here, options)
            for what, spec in (("margins", margins(labels, 10)), ("logits", logits(8, 10))):
                results[what] = final(made, here, layers, spec, options)

        crown = bound(made, here, logits(8, 10), "crown")
        figures[str(dtype).removeprefix("torch.")] = {
            "seconds": in_turn(1, work)[0],
            "width": mean_width(results["logits"]),
            "crown_width": mean_width(crown),
            "certified": int((results["margins"].lower > 0).all(dim=1).sum()),
        }
    theirs = told(f"bounds/{name}")
    if f"eps{eps}.alpha.logits.lower" in theirs:
        figures["reference_width"] = mean_width(reference(f"bounds/{name}", f"eps{eps}.alpha.logits", 8))
    return {**figures, "reference_seconds": ALPHA_SECONDS[name, eps]}


# --- the pair ---------------------------------------------------------------------------------------------------------


def bounds_of_pair(eps: float, rounds: int) -> Figures:
    """Return the cost of the cheap joint bound next to that of CROWN on both networks, and how tight both are."""
    theirs = told("pairs/" + "__".join(PAIR))
    classes, figures = theirs["class"], Figures()
    for dtype in (torch.float32, torch.float64):
        teacher, student = (graph(name, dtype) for name in PAIR)
        here = region(eps, dtype)

        def apart(graphs: tuple[Graph, ...] = (teacher, student), here: Region = here) -> None:
            for one in graphs:
                bound(one, here, margins(classes, 10), "crown")

        together = partial(bound_together, teacher, student, here, classes, "crown")
        pairs = [in_turn(1, apart, together) for _ in range(rounds + 2)]
        ours = bound_together(teacher, student, here, classes, "crown")
        figures[str(dtype).removeprefix("torch.")] = {
            "crown_of_both_seconds": min(pair[0] for pair in pairs),
            "joint_seconds": min(pair[1] for pair in pairs),
            "ratio_of_best": round(min(pair[1] for pair in pairs) / min(pair[0] for pair in pairs), 3),
            "ratio_median": round(median(pair[1] / pair[0] for pair in pairs), 3),
            "separate": mean_larger(ours.separate),
            "joint": mean_larger(ours.joint),
        }
    return {
        **figures,
        "target_ratio": 1.3,
        "attacked": mean_larger(_attacked(eps)),
        "reference": {
            name: mean_larger(reference("pairs/" + "__".join(PAIR), f"eps{eps}.{name}.diff"))
            for name in ("separate_crown", "diffbox", "cuts", "cuts_cells_alpha", "best")
        },
        "reference_seconds": PAIR_SECONDS if eps == 0.02 else None,
    }


def _attacked(eps: float) -> Bounds:
    theirs = told("pairs/" + "__".join(PAIR))
    return Bounds(theirs[f"eps{eps}.attack.diff.min"], theirs[f"eps{eps}.attack.diff.max"])


def splitting(eps: float, method: Method, seconds: float) -> Figures:
    """Return the mean bound after splitting, for so many seconds of the clock where the attack leaves a gap."""
    dtype, options = torch.float32, BoundOptions(method=method)
    both, here = join_graphs(graph(PAIR[0], dtype), graph(PAIR[1], dtype)), region(eps, dtype)
    classes, inner = told("pairs/" + "__".join(PAIR))["class"], _attacked(eps)
    before, after, clock, processor = [], [], [], []
    for number in range(16):
        at = torch.tensor([number])
        enough = max(float(inner.upper[number]), -float(inner.lower[number])) + 0.002
        started = time.monotonic(), time.process_time()
        layers = intermediate(both, here.at(at), options)
        known = bound_pair(both, here.at(at), classes[at], layers, options)
        better = narrow(both, here.at(at), classes[at], layers, known, Budget(seconds=seconds), enough)
        clock.append(time.monotonic() - started[0])
        processor.append(time.process_time() - started[1])
        before.append(mean_larger(known.joint))
        after.append(mean_larger(better.joint))
    return {
        "before": round(sum(before) / 16, 5),
        "after": round(sum(after) / 16, 5),
        "of_each": after,
        "reference_best": BEST[eps],
        "attacked": mean_larger(inner),
        "processor_seconds_per_image": round(sum(processor) / 16, 2),
        "processor_seconds_at_most": round(max(processor), 2),
        "clock_seconds_at_most": round(max(clock), 2),
    }


# --- training ---------------------------------------------------------------------------------------------------------


def training_step(method: str, channels: tuple[int, int], rounds: int, batch: int = 128, steps: int = 30) -> Figures:
    """Return the cost of a step of IBP next to a plain one's: the recipes' networks and batch, our own loop, fp32."""
    plain, certified = (_epoch(one, channels, batch, steps) for one in (Natural(), IBPS[method]))
    plain(), certified()
    pairs = [in_turn(1, plain, certified) for _ in range(rounds + 2)]
    least = [min(column) for column in zip(*pairs, strict=True)]
    return {
        "plain_seconds_per_step": round(least[0] / steps, 5),
        "ibp_seconds_per_step": round(least[1] / steps, 5),
        "ratio_of_best": round(least[1] / least[0], 3),
        "ratio_median": round(median(pair[1] / pair[0] for pair in pairs), 3),
        "target_ratio": 2.5,
    }


def _epoch(method: methods.Method, channels: tuple[int, int], batch: int, steps: int) -> Callable[[], object]:
    """Return a function that takes so many steps of the project's loop on noise of MNIST's shape."""
    torch.manual_seed(0)
    images = torch.randint(256, (batch * steps, 1, 28, 28), dtype=torch.uint8)
    data = ImageSet("noise", images, torch.arange(batch * steps) % 10, tuple("0123456789"))
    student = build(ConvNet(channels=channels, hidden=(100 if channels[0] > 4 else 50,)), MNIST).train()
    training = Training(epochs=10**6, batch=batch, precision="fp32", schedule=Constant())
    run = Loop(method, student, {}, Loader(data, batch, Augment(), seed=0), training, seed=0).run()
    return lambda: next(run)


if __name__ == "__main__":
    main()

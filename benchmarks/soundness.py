"""``python -m benchmarks.soundness [COUNT]``: random tiny networks, and whether any bound is above a value attained.

Each network has one to three pixels, one to three hidden layers of one to four ReLUs, and a planted counter-example:
its last bias is moved so that the margin at one chosen image (often on a corner of the region or on a kink) is zero or
a hair below. What is asked is the least margin. Along a line a ReLU network is linear between kinks that are found
exactly, so with one pixel its least value over the region is exact; with more, the least is searched along lines from
many starts, and is attained at an image. A bound above it is wrong, and so is a proof that the planted image cannot
exist.

Networks are drawn by their number. ``benchmarks/results/soundness.json`` says how many were tried, and a run goes on
from there; it ends with an error at the first wrong one, and names it.
"""

import json
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from overproof.bounds.crown import METHODS, bound, intermediate
from overproof.bounds.region import Region
from overproof.bounds.split import Budget, bound_least
from overproof.bounds.trace import trace
from overproof.files import write_atomically

FILE = Path(__file__).parent / "results" / "soundness.json"
ROUNDING = 1e-10
"""Numbers are below about 1e3, and a bound of float64 is a few hundred sums of them: below 1e3 * 1e3 * 1e-16."""


@dataclass(frozen=True)
class Question:
    """A network, an image ``[1, 1, 1, pixels]`` with its region, and a planted image in it whose margin is <= 0."""

    network: nn.Sequential
    image: Tensor
    eps: float
    planted: Tensor


@dataclass(frozen=True)
class Asked:
    """What was found of a network: each bound of the least margin, the least attained, and whether splitting ended."""

    bounds: dict[str, float]
    attained: float
    exact: bool
    finished: bool

    @property
    def wrong(self) -> list[str]:
        """The bounds that are above an attained value."""
        return [name for name, bound in self.bounds.items() if not bound <= self.attained + ROUNDING]


def question(number: int) -> Question:
    """Draw a network by its number."""
    g = torch.Generator().manual_seed(number)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    pixels = pick(1, 3)
    sizes = [pixels, *(pick(1, 4) for _ in range(pick(1, 3))), 1]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layer = nn.Linear(inputs, outputs).double()
        with torch.no_grad():
            layer.weight.copy_(torch.randn(outputs, inputs, generator=g, dtype=torch.float64) * 2)
            layer.bias.copy_(torch.randn(outputs, generator=g, dtype=torch.float64))
        layers += [layer, nn.ReLU()]
    network = nn.Sequential(*layers[:-1]).eval().requires_grad_(False)
    image = torch.rand(1, 1, 1, pixels, generator=g, dtype=torch.float64)
    eps = 10 ** float(torch.empty(()).uniform_(-3, 0, generator=g))
    low, high = Region.around(image, eps).box
    share = torch.rand(image.shape, generator=g, dtype=torch.float64)
    if pick(0, 1):  # a corner, as a search that is off by one would forget
        share = share.round()
    planted = low + share * (high - low)
    hair = (0.0, 1e-6, 1e-3)[pick(0, 2)]
    last = network[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias -= network(planted)[0] + hair
    return Question(network, image, eps, planted)


def along(network: nn.Sequential, start: Tensor, end: Tensor) -> tuple[float, Tensor]:
    """Return the least value of a ReLU network between two images ``[1, ...]``, and where it is; exact."""
    shares = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for number, layer in enumerate(network):
        if isinstance(layer, nn.ReLU):
            before = network[:number](start + shares.view(-1, 1, 1, 1) * (end - start))
            one, other = before[:-1], before[1:]
            crossed = one * other < 0
            at = shares[:-1, None] + (shares.diff()[:, None] * one / (one - other).masked_fill(~crossed, 1.0))
            shares = torch.cat([shares, at[crossed]]).sort().values
    images = start + shares.view(-1, 1, 1, 1) * (end - start)
    value, place = network(images)[:, 0].min(dim=0)
    return float(value), images[place : place + 1]


def searched(asked: Question) -> tuple[float, bool]:
    """Return the least margin that was found in the region, and whether none can be less."""
    low, high = Region.around(asked.image, asked.eps).box
    if asked.image.numel() == 1:
        return min(along(asked.network, low, high)[0], float(asked.network(asked.planted)[0, 0])), True
    best = float(asked.network(asked.planted)[0, 0])
    pixels = asked.image.numel()
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * pixels).view(-1, 1, 1, pixels)
    for start in (asked.planted, asked.image, *(low + corner * (high - low) for corner in corners.split(1))):
        place, before = start, torch.inf
        for _ in range(5):
            for pixel in range(pixels):
                ends = [place.clone(), place.clone()]
                ends[0][..., pixel], ends[1][..., pixel] = low[..., pixel], high[..., pixel]
                value, place = along(asked.network, *ends)
            best = min(best, value)
            if value >= before - 1e-12:
                break
            before = value
    return best, False


def ask(asked: Question, *, seconds: float = 1.0) -> Asked:
    """Bound the least margin by every method and by splitting."""
    graph = trace(asked.network, tuple(asked.image.shape[1:])).graph()
    region = Region.around(asked.image, asked.eps)
    with torch.no_grad():
        spec = asked.image.new_ones(1, 1)
        bounds = {method: float(bound(graph, region, spec[None], method).lower) for method in METHODS}
        layers = intermediate(graph, region, "crown")
        known = asked.image.new_full((1,), bounds["crown"])
        proof = bound_least(graph, region, layers, spec, known, enough=0.0, budget=Budget(seconds=seconds))
    bounds["split"] = -proof.worst
    attained, exact = searched(asked)
    return Asked(bounds, attained, exact, proof.finished)


def main(count: int) -> None:
    torch.set_num_threads(1)
    found = json.loads(FILE.read_text()) if FILE.exists() else {"networks": 0, "wrong": 0, "exact": 0, "finished": 0}
    for number in range(found["networks"], count):
        asked = ask(question(number))
        if asked.wrong:
            raise SystemExit(f"network {number}: {', '.join(asked.wrong)} wrong: {asdict(asked)}")
        found["networks"] += 1
        found["exact"] += asked.exact
        found["finished"] += asked.finished
        if found["networks"] % 500 == 0 or number == count - 1:
            write_atomically(FILE, json.dumps(found, indent=1).encode() + b"\n")
            print(found, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)

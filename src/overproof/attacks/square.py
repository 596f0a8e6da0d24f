"""Square Attack: random search by squares, which needs scores and no gradient, so masked gradients do not stop it."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.base import BaseAttack, Needs
from overproof.attacks.objectives import Misclassification
from overproof.attacks.radius import Length, NormField
from overproof.errors import InputError
from overproof.models.mode import in_mode

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # the last iteration before p is halved once more
_TILES = 5  # to a side of the start of l2 and l1
_SMALLEST = 3  # side of a window of l2 and l1


@dataclass(frozen=True, kw_only=True)
class Square(BaseAttack):
    """Random search by squares at the corners of the ball (Andriushchenko et al. 2020; l1 by Croce and Hein 2021).

    Maximises the margin with forward passes alone, at most ``queries`` of them per example, the start among them (a
    judge's second opinion is not counted). A square covers the share ``p`` of the image, ``p_init`` in (0, 1] at first
    and halved at the iterations of the paper, which are not rescaled when ``queries`` is small (as in AutoAttack).
    linf: vertical stripes, then squares of plus or minus eps. l2 and l1: tiles of the pattern ``eta``, then windows
    that take over the budget of another window. Positions and signs are drawn per example, where the reference shares
    them within a batch. An example that is misclassified costs nothing more.
    """

    kind: Literal["square"] = "square"
    norm: NormField = NormField("linf")
    eps: Length = Length("8/255")
    queries: int = 5000
    p_init: float = 0.8

    needs: ClassVar[Needs] = "scores"
    least_dimensions: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries < 1:
            raise InputError(f"queries must be at least 1, got {self.queries}")
        if not 0 < self.p_init <= 1:
            raise InputError(f"p_init is a share of the image, in (0, 1], got {self.p_init}")

    @override
    def search(self, model: nn.Module, x: Tensor, goal: Misclassification) -> Tensor:
        """Return perturbed images like ``x``, detached, inside the ball and inside [0, 1]."""
        with in_mode(model, training=False), torch.no_grad():
            return self._search(x.detach(), goal.with_loss("margin")).view_as(x)

    def share(self, iteration: int) -> float:
        """Return the share of the image, p, that a square covers in an iteration, counted from 0 after the start."""
        return math.ldexp(self.p_init, -bisect_left(_HALVINGS, iteration))

    def side(self, iteration: int, height: int, width: int) -> int:
        """Return the side in pixels of an iteration's square: odd and at least 3 for l2 and l1 where that fits."""
        side = round(math.sqrt(self.share(iteration) * height * width))
        if self.norm == "linf":
            side = max(side, 1)
        else:
            side = max(side, _SMALLEST)
            side += 1 - side % 2
        return min(side, height, width)

    def _search(self, x: Tensor, goal: Misclassification) -> Tensor:
        """Return the ends of the search, flat ``[N, C * H * W]``."""
        shape = x.shape[1:]
        start, propose = (_stripes, _corner) if self.norm == "linf" else (_tiles, _transfer)
        power = 1 if self.norm == "l1" else 2
        point, x = start(x, self.eps, power).flatten(1), x.flatten(1)
        score, misclassified = goal.assess(point.view(-1, *shape))
        best = torch.where(score.isnan(), -torch.inf, score)  # anything beats a start without a score
        result, row = point.clone(), torch.arange(len(x), device=x.device)
        windows = None
        for iteration in range(self.queries - 1):
            if misclassified.any():
                result[row[misclassified]] = point[misclassified]
                keep = ~misclassified
                row, x, point, best, goal = row[keep], x[keep], point[keep], best[keep], goal.at(keep)
            if not len(row):
                break
            side = self.side(iteration, *shape[1:])
            if windows is None or windows.side != side:
                windows = Windows(side, power, shape, x)
            # A proposal is written into the point itself and taken back where it is no better, so that a query moves
            # windows and no images.
            at, before = propose(point, x, self.eps, windows)
            score, misclassified = goal.assess(point.view(-1, *shape))
            taken = (score > best) | misclassified
            best = torch.where(taken, score, best)
            point.scatter_(1, at, torch.where(taken[:, None], point.gather(1, at), before))
        result[row] = point
        return result


class Windows:
    """All squares of one side in images ``[C, H, W]``, and the pattern they are filled with.

    Images are flat ``[N, C * H * W]`` here, and a window is its pixels' indices, so that each example has its own.
    """

    def __init__(self, side: int, power: int, shape: torch.Size, like: Tensor) -> None:
        self.channels, self.height, self.width = shape
        self.side, self.power = side, power
        plane, line, pixel = (
            torch.arange(count, device=like.device) * stride
            for count, stride in ((self.channels, self.height * self.width), (side, self.width), (side, 1))
        )
        self.offsets = (plane[:, None, None] + line[:, None] + pixel).flatten()
        self.pattern = eta(side, power, like)

    def draw(self, n: int) -> Tensor:
        """Return the indices ``[N, C * side * side]`` of one uniformly drawn window for each of ``n`` images."""
        device = self.offsets.device
        top = torch.randint(self.height - self.side + 1, (n, 1), device=device)
        left = torch.randint(self.width - self.side + 1, (n, 1), device=device)
        return top * self.width + left + self.offsets

    def by_channel(self, values: Tensor) -> Tensor:
        """Return values ``[N, C * side * side]`` as ``[N, C, side * side]``."""
        return values.view(len(values), self.channels, -1)


def eta(side: int, power: int, like: Tensor) -> Tensor:
    """Return the paper's pattern ``[side, side]``: a pyramid above, its negative below, ``sum |eta|^power = 1``.

    Each half is nested, centred rectangles of weights ``1 / k^2``, k = 1, 2, ... from within, of length one before
    the two are joined (Andriushchenko et al. 2020, section 4.2).
    """
    upper = side // 2
    halves = [_pyramid(rows, side, power, like) for rows in (upper, side - upper)]
    pattern = torch.cat([halves[0], -halves[1]])
    return pattern / _length(pattern.flatten(), power)


def _pyramid(rows: int, columns: int, power: int, like: Tensor) -> Tensor:
    row, column = (torch.arange(count, device=like.device) - count // 2 for count in (rows, columns))
    distance = torch.maximum(row.abs()[:, None], column.abs())
    # A pixel lies in all rectangles but those within its distance from the centre.
    weights = 1 / torch.arange(1, columns // 2 + 2, dtype=like.dtype, device=like.device) ** 2
    height = weights.flip(0).cumsum(0).flip(0)[distance]
    return height / _length(height.flatten(), power)


def _stripes(x: Tensor, eps: float, power: int) -> Tensor:
    """Return vertical stripes of plus or minus eps, one sign per channel and column."""
    return (x + eps * _signs(x, len(x), x.shape[1], 1, x.shape[3])).clamp_(0, 1)


def _corner(point: Tensor, x: Tensor, eps: float, windows: Windows) -> tuple[Tensor, Tensor]:
    """Write plus or minus eps, per channel, into one window; return where, and what was there.

    A change of plus or minus 2 eps, clipped to the ball, is the corner itself. A window that already is as drawn gets
    the opposite corner, so that no query asks about the same image again (the paper's code draws again).
    """
    at = windows.draw(len(x))
    before, clean = point.gather(1, at), windows.by_channel(x.gather(1, at))
    step = eps * _signs(x, len(x), windows.channels, 1)
    after = (clean + step).clamp_(0, 1).flatten(1)
    same = (after - before).abs_().amax(dim=1) == 0
    step = torch.where(same[:, None, None], -step, step)
    point.scatter_(1, at, (clean + step).clamp_(0, 1).flatten(1))
    return at, before


def _tiles(x: Tensor, eps: float, power: int) -> Tensor:
    """Return centred tiles of ``eta`` with random signs and orientations, of length eps in all.

    A tile is a fifth of the image wide, and at least as wide as the smallest window.
    """
    n, channels, height, width = x.shape
    side = min(max(min(height, width) // _TILES, _SMALLEST), height, width)
    rows, columns = height // side, width // side
    turned = torch.rand(n, 1, rows, 1, columns, 1, device=x.device) < 0.5
    pattern = eta(side, power, x)
    tiles = torch.where(turned, pattern.T[:, None], pattern[:, None]) * _signs(x, n, channels, rows, 1, columns, 1)
    delta = torch.zeros_like(x)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    delta[:, :, top : top + rows * side, left : left + columns * side] = tiles.flatten(4).flatten(2, 3)
    length = eps / _length(delta.flatten(1), power)
    return (x + delta * length[..., None, None]).clamp_(0, 1)


def _transfer(point: Tensor, x: Tensor, eps: float, windows: Windows) -> tuple[Tensor, Tensor]:
    """Move the budget of one window, and what is unspent, into another; return where, and what was there.

    The receiver becomes ``eta + delta / |delta|`` per channel, with the budget of both windows and its share of the
    rest (Andriushchenko et al. 2020, algorithm 3). So the whole has length eps until it is clipped to [0, 1], which
    only shortens it: nothing is left to renormalise or to project.
    """
    n, power = len(x), windows.power
    receiver, giver = windows.draw(n), windows.draw(n)
    at = torch.cat([receiver, giver], dim=1)
    before, (clean, emptied) = point.gather(1, at), x.gather(1, at).chunk(2, dim=1)
    own, given = (windows.by_channel(part) for part in (before - torch.cat([clean, emptied], dim=1)).chunk(2, dim=1))
    rest = (eps**power - _length(point - x, power) ** power) / windows.channels
    point.scatter_(1, giver, emptied)
    # What the two windows share has been given away by now, so it counts once.
    kept = windows.by_channel(point.gather(1, receiver) - clean)
    budget = (rest + _total(given, power) + _total(kept, power)).clamp_(min=0)
    turned = torch.rand(n, 1, 1, device=x.device) < 0.5
    direction = torch.where(turned, windows.pattern.T.flatten(), windows.pattern.flatten())
    direction = direction * _signs(x, n, windows.channels, 1) + own / _length(own, power)
    delta = direction * (budget[..., None] ** (1 / power) / _length(direction, power))
    point.scatter_(1, receiver, (clean + delta.flatten(1)).clamp_(0, 1))
    return at, before


def _signs(like: Tensor, *shape: int) -> Tensor:
    """Return -1 or 1, each half of the time."""
    return torch.randint(2, shape, device=like.device, dtype=like.dtype) * 2 - 1


def _total(delta: Tensor, power: int) -> Tensor:
    """Return the sum of ``|delta|^power`` over the last dimension."""
    return (delta.square() if power == 2 else delta.abs()).sum(dim=-1)


def _length(delta: Tensor, power: int) -> Tensor:
    """Return the length over the last dimension, kept, never zero."""
    length: Tensor = torch.linalg.vector_norm(delta, ord=power, dim=-1, keepdim=True)
    return length.clamp_min(1e-12)

"""Steps of a network that are several operators: normalisation of layers, attention, values kept within limits."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from math import inf, prod, sqrt

import torch
from torch import Tensor

from overproof.bounds.activations import ReLU
from overproof.bounds.bilinear import Bilinear
from overproof.bounds.functions import ROOT, RSQRT, SQUARE
from overproof.bounds.graph import Node
from overproof.bounds.logsumexp import LogSumExp
from overproof.bounds.operators import Add, Contract, Gather, Operator, Reshape, Scale, Shape
from overproof.bounds.probabilities import Softmax
from overproof.bounds.smooth import Smooth

_LETTERS = "abcdefghijklmnopqrstuvwxy"


@dataclass
class Draft:
    """The nodes of a graph in the making; ``place`` is where in the network the next ones stand.

    Every method adds the nodes of a step over the layer ``x`` (a node's number) and returns the number of the last.
    """

    nodes: list[Node] = field(default_factory=list)
    place: str = ""
    kind: torch.dtype | None = None  # of all constants, where a network computes some steps in another precision

    def put(self, operator: Operator | None, inputs: Sequence[int], shape: Shape) -> int:
        """Add one operator."""
        if operator is not None and self.kind is not None:
            parts = (getattr(operator, part.name) for part in fields(operator))
            if any(isinstance(x, Tensor) and x.is_floating_point() and x.dtype != self.kind for x in parts):
                operator = operator.to(self.kind)
        self.nodes.append(Node(operator, tuple(inputs), shape, self.place))
        return len(self.nodes) - 1

    def shape(self, x: int) -> Shape:
        """Return the shape of a node."""
        return self.nodes[x].shape

    def reshaped(self, x: int, shape: Shape) -> int:
        """Add another shape, where it is another one."""
        return x if self.shape(x) == shape else self.put(Reshape(shape=shape), [x], shape)

    def scaled(self, x: int, factor: Tensor, shift: Tensor) -> int:
        """Add ``factor * x + shift``, both broadcast to the layer."""
        return self.put(Scale(factor=factor, shift=shift), [x], self.shape(x))

    def gathered(self, x: int, index: Tensor) -> int:
        """Add values of the layer at other places."""
        return self.put(Gather(index=index), [x], tuple(index.shape))

    def clipped(self, x: int, low: float, high: float, like: Tensor) -> int:
        """Add values kept within limits, as ReLUs: ``high - relu((high - low) - relu(x - low))``."""
        one, zero = like.new_ones(()), like.new_zeros(())
        if low > -inf:
            x = self.put(ReLU(), [self.scaled(x, one, zero - low)], self.shape(x))
        if high == inf:
            return self.scaled(x, one, zero + low)
        base = low if low > -inf else 0.0
        x = self.put(ReLU(), [self.scaled(x, -one, zero + (high - base))], self.shape(x))
        return self.scaled(x, -one, zero + high)

    def linear(self, x: int, weight: Tensor, bias: Tensor | None) -> int:
        """Add a linear layer on the last dimension; ``weight`` is ``[O, F]``."""
        shape = self.shape(x)
        before = _LETTERS[: len(shape) - 1]
        terms = (before + "y", "xy", before + "x")
        shift = weight.new_zeros(()) if bias is None else bias
        return self.put(Contract(terms=terms, weight=weight, bias=shift), [x], (*shape[:-1], len(weight)))

    def summed(self, x: int, gone: Collection[int], factor: Tensor) -> int:
        """Add the sums over the dimensions ``gone``, times a factor; over all of them, a layer of one number."""
        shape = self.shape(x)
        letters = _LETTERS[: len(shape)]
        out = "".join(letter for at, letter in enumerate(letters) if at not in gone)
        size = tuple(size for at, size in enumerate(shape) if at not in gone)
        over = "".join(letters[at] for at in gone)
        weight = factor.expand([shape[at] for at in gone])
        if not size:
            out, over, weight, size = "y", over + "y", weight[..., None], (1,)
        return self.put(Contract(terms=(letters, over, out), weight=weight, bias=factor.new_zeros(())), [x], size)

    def totalled(self, x: int, gone: Collection[int], factor: Tensor) -> int:
        """Add the sums over the dimensions ``gone``, times a factor, these dimensions kept with the size 1."""
        kept = tuple(1 if at in gone else size for at, size in enumerate(self.shape(x)))
        return self.reshaped(self.summed(x, gone, factor), kept)

    def spread(self, x: int, shape: Shape, like: Tensor) -> int:
        """Add the layer broadcast to a shape."""
        own = self.shape(x)
        index = torch.arange(prod(own), device=like.device).view(own).expand(shape)
        return x if own == shape else self.gathered(x, index)

    def log_softmax(self, x: int, dim: int, like: Tensor) -> int:
        """Add the log-softmax along a dimension, counted from the end: the scores less the logarithm of their sum."""
        shape = self.shape(x)
        kept = list(shape)
        kept[dim] = 1
        total = self.spread(self.put(LogSumExp(dim=dim), [x], tuple(kept)), shape, like)
        return self.put(Add(), [x, self.scaled(total, -like.new_ones(()), like.new_zeros(()))], shape)

    def variance(self, x: int, gone: Collection[int], correction: float, like: Tensor) -> int:
        """Add the variances over the dimensions ``gone``, kept with the size 1."""
        shape = self.shape(x)
        count = prod(shape[at] for at in gone)
        less = self.spread(self.totalled(x, gone, like.new_full((), -1 / count)), shape, like)
        square = self.put(Smooth(function=SQUARE), [self.put(Add(), [x, less], shape)], shape)
        return self.totalled(square, gone, like.new_full((), 1 / (count - correction)))

    def length(self, x: int, gone: Collection[int], like: Tensor) -> int:
        """Add the Euclidean norms over the dimensions ``gone``, kept with the size 1."""
        square = self.put(Smooth(function=SQUARE), [x], self.shape(x))
        return self.rooted(self.totalled(square, gone, like.new_ones(())))

    def rooted(self, x: int) -> int:
        """Add the square root of a layer that is nowhere below zero, though its bounds may be."""
        return self.put(Smooth(function=ROOT), [x], self.shape(x))

    def unit(self, x: int, gone: Collection[int], eps: float, like: Tensor) -> int:
        """Add ``x / max(norm, eps)``, the Euclidean norm over the dimensions ``gone``."""
        shape = self.shape(x)
        square = self.totalled(self.put(Smooth(function=SQUARE), [x], shape), gone, like.new_ones(()))
        least = self.clipped(square, eps**2, inf, like)
        inverse = self.put(Smooth(function=RSQRT), [least], self.shape(least))
        letters = _LETTERS[: len(shape)]
        kept = "".join(letter for at, letter in enumerate(letters) if at not in gone)
        inverse = self.reshaped(inverse, tuple(size for at, size in enumerate(shape) if at not in gone))
        return self.put(Bilinear(terms=(letters, kept, letters), limit=1.0), [x, inverse], shape)

    def normalised(self, x: int, rows: int, eps: float, like: Tensor, *, centred: bool = True) -> int:
        """Add ``(x - mean) / sqrt(variance + eps)`` for each of ``rows`` equal parts, in the layer's own shape.

        Without ``centred`` the mean is not taken off, and the variance is the mean square.
        """
        shape = self.shape(x)
        size = prod(shape) // rows
        x = self.reshaped(x, (rows, size))
        share = like.new_full((size,), 1 / size)
        if centred:
            less = self.summed(x, [1], -share[0])
            spread = self.gathered(less, torch.arange(rows, device=like.device)[:, None].expand(rows, size))
            x = self.put(Add(), [x, spread], (rows, size))
        square = self.put(Smooth(function=SQUARE), [x], (rows, size))
        variance = Contract(terms=("ab", "b", "a"), weight=share, bias=like.new_full((), eps))
        root = self.put(Smooth(function=RSQRT), [self.put(variance, [square], (rows,))], (rows,))
        # No part is further from the mean than sqrt(size - 1) standard deviations.
        limit = sqrt(size - 1) if centred else sqrt(size)
        return self.reshaped(self.put(Bilinear(terms=("ab", "a", "ab"), limit=limit), [x, root], (rows, size)), shape)

    def attention(
        self, query: int, key: int, value: int, scale: float, like: Tensor, mask: Tensor | None = None
    ) -> int:
        """Add ``softmax(scale * query key^T + mask) value`` over the last two dimensions, ``[..., T, F]`` each."""
        *before, count, _ = self.shape(query)
        lead = _LETTERS[: len(before)]
        others, size = self.shape(key)[-2], self.shape(value)[-1]
        weights = (*before, count, others)
        scores = self.put(Bilinear(terms=(lead + "vy", lead + "wy", lead + "vw")), [query, key], weights)
        scores = self.scaled(scores, like.new_full((), scale), like.new_zeros(()) if mask is None else mask)
        shares = self.put(Softmax(dim=-1), [scores], weights)
        mixed = Bilinear(terms=(lead + "vw", lead + "wx", lead + "vx"))
        return self.put(mixed, [shares, value], (*before, count, size))

    def heads(self, x: int, count: int, like: Tensor) -> int:
        """Add the split of tokens ``[T, F]`` into heads, ``[count, T, F / count]``."""
        tokens, size = self.shape(x)
        numbers = torch.arange(tokens * size, device=like.device)
        return self.gathered(x, numbers.view(tokens, count, size // count).transpose(0, 1))

    def beside(self, x: int, like: Tensor) -> int:
        """Add the heads ``[count, T, F]`` beside each other, ``[T, count * F]``."""
        count, tokens, size = self.shape(x)
        numbers = torch.arange(count * tokens * size, device=like.device).view(count, tokens, size)
        return self.gathered(x, numbers.transpose(0, 1).reshape(tokens, count * size))

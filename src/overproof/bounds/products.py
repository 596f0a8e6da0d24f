"""Products of layers with each other and with constants, as ``torch.einsum`` writes them, without the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from overproof.bounds.bilinear import Bilinear
from overproof.bounds.composed import Draft
from overproof.bounds.layers import Layer, Operand, alike
from overproof.bounds.maps import NoBoundsError
from overproof.bounds.operators import Contract

LETTERS = "abcdefghijklmnopqrstuvwxy"


def matmul_terms(first: int, second: int) -> tuple[str, str, str]:
    """Return the terms of ``torch.matmul`` of tensors with so many dimensions."""
    if min(first, second) < 1 or max(first, second) > 12:
        raise NoBoundsError("a product of matrices with such dimensions")
    lead = LETTERS[: max(first, second, 2) - 2]
    one = lead[len(lead) - max(first - 2, 0) :] + ("vw" if first > 1 else "w")
    other = lead[len(lead) - max(second - 2, 0) :] + ("wx" if second > 1 else "w")
    return one, other, lead + ("v" if first > 1 else "") + ("x" if second > 1 else "")


def elementwise_terms(first: int, second: int) -> tuple[str, str, str]:
    """Return the terms of a product of tensors with so many dimensions, one broadcast to the other."""
    out = LETTERS[: max(first, second)]
    return out[len(out) - first :], out[len(out) - second :], out


def einsum_terms(equation: str, sizes: Sequence[int]) -> tuple[list[str], str]:
    """Return the terms of the operands, with so many dimensions, and of the output of an equation."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != len(sizes) or not all(set(term) <= {*LETTERS, "."} for term in (*terms, out)):
        raise NoBoundsError(f"einsum {equation!r}, which is not in small letters with its output named")
    free = [letter for letter in LETTERS if letter not in equation]
    letters = []
    longest = ""
    for term, size in zip(terms, sizes, strict=True):
        rest = size - len(term.replace("...", ""))
        hidden = "".join(free[::-1][:rest])[::-1] if "..." in term else ""
        longest = max(longest, hidden, key=len)
        letters.append(term.replace("...", hidden))
    return letters, out.replace("...", longest)


def add_product(draft: Draft, terms: Sequence[str], operands: Sequence[Operand], out: str, like: Tensor) -> Layer:
    """Add a product of one or two layers, or of a layer and a constant, to the draft.

    ``terms`` name all dimensions, the batch included.
    """
    batches = {term[each.batch] for term, each in zip(terms, operands, strict=True) if isinstance(each, Layer)}
    if len(batches) != 1 or not batches <= set(out):
        raise NoBoundsError("a step that mixes the batch")
    (batch,) = batches
    if any(len(set(term)) < len(term) for term in (*terms, out)):
        raise NoBoundsError("a diagonal")
    some, *others = (each for each in operands if isinstance(each, Layer))
    if any(each.parts != some.parts for each in others):
        raise NoBoundsError("a step that mixes the batch")
    bare = [_without_batch(term, each, batch, some.parts) for term, each in zip(terms, operands, strict=True)]
    place = out.index(batch)
    out = out.replace(batch, "") if some.parts is None else out
    shapes = [draft.shape(each.node) if isinstance(each, Layer) else tuple(each.shape) for _, each in bare]
    sizes: dict[str, int] = {}
    for (term, _), shape in zip(bare, shapes, strict=True):
        for letter, size in zip(term, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    kept = [_unspread(draft, term, each, sizes) for term, each in bare]
    nodes: list[tuple[str, int]] = []
    constant, constant_term = like.new_ones(()), ""
    for position, (term, each) in enumerate(kept):
        elsewhere = set(out).union(*(other for number, (other, _) in enumerate(kept) if number != position))
        own = "".join(letter for letter in term if letter not in elsewhere)
        left = "".join(letter for letter in term if letter in elsewhere)
        if isinstance(each, Tensor):
            constant, constant_term = torch.einsum(f"{term}->{left}", each.to(like)), left
            continue
        node = each.node
        if own:
            weight = like.new_ones([sizes[letter] for letter in own])
            total = Contract(terms=(term, own, left), weight=weight, bias=like.new_zeros(()))
            node = draft.put(total, [node], tuple(sizes[letter] for letter in left))
        nodes.append((left, node))
    shape = tuple(sizes[letter] for letter in out)
    (term, node), *rest = nodes
    for other_term, other in rest:
        product = draft.put(Bilinear(terms=(term, other_term, out)), [node, other], shape)
        return Layer(product, place, some.parts)
    operator = Contract(terms=(term, constant_term, out), weight=constant, bias=like.new_zeros(()))
    return Layer(draft.put(operator, [node], shape), place, some.parts)


def _without_batch(term: str, each: Operand, batch: str, parts: int | None) -> tuple[str, Operand]:
    """Return an operand and its term for one image; the letter of the batch then counts the image's parts, if any."""
    own = term.replace(batch, "") if parts is None else term
    if isinstance(each, Layer) or batch not in term:
        return own, each
    at = term.index(batch)
    if each.shape[at] == 1:
        return term.replace(batch, ""), each.select(at, 0)
    one = alike(each, at, parts)
    if one is None:
        raise NoBoundsError("another constant for each image")
    return own, one


def _unspread(draft: Draft, term: str, each: Operand, sizes: dict[str, int]) -> tuple[str, Operand]:
    """Return an operand without the dimensions that are broadcast to those of another one."""
    shape = draft.shape(each.node) if isinstance(each, Layer) else tuple(each.shape)
    kept = [at for at, letter in enumerate(term) if shape[at] == sizes[letter]]
    size = tuple(shape[at] for at in kept)
    term = "".join(term[at] for at in kept)
    if isinstance(each, Layer):
        return term, each.at(draft.reshaped(each.node, size))
    return term, each.reshape(size)

"""Folding chains of affine operators into one, so that bounds lose nothing between them; leaving out the unread."""

from collections.abc import Sequence
from dataclasses import replace

from overproof.bounds.graph import Graph, Node
from overproof.bounds.operators import Conv, Linear, Operator, Scale, Shape


def fold_graph(nodes: Sequence[Node], output: int) -> Graph:
    """Return the graph of what node ``output`` depends on, each chain of foldable operators one node.

    An operator melts into the one before it where nobody else reads that one.
    """
    readers = [0] * len(nodes)
    needed = {output}
    for number in range(output, 0, -1):
        if number in needed:
            needed.update(nodes[number].inputs)
            for before in nodes[number].inputs:
                readers[before] += 1
    kept = [nodes[0]]
    places = {0: 0}
    for number in sorted(needed - {0}):
        node = nodes[number]
        inputs = tuple(places[before] for before in node.inputs)
        first = kept[inputs[0]]
        alone = len(inputs) == 1 and readers[node.inputs[0]] == 1
        both = fold_operators(first.operator, node.operator, first.shape) if alone else None
        if both is None:
            kept.append(replace(node, inputs=inputs))
            places[number] = len(kept) - 1
        else:
            kept[inputs[0]] = Node(both, first.inputs, node.shape, first.place)
            places[number] = inputs[0]
    return Graph(tuple(kept))


def fold_operators(first: Operator | None, second: Operator | None, shape: Shape) -> Operator | None:
    """Return one operator that does ``first`` and then ``second``, or None; ``shape`` is what lies between them."""
    match first, second:
        case Conv(), Scale() if second.factor.shape[1:].numel() == 1:
            return replace(
                first,
                weight=first.weight * second.factor.view(-1, 1, 1, 1),
                bias=first.bias * second.factor + second.shift,
            )
        case Linear(), Scale():
            factor = second.factor.expand(shape)
            return Linear(weight=first.weight * factor[:, None], bias=first.bias * factor + second.shift)
        case Scale(), Conv() if first.factor.shape[1:].numel() == 1 and second.groups == 1:
            # The padding is zero after the scale, so the shift reaches the borders less: a bias for every position.
            shift = second.convolve(first.shift.expand(shape)[None], second.weight)[0]
            return replace(second, weight=second.weight * first.factor.view(1, -1, 1, 1), bias=second.bias + shift)
        case Scale(), Linear():
            factor, shift = first.factor.expand(shape), first.shift.expand(shape)
            return Linear(weight=second.weight * factor, bias=second.bias + second.weight @ shift)
        case Scale(), Scale():
            return Scale(factor=first.factor * second.factor, shift=first.shift * second.factor + second.shift)
        case Linear(), Linear():
            return Linear(weight=second.weight @ first.weight, bias=second.weight @ first.bias + second.bias)
        case _:
            return None

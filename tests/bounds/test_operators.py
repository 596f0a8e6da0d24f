"""Every affine operator against its explicit matrix."""

import pytest
import torch
import torch.nn.functional as F

from overproof.bounds.operators import Add, Concatenate, Conv, Linear, Pad, Reshape, Scale, one_hot
from overproof.bounds.region import Bounds
from overproof.bounds.rows import LinearBounds

from .networks import normal, uniform


def conv(shape, out, kernel, *, groups=1, spread=False, **options):
    """Return a convolution as an operator, as a function, and the shape of its input."""
    weight = normal(out, shape[0] // groups, *kernel, seed=1)
    after = F.conv2d(torch.zeros(1, *shape, dtype=torch.float64), weight, groups=groups, **options).shape[1:]
    bias = normal(*after, seed=2) if spread else normal(out, 1, 1, seed=2)
    pairs = {k: v if isinstance(v, tuple) else (v, v) for k, v in options.items()}
    operator = Conv(weight=weight, bias=bias, groups=groups, **pairs)
    return operator, lambda x: F.conv2d(x, weight, groups=groups, **options) + bias, [shape]


def scale(factor, shift, shape):
    return Scale(factor=factor, shift=shift), lambda x: x * factor + shift, [shape]


W, B = normal(4, 6, seed=3), normal(4, seed=4)
CASES = {
    "conv 3x3": conv((2, 5, 6), 3, (3, 3), padding=1),
    "conv without padding": conv((2, 5, 6), 3, (2, 3)),
    "conv padded above and below": conv((2, 5, 6), 3, (3, 2), padding=(1, 0)),
    "conv padded left and right": conv((2, 5, 6), 3, (2, 3), padding=(0, 1)),
    "conv 1x1": conv((2, 4, 4), 3, (1, 1)),
    "conv stride 2": conv((2, 7, 8), 3, (3, 3), stride=2, padding=1),
    "conv whose last lines no kernel reaches": conv((2, 8, 9), 2, (2, 3), stride=(3, 4)),
    "conv 1x1 stride 3": conv((1, 6, 5), 2, (1, 1), stride=3),
    "conv padded beyond the lines it reaches": conv((1, 6, 6), 2, (2, 2), stride=3, padding=1),
    "conv dilated": conv((2, 8, 7), 2, (2, 3), dilation=(3, 2), padding=(0, 2)),
    "conv dilated, stride 2": conv((1, 9, 9), 2, (3, 3), dilation=2, stride=2, padding=2),
    "conv in groups": conv((4, 5, 5), 6, (3, 3), groups=2, padding=1, stride=2),
    "conv of each channel": conv((3, 6, 6), 3, (2, 2), groups=3, stride=2),
    "conv oblong": conv((2, 6, 4), 2, (3, 1), stride=(1, 2), padding=(2, 0)),
    "conv as wide as the map": conv((2, 3, 3), 4, (3, 3)),
    "conv wider than the map": conv((1, 3, 4), 2, (5, 5), padding=2),
    "conv with a bias for every place": conv((2, 6, 5), 3, (3, 3), padding=1, stride=2, spread=True),
    "conv on one line": conv((1, 1, 9), 2, (1, 3), stride=2),
    "linear": (Linear(weight=W, bias=B), lambda x: x @ W.T + B, [(6,)]),
    "scale of channels": scale(normal(2, 1, 1), normal(2, 1, 1, seed=1), (2, 4, 5)),
    "scale of places": scale(normal(2, 4, 5), normal(4, 5, seed=1), (2, 4, 5)),
    "scale of features": scale(normal(6), normal(6, seed=1), (6,)),
    "scale by a number": scale(torch.tensor(-2.0).double(), torch.tensor(0.5).double(), (2, 3, 3)),
    "flatten": (Reshape(shape=(24,)), lambda x: x.flatten(1), [(2, 3, 4)]),
    "unflatten": (Reshape(shape=(2, 3, 4)), lambda x: x.reshape(-1, 2, 3, 4), [(24,)]),
    "another map": (Reshape(shape=(4, 3, 2)), lambda x: x.reshape(-1, 4, 3, 2), [(2, 3, 4)]),
    "add maps": (Add(), lambda x, y: x + y, [(2, 3, 4)] * 2),
    "add features": (Add(), lambda x, y, z: x + y + z, [(5,)] * 3),
    "concatenate maps": (Concatenate(), lambda x, y: torch.cat([x, y], 1), [(2, 3, 4), (1, 3, 4)]),
    "concatenate three": (Concatenate(), lambda x, y, z: torch.cat([x, y, z], 1), [(2, 3, 4), (1, 3, 4), (3, 3, 4)]),
    "concatenate features": (Concatenate(), lambda x, y: torch.cat([x, y], 1), [(5,), (2,)]),
    "pad": (Pad(margins=(1, 0, 2, 3)), lambda x: F.pad(x, (1, 0, 2, 3)), [(2, 3, 4)]),
}
every_case = pytest.mark.parametrize(("operator", "function", "shapes"), CASES.values(), ids=CASES)
MAPS = {
    name: case
    for name, case in CASES.items()
    if len(case[1](*(torch.zeros(1, *s).double() for s in case[2])).shape) == 4
}
every_map = pytest.mark.parametrize(("operator", "function", "shapes"), MAPS.values(), ids=MAPS)


def matrices(function, shapes):
    """Return the shape of the output, its value at zero, and the matrix of every input, ``[outputs, *shape]``."""
    zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes]
    at_zero = function(*zeros)
    found = []
    for i, shape in enumerate(shapes):
        size = torch.Size(shape).numel()
        basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
        moved = function(*(basis if i == j else zero.expand(size, *shapes[j]) for j, zero in enumerate(zeros)))
        found.append((moved - at_zero).flatten(1).T.reshape(-1, *shape))
    return tuple(at_zero.shape[1:]), at_zero.flatten(), found


def applied(parts, inputs, shapes):
    """Return the sum over the inputs of what rows make of them, ``[M]``."""
    total = 0
    for rows, x, shape in zip(parts, inputs, shapes, strict=True):
        dense = rows.dense(shape)
        assert dense.weight.shape == (len(rows), *shape)
        total = total + (dense.weight * x[rows.example]).flatten(1).sum(dim=1) + rows.bias
    return total


@every_case
def test_forward_is_exact_for_every_output(operator, function, shapes):
    """Half the width is the matrix without its signs, times half the width of the inputs."""
    middles = [normal(3, *shape, seed=i) for i, shape in enumerate(shapes)]
    halves = [uniform(3, *shape, seed=9 + i) for i, shape in enumerate(shapes)]
    bounds = operator.forward(*(Bounds(m - h, m + h) for m, h in zip(middles, halves, strict=True)))
    torch.testing.assert_close(bounds.centre, function(*middles))
    _, _, found = matrices(function, shapes)
    half = sum(h.flatten(1) @ matrix.flatten(1).abs().T for h, matrix in zip(halves, found, strict=True))
    torch.testing.assert_close(bounds.radius.flatten(1), half)


@every_case
def test_rows_pass_without_loss(operator, function, shapes):
    inputs = [normal(3, *shape, seed=i) for i, shape in enumerate(shapes)]
    output = function(*inputs)
    rows = LinearBounds(normal(8, *output.shape[1:], seed=5), normal(8, seed=6), torch.arange(8) % 3)
    parts = operator.propagate_backward(rows, shapes, tuple(output.shape[1:]))
    torch.testing.assert_close(applied(parts, inputs, shapes), rows.dot(output) + rows.bias)
    assert len(parts) == len(shapes)


@every_case
def test_rows_of_single_outputs_are_lines_of_the_matrix(operator, function, shapes):
    output, at_zero, found = matrices(function, shapes)
    places = torch.cartesian_prod(*(torch.arange(size) for size in output)).view(len(at_zero), -1)
    example = torch.arange(len(places)) % 3
    sign = torch.where(torch.arange(len(places)) % 2 == 0, 1.0, -2.0).double()
    index = torch.cat([example[:, None], places], dim=1)
    for parts in (
        operator.neurons(index, shapes, output, sign),
        operator.propagate_backward(one_hot(index, output, sign), shapes, output),
    ):
        for rows, matrix, shape in zip(parts, found, shapes, strict=True):
            assert torch.equal(rows.example, example)
            dense = rows.dense(shape)
            torch.testing.assert_close(dense.weight.flatten(1), matrix.flatten(1) * sign[:, None])
            # Nothing outside the map, which the norm of a row would count.
            torch.testing.assert_close(rows.weight.flatten(1).norm(dim=1), dense.weight.flatten(1).norm(dim=1))
        torch.testing.assert_close(sum(rows.bias for rows in parts), at_zero * sign)


@every_map
def test_windows_pass_as_the_whole_map_would(operator, function, shapes):
    """Rows that a convolution above has left as windows, some of which stick out of the map."""
    output, _, _ = matrices(function, shapes)
    _, height, width = output
    above = Conv(weight=normal(3, output[0], 3, 3, seed=7), bias=normal(3, 1, 1, seed=8), padding=(1, 1), stride=(2, 1))
    size = (3, (height - 1) // 2 + 1, width)
    places = torch.cartesian_prod(*(torch.arange(n) for n in size))
    index = torch.cat([torch.arange(len(places))[:, None] % 2, places], dim=1)
    (rows,) = above.neurons(index, [output], size, normal(len(places), seed=9))
    parts = operator.propagate_backward(rows, shapes, output)
    twins = operator.propagate_backward(rows.dense(output), shapes, output)
    for part, twin, shape in zip(parts, twins, shapes, strict=True):
        torch.testing.assert_close(part.dense(shape).weight, twin.dense(shape).weight)
        torch.testing.assert_close(part.bias, twin.bias)
        # Nothing outside the map, which the norm of a row would count.
        torch.testing.assert_close(part.weight.flatten(1).norm(dim=1), twin.weight.flatten(1).norm(dim=1))


@pytest.mark.parametrize("name", ["conv 3x3", "conv stride 2", "conv in groups", "conv dilated", "conv oblong"])
def test_a_window_stays_one_while_it_is_smaller_than_the_map(name):
    operator, function, shapes = CASES[name]
    output, _, _ = matrices(function, shapes)
    (rows,) = operator.neurons(torch.zeros(1, 4, dtype=torch.long), shapes, output, torch.ones(1).double())
    assert rows.window is not None
    reach = [d * (k - 1) + 1 for d, k in zip(operator.dilation, operator.weight.shape[2:], strict=True)]
    assert list(rows.weight.shape[2:]) == reach
    channels, *size = shapes[0]
    below = Conv(weight=normal(channels, 5, 1, 1), bias=normal(channels, 1, 1))
    (further,) = below.propagate_backward(rows, [(5, *size)], shapes[0])
    assert further.window is not None and list(further.weight.shape[2:]) == reach


def test_a_window_as_large_as_the_map_becomes_the_map():
    operator, function, shapes = CASES["conv wider than the map"]
    output, _, _ = matrices(function, shapes)
    (rows,) = operator.neurons(torch.zeros(1, 4, dtype=torch.long), shapes, output, torch.ones(1).double())
    assert rows.window is None and rows.weight.shape == (1, *shapes[0])


@every_case
def test_another_precision(operator, function, shapes):
    single = operator.to(torch.float32)
    inputs = [normal(2, *shape, seed=i).float() for i, shape in enumerate(shapes)]
    found = single.forward(*(Bounds(x, x) for x in inputs))
    assert found.lower.dtype == torch.float32
    torch.testing.assert_close(found.lower, function(*(x.double() for x in inputs)).float(), rtol=1e-4, atol=1e-4)


def test_nothing_to_bound_is_no_rows():
    for operator, function, shapes in CASES.values():
        output, _, _ = matrices(function, shapes)
        index = torch.zeros(0, 1 + len(output), dtype=torch.long)
        for rows in operator.neurons(index, shapes, output, torch.zeros(0).double()):
            assert len(rows) == 0

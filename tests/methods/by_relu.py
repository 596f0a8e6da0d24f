"""A small ReLU network and interval arithmetic written the other way: by positive and negative parts of the weights."""

import torch
import torch.nn.functional as F
from torch import nn

from overproof.models.classifier import Classifier

from .by_hand import SIGNATURE, X, Y, draw


def relu_network(seed=1):
    """Return a classifier with a convolution and a hidden layer, in train mode, in double precision."""
    layers = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4)
    ).double()
    for number, value in enumerate(layers.parameters()):
        value.data = 0.5 * torch.randn(value.shape, generator=draw(100 * seed + number), dtype=torch.float64)
    return Classifier(layers, SIGNATURE).double()


def ball_points(eps, *, norm="linf", corners=False, rounds=400):
    """Yield points of the surface of the ball around ``X``, within [0, 1]; of linf with ``corners`` corners alone."""
    torch.manual_seed(3)
    for _ in range(rounds):
        move = torch.randn_like(X)
        move = move.sign() if corners else move
        size = move.abs().amax(dim=(1, 2, 3)) if norm == "linf" else move.flatten(1).norm(dim=1)
        yield (X + eps * move / size.view(-1, 1, 1, 1)).clamp(0, 1)


def box(x, eps):
    return (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)


def _through(layer, low, high):
    apply = F.conv2d if isinstance(layer, nn.Conv2d) else F.linear
    plus, minus = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    bias = layer.bias.view(-1, 1, 1) if isinstance(layer, nn.Conv2d) else layer.bias
    return apply(low, plus) + apply(high, minus) + bias, apply(high, plus) + apply(low, minus) + bias


def before_relus(student, low, high):
    """Return the interval bounds of what each ReLU reads, and of the last hidden layer after it."""
    conv, _, _, hidden, _, _ = student.backbone
    found = [_through(conv, low, high)]
    low, high = (side.relu().flatten(1) for side in found[0])
    found.append(_through(hidden, low, high))
    return found, tuple(side.relu() for side in found[1])


def margin_ranges(student, low, high, y=Y):
    """Return the interval bounds of ``z_j - z_y`` for j != y, the last layer folded into them, one by one."""
    _, (low, high) = before_relus(student, low, high)
    head = student.backbone[-1]
    ends = ([], [])
    for n, own in enumerate(y.tolist()):
        for j in (j for j in range(4) if j != own):
            row, constant = head.weight[j] - head.weight[own], head.bias[j] - head.bias[own]
            ends[0].append(torch.where(row > 0, row * low[n], row * high[n]).sum() + constant)
            ends[1].append(torch.where(row > 0, row * high[n], row * low[n]).sum() + constant)
    return tuple(torch.stack(side).view(len(y), 3) for side in ends)


def worst_ce(student, x, eps, y=Y):
    """Return the cross-entropy of the worst logits, ``[N]``."""
    _, high = margin_ranges(student, *box(x, eps), y)
    return torch.log(1 + torch.exp(high).sum(dim=1))

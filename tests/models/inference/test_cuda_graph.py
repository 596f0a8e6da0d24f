"""Recorded passes answer as the network does, with the weights as they are; no GPU is needed to see it.

In the place of CUDA's graphs stands a record of every operation that ran; a replay runs them on the same tensors.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from tests.models.inference.test_fused import FAMILIES, answers, classifier, compare, every_family, stirred
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy, kl
from overproof.models.architectures.resnet import ResNet
from overproof.models.inference.cuda_graph import CUDAGraphRunner
from overproof.models.inference.fused import fused_for_attack, use_cuda_graphs
from overproof.models.layout import lay_out
from overproof.models.mode import in_mode


class Record(TorchDispatchMode):
    """What a CUDA graph keeps: operations, and the places of what they read and wrote."""

    def __init__(self):
        super().__init__()
        self.operations, self.replays = [], 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, found))
        return found

    def replay(self):
        self.replays += 1
        for operation, args, kwargs, written in self.operations:
            found = operation(*args, **kwargs)
            for one, place in zip(_tensors(found), _tensors(written), strict=True):
                place.copy_(one)

    def pool(self):
        return self


def _tensors(found):
    return [one for one in (found if isinstance(found, tuple | list) else [found]) if isinstance(one, torch.Tensor)]


@pytest.fixture
def records(monkeypatch):
    """Return the records made from now on: a forward and a backward one for each shape."""
    made = []

    def record():
        made.append(Record())
        return made[-1]

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", record)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, pool=None, capture_error_mode="global": graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return made


class Cube(nn.Module):
    def forward(self, x):
        return x**3


cube = Cube()


def slope(function, x):
    x = x.clone().requires_grad_()
    found = function(x)
    return found.detach(), *torch.autograd.grad(found.sum(), x)


def test_one_recording_serves_all_images_of_a_shape(records):
    replay = CUDAGraphRunner(cube)
    for _ in range(3):
        x = torch.randn(2, 3)
        assert all(map(torch.equal, slope(replay, x), slope(cube, x)))
    assert [record.replays for record in records] == [3, 3]


def test_answers_are_kept_when_the_next_ones_are_given(records):
    replay = CUDAGraphRunner(cube)
    first, second = slope(replay, torch.ones(2)), slope(replay, 2 * torch.ones(2))
    assert [one.tolist() for one in (*first, *second)] == [[1, 1], [3, 3], [8, 8], [12, 12]]


def test_a_second_pass_before_the_gradient_of_the_first_is_made_by_the_network(records):
    replay = CUDAGraphRunner(cube)
    x, z = torch.ones(2, requires_grad=True), torch.full((2,), 2.0, requires_grad=True)
    found = torch.autograd.grad((replay(x) * replay(z)).sum(), (x, z))
    assert [one.tolist() for one in found] == [[24, 24], [12, 12]]
    assert [record.replays for record in records] == [1, 1]


def test_a_gradient_that_is_lost_is_not_made_up(records):
    replay = CUDAGraphRunner(cube)
    x = torch.ones(2, requires_grad=True)
    first = replay(x)
    replay.renew()
    replay(x)
    with pytest.raises(RuntimeError, match="its gradient is lost"):
        first.sum().backward()


def test_a_pass_whose_gradient_nobody_asks_for_blocks_nothing_afterwards(records):
    replay = CUDAGraphRunner(cube)
    replay(torch.ones(2, requires_grad=True))
    replay.renew()
    assert slope(replay, torch.ones(2))[1].tolist() == [3, 3]
    assert [record.replays for record in records] == [2, 1]


def test_what_needs_no_gradient_and_a_fifth_shape_are_not_recorded(records):
    replay = CUDAGraphRunner(cube)
    assert replay(torch.ones(2)).tolist() == [1, 1]
    with torch.no_grad():
        replay(torch.ones(2, requires_grad=True))
    assert not records
    for size in range(1, 7):
        assert slope(replay, torch.ones(size))[1].tolist() == [3] * size
    assert len(records) == 8


def test_layouts_and_precisions_are_recorded_apart(records):
    replay = CUDAGraphRunner(nn.Conv2d(3, 4, 3).requires_grad_(False))
    x = torch.randn(2, 3, 5, 5)
    wide = slope(replay, x)
    slope(replay, x.contiguous(memory_format=torch.channels_last))
    with torch.autocast("cpu", torch.bfloat16):
        rough = slope(replay, x)
    assert len(records) == 6
    assert (wide[0].dtype, rough[0].dtype) == (torch.float32, torch.bfloat16)


def test_a_second_derivative_is_refused(records):
    x = torch.ones(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(CUDAGraphRunner(cube)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@every_family
def test_replayed_networks_answer_as_in_eval_mode_while_their_weights_move(architecture, records):
    model = classifier(architecture).double()
    use_cuda_graphs(model)
    for _ in range(3):
        compare(model, torch.rand(2, 3, 16, 16, dtype=torch.float64), 1e-12)
        stirred(model)
    assert [record.replays for record in records] == [3, 3]


def test_so_they_do_in_bf16(records):
    model, x = classifier(FAMILIES[0]), torch.rand(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    lay_out(torch.channels_last, model)
    use_cuda_graphs(model)
    for _ in range(3):
        stirred(model)
        with in_mode(model, training=False):
            exact, _ = answers(model, x)
        with torch.autocast("cpu", torch.bfloat16), fused_for_attack(model):
            rough, _ = answers(model, x)
        assert 0 < (rough - exact).norm() <= 2e-2 * exact.norm()
    assert [record.replays for record in records] == [3, 3]


def test_the_weights_stay_the_networks_own(records):
    model = classifier(ResNet(depth=20, width=0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    use_cuda_graphs(model)
    for _ in range(2):
        with fused_for_attack(model):
            answers(model, torch.rand(2, 3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_moved_elsewhere_are_recorded_anew(records):
    model, x = classifier(ResNet(depth=20, width=0.5)), torch.rand(2, 3, 16, 16)
    use_cuda_graphs(model)
    compare(model, x, 1e-4)
    model.double()
    compare(model, x.double(), 1e-12)
    model.backbone.head.weight.data = 2 * model.backbone.head.weight.data
    compare(model, x.double(), 1e-12)
    assert len(records) == 6


def test_a_search_finds_what_it_finds_without(records):
    plain = classifier(ResNet(depth=20, width=0.5))
    twin = classifier(ResNet(depth=20, width=0.5))
    twin.load_state_dict(plain.state_dict())
    use_cuda_graphs(twin)
    x, y = torch.rand(4, 3, 16, 16), torch.arange(4)

    def found(model, objective, best):
        torch.manual_seed(0)
        return PGD(steps=3, best=best)(model, x, lambda point: objective(model, point))

    def label(model, point):
        return cross_entropy(model(point), y)

    def apart(model, point):  # two passes in one score
        return kl(model(point), model(0.5 * point), 1.0)

    for objective in (label, apart):
        for best in (False, True):
            assert torch.equal(found(twin, objective, best), found(plain, objective, best))
    assert all(record.replays for record in records)

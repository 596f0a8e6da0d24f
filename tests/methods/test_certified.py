import gc
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overproof.bounds.crown import bound
from overproof.bounds.region import Region
from overproof.bounds.spec import margins
from overproof.errors import InputError
from overproof.methods import certified
from overproof.methods.certified import (
    between,
    check_certified,
    check_shares,
    graph_of,
    initialise,
    propagated,
    risen,
    update_statistics,
)
from overproof.methods.ibp import IBP
from overproof.models.classifier import Classifier

from .by_hand import X, Y, ce, counting, step_of
from .by_relu import ball_points, before_relus, box, margin_ranges, relu_network

EPS = 0.1


class TestPropagated:
    @pytest.mark.parametrize("eps", [0.0, 0.03, 0.2])
    def test_margins_are_those_of_interval_arithmetic_by_hand(self, eps):
        student = relu_network()
        found = propagated(student, X, eps, "linf").margins(Y)
        for ours, hand in zip(found, margin_ranges(student, *box(X, eps)), strict=True):
            torch.testing.assert_close(ours, hand, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    @pytest.mark.parametrize("crown", [0.0, 0.3, 1.0])
    def test_no_point_of_the_ball_is_worse(self, norm, crown):
        student = relu_network()
        around = propagated(student, X, EPS, norm)
        worst, range_ = around.cross_entropy(Y, crown), around.margins(Y, crown)
        for point in ball_points(EPS, norm=norm):
            logits = student(point)
            margin = torch.stack([row[torch.arange(4) != y] - row[y] for row, y in zip(logits, Y, strict=True)])
            assert (ce(logits) <= worst + 1e-12).all()
            assert (range_.lower <= margin + 1e-12).all() and (margin <= range_.upper + 1e-12).all()

    def test_without_a_radius_it_is_the_cross_entropy(self):
        student = relu_network()
        torch.testing.assert_close(propagated(student, X, 0.0, "linf").cross_entropy(Y), ce(student(X)))

    def test_very_loose_bounds_overflow_nothing(self):
        student = relu_network()
        for weight in student.parameters():
            weight.data *= 1e3
        loss = propagated(student, X, EPS, "linf").cross_entropy(Y)
        assert loss.max() > 1e6 and loss.isfinite().all()

    def test_the_shares_of_crown_are_mixed_and_its_better_half_is_the_bound(self):
        student = relu_network()
        around, spec = propagated(student, X, EPS, "linf"), margins(Y, 4)
        interval, linear = around.least(spec), around.least(spec, 1.0)
        torch.testing.assert_close(around.least(spec, 0.25), 0.75 * interval + 0.25 * linear)
        whole = bound(graph_of(student, X), Region.around(X, EPS), spec, "crown_ibp").lower
        torch.testing.assert_close(torch.maximum(interval, linear), whole)
        assert (linear > interval + 1e-3).any()

    @pytest.mark.parametrize(
        "layers", [[nn.Flatten(), nn.Linear(18, 4)], [nn.AvgPool2d(3), nn.Flatten(), nn.Linear(2, 4)]]
    )
    def test_without_an_activation_the_bounds_are_exact(self, layers):
        student = Classifier(nn.Sequential(*layers), relu_network().signature).double()
        head = student.backbone[-1].requires_grad_(False)
        around = propagated(student, X, EPS, "linf")
        least = around.least(margins(Y, 4)).detach()
        low, high = box(X, EPS)
        for n, y in enumerate(Y.tolist()):
            for k, j in enumerate(j for j in range(4) if j != y):
                slope = head.weight[y] - head.weight[j]
                if len(layers) == 3:
                    slope = slope.repeat_interleave(9) / 9
                value = (
                    torch.where(slope > 0, low[n].flatten(), high[n].flatten()) @ slope + head.bias[y] - head.bias[j]
                )
                assert float(least[n, k]) == pytest.approx(float(value.detach()), abs=1e-12)

    def test_autocast_does_not_make_it_coarse(self):
        student = relu_network().float()
        x = X.float()
        expected = propagated(student, x, EPS, "linf").cross_entropy(Y)
        with torch.autocast("cpu", torch.bfloat16):
            found = propagated(student, x, EPS, "linf").cross_entropy(Y)
        assert found.dtype == torch.float32 and torch.equal(found, expected)


@torch.no_grad()
def imbalance_by_hand(student, x, eps):
    """Return the regulariser of Shi et al. with plain numbers, neuron by neuron."""
    low, high = box(x, eps)
    width, total = (high - low).mean() / 2, 0.0
    layers, _ = before_relus(student, low, high)
    for low, high in layers:
        centres, radii = ((low + high) / 2).flatten().tolist(), ((high - low) / 2).flatten().tolist()
        mean = sum(centres) / len(centres)
        on = [c for c, r in zip(centres, radii, strict=True) if c - r > 0]
        off = [c for c, r in zip(centres, radii, strict=True) if c + r < 0]
        ratios = [float(width) / (sum(radii) / len(radii))]
        for one, other in (
            (sum(on), -sum(off)),
            (sum((c - mean) ** 2 for c in on), sum((c - mean) ** 2 for c in off)),
        ):
            ratios.append(min(one / other, other / one) if one and other else 0.0)
        total += sum(max(0.0, 0.5 - ratio) / 0.5 for ratio in ratios)
    return total / len(layers)


class TestImbalance:
    @pytest.mark.parametrize("eps", [0.02, 0.3])
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_is_the_formula(self, eps, seed):
        student = relu_network(seed)
        found = propagated(student, X, eps, "linf").imbalance()
        assert float(found.detach()) == pytest.approx(float(imbalance_by_hand(student, X, eps)), rel=1e-9)

    def test_descending_it_narrows_wide_bounds(self):
        student = relu_network()
        for weight in student.parameters():
            weight.data *= 4
        optimiser = torch.optim.Adam(student.parameters(), lr=0.02)
        before = propagated(student, X, EPS, "linf").imbalance()
        for _ in range(100):
            optimiser.zero_grad()
            loss = propagated(student, X, EPS, "linf").imbalance()
            loss.backward()
            optimiser.step()
        assert loss < 0.6 * before

    def test_a_network_without_an_activation_has_none(self):
        student = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(18, 4)), relu_network().signature).double()
        assert propagated(student, X, EPS, "linf").imbalance() == 0

    def test_a_silent_layer_gives_finite_gradients(self):
        student = relu_network()
        for weight in student.backbone[0].parameters():
            weight.data.zero_()
        propagated(student, X, EPS, "linf").imbalance().backward()
        assert all(w.grad is None or w.grad.isfinite().all() for w in student.parameters())


class TestGraph:
    def test_a_network_is_traced_once_and_read_as_it_is_now(self, monkeypatch):
        student, calls = relu_network(), []
        original = certified.trace
        monkeypatch.setattr(certified, "trace", lambda *args: calls.append(args) or original(*args))
        first = propagated(student, X, EPS, "linf").cross_entropy(Y)
        with torch.no_grad():
            student.backbone[-1].bias += torch.arange(4.0)
        second = propagated(student, X, EPS, "linf").cross_entropy(Y)
        assert len(calls) == 1 and not torch.allclose(first, second)
        graph_of(relu_network(), X)
        assert len(calls) == 2

    def test_gradients_reach_every_weight(self):
        student = relu_network()
        propagated(student, X, EPS, "linf").cross_entropy(Y).sum().backward()
        assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.parameters())

    def test_the_network_itself_is_not_run(self):
        class Counted(nn.Module):
            count = 0

            def __init__(self, network):
                super().__init__()
                self.network = network

            def forward(self, x):
                self.count += 1
                return self.network(x)

        student = relu_network()
        student.backbone = Counted(student.backbone)
        propagated(student, X, EPS, "linf").cross_entropy(Y).sum().backward()
        assert student.backbone.count == 0
        assert all(weight.grad is not None for weight in student.parameters())

    def test_the_memory_keeps_no_network_alive(self):
        student = relu_network()
        graph_of(student, X)
        ghost = weakref.ref(student)
        del student
        gc.collect()
        assert ghost() is None

    def test_another_shape_of_images_is_another_trace(self):
        student = Classifier(
            nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            relu_network().signature,
        ).double()
        assert graph_of(student, X).nodes[0].shape == (2, 3, 3)
        assert graph_of(student, torch.zeros(1, 2, 5, 4)).nodes[0].shape == (2, 5, 4)

    def test_a_wrapped_network_is_looked_into(self):
        student = relu_network()
        wrapped = torch.compile(student, backend="eager")
        ours, theirs = (propagated(net, X, EPS, "linf").cross_entropy(Y) for net in (wrapped, student))
        assert torch.equal(ours, theirs)

    def test_batchnorm_stands_for_its_running_statistics_and_normalisation_counts(self, tiny_classifier, tiny_batch):
        student = tiny_classifier()
        found = propagated(student, tiny_batch.x, 0.0, "linf").cross_entropy(tiny_batch.y)
        assert student.training
        torch.testing.assert_close(found, F.cross_entropy(student.eval()(tiny_batch.x), tiny_batch.y, reduction="none"))

    def test_an_operator_without_bounds_is_named(self):
        student = Classifier(nn.Sequential(nn.Flatten(), nn.Hardshrink(), nn.Linear(18, 4)), relu_network().signature)
        with pytest.raises(InputError, match="no bounds for Hardshrink"):
            graph_of(student, X)


class TestInitialise:
    def test_every_weight_gets_the_mean_size_of_the_paper_and_keeps_its_sign(self):
        student = relu_network()
        before = [value.detach().clone() for value in student.parameters()]
        initialise(student)
        for old, new in zip(before, student.parameters(), strict=True):
            if new.dim() == 1:
                assert torch.equal(old, new)
                continue
            drawn = math.sqrt(2 * math.pi) / new[0].numel() * torch.randn(400_000).abs().mean()
            assert float(new.detach().abs().mean()) == pytest.approx(float(drawn), rel=0.01)
            assert torch.equal(old.sign(), new.sign())

    def test_an_interval_then_keeps_its_width_through_many_layers(self):
        torch.manual_seed(1)
        layers = [part for _ in range(6) for part in (nn.Linear(256, 256), nn.ReLU())]
        student = Classifier(
            nn.Sequential(nn.Flatten(), nn.Linear(18, 256), nn.ReLU(), *layers, nn.Linear(256, 4)),
            relu_network().signature,
        )
        x = X.float()

        def growth():
            around = propagated(student, x, 0.01, "linf")
            return float((around.layers[-2].radius.mean() / around.region.box.radius.mean()).detach())

        assert growth() > 100
        initialise(student)
        assert 0.3 < growth() < 3

    def test_a_weight_of_zeros_stays(self):
        student = relu_network()
        student.backbone[0].weight.data.zero_()
        initialise(student)
        assert not student.backbone[0].weight.any()


def test_a_ramp_rises_in_a_straight_line_and_stays():
    assert [risen(p, 0.5) for p in (0.0, 0.1, 0.5, 1.0)] == [0.0, 0.2, 1.0, 1.0]
    assert risen(0.0, 0.0) == 1.0
    assert [between((1.0, 0.5), share) for share in (0.0, 0.5, 1.0)] == [1.0, 0.75, 0.5]


def test_only_a_batchnorm_that_learns_is_shown_the_batch(make_step):
    step = make_step(IBP())
    norms = [module for module in step.student.modules() if isinstance(module, nn.BatchNorm2d)]
    asked = counting(step.student)
    norms[0].eval()
    update_statistics(step)
    assert [int(norm.num_batches_tracked) for norm in norms] == [0, 1] and len(asked) == 1
    norms[1].eval()
    update_statistics(step)
    assert len(asked) == 1
    plain = step_of(IBP(), student=relu_network())
    asked = counting(plain.student)
    update_statistics(plain)
    assert not asked


class TestBadOptions:
    def test_a_norm_without_bounds(self):
        with pytest.raises(ValueError, match=r"^there are bounds for the norms linf and l2, not for l1$"):
            check_certified("l1", 0.5, 0.0)

    @pytest.mark.parametrize("ramp", [-0.1, 1.1, math.nan])
    def test_a_ramp_outside_the_run(self, ramp):
        with pytest.raises(ValueError, match=r"^ramp is a share and must be in \[0, 1\], got "):
            check_certified("linf", ramp, 0.0)

    def test_a_negative_balance(self):
        with pytest.raises(ValueError, match="balance is a weight and cannot be negative"):
            check_certified("l2", 0.5, -1.0)

    def test_a_share_above_one(self):
        check_shares(kappa=(0.0, 1.0))
        with pytest.raises(ValueError, match=r"^kappa is a share and must be in \[0, 1\], got 1, 1.5$"):
            check_shares(kappa=(1.0, 1.5))

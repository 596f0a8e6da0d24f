from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overproof.attacks.ball import Radius, Threat
from overproof.bounds.trace import trace
from overproof.errors import InputError
from overproof.methods import taps
from overproof.methods.certified import graph_of, propagated
from overproof.methods.taps import TAPS, cut_before, latent_loss
from overproof.models.architectures.plain_resnet import PlainResNet
from overproof.models.weights import build
from overproof.signature import Signature

from .by_hand import X, Y, gradients, looked, only, step_of
from .by_relu import before_relus, box, margin_ranges, relu_network, worst_ce

EPS = 0.1
PLAIN = TAPS(threat=Threat(eps=Radius(str(EPS))), ramp=0.0)


def number(value):
    return value.detach().item()


def searched_margins(student, low, high, y=Y, points=4000):
    """Return the least of ``z_y - z_j`` at random points and corners of a box of the last hidden layer's input."""
    head = student.backbone
    torch.manual_seed(7)
    shares = torch.rand(points, *low.shape, dtype=low.dtype)
    shares[::2] = shares[::2].round()
    z = head[5](head[4](head[3](low.flatten(1) + shares.flatten(2) * (high - low).flatten(1))))
    own = z.gather(2, y.expand(points, -1).unsqueeze(2))
    others = torch.stack([torch.tensor([j for j in range(4) if j != each]) for each in y.tolist()])
    return (own - z.gather(2, others.expand(points, -1, -1))).amin(dim=0)


def test_without_an_activation_behind_the_cut_the_search_ends_at_the_interval_bounds():
    """The margins are linear there, so that the least of each is at a corner: both factors are the bounds' loss."""
    method = replace(PLAIN, relus=0)
    step = step_of(method, student=relu_network())
    loss = only(method.losses(step))["certified"]
    assert number(loss) == pytest.approx(number(worst_ce(step.student, X, EPS).mean()) ** 2, rel=1e-12)


def test_the_searched_factor_is_the_worst_of_the_box_in_front_of_the_last_activation():
    step = step_of(PLAIN, student=relu_network())
    loss = number(only(PLAIN.losses(step))["certified"])
    bounds = number(worst_ce(step.student, X, EPS).mean())
    first, _ = before_relus(step.student, *box(X, EPS))
    low, high = (side.relu() for side in first[0])
    least = searched_margins(step.student, low, high)
    sampled = number(torch.log(1 + (-least).exp().sum(dim=1)).mean())
    assert sampled <= loss / bounds + 1e-12  # the search finds what 4,000 samples find, and more
    assert loss / bounds <= bounds + 1e-12
    assert loss / bounds > number(F.cross_entropy(step.student(X), Y))


def test_margins_that_were_searched_are_within_their_interval_bounds():
    student = relu_network()
    around = propagated(student, X, EPS, "linf")
    cut = cut_before(around.graph, 1)
    spec = taps.margins(Y, 4).double()
    points = taps._search(around.graph, cut, around.layers[cut], spec, 8)
    least = taps._margins_at(around.graph, cut, points, spec)
    low, high = margin_ranges(student, *box(X, EPS))
    assert (-least <= high + 1e-12).all() and (-least >= low - 1e-12).all()
    assert ((points >= around.layers[cut].lower.unsqueeze(1)) & (points <= around.layers[cut].upper.unsqueeze(1))).all()


def test_a_point_of_a_box_is_what_the_network_itself_answers():
    student = relu_network()
    graph = graph_of(student, X)
    spec = torch.eye(4, dtype=torch.float64).expand(len(X), 4, 4)
    found = taps._margins_at(graph, 0, X.unsqueeze(1).expand(-1, 4, -1, -1, -1), spec)
    assert torch.allclose(found, student(X), atol=1e-12)


def test_the_gradient_of_the_searched_factor_is_expanded():
    def slopes(expansion):
        method = replace(PLAIN, expansion=expansion)
        step = step_of(method, student=relu_network())
        torch.manual_seed(0)
        return gradients(only(method.losses(step))["certified"], step.student)

    none, one, five = slopes(0.0), slopes(1.0), slopes(5.0)
    for still, once, often in zip(none, one, five, strict=True):
        assert torch.allclose(often - still, 5 * (once - still), atol=1e-12)
    assert any(not torch.allclose(still, once) for still, once in zip(none, one, strict=True))


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_link_sends_the_gradient_to_the_end_that_is_near(share):
    low = torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    points = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0], dtype=torch.float64)
    linked = taps._Link.apply(low, high, points, share)
    assert torch.equal(linked, points)
    (linked * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)).sum().backward()

    def near(distance):
        return max(0.0, 1 - distance / share)

    assert low.grad.tolist() == pytest.approx([1.0, 2 * near(0.1), 3 * near(0.5), 4 * near(1.0), 2.5])
    assert high.grad.tolist() == pytest.approx([near(1.0), 2 * near(0.9), 3 * near(0.5), 4.0, 2.5])


class TestCut:
    def test_it_is_the_output_of_an_activation_or_the_image(self):
        graph = graph_of(relu_network(), X)
        kinds = [type(node.operator).__name__ for node in graph.nodes]
        cuts = [cut_before(graph, relus) for relus in (0, 1, 2)]
        assert [kinds[cut] for cut in cuts] == ["ReLU", "ReLU", "NoneType"]
        assert cuts[0] > cuts[1] > cuts[2] == 0

    def test_all_of_the_network_passes_through_it(self):
        network = build(PlainResNet(), Signature(channels=1, height=8, width=8, classes=3)).eval()
        graph = trace(network, (1, 8, 8)).graph()
        seen = set()
        for relus in range(4):
            cut = cut_before(graph, relus)
            assert all(min(node.inputs) >= cut for node in graph.nodes[cut + 1 :])
            seen.add(cut)
        assert len(seen) > 1

    def test_more_activations_than_there_are_is_one_sentence(self):
        with pytest.raises(InputError, match="relus: 3 activations behind the cut are more than this network's 2"):
            cut_before(graph_of(relu_network(), X), 3)


def test_eps_grows_and_the_regulariser_fades():
    method = TAPS(threat=Threat(eps=Radius(str(EPS))), ramp=0.4, balance=0.5, scaled_start=True)
    step = step_of(method, student=relu_network(), progress=0.2)
    found = only(method.losses(step))
    assert set(found) == {"certified", "balance"}
    torch.manual_seed(0)
    around = propagated(step.student, X, EPS / 2, "linf")
    torch.manual_seed(0)
    again = only(method.losses(step))["certified"]
    torch.manual_seed(0)
    assert number(latent_loss(around, step, method)) == pytest.approx(number(again), rel=1e-12)
    assert set(only(method.losses(replace(step, progress=0.4)))) == {"certified"}


def test_batchnorm_learns_from_the_clean_batch_once(make_step):
    method = replace(PLAIN, relus=0)
    step = make_step(method)
    only(method.losses(step))
    assert looked(step.student) == 1


def test_it_learns_what_intervals_prove():
    """A few steps make a network's margins hold over the ball more often than before."""
    torch.manual_seed(0)
    student = nn.Sequential()
    step = step_of(PLAIN, student=relu_network())
    student = step.student
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05)
    before = number(worst_ce(student, X, EPS).mean())
    for _ in range(30):
        optimiser.zero_grad()
        only(PLAIN.losses(step))["certified"].backward()
        optimiser.step()
    assert number(worst_ce(student, X, EPS).mean()) < before / 2

"""Formulas written out a second time, in float64, on a smooth network without BatchNorm, at images that are told."""

from dataclasses import dataclass, field

import torch
from torch import nn

from overproof.attacks.pgd import PGD
from overproof.methods.method import Step
from overproof.models.classifier import Classifier
from overproof.models.weights import freeze
from overproof.signature import Signature

SIGNATURE = Signature(channels=2, height=3, width=3, classes=4)
Y = torch.tensor([0, 1, 2, 3, 1])


def draw(seed):
    return torch.Generator().manual_seed(seed)


def images(n=5, seed=0):
    """Return images some of whose pixels are 0 or 1."""
    return (1.4 * torch.rand(n, 2, 3, 3, generator=draw(seed), dtype=torch.float64) - 0.2).clamp(0, 1)


X = images()
ADV = (X + 0.3 * torch.randn(X.shape, generator=draw(7), dtype=torch.float64)).clamp(0, 1)


def network(seed=100):
    """Return a smooth classifier in train mode whose answers are far from uniform."""
    hidden, head = nn.Linear(18, 5), nn.Linear(5, 4)
    for module in (hidden, head):
        for value in module.parameters():
            value.data.normal_(generator=draw(seed))
            seed += 1
    return Classifier(nn.Sequential(nn.Flatten(), hidden, nn.Tanh(), head), SIGNATURE).double()


def step_of(method, *, progress=1.0, x=X, y=Y, student=None, teachers=None, state=None, auxiliary_models=None):
    """Return what a method sees of one batch."""
    step = Step(
        x=x,
        y=y,
        student=student or network(),
        teachers=teachers or {role: freeze(network(10 * seed)) for seed, role in enumerate(method.roles, 1)},
        auxiliary_models=auxiliary_models
        or {name: network(50 + seed) for seed, name in enumerate(method.auxiliary_models)},
        progress=progress,
    )
    return Step(**{**vars(step), "state": method.initial_state(step) if state is None else state})


# --- formulas ---------------------------------------------------------------------------------------------------------


def prob(z, t=1.0):
    e = torch.exp(z / t)
    return e / e.sum(dim=1, keepdim=True)


def kl(target, z, t=1.0):
    """Return KL(target || z), ``[N]``: the order in which papers write it."""
    p, q = prob(target, t), prob(z, t)
    return (p * (torch.log(p) - torch.log(q))).sum(dim=1)


def ce(z, y=Y):
    return -torch.log(prob(z)[torch.arange(len(y)), y])


def entropy(z):
    p = prob(z)
    return -(p * torch.log(p)).sum(dim=1)


# --- a search that finds what it is told ------------------------------------------------------------------------------


@dataclass
class Told:
    """What a method asked of its search."""

    adv: torch.Tensor
    searches: list = field(default_factory=list)
    models: list = field(default_factory=list)
    objectives: list = field(default_factory=list)


def tell(monkeypatch, adv=ADV):
    """Make every search find ``adv``, and remember what it would have maximised."""
    told = Told(adv)

    def search(self, model, x, objective):
        told.searches.append(self)
        told.models.append(model)
        told.objectives.append(objective)
        return told.adv

    monkeypatch.setattr(PGD, "search", search)
    return told


def maximises(told, score, at=None):
    """Whether the one search maximises ``score``: its values and its gradient with respect to the pixels."""
    (objective,) = told.objectives
    for point in (told.adv, images(len(told.adv), seed=3)) if at is None else at:
        ours, hand = (point.clone().requires_grad_() for _ in range(2))
        torch.testing.assert_close(objective(ours), score(hand), rtol=1e-9, atol=1e-12)
        (found,) = torch.autograd.grad(objective(ours).sum(), ours)
        (wanted,) = torch.autograd.grad(score(hand).sum(), hand)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


# --- comparing --------------------------------------------------------------------------------------------------------


def only(losses):
    """Return the one dictionary that a method yields."""
    (terms,) = losses
    return terms


def total(terms):
    return torch.stack(list(terms.values())).sum()


def gradients(value, *networks):
    """Return the gradient of a scalar with respect to every weight; zero where it does not depend on it."""
    weights = [weight for net in networks for weight in net.parameters()]
    if not value.requires_grad:
        return [torch.zeros_like(weight) for weight in weights]
    return torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True, materialize_grads=True)


def equal(found, wanted, *networks):
    """Assert that every term has the value and the gradients of the one written by hand."""
    assert list(found) == list(wanted)
    for name, term in found.items():
        assert term.shape == ()
        torch.testing.assert_close(term, wanted[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: name + text)
        for ours, hand in zip(gradients(term, *networks), gradients(wanted[name], *networks), strict=True):
            torch.testing.assert_close(ours, hand, rtol=1e-8, atol=1e-11, msg=lambda text, name=name: name + text)


def counting(net):
    """Return a growing list of the images a network was asked about."""
    asked = []
    net.register_forward_pre_hook(lambda _, args: asked.append(args[0].detach().clone()))
    return asked


def looked(net):
    """Return how many batches the first BatchNorm of a network has learnt from."""
    return int(next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d)).num_batches_tracked)


def noted(losses, found):
    """Hand losses on, and append their values to ``found``."""
    for terms in losses:
        found.append({name: term.detach() for name, term in terms.items()})
        yield terms


def descend(losses, net, rate=0.1):
    """Descend every loss by plain gradient descent, as the training loop would; return how many there were."""
    count = 0
    for terms in losses:
        for weight in net.parameters():
            weight.grad = None
        total(terms).backward()
        with torch.no_grad():
            for weight in net.parameters():
                weight -= rate * weight.grad
        count += 1
    return count

"""Every method on the digits: it learns, and a killed run continues to the bit."""

import io
from dataclasses import replace

import pytest
import torch

from overproof.attacks.ball import Radius, Threat
from overproof.attacks.pgd import PGD
from overproof.data.augment import Augment
from overproof.data.images import pixels
from overproof.data.loader import Loader
from overproof.data.sources import Digits
from overproof.methods.catalogue import methods
from overproof.methods.natural import Natural
from overproof.methods.pgd_at import PGDAT
from overproof.methods.witness import search_of
from overproof.models.architectures.convnet import ConvNet
from overproof.models.mode import in_mode
from overproof.models.weights import build, freeze
from overproof.training import pace
from overproof.training.loop import Loop
from overproof.training.optimisation import AdamW, Training

TINY = ConvNet(channels=(8, 16), kernel=3, hidden=(32,))
EPS = Radius("0.05")
EPOCHS = 5
LONGER = {"lbgat": 10}
"""Epochs of methods whose student waits for what learns beside it."""
OPTIONS = {
    "free_at": {"threat": Threat(eps=EPS), "replays": 3},
    "fast_ard": {"threat": Threat(eps=EPS), "replays": 3},
    "rrm": {"label_weight": 0.5},  # at 0.005 the head needs more than a few epochs
    "peeraid": {"label": 1.0},  # without labels the student waits for its peer
    "fare": {"label_weight": 0.5},  # at 0 the head is not trained
    "mtard": {"balance_rate": 0.1},
    "b_mtard": {"balance_rate": 0.1, "temper_rate": 0.05},
}


def made(cls):
    """Return a method with a short search, inside a wrapper too."""
    method = cls(**OPTIONS.get(cls.kind, {}))
    search = search_of(method)
    if search is not None:
        method = replace(method, inner=replace(search, steps=min(search.steps, 2), eps=EPS, ramp=0.5))
    return replace(method, base=made(type(method.base))) if hasattr(method, "base") else method


@pytest.fixture(scope="session")
def digits():
    """Return 1,024 images to learn from and the test part."""
    return Digits().load("train").at(torch.arange(1024)), Digits().load("test")


def looping(method, images, teachers, epochs=EPOCHS):
    torch.manual_seed(1)
    networks = {name: build(TINY, images.signature) for name in ("student", *method.auxiliary_models)}
    student = networks.pop("student")
    training = Training(epochs=epochs, batch=64, optimiser=AdamW(lr=0.01), precision="fp32")
    roles = {role: teachers[role] for role in method.roles}
    loader = Loader(images, 64, Augment(crop=1), seed=3)
    return Loop(method, student, roles, loader, training, seed=3, auxiliary_models=networks)


@pytest.fixture(scope="session")
def teachers(digits):
    """Return a robust and a clean teacher, trained once."""
    found = {}
    for role, method in (("robust", PGDAT(inner=PGD(steps=2, eps=EPS))), ("clean", Natural())):
        loop = looping(method, digits[0], {}, epochs=10)
        for _ in loop.run():
            pass
        found[role] = freeze(loop.student)
    return found


def clean_accuracy(network, images):
    with torch.no_grad(), in_mode(network, training=False):
        return float((network(pixels(images.images)).argmax(dim=1) == images.labels).float().mean())


def everything(value, name=""):
    """Yield every leaf of a state with its place."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from everything(part, f"{name}.{key}")
    else:
        yield name, value


def test_the_teachers_are_worth_listening_to(teachers, digits):
    assert all(clean_accuracy(teacher, digits[1]) > 0.6 for teacher in teachers.values())


@pytest.mark.parametrize("kind", methods())
def test_it_learns_and_a_killed_run_continues_to_the_bit(kind, digits, teachers, monkeypatch):
    monkeypatch.setattr(pace, "LOOK_SECONDS", 0)
    train, test = digits
    method = made(methods()[kind])
    epochs = LONGER.get(kind, EPOCHS)
    loop, saved = looping(method, train, teachers, epochs), io.BytesIO()
    for progress in loop.run():
        assert all(torch.tensor(mean).isfinite() for mean in progress.means.values())
        if (progress.epoch, progress.batch) == (epochs - 2, 3):
            torch.save(loop.state(), saved)
    assert all(weight.isfinite().all() for weight in loop.student.parameters())
    accuracy = clean_accuracy(loop.student, test)
    assert accuracy > 0.2, f"{accuracy:.2f} correct on held-out digits"

    saved.seek(0)
    again = looping(method, train, teachers, epochs)
    again.restore(torch.load(saved, weights_only=True))
    assert (again.epoch, again.batch) == (epochs - 2, 3)
    assert list(again.run())[-1] == progress
    ours, theirs = (list(everything(each.state())) for each in (again, loop))
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (name, value), (_, other) in zip(ours, theirs, strict=True):
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        assert same or (value != value).all(), name

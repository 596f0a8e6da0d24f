"""What docs/teachers.md says is so: its Python runs, its layouts are those that are tested."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import huggingface_hub.constants
import pytest
import torch
from tests.formats.fake_hub import FakeHub, serving
from torch import nn

import overproof
from overproof.models.architectures.mlp import MLP
from overproof.models.classifier import Classifier
from overproof.models.weights import build, freeze, save_model
from overproof.signature import Signature

PAGE = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text()
HUB, LIGHTNING, TIMM = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
SIGNATURE = Signature(channels=1, height=4, width=4, classes=2)


@pytest.fixture
def task():
    """Return a student, a teacher and two batches of a task that the teacher knows: is the image bright?"""
    torch.manual_seed(0)
    student, teacher = (build(MLP(hidden=(8,)), SIGNATURE) for _ in range(2))
    x = torch.rand(64, 1, 4, 4)
    y = (x.flatten(1).mean(dim=1) > 0.5).long()
    return student, freeze(teacher), [(x[:32], y[:32]), (x[32:], y[32:])]


def distance(student, teacher, loader):
    with torch.no_grad():
        return sum((student(x).softmax(1) - teacher(x).softmax(1)).abs().mean().item() for x, _ in loader)


def test_the_hubs_lines_push_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "runs" / "mnist-ard"
    folder.mkdir(parents=True)
    network = build(MLP(hidden=(3,)), SIGNATURE)
    save_model(folder, network, MLP(hidden=(3,)), ("a", "b"), facts={"name": "mnist-ard", "parameters": 1})
    hub = FakeHub()
    with serving(hub) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        exec(HUB, {})
        x = torch.rand(2, 1, 4, 4)
        assert torch.equal(overproof.load("org/mnist-ard")(x), network.eval()(x))
    assert torch.equal(overproof.load("hub/mnist-ard")(x), network(x))


@pytest.mark.filterwarnings("ignore")
def test_the_lightning_lines_train_a_student(task):
    pytest.importorskip("lightning")
    student, teacher, batches = task
    names = {}
    exec(LIGHTNING, names)
    before = distance(student, teacher, batches)
    loader = torch.utils.data.DataLoader(
        [(x, y) for batch in batches for x, y in zip(*batch, strict=True)], batch_size=32
    )
    assert names["fit"](student, teacher, loader, 20) is student
    assert distance(student, teacher, batches) < 0.5 * before


class Scheduler:
    def __init__(self):
        self.updates = []

    def step_update(self, num_updates):
        self.updates.append(num_updates)


def test_the_lines_with_timms_conventions_train_a_student(task, monkeypatch):
    """With timm where it is installed, and with two functions of its signatures where it is not."""
    missing = find_spec("timm") is None
    if missing:
        timm, optim = ModuleType("timm"), ModuleType("timm.optim")
        timm.create_model = lambda name, num_classes: nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))
        optim.create_optimizer_v2 = lambda model, opt, lr: {"sgd": torch.optim.SGD}[opt](model.parameters(), lr=lr)
        monkeypatch.setitem(sys.modules, "timm", timm)
        monkeypatch.setitem(sys.modules, "timm.optim", optim)
    names = {}
    exec(TIMM, names)
    assert len([line for line in TIMM.splitlines() if line.strip()]) <= 20
    args = SimpleNamespace(epochs=30, model="tiny", opt="sgd", lr=0.5)
    _, teacher, loader = task
    if missing:
        student, optimiser, method = names["create"](args, SIGNATURE, (0.5,), (0.25,))
        assert isinstance(student, Classifier) and student.normalises
    else:  # timm's own networks are too large for a test
        student, method = task[0], names["RSLAD"]()
        optimiser = names["create_optimizer_v2"](student, opt="sgd", lr=0.5)
    before, scheduler = distance(student, teacher, loader), Scheduler()
    for epoch in range(args.epochs):
        names["train_one_epoch"](epoch, student, teacher, loader, optimiser, method, args, scheduler)
    assert scheduler.updates == list(range(1, 61))
    assert distance(student, teacher, loader) < 0.5 * before

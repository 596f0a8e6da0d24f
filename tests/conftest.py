"""What every test may use: one thread, one seed, a tiny network, a tiny batch, and exact worst cases."""

import json
import multiprocessing
import os
import pickle
import sys
import warnings
from importlib import invalidate_caches

import pytest
import torch
from hypothesis import settings
from tests.exact import in_float64
from torch import distributed

from overproof.processes import Processes

pytest.register_assert_rewrite("overproof.testing")
from tests.small_runs import finished, squares, toy  # noqa: E402, F401 - fixtures

from overproof.testing import toys  # noqa: E402

# Tiny tensors gain nothing from a second thread; `make anycpu` asks for one.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
settings.register_profile("overproof", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("overproof")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_clock_in_an_epoch(monkeypatch):
    """A loop looks at its losses every second, so on a slow CPU more often; a test that wants looks sets 0 seconds."""
    monkeypatch.setattr("overproof.training.pace.LOOK_SECONDS", 1e9)


@pytest.fixture
def tiny_classifier():
    """Return a maker of networks with two BatchNorms whose statistics are not the identity, in train mode."""
    return toys.tiny_classifier


@pytest.fixture
def tiny_batch():
    """Return six images, some of whose pixels are exactly 0 or 1, and their labels."""
    return toys.tiny_batch()


@pytest.fixture
def make_step():
    """Return a maker of what a method sees of one batch: a student in train mode, silent teachers, auxiliary models."""
    return toys.make_step


@pytest.fixture(scope="session")
def float64():
    """Return the context in which a claim that two ways of computing are one is tested."""
    return in_float64


@pytest.fixture
def exactly(float64):
    """Compute the whole test in float64."""
    with float64():
        yield


@pytest.fixture
def in_turn(monkeypatch):
    """Do the quickstart's tasks one after the other in this process: another process would import torch first."""

    def performing(tasks, function, *, jobs=None):
        from overproof.commands import quickstart
        from overproof.runs.workers import Heard

        for task in tasks:
            yield Heard(task)
            yield Heard(task, ended=True, result=json.loads(json.dumps(quickstart.do_task(**task.words))))

    monkeypatch.setattr("overproof.commands.quickstart.performing", performing)


@pytest.fixture
def modes():
    """Return a function from a network to the mode of every submodule."""
    return toys.modes


@pytest.fixture
def worst_case():
    """Return the exact answer to: how much can ``slope . delta`` [N] grow inside the ball and [0, 1] around ``x``?"""

    def gain(norm, slope, x, eps):
        steep = slope.abs().flatten(1)
        distance = torch.where(slope > 0, 1 - x, x).flatten(1)  # how far a pixel can move in the direction that pays
        if norm == "linf":
            return (steep * distance.clamp(max=eps)).sum(dim=1)
        if norm == "l1":  # the budget goes to the steepest pixel until it is full, then to the next
            order = steep.argsort(dim=1, descending=True)
            steep, distance = steep.gather(1, order), distance.gather(1, order)
            before = distance.cumsum(dim=1) - distance
            return (steep * (eps - before).clamp(min=0).minimum(distance)).sum(dim=1)
        # l2: delta = min(t * slope, distance), and the length grows with t.
        low, high = torch.zeros_like(steep[:, :1]), torch.full_like(steep[:, :1], 1e6)
        for _ in range(200):
            middle = (low + high) / 2
            fits = (middle * steep).minimum(distance).square().sum(dim=1, keepdim=True) <= eps**2
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        return (steep * (low * steep).minimum(distance)).sum(dim=1)

    return gain


@pytest.fixture
def group(tmp_path_factory):
    """Return a function: let ``count`` forked processes that know each other do ``work(Processes(rank, count))``.

    It returns what each gave, in the order of the ranks: a result, an exception, or None where it was killed.
    """
    context = multiprocessing.get_context("fork")

    def run(work, count=2):
        folder = tmp_path_factory.mktemp("group")

        def live(rank):
            torch.set_num_threads(1)  # a forked process waits for ever for the threads that stayed with its parent
            distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
            try:
                found = work(Processes(rank, count))
            except Exception as problem:
                found = problem
            (folder / str(rank)).write_bytes(pickle.dumps(found))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads; these have one
            members = [context.Process(target=live, args=(rank,)) for rank in range(count)]
            for member in members:
                member.start()
        for member in members:
            member.join(timeout=100)
            assert member.exitcode is not None, "the processes wait for each other"
        files = [folder / str(rank) for rank in range(count)]
        return [pickle.loads(file.read_bytes()) if file.is_file() else None for file in files]

    return run


@pytest.fixture
def lay(tmp_path, monkeypatch):
    """Return a function that writes modules into a folder; what they were imported as is forgotten afterwards."""

    def write(folder, **texts):
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (place / f"{name}.py").write_text(text)
        invalidate_caches()
        return place

    yield write
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def install(lay, monkeypatch):
    """Return a function that lays down a package with entry points, ``{"methods": "soft = own:Soft"}``, and modules."""

    def write(name, points, **texts):
        place = lay(f"site-{name}", **texts)
        info = place / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        text = "\n".join(f"[overproof.{group}]\n{lines}" for group, lines in points.items())
        (info / "entry_points.txt").write_text(f"{text}\n")
        monkeypatch.syspath_prepend(place)
        return place

    return write

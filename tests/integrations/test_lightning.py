import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.data.augment import Augment
from overproof.data.images import balanced_subset
from overproof.data.loader import Loader
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.integrations import lightning as integration
from overproof.methods.ard import ARD
from overproof.methods.b_mtard import BMTARD
from overproof.methods.catalogue import methods
from overproof.methods.fast_ard import FastARD
from overproof.methods.natural import Natural
from overproof.models.architectures.convnet import ConvNet
from overproof.models.weights import build, freeze
from overproof.processes import Part, Processes
from overproof.training.averaging import EMA
from overproof.training.loop import Loop
from overproof.training.optimisation import SGD, Cosine, Training
from overproof.training.step import Place

lightning = pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about loaders and machines

INNER = PGD(eps=Radius("0.1"), steps=2)
TRAINING = Training(
    epochs=2, batch=32, optimiser=SGD(lr=0.05), schedule=Cosine(), warmup=0.5, clip=1.0, precision="fp32"
)
METHODS = {
    "natural": Natural(),
    "ard": ARD(inner=INNER, alpha=0.5),
    "b_mtard": BMTARD(inner=INNER),  # remembers
    "fast_ard": FastARD(),  # several steps per batch
}


class Batches:
    """Our loader's batches, epoch after epoch, as a loader of Lightning's."""

    def __init__(self, loader, first=0, change=lambda x: x):
        self.loader, self.epoch, self.change = loader, first, change

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        self.epoch += 1  # Lightning stops at the last batch, not behind it
        yield from ((self.change(x), y) for x, y in self.loader.batches(self.epoch - 1))


@pytest.fixture(scope="module")
def loader():
    images = Digits().load("train")
    return Loader(images.at(balanced_subset(images, 96, seed=0)), 32, Augment(), seed=5)


def network(seed, loader):
    torch.manual_seed(seed)
    return build(ConvNet(channels=(4,), hidden=(8,)), loader.images.signature, mean=(0.3,), std=(0.4,))


def parts(method, loader):
    """Return a student, teachers and auxiliary models that are the same at every call."""
    teachers = {role: freeze(network(number, loader)) for number, role in enumerate(method.roles, start=1)}
    return network(0, loader), teachers, {name: network(9, loader) for name in method.auxiliary_models}


def module(method, loader, training=TRAINING, **options):
    student, teachers, auxiliary_models = parts(method, loader)
    return integration.DistillationModule(
        method, student, teachers, training, seed=7, auxiliary_models=auxiliary_models, **options
    )


def trainer(epochs=2, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, **{**quiet, **options})


@pytest.mark.parametrize("name", METHODS)
def test_lightning_takes_the_steps_that_our_loop_takes(name, loader):
    method = METHODS[name]
    student, teachers, auxiliary_models = parts(method, loader)
    loop = Loop(method, student, teachers, loader, TRAINING, seed=7, auxiliary_models=auxiliary_models)
    *_, last = loop.run()
    ours = module(method, loader)
    run = trainer()
    run.fit(ours, Batches(loader))
    for key, value in student.state_dict().items():
        assert torch.equal(ours.student.state_dict()[key], value), key
    assert ours.memory.keys() == loop.memory.keys()
    assert all(torch.equal(ours.memory[key], value) for key, value in loop.memory.items())
    for term, mean in last.means.items():
        assert float(run.callback_metrics[term]) == pytest.approx(mean, rel=1e-5)


def test_a_run_continues_from_lightnings_checkpoint(loader, tmp_path):
    method = METHODS["b_mtard"]
    whole = module(method, loader)
    trainer().fit(whole, Batches(loader))
    half, run = module(method, loader), trainer(1)
    run.fit(half, Batches(loader))
    # The schedule of a run that stops after one epoch is another one, so only what is carried over is compared.
    run.save_checkpoint(tmp_path / "half.ckpt")
    resumed, again = module(method, loader), trainer()
    again.fit(resumed, Batches(loader, first=1), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert again.current_epoch == 2 and again.global_step == 6
    body = torch.load(tmp_path / "half.ckpt", weights_only=False)
    assert all(torch.equal(body["overproof_memory"]["memory"][key], value) for key, value in half.memory.items())
    assert not any("teacher" in key for key in body["state_dict"])
    assert not torch.equal(next(resumed.student.parameters()), next(half.student.parameters()))


def test_what_is_frozen_or_learns_slower_does_so_here_too(loader):
    training = replace(TRAINING, freeze=("conv1.*",), learning_rates={"fc1.weight": 0.1})
    student, teachers, _ = parts(METHODS["ard"], loader)
    begun = student.backbone.conv1.weight.clone()
    list(Loop(METHODS["ard"], student, teachers, loader, training, seed=7).run())
    ours = module(METHODS["ard"], loader, training)
    trainer().fit(ours, Batches(loader))
    for key, value in student.state_dict().items():
        assert torch.equal(ours.student.state_dict()[key], value), key
    assert torch.equal(student.backbone.conv1.weight, begun)


def test_processes_share_a_batch_and_end_where_one_ends(tmp_path):
    """Methods with figures of the whole batch, in float64, whose rounding (1e-16) stays below 1e-9 in six updates."""
    script, names = Path(__file__).with_name("lightning_processes.py"), ("mtard", "b_mtard", "saad", "awp")
    for processes in (1, 2):
        (out := tmp_path / str(processes)).mkdir()
        subprocess.run(
            [sys.executable, script, str(processes), out, *names],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            timeout=280,
            check=True,
        )
    for name in names:
        one, two = (torch.load(tmp_path / str(processes) / f"{name}.pt") for processes in (1, 2))
        for part in ("student", "memory"):
            for key, value in one[part].items():
                torch.testing.assert_close(two[part][key], value, rtol=0, atol=1e-9, msg=f"{name} {part} {key}")


def test_processes_with_unequal_batches_are_refused():
    place = Place(epoch=0, batch=3, batches=4, epochs=1)

    class Two(Processes):
        def gather(self, value):
            return [value, 16]

    assert integration._part(Two(0, 2), 16, place) == Part(Two(0, 2), 32)
    told = refused(integration._part, Two(0, 2), 15, place)
    assert told.startswith("batch 3 of the processes has 15, 16 images; use a sampler that gives each as many")
    assert integration._part(Two(0, 2), 15, replace(place, batch=1)).whole == 30  # no sampler makes it smaller
    assert integration._part(Processes(), 15, place).whole == 15


def test_teachers_stay_silent(loader):
    ours = module(METHODS["ard"], loader)
    ours.train()
    assert ours.student.training
    teacher = ours.teachers["robust"]
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    trainer(1).fit(ours, Batches(loader))
    assert not any(part.training for part in teacher.modules())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_validation_and_a_users_own_optimiser(loader):
    class Mine(integration.DistillationModule):
        def configure_optimizers(self):
            return torch.optim.Adam(self.student.parameters(), lr=0.003)

    student, _, _ = parts(Natural(), loader)
    mine, run = Mine(Natural(), student, training=None), trainer(30)
    run.fit(mine, Batches(loader), Batches(loader))
    assert mine.optimizers().param_groups[0]["lr"] == 0.003
    x, y = loader.images.images.float() / 255, loader.images.labels
    accuracy = (mine(x).argmax(dim=1) == y).float().mean()
    assert float(run.callback_metrics["clean_accuracy"]) == pytest.approx(float(accuracy))
    assert accuracy > 0.8


def test_the_class_is_found_by_pickles():
    assert pickle.loads(pickle.dumps(integration.DistillationModule)) is integration.DistillationModule
    with pytest.raises(AttributeError, match="no attribute 'Distillation'"):
        _ = integration.Distillation


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_roles_and_companions_must_be_those_of_the_method(loader):
    student = network(0, loader)
    make = integration.DistillationModule
    assert refused(make, ARD(), student) == "method 'ard' has the teachers robust, got none"
    assert (
        refused(make, Natural(), student, {"robust": student}) == "method 'natural' has the teachers none, got robust"
    )
    peer = next(method for cls in methods().values() if (method := cls()).auxiliary_models)
    teachers = dict.fromkeys(peer.roles, student)
    assert refused(make, peer, student, teachers).startswith(f"method {peer.kind!r} has the auxiliary models ")


def test_what_only_our_loop_does_is_refused(loader):
    told = refused(module, Natural(), loader, training=Training(averaging=EMA()))
    assert told == "averaging is our own loop's; in Lightning use its weight-averaging callbacks"
    told = refused(module, Natural(), loader, training=Training(balance=1.0))
    assert told == "training.balance is our own loader's; give Lightning's loader a WeightedRandomSampler"
    told = refused(module, Natural(), loader, training=Training(teacher_cache=True))
    assert told == "training.teacher_cache is our own loop's, which knows its images by number"
    told = refused(module, Natural(), loader, training=Training(freeze=("conv9.*",)))
    assert told.startswith("training: no parameter of the student is called 'conv9.*'")
    assert "override configure_optimizers" in refused(trainer().fit, module(Natural(), loader, None), Batches(loader))


def test_normalised_pixels_are_refused(loader):
    batches = Batches(loader, change=lambda x: 2 * x - 1)
    told = refused(trainer().fit, module(Natural(), loader), batches)
    assert told.startswith("pixels must lie in [0, 1], these span [-1, 1]; take Normalize out of the transforms")


def test_a_run_needs_an_end(loader):
    told = refused(trainer(-1, max_steps=3).fit, module(Natural(), loader), Batches(loader))
    assert told == "a method must know how long the run is: give the Trainer max_epochs"

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return (batch for batch in loader.batches(0))

    stream = torch.utils.data.DataLoader(Endless(), batch_size=None)
    assert refused(trainer().fit, module(Natural(), loader), stream).endswith("give a loader with a length")


def test_without_lightning_the_extra_is_named(monkeypatch):
    integration._module_class.cache_clear()
    monkeypatch.setitem(sys.modules, "lightning", None)
    assert refused(getattr, integration, "DistillationModule") == (
        "Lightning is an extra: pip install 'overproof[lightning]'"
    )
    integration._module_class.cache_clear()

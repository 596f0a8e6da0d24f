import copy
import io
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

from overproof.data.augment import Augment
from overproof.data.loader import Loader
from overproof.functional import cross_entropy
from overproof.methods.adaad import AdaAD
from overproof.methods.ard import ARD
from overproof.methods.awp import AWP
from overproof.methods.catalogue import methods
from overproof.methods.fast_ard import FastARD
from overproof.methods.free_at import FreeAT
from overproof.methods.igdm import IGDM
from overproof.methods.kd import KD
from overproof.methods.method import Method
from overproof.methods.mtard import MTARD
from overproof.methods.natural import Natural
from overproof.methods.rrm import RRM
from overproof.methods.saad import SAAD
from overproof.models.architectures.resnet import ResNet
from overproof.models.classifier import Classifier
from overproof.models.weights import freeze
from overproof.processes import ALONE, Processes
from overproof.signature import Signature
from overproof.training import pace
from overproof.training.averaging import EMA
from overproof.training.loop import Loop, NotFiniteError
from overproof.training.optimisation import SGD, AdamW, Constant, Training
from overproof.training.parallel import TrainableNetworks, distributed, sharded, splits_batchnorm


def plain_net(seed, sharp=1.0):
    """A network without BatchNorm; a sharp one is sure of itself, so that methods which weigh examples do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    layers[3].weight.data *= sharp
    return Classifier(layers, Signature(channels=1, height=4, width=4, classes=3))


MOVED = Augment(crop=1, flip=True, cutout=1)


@pytest.fixture
def loop(images):
    """Return a function: a loop over batches of 8, 8, 8 and 5 that processes share."""
    images = images.at(torch.arange(29))

    def make(
        method, processes=ALONE, *, network=plain_net, images=images, seed=0, augment=MOVED, shards=False, **options
    ):
        options = {"epochs": 2, "batch": 8, "optimiser": SGD(lr=0.05), "schedule": Constant()} | options
        training = Training(precision="fp32", averaging=EMA(decay=0.5), clip=1.0, **options)
        loader = Loader(images, training.batch, augment, seed, processes)
        teachers = {role: freeze(plain_net(n, sharp=8.0)) for n, role in enumerate(method.roles, start=10)}
        auxiliary_models = {name: network(50) for name in method.auxiliary_models}
        for teacher in teachers.values() if shards and processes.count > 1 else ():
            sharded(teacher, processes, images.images.device)
        return Loop(method, network(0), teachers, loader, training, seed, auxiliary_models=auxiliary_models)

    return make


def finish(loop):
    """Return everything a run ends with: its state, and the means of its epochs."""
    means = [one.means for one in loop.run() if one.whole]
    return copy.deepcopy(loop.state()) | {"means": means, "average": loop.average.state()}


ROUNDED = 1e-9
"""What float64's rounding, 1e-16, may have grown into after some 10 updates; a wrong row or draw is above 1e-3."""


def distance(found, wanted):
    """Return how far two nested results are from each other, relative to what is wanted where that is above 1."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        return max([distance(found[key], wanted[key]) for key in wanted], default=0.0)
    if isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        return max(map(distance, found, wanted), default=0.0)
    if wanted is None or isinstance(wanted, bool | str):
        return float(found != wanted)
    found, wanted = torch.as_tensor(found, dtype=torch.float64), torch.as_tensor(wanted, dtype=torch.float64)
    assert found.shape == wanted.shape
    return float(((found - wanted).abs() / wanted.abs().clamp_min(1)).max()) if wanted.numel() else 0.0


VARIANTS = {
    **{kind: cls() for kind, cls in methods().items()},
    "saad with a clean term": SAAD(clean_weight=1.0),
    "awp on mtard": AWP(base=MTARD(), gamma=0.1),
    "fast_ard on cross-entropy": FastARD(ascend="cross_entropy", alpha=0.5),
}


@pytest.mark.parametrize("optimiser", [SGD(lr=0.05), AdamW(lr=3e-3)], ids=lambda one: one.kind)
def test_every_method_ends_where_a_single_process_ends(exactly, loop, group, optimiser):
    """Random starts, augmentation, averages, clipping, memory by row and not, and a last batch that does not divide."""

    def work(processes):
        return {name: finish(loop(method, processes, optimiser=optimiser)) for name, method in VARIANTS.items()}

    wanted = work(ALONE)
    for found in group(work):
        for name, method in VARIANTS.items():
            assert distance(found[name], wanted[name]) < ROUNDED, name
            began = loop(method).student.state_dict()
            assert distance(wanted[name]["student"], began) > 1e-3, name  # it would have been noticed


def test_in_float32_it_ends_there_but_for_rounding(float64, loop, group):
    """Where neither sign() nor Adam enlarges it: as near to the run in float64 as a single process comes, about."""
    began = plain_net(0)

    def work(processes):
        network = copy.deepcopy(began).to(torch.get_default_dtype())
        return finish(loop(Natural(), processes, network=lambda _: network, augment=Augment()))["student"]

    with float64():
        exact = work(ALONE)
    single = distance(work(ALONE), exact)
    assert 0 < single < 1e-5  # 8 updates of numbers below 1, each rounded by 6e-8
    for found in group(work):
        assert distance(found, exact) < 10 * single


def test_four_processes_whose_last_batch_is_shared_unevenly(exactly, loop, group):
    wanted = finish(loop(FreeAT(replays=2)))
    for found in group(lambda processes: finish(loop(FreeAT(replays=2), processes)), count=4):
        assert distance(found, wanted) < ROUNDED


@dataclass(frozen=True, kw_only=True)
class Blunt(Method):
    """Terms that depend on the rank, which no method's may."""

    kind: str = "blunt"
    roles: ClassVar[tuple[str, ...]] = ()

    def losses(self, step):
        value = cross_entropy(step.student(step.x), step.y).mean()
        yield {"label": value / 0 if step.part.processes.rank == 1 and step.progress > 0.5 else value}


def test_what_is_not_finite_in_one_process_stops_all(loop, group):
    def work(processes):
        try:
            finish(loop(Blunt(), processes))
        except NotFiniteError as problem:
            return str(problem)

    first, second = group(work)
    assert first == second
    assert first.startswith("term 'label' is not finite in batch 0 of epoch 1")


@pytest.mark.parametrize("method", [FreeAT(replays=2), MTARD()], ids=["by row", "of the batch"])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
def test_another_number_of_processes_continues_to_the_same_end(
    exactly, loop, group, method, before, after, monkeypatch
):
    monkeypatch.setattr(pace, "LOOK_SECONDS", 0)

    def begin(processes):
        course = loop(method, processes)
        for progress in course.run():
            if (progress.epoch, progress.batch) == (1, 2):
                break
        file = io.BytesIO()
        torch.save(course.state(), file)
        return file.getvalue()

    def proceed(processes):
        course = loop(method, processes)
        course.restore(torch.load(io.BytesIO(saved), weights_only=True, map_location="cpu"))
        found = finish(course)
        return found | {"means": found["means"][-1:]}

    saved = group(begin, count=before)[0] if before > 1 else begin(ALONE)
    found = group(proceed, count=after)[-1] if after > 1 else proceed(ALONE)
    wanted = finish(loop(method))
    assert distance(found, wanted | {"means": wanted["means"][-1:]}) < ROUNDED


class TestBatchNorm:
    """Without a GPU there is no SyncBatchNorm: statistics are of a process's part."""

    def test_a_run_learns_as_well_and_all_end_with_the_leaders_statistics(self, loop, net, images, group):
        shades = (images.images // 3).add(images.labels.view(-1, 1, 1, 1) * 80).to(torch.uint8)
        shaded = replace(images, images=shades)

        def course(seed, processes=ALONE):
            network = net(seed)
            run = loop(Natural(), processes, network=lambda _: network, images=shaded, seed=seed, epochs=12)
            means = [one.means["label"] for one in run.run()]
            return means[-1], run.network().state_dict(), run.student.state_dict()

        seeds = range(4)
        first, second = group(lambda processes: [course(seed, processes) for seed in seeds])
        alone = [course(seed) for seed in seeds]
        for one, other in zip(first, second, strict=True):
            assert distance(one, other) == 0
        losses = torch.tensor([[run[0] for run in runs] for runs in (first, alone)])
        spread = losses.std(dim=1).square().mean().sqrt()
        assert losses[1].mean() < 0.8  # chance is 1.1
        assert (losses[0].mean() - losses[1].mean()).abs() < 2 * spread, losses
        assert distance(first[0][2], alone[0][2]) > 1e-4  # as the documentation says

    def test_it_is_said_where_it_matters(self, net):
        two = Processes(0, 2)
        assert splits_batchnorm(net(), two)
        assert not splits_batchnorm(net(), ALONE)
        assert not splits_batchnorm(plain_net(0), two)
        assert not splits_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(net()), two)


KEPT = {"teacher_cache": True, "augment": Augment(flip=True, bank=1)}


class TestShardedTeachers:
    """FSDP: each process holds its share of a teacher's weights, and the answers are the whole teacher's."""

    @staticmethod
    def teacher():
        """A network with stride, BatchNorm, and a head whose rows cannot be dealt evenly."""
        signature = Signature(channels=3, height=16, width=16, classes=7)
        torch.manual_seed(0)
        return freeze(
            Classifier(ResNet(depth=18, width=0.125).build(signature), signature, mean=[0.5] * 3, std=[0.2] * 3)
        )

    def test_answers_and_gradients_to_the_pixels_are_the_whole_teachers(self, exactly, group):
        def asked(teacher, x):
            point = x.clone().requires_grad_()
            difference = teacher(point) - teacher(1 - point)  # two forward passes before one backward pass
            logits, hidden = teacher.features(point)
            score = difference.square().sum() + logits.sum() + hidden.square().sum()
            return [difference.detach(), hidden.detach(), *torch.autograd.grad(score, point)]

        def work(processes):
            torch.manual_seed(processes.rank)  # each asks about images of its own
            x = torch.rand(5, 3, 16, 16).contiguous(memory_format=torch.channels_last)
            whole, shards = self.teacher(), self.teacher()
            sharded(shards, processes, torch.device("cpu"))
            found = [asked(shards, x) for _ in range(2)]
            return distance(found, [asked(whole, x)] * 2), held(shards), shards.training

        whole = self.teacher()
        norms = sum(value.numel() for value in whole.parameters() if value.dim() == 1) - 7  # but for the head's bias
        for count in (2, 3):
            found = group(work, count=count)
            assert all(far < ROUNDED and not training for far, _, training in found)
            shares = [share for _, share, _ in found]
            assert sum(shares) == held(whole) + (count - 1) * norms
            assert max(shares) < 1.2 * held(whole) / count

    def test_in_bf16_it_answers_as_the_whole_teacher_but_for_rounding(self, group):
        """Each of its layers rounds to 8 bits, by 2^-9 of the values at most, and so does the whole teacher's."""

        def work(processes):
            x = torch.rand(5, 3, 16, 16)
            whole, shards = self.teacher(), self.teacher()
            sharded(shards, processes, torch.device("cpu"))
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                found, wanted = shards(x), whole(x)
            layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in whole.modules())
            with torch.no_grad():
                assert not torch.equal(found, shards(x))  # it was in bf16
            return float((found - wanted).abs().max() / (layers * 2**-8 * wanted.abs().max()))

        assert all(far <= 1 for far in group(work))

    @pytest.mark.parametrize(
        ("method", "options"),
        [(AdaAD(), {}), (IGDM(), {}), (RRM(), KEPT), (KD(), {"teacher_precision": "bf16"})],
        ids=lambda value: getattr(value, "kind", ""),
    )
    def test_a_run_ends_where_it_ends_with_whole_ones(self, exactly, loop, group, method, options):
        def work(processes, *, shards=True):
            course = loop(method, processes, shards=shards, **options)
            return finish(course), [held(teacher) for teacher in course.teachers.networks.values()]

        (wanted, whole), (alone, same) = work(ALONE, shards=False), work(ALONE)
        assert distance(alone, wanted) == 0 and same == whole
        first, second = group(work)
        assert distance([first[0], second[0]], [wanted, wanted]) < ROUNDED
        assert [sum(shares) for shares in zip(first[1], second[1], strict=True)] == whole  # no teacher has a norm


def held(network):
    """Return how many numbers of a network's weights are in this process."""
    return sum(getattr(value, "to_local", lambda value=value: value)().numel() for value in network.parameters())


class TestWrapper:
    def test_alone_nothing_is_wrapped(self, net):
        learners = TrainableNetworks(net(), {})
        assert distributed(learners, ALONE, torch.device("cpu")) is learners
        losses = iter([{"a": torch.ones(())}])
        assert learners(losses) == {"a": torch.ones(())}
        assert learners(losses) is None

    def test_what_learns_is_student_and_companions(self, net):
        learners = TrainableNetworks(net(), {"peer": net(1)})
        assert len(list(learners.parameters())) == 2 * len(list(net().parameters()))

    def test_the_searches_do_not_pass_the_wrapper(self, loop, group):
        """One forward pass of the wrapper and one reduction of gradients per update, however long the search."""

        def work(processes):
            course = loop(ARD(), processes, epochs=1)
            seen = []
            course._updates.ask.register_forward_hook(lambda *_: seen.append("asked"))
            course._updates.ask.register_comm_hook(seen, _counting)
            finish(course)
            return seen

        for seen in group(work):
            assert seen == ["asked", "reduced"] * 4
            assert all(one != other for one, other in pairwise(seen))


def _counting(seen, bucket):
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    seen.append("reduced")
    return allreduce_hook(None, bucket)

"""The loop: a method yields losses, which are descended; this yields its progress, the caller does the rest."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor

from overproof.data.draws import drawing
from overproof.data.extra import Mixture
from overproof.data.images import Batch
from overproof.data.loader import Loader
from overproof.errors import AgreedError, InputError
from overproof.memory import ran_out
from overproof.methods.method import Method, Step
from overproof.models.classifier import Classifier
from overproof.models.layout import lay_out, memory_format
from overproof.models.mode import train_unfrozen
from overproof.models.precision import choose_precision
from overproof.processes import ALONE, Part, Processes
from overproof.reading import parsing
from overproof.stopping import Stop
from overproof.training.averaging import Average
from overproof.training.checkpoint import State
from overproof.training.learning import freeze_some, parameter_groups
from overproof.training.optimisation import Training
from overproof.training.pace import Pace
from overproof.training.parallel import TrainableNetworks, distributed
from overproof.training.step import Place, Updates, differentiate, total
from overproof.training.teachers import Teachers

_NEVER = torch.iinfo(torch.int64).max


class Progress(NamedTuple):
    """Where a run is: ``epoch`` epochs are finished, and ``batch`` of ``batches`` of the next one.

    ``means`` holds the mean of every term over the epoch so far. ``whole`` is true at the end of an epoch.
    """

    epoch: int
    batch: int
    batches: int
    means: Mapping[str, float]
    whole: bool


class NotFiniteError(AgreedError):
    """A term or a weight became infinite or NaN; the message names it, the batch and the epoch."""


class Loop:
    """One run of a method: everything that changes while it trains, and nothing else.

    Seeds torch's global generator before every batch, because each draw is a function of (seed, epoch, batch). Student
    and teachers must be on the loader's device; their convolutions are laid out channels-last.

    Where the loader shares its batches among several processes, each of them has a loop: they take every step together,
    and must call ``network`` and ``state`` together.
    """

    def __init__(
        self,
        method: Method,
        student: Classifier,
        teachers: Mapping[str, Classifier],
        loader: Loader,
        training: Training,
        seed: int,
        *,
        auxiliary_models: Mapping[str, Classifier] | None = None,
    ) -> None:
        self.method, self.student, self.teachers = method, student, Teachers(teachers, loader, training)
        self._learners = TrainableNetworks(student, auxiliary_models or {})
        self.auxiliary_models = self._learners.auxiliary_models
        self.loader, self.training, self.seed = loader, training, seed
        self.device = loader.images.device
        self.precision = choose_precision(training.precision, self.device, student)
        self.processes = loader.processes
        self._layout = memory_format(self._learners, *teachers.values())
        lay_out(self._layout, self._learners, *teachers.values())
        freeze_some(student, training)
        asked = distributed(self._learners, self.processes, self.device)
        self._learning = [value for value in self._learners.parameters() if value.requires_grad]
        self.optimiser = training.optimiser.build(parameter_groups(self._learners, training))
        self._updates = Updates(
            optimiser=self.optimiser,
            training=training,
            clip=partial(torch.nn.utils.clip_grad_norm_, self._learning),
            ask=asked,
            precision=partial(torch.autocast, self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        )
        self.average = Average(training.averaging, student) if training.averaging else None
        self.memory, self._by_row = _memory(method, loader)
        self.epoch, self.batch = 0, 0
        self._tallies: dict[str, _Tally] = {}

    def run(self, stop: Stop | None = None) -> Iterator[Progress]:
        """Train to the end from where the loop stands; yield at every look at the terms and at every epoch's end.

        It looks about once a second, and after the batch in which somebody asked to ``stop``. Between two yields the
        caller may evaluate, save ``state()`` or stop for good. Raises ``NotFiniteError``.
        """
        train_unfrozen(self._learners)
        batches, pace, stop = len(self.loader), Pace(self.processes), stop or Stop()
        while self.epoch < self.training.epochs:
            for batch in self.loader.batches(self.epoch, self.batch):
                try:
                    self._learn(batch)
                except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
                    if not ran_out(problem):
                        raise
                    raise InputError(self._too_large(batch)) from problem
                self.batch += 1
                if self.batch < batches and pace.due(asked=stop.number > 0):
                    yield Progress(self.epoch, self.batch, batches, self._look(), whole=False)
                    pace.looked()
            means = self._look()
            if self.average:
                self.average.take("epoch", self.student, (self.epoch + 1) / self.training.epochs)
            self.epoch, self.batch, self._tallies = self.epoch + 1, 0, {}
            yield Progress(self.epoch, 0, batches, means, whole=True)
            pace.looked()

    @property
    def learning_rate(self) -> float:
        """The last step's, or the first one's, without the factors of ``training.learning_rates``."""
        batches, updates = self.epoch * len(self.loader) + self.batch, self.method.updates
        last = self._place(*divmod(max(0, batches - 1), len(self.loader)))
        return self.training.learning_rate(last.at((updates - 1) / updates if batches else 0))

    def network(self) -> Classifier:
        """Return the network to evaluate: the student, or its average."""
        self.processes.leaders(list(self.student.buffers()))
        if self.average is None:
            return self.student
        self.processes.leaders(self.average.statistics)
        return self.average.network(self.student, self.loader.images.batches(max(self.loader.batch, 256)))

    def state(self) -> State:
        """Return all that a resumed run needs to continue to the bit; loads with ``weights_only=True``.

        It holds whole batches, whatever the number of processes: any other number can continue.
        """
        memory = {
            name: self.processes.interleaved(value) if name in self._by_row else value
            for name, value in self.memory.items()
        }
        return {
            "position": {"epoch": self.epoch, "batch": self.batch},
            "student": self.student.state_dict(),
            "companions": self.auxiliary_models.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.state() if self.average else {},
            "memory": memory,
            "tallies": {name: tally.over(self.processes).state() for name, tally in self._tallies.items()},
        }

    def restore(self, state: State) -> None:
        """Continue from what ``state()`` returned; raise ``InputError`` for the state of another training."""
        with parsing("the checkpoint", "a state of this training"):
            self.epoch, self.batch = state["position"]["epoch"], state["position"]["batch"]
            if self.epoch < 0 or self.batch < 0:
                raise ValueError(f"epoch {self.epoch}, batch {self.batch}")
            self.student.load_state_dict(state["student"])
            self.auxiliary_models.load_state_dict(state["companions"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.average:
                self.average.restore(state["average"])
            whole = Part(self.processes, self.loader.batch)
            self.memory = {
                name: (whole.rows(value) if name in self._by_row else value).to(self.device)
                for name, value in state["memory"].items()
            }
            self._tallies = {
                name: _Tally(*(part.to(self.device) for part in t)) for name, t in state["tallies"].items()
            }

    def _learn(self, batch: Batch) -> None:
        """Take all of the method's updates on one batch."""
        place, part = self._place(self.epoch, self.batch), self.loader.part(self.batch)
        x, y = batch.x.contiguous(memory_format=self._layout), batch.y
        if isinstance(self.loader.images, Mixture) and self.loader.images.taught:
            with self._updates.precision():
                y = self.teachers.label(x, y)
        step = self._step(x, y, part)
        for update, terms in enumerate(self._updates.taken(self.method, step, place, self.seed)):
            share = place.at(update / self.method.updates) / self.training.epochs
            if self.average:
                self.average.take("update", self.student, share)
            for name, term in terms.items():
                tally = self._tallies.get(name) or _Tally.empty(self.device)
                self._tallies[name] = tally.add(term.detach() * part.share, self.batch)

    def _place(self, epoch: int, batch: int) -> Place:
        return Place(epoch=epoch, batch=batch, batches=len(self.loader), epochs=self.training.epochs)

    def _step(self, x: Tensor, y: Tensor, part: Part) -> Step:
        return Step(
            x=x,
            y=y,
            student=self.student,
            teachers=self.teachers.shown(x, self.epoch, self.batch),
            auxiliary_models={name: cast(Classifier, network) for name, network in self.auxiliary_models.items()},
            state=self.memory,
            progress=self._place(self.epoch, self.batch).progress,
            part=part,
        )

    def _too_large(self, batch: Batch) -> str:
        """Return a sentence on a batch too large for the memory; alone, with a size that was seen to fit."""
        size = self.loader.part(self.batch).whole
        fits, least = size // 2 if self.processes.count == 1 else 0, self.loader.least
        while fits >= least and not self._fits(Batch(batch.x[:fits], batch.y[:fits])):
            fits //= 2
        advice = f"training.batch={fits} fits" if fits >= least else "use a smaller training.batch or network"
        return f"memory ran out in a step on {size} images; {advice}"

    def _fits(self, batch: Batch) -> bool:
        """Whether memory suffices for the losses on a batch and for their gradient. Spoils the method's memory."""
        self.optimiser.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            self.memory = self.method.initial_state(batch)
            part = Part(whole=len(batch.y))
            with self._updates.precision(), drawing(part):
                terms = next(self.method.losses(self._step(batch.x, batch.y, part)), None)
            if terms is not None:
                differentiate(total(terms))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
            if not ran_out(problem):
                raise
            return False
        return True

    def _look(self) -> dict[str, float]:
        """Return the mean of every term over the epoch so far; raise ``NotFiniteError`` where one is not finite."""
        tallies = {name: tally.over(self.processes) for name, tally in self._tallies.items()}
        # One that is not finite spoils the weights, and with them all terms of the batches after it.
        batch, name = min(((int(tally.first_bad), name) for name, tally in tallies.items()), default=(_NEVER, ""))
        if batch != _NEVER:
            raise NotFiniteError(
                f"term {name!r} is not finite in batch {batch} of epoch {self.epoch}; training stopped, and the last "
                "good checkpoint is kept (a smaller learning rate or training.clip may help)"
            )
        norms = torch.stack(torch._foreach_norm([value.detach() for value in self._learning]))
        if not bool(norms.isfinite().all()):
            raise NotFiniteError(
                f"the weights are not finite after batch {self.batch - 1} of epoch {self.epoch}; training stopped, "
                "and the last good checkpoint is kept (a smaller learning rate or training.clip may help)"
            )
        return {name: float(tally.total / tally.terms) for name, tally in tallies.items()}


class _Tally(NamedTuple):
    """A term's running sum, how many were added, and the first batch in which it was not finite; all on the device."""

    total: Tensor
    terms: Tensor
    first_bad: Tensor

    @classmethod
    def empty(cls, device: torch.device) -> "_Tally":
        return cls(
            torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
            torch.full((), _NEVER, device=device),
        )

    def add(self, value: Tensor, batch: int) -> "_Tally":
        bad = torch.where(value.isfinite(), _NEVER, batch)
        return _Tally(self.total + value, self.terms + 1, torch.minimum(self.first_bad, bad))

    def over(self, processes: Processes) -> "_Tally":
        """Return the tally of the whole batches."""
        return _Tally(processes.mean(self.total), self.terms, processes.least(self.first_bad))

    def state(self) -> list[Tensor]:
        return list(self)


def _memory(method: Method, loader: Loader) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Return a method's memory at the start, and the names of what it remembers by row of the batch.

    These are known by their shape, which follows the batch's; every process holds its own rows of them.
    """
    memory: object = method.initial_state(loader.like)
    if not isinstance(memory, dict) or not all(isinstance(value, Tensor) for value in memory.values()):
        raise InputError(f"method {method.kind!r}: its initial_state must be a dictionary of tensors, got {memory!r}")
    if loader.processes.count == 1:
        return memory, frozenset()
    whole = method.initial_state(replace(loader, processes=ALONE).like)
    return memory, frozenset(name for name, value in memory.items() if value.shape != whole[name].shape)

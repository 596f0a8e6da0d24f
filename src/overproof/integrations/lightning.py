"""Any method inside Lightning: ``DistillationModule`` takes the steps that our own loop takes, in a ``Trainer``.

    from overproof.integrations.lightning import DistillationModule

The class is made when it is first asked for, because Lightning is an extra.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from overproof.data.images import Batch
from overproof.errors import InputError
from overproof.methods.method import Method, Step
from overproof.models.classifier import Classifier
from overproof.models.layout import lay_out, memory_format
from overproof.models.mode import train_unfrozen
from overproof.models.weights import freeze
from overproof.processes import Part, Processes
from overproof.training.learning import freeze_some, parameter_groups
from overproof.training.optimisation import Training
from overproof.training.step import Place, Updates

_NAME = "DistillationModule"
_MEMORY = "overproof_memory"


def __getattr__(name: str) -> Any:
    if name != _NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _module_class()


@cache
def _module_class() -> type:
    try:
        from lightning import LightningModule
    except ModuleNotFoundError as problem:
        raise InputError("Lightning is an extra: pip install 'overproof[lightning]'") from problem

    class DistillationModule(LightningModule):
        """A ``LightningModule`` in which ``method`` teaches ``student``; its batches are ``(x, y)``, x in [0, 1].

        ``training`` gives optimiser, schedule and clipping; its epochs are the Trainer's ``max_epochs``, and what it
        says of batch, precision and checkpoints is Lightning's business here. With ``training=None`` override
        ``configure_optimizers``; the learning rate is then left alone. ``teachers`` are frozen, follow the module's
        device, and are neither saved in checkpoints nor put into train mode. Every term is logged by its name, and
        ``validation_step`` logs ``clean_accuracy``. Draws depend on ``(seed, epoch, batch)`` as in our own loop, and
        a method's figures of a batch are those of all processes' parts of it.

        Raises ``InputError`` for roles without a teacher, pixels outside [0, 1], a Trainer without ``max_epochs`` or a
        loader without length, processes with batches of unequal sizes, and what only our own loop does: averaging,
        ``training.balance`` and ``training.teacher_cache``.
        """

        def __init__(
            self,
            method: Method,
            student: Classifier,
            teachers: Mapping[str, Classifier] | None = None,
            training: Training | None = Training(),  # noqa: B008 (a frozen value)
            *,
            seed: int = 0,
            auxiliary_models: Mapping[str, Classifier] | None = None,
        ) -> None:
            super().__init__()
            self.automatic_optimization = False  # a method may take several steps on one batch
            self.method, self.student, self.seed = method, student, seed
            self.auxiliary_models = nn.ModuleDict(auxiliary_models or {})
            self.plan = training
            self.memory: dict[str, Tensor] = {}
            self.begun = False
            # In a plain dict, so that Lightning neither saves them nor changes their mode.
            self.teachers = {role: freeze(network) for role, network in (teachers or {}).items()}
            _check(method, self.teachers, self.auxiliary_models, training)
            if training is not None:
                freeze_some(student, training)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            """Return the plan's optimiser over the student and its auxiliary models."""
            if self.plan is None:
                raise InputError("training is None: override configure_optimizers in a subclass")
            return self.plan.optimiser.build(parameter_groups(self, self.plan))

        def on_train_epoch_start(self) -> None:
            """Leave layers whose parameters are all frozen in eval mode, as our own loop does."""
            train_unfrozen(self)

        def on_fit_start(self) -> None:
            """Bring the teachers to the module's device; raise ``InputError`` for a Trainer without an end."""
            if not self.trainer.max_epochs or self.trainer.max_epochs < 1:
                raise InputError("a method must know how long the run is: give the Trainer max_epochs")
            if self.trainer.world_size > 1 and self.method.updates > 1:
                raise InputError(
                    f"method {self.method.kind!r} takes {self.method.updates} steps per batch, which Lightning's "
                    "processes cannot do together; use one device"
                )
            for teacher in self.teachers.values():
                teacher.to(self.device)
            networks = (self.student, self.auxiliary_models, *self.teachers.values())
            self.layout = memory_format(*networks)
            lay_out(self.layout, *networks)

        def forward(self, x: Tensor) -> Tensor:
            """Map pixels ``[N, C, H, W]`` in [0, 1] to the student's logits ``[N, K]``."""
            logits: Tensor = self.student(x)
            return logits

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            """Take all of the method's updates on one batch, or on this process's part of it."""
            x, y = batch
            if math.isinf(self.trainer.num_training_batches):
                raise InputError("a method must know how long an epoch is: give a loader with a length")
            place = Place(
                epoch=self.current_epoch,
                batch=batch_idx,
                batches=int(self.trainer.num_training_batches),
                epochs=int(self.trainer.max_epochs or 0),
            )
            if batch_idx == 0:
                _check_pixels(x)
            if not self.begun:
                self.memory, self.begun = self.method.initial_state(Batch(x, y)), True
            self.memory = {name: value.to(self.device) for name, value in self.memory.items()}
            step = Step(
                x=x.contiguous(memory_format=self.layout),
                y=y,
                student=self.student,
                teachers=self.teachers,
                auxiliary_models={name: cast(Classifier, each) for name, each in self.auxiliary_models.items()},
                state=self.memory,
                progress=place.progress,
                part=_part(Processes(self.global_rank, self.trainer.world_size), len(y), place),
            )
            optimiser = cast(torch.optim.Optimizer, self.optimizers())
            updates = Updates(
                optimiser=optimiser,
                training=None if self.plan is None else replace(self.plan, epochs=place.epochs),
                gradient=self.manual_backward,
                clip=lambda norm: self.clip_gradients(
                    optimiser, gradient_clip_val=norm, gradient_clip_algorithm="norm"
                ),
            )
            for terms in updates.taken(self.method, step, place, self.seed):
                self.log_dict({name: term.detach() for name, term in terms.items()}, on_step=False, on_epoch=True)

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            """Log the student's accuracy on clean images as ``clean_accuracy``."""
            del batch_idx
            x, y = batch
            self.log("clean_accuracy", (self.student(x).argmax(dim=1) == y).float().mean(), batch_size=len(y))

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            """Add what the method remembers."""
            checkpoint[_MEMORY] = {"memory": self.memory, "begun": self.begun}

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            """Take back what the method remembers."""
            self.memory, self.begun = checkpoint[_MEMORY]["memory"], checkpoint[_MEMORY]["begun"]

    DistillationModule.__qualname__ = _NAME  # so that processes and pickles find it by this module's attribute
    return DistillationModule


def _check(
    method: Method, teachers: Mapping[str, Classifier], auxiliary_models: nn.ModuleDict, training: Training | None
) -> None:
    for what, wanted, given in (
        ("teachers", method.roles, set(teachers)),
        ("auxiliary models", method.auxiliary_models, set(auxiliary_models)),
    ):
        if set(wanted) != given:
            names = ", ".join(wanted) or "none"
            raise InputError(f"method {method.kind!r} has the {what} {names}, got {', '.join(sorted(given)) or 'none'}")
    if training is not None and training.averaging is not None:
        raise InputError("averaging is our own loop's; in Lightning use its weight-averaging callbacks")
    if training is not None and training.balance:
        raise InputError("training.balance is our own loader's; give Lightning's loader a WeightedRandomSampler")
    if training is not None and training.teacher_cache:
        raise InputError("training.teacher_cache is our own loop's, which knows its images by number")


def _part(processes: Processes, size: int, place: Place) -> Part:
    """Return which rows of the whole batch are here; raise ``InputError`` where the processes hold unequal numbers.

    Sizes are compared in the first and in the last batch of an epoch, the only one that a sampler makes smaller.
    """
    if processes.count > 1 and place.batch in (0, place.batches - 1):
        sizes = processes.gather(size)
        if min(sizes) < max(sizes):
            raise InputError(
                f"batch {place.batch} of the processes has {', '.join(map(str, sizes))} images; use a sampler that "
                "gives each as many, as DistributedSampler does"
            )
    return Part(processes, size * processes.count)


def _check_pixels(x: Tensor) -> None:
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise InputError(
            f"pixels must lie in [0, 1], these span [{low:.3g}, {high:.3g}]; take Normalize out of the transforms and "
            "give mean and std to the Classifier, whose first layer it is"
        )

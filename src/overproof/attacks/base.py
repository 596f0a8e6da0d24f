"""What every attack of ours is: a search that can be called with labels, on any network from pixels to logits."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, overload

import torch
from torch import Tensor, nn

from overproof.attacks.labelled import AskedNetwork, check_images, check_label_tensor, like_pixels, working_pixels
from overproof.attacks.objectives import Logits, Loss, Misclassification, Score, as_objective
from overproof.attacks.radius import Length, Norm, NormField, Radius, check_eps
from overproof.errors import InputError, nearest

_LOSSES: tuple[Loss, ...] = ("cross_entropy", "margin", "dlr")
Needs = Literal["gradients", "scores", "decisions"]
"""What a search asks of the network it is tried on: the gradients of its outputs, the outputs, or the class alone."""


class BaseAttack(ABC):
    """A frozen dataclass of an attack's options that is called on a network and images; it has a kind, norm and eps.

    ``attack(model, x, y)`` looks for misclassified images near ``x``; ``attack(model, x, objective=...)`` maximises a
    score of one's own. Draws come from torch's global generator: ``torch.manual_seed`` before the call repeats it.
    """

    kind: str
    if TYPE_CHECKING:  # each attack has these fields, with defaults of its own
        norm: NormField
        eps: Length

    losses: ClassVar[tuple[Loss, ...]] = ("margin",)
    """The losses it can maximise; the first is used where none is given."""
    targeted: ClassVar[bool] = True
    needs: ClassVar[Needs] = "gradients"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    """The norms it is defined for."""
    transfers: ClassVar[bool] = True
    """Whether what it finds on another network is worth trying on this one; not where it follows a boundary."""
    least_dimensions: ClassVar[int] = 2
    """Of a batch of pixels."""
    needs_goal: ClassVar[bool] = True
    """Whether it must know which images are misclassified: it takes no objective but a ``Misclassification``."""

    def __post_init__(self) -> None:
        """Raise ``InputError`` for a ball that cannot be meant, or that this attack has no search in."""
        check_eps(self.norm, self.eps)
        if self.norm not in self.norms:
            raise InputError(f"{self._kind} is defined for {' and '.join(self.norms)}, not for {self.norm}")

    @overload
    def __call__(
        self, model: Logits, x: Tensor, y: Tensor, *, target: Tensor | int | None = None, loss: Loss | None = None
    ) -> Tensor: ...

    @overload
    def __call__(self, model: nn.Module, x: Tensor, objective: Score, /) -> Tensor: ...

    @overload
    def __call__(self, model: nn.Module, x: Tensor, *, objective: Score) -> Tensor: ...

    def __call__(
        self,
        model: Any,
        x: Tensor,
        y: Any = None,
        *,
        objective: Any = None,
        target: Tensor | int | None = None,
        loss: Loss | None = None,
    ) -> Tensor:
        """Return perturbed images like ``x``, detached, inside the ball and inside [0, 1].

        With labels ``y``, integers ``[N]``, the model is any ``nn.Module`` or function from pixels ``[N, C, H, W]`` in
        [0, 1] to logits ``[N, K]``. It is called with images of the dtype and the memory format of ``x``, in eval mode,
        which is undone afterwards; its weights and their ``.grad`` stay as they are. Half-precision images are
        perturbed in float32 and rounded at the end. ``loss`` is ``cross_entropy``, ``margin`` or ``dlr``; with
        ``target`` classes (one, or ``[N]``) the search moves towards these instead of away from ``y``.

        With an ``objective`` (the third argument, or by name) nothing is checked. Raises ``InputError`` in one
        sentence for images, labels, logits or options that cannot be used.
        """
        given = y if objective is None else objective
        if isinstance(given, Tensor):
            return self._on_labels(model, x, given, target, loss)
        if given is None or (y is not None and objective is not None):
            raise InputError("an attack needs the labels y of the images, or an objective, and not both")
        if target is not None or loss is not None:
            raise InputError("target and loss belong to labels; an objective already says what is maximised")
        if self.needs_goal and not as_objective(given).decides:
            raise InputError(
                f"{self._kind} must know which images are misclassified: give it labels y, or a Misclassification"
            )
        return self.search(model, x, given)

    @abstractmethod
    def search(self, model: nn.Module, x: Tensor, objective: Any) -> Tensor:
        """Return perturbed images like ``x``, detached, inside the ball and inside [0, 1]."""

    def under(self, norm: Norm, eps: Radius) -> Self:
        """Return the attack in another ball; itself in its own."""
        return self if (self.norm, self.eps) == (norm, eps) else self._moved(norm=norm, eps=eps)

    def runs(self) -> tuple[Self, int]:
        """Return the attack of a single run, and how many such runs it is: its restarts."""
        return self, 1

    @property
    def for_training(self) -> bool:
        """Whether an option is set that has a meaning in training alone."""
        return False

    def _moved(self, **options: Any) -> Self:
        return cast(Self, replace(cast(Any, self), **options))

    @property
    def _kind(self) -> str:
        return str(getattr(self, "kind", type(self).__name__))

    def _on_labels(self, model: Logits, x: Tensor, y: Tensor, target: Tensor | int | None, loss: Loss | None) -> Tensor:
        check_images(x, least_dimensions=self.least_dimensions)
        check_label_tensor(y, x)
        # Inside inference mode no gradient can be asked for, and a tensor made there cannot take part in one.
        with torch.inference_mode(False):
            labels = _classes(y, x)
            wanted = self._target(target, labels)
            chosen = self._loss(loss)
            pixels = working_pixels(x)
            if not len(x):
                return like_pixels(pixels, x)
            network = AskedNetwork(model, x, gradients=self.needs == "gradients")
            network.check_classes(labels, wanted)
            goal = Misclassification.on(network, labels, loss=chosen, target=wanted)
            adversarial = self.search(network, pixels, goal if self.needs_goal else _score_of(goal, network))
            return like_pixels(adversarial, x)

    def _loss(self, loss: Loss | None) -> Loss:
        if loss is None:
            return self.losses[0]
        if loss not in _LOSSES:
            raise InputError(f"there is no loss {loss!r}{nearest(str(loss), _LOSSES)}")
        if loss not in self.losses:
            raise InputError(f"{self._kind} maximises the {self.losses[0]} and has no use for the loss {loss!r}")
        return loss

    def _target(self, target: Tensor | int | None, labels: Tensor) -> Tensor | None:
        if target is None:
            return None
        if not self.targeted:
            raise InputError(f"{self._kind} only asks whether an image is misclassified and has no use for a target")
        if isinstance(target, Tensor) and target.dim() > 0:
            check_label_tensor(target, labels, what="target classes")
            return _classes(target, labels)
        return torch.full_like(labels, int(target))


def _classes(y: Tensor, like: Tensor) -> Tensor:
    classes = y.detach().to(like.device, torch.int64)
    return classes.clone() if classes.is_inference() else classes


def _score_of(goal: Misclassification, network: nn.Module) -> Score:
    """Return the goal's score as a plain objective: who maximises it need not be told who is misclassified."""
    return lambda x: goal.score(network(x))

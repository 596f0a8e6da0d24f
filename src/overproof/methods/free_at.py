"""Free adversarial training: every backward pass moves the weights and the perturbation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from overproof.attacks.ball import Threat
from overproof.clamp import clamp
from overproof.data.images import Batch
from overproof.functional import cross_entropy
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms
from overproof.methods.replay import check_replays, move_perturbation, no_perturbation, perturbation


@dataclass(frozen=True, kw_only=True)
class FreeAT(Method):
    """Free adversarial training (Shafahi et al., NeurIPS 2019): ``replays`` updates per batch, one backward pass each.

    Formula: ``CE(S(x + delta), y)``; after each backward ``delta`` moves by eps along the sign of its gradient and
    stays for the next batch.
    Official code (RRM's repository): as here; its network clamps the images inside, which ``clamp_images`` does. An
    epoch costs ``replays`` epochs of passes: divide the epochs of a recipe by it to compare at equal cost.
    """

    kind: Literal["free_at"] = "free_at"
    replays: int = 8
    threat: Threat = field(default_factory=Threat)
    clamp_images: bool = True
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"replays": 8}}

    def __post_init__(self) -> None:
        check_replays(self.replays)
        check_label_smoothing(self.label_smoothing)

    @property
    def updates(self) -> int:
        """One per replay."""
        return self.replays

    def initial_state(self, like: Batch) -> dict[str, Tensor]:
        """Return a perturbation of zero."""
        return no_perturbation(like)

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the term ``adv`` once per replay."""
        for _ in range(self.replays):
            rows = perturbation(step)
            adv = clamp(step.x + rows, 0, 1) if self.clamp_images else step.x + rows
            yield {"adv": cross_entropy(step.student(adv), step.y, label_smoothing=self.label_smoothing).mean()}
            assert rows.grad is not None
            move_perturbation(step, rows, rows.grad, self.threat)

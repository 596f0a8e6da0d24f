"""PeerAiD: the teacher is a peer that learns beside the student, on the student's own adversarial images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy, kl
from overproof.methods.distillation import KLScale, check_mix, check_weights, softened_kl
from overproof.methods.divergence import KL, Divergence
from overproof.methods.labels import check_label_smoothing
from overproof.methods.method import Method, Step, Terms
from overproof.models.mode import in_mode, no_gradient


@dataclass(frozen=True, kw_only=True)
class PeerAiD(Method):
    """PeerAiD (Jung et al., CVPR 2024): a peer P of the student's architecture is trained with it and then left behind.

    Formula, with ``x' = argmax KL(P(x) || S(x'))``: the peer descends ``peer_label CE(P(x'), y) + peer_student t_P^2
    KL(S(x') || P(x'))``, the student ``label CE(S(x'), y) + peer t^2 KL(P(x') || S(x')) + own t^2 KL(S(x) || S(x'))``.
    Official code: KL averaged over batch *and* classes; the targets S(x') of the peer and S(x) of the student are not
    detached; the student answers x' twice, which moves BatchNorm once more. ``preset: paper`` does so. Defaults are its
    CIFAR-10 weights, with KL summed over classes and targets detached.
    """

    kind: Literal["peeraid"] = "peeraid"
    label: float = 0.0
    peer: float = 1.0
    own: float = 1.0
    temperature: float = 5.0
    peer_label: float = 1.0
    peer_student: float = 0.1
    peer_temperature: float = 1.0
    inner: PGD = field(default_factory=lambda: PGD(start="normal"))
    kl_scale: KLScale = "batch"
    detach_targets: bool = True
    idle_forwards: Literal["none", "official"] = "none"
    divergence: Divergence = KL()  # noqa: RUF009 - a frozen value
    label_smoothing: float = 0.0
    roles: ClassVar[tuple[str, ...]] = ()
    auxiliary_models: ClassVar[tuple[str, ...]] = ("peer",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "kl_scale": "class",
            "detach_targets": False,
            "idle_forwards": "official",
            "inner": {"steps": 10, "start": "normal", "clip_start": False},
        }
    }

    def __post_init__(self) -> None:
        for temperature in (self.temperature, self.peer_temperature):
            check_mix(1, temperature)
        check_label_smoothing(self.label_smoothing)
        check_weights(
            label=self.label,
            peer=self.peer,
            own=self.own,
            peer_label=self.peer_label,
            peer_student=self.peer_student,
        )

    def losses(self, step: Step) -> Iterator[Terms]:
        """Yield the terms ``peer_label``, ``peer_student``, ``label``, ``peer`` and ``own``."""
        student, peer = step.student, step.auxiliary_models["peer"]
        with no_gradient(), in_mode(peer, training=False):
            around = peer(step.x)
        adv = self.inner.at(step.progress)(student, step.x, lambda x: kl(student(x), around))
        by_peer, first = peer(adv), student(adv)
        attacked = student(adv) if self.idle_forwards == "official" else first
        clean = student(step.x)
        if self.detach_targets:
            first, clean = first.detach(), clean.detach()
        to_student = softened_kl(by_peer, first, self.peer_temperature, self.kl_scale)
        between = self.divergence.on(step, "peer")
        to_peer = softened_kl(attacked, by_peer.detach(), self.temperature, self.kl_scale, between)
        to_itself = softened_kl(attacked, clean, self.temperature, self.kl_scale)
        yield {
            "peer_label": self.peer_label * cross_entropy(by_peer, step.y).mean(),
            "peer_student": self.peer_student * to_student.mean(),
            "label": self.label * cross_entropy(attacked, step.y, label_smoothing=self.label_smoothing).mean(),
            "peer": self.peer * to_peer.mean(),
            "own": self.own * to_itself.mean(),
        }

"""Attacks: frozen options that are called on a network, images and labels.

    from overproof.attacks import PGD
    x_adv = PGD(eps="8/255", steps=20)(model, x, y)

Pixels are in [0, 1]; the model is any ``nn.Module`` or function from pixels ``[N, C, H, W]`` to logits ``[N, K]``.
"""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.attacks.apgd import APGD
    from overproof.attacks.ball import Threat
    from overproof.attacks.base import BaseAttack
    from overproof.attacks.fab import FAB
    from overproof.attacks.hopskipjump import HopSkipJump
    from overproof.attacks.objectives import Misclassification
    from overproof.attacks.pgd import PGD
    from overproof.attacks.radius import Length, NormField, OptionalLength, Radius
    from overproof.attacks.square import Square
    from overproof.attacks.suites import AttackSpec, Suite
    from overproof.evaluation.autoattack import AutoAttack, AutoAttackResult

_HOMES = {
    "APGD": "overproof.attacks.apgd",
    "AutoAttack": "overproof.evaluation.autoattack",
    "AutoAttackResult": "overproof.evaluation.autoattack",
    "BaseAttack": "overproof.attacks.base",
    "FAB": "overproof.attacks.fab",
    "Misclassification": "overproof.attacks.objectives",
    "HopSkipJump": "overproof.attacks.hopskipjump",
    "Length": "overproof.attacks.radius",
    "NormField": "overproof.attacks.radius",
    "OptionalLength": "overproof.attacks.radius",
    "PGD": "overproof.attacks.pgd",
    "Radius": "overproof.attacks.radius",
    "Square": "overproof.attacks.square",
    "Suite": "overproof.attacks.suites",
    "Threat": "overproof.attacks.ball",
    "AttackSpec": "overproof.attacks.suites",
}

__all__ = [
    "APGD",
    "FAB",
    "PGD",
    "AttackSpec",
    "AutoAttack",
    "AutoAttackResult",
    "BaseAttack",
    "HopSkipJump",
    "Length",
    "Misclassification",
    "NormField",
    "OptionalLength",
    "Radius",
    "Square",
    "Suite",
    "Threat",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)

"""What a network is attacked with: one search and its loss, and suites of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any

from overproof.attacks.apgd import APGD
from overproof.attacks.ball import Radius, Threat
from overproof.attacks.base import BaseAttack
from overproof.attacks.fab import FAB
from overproof.attacks.hopskipjump import HopSkipJump
from overproof.attacks.objectives import Loss
from overproof.attacks.pgd import PGD
from overproof.attacks.square import Square
from overproof.errors import InputError
from overproof.models.external.imports import describe_exception, thing
from overproof.registry import Registry, a_class_of
from overproof.trust import Code

_OURS: dict[str, type[BaseAttack]] = {each.kind: each for each in (PGD, APGD, FAB, Square, HopSkipJump)}
ATTACKS = Registry[type[BaseAttack]](
    "overproof.attacks", "attack", lambda: _OURS, a_class_of(BaseAttack, "attack", has=("norm", "eps"))
)
"""Every attack by its ``kind``."""


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """One attack on every example it is run on: a search, and the loss it maximises.

    With ``targets`` it runs once towards each of so many likeliest wrong classes (fewer where there are fewer).
    ``surrogate`` searches on the teacher's network and tries what it finds on the student: a transfer attack.
    """

    name: str
    attack: BaseAttack = field(default_factory=lambda: PGD(steps=20))
    loss: Loss = "cross_entropy"
    targets: int = 0
    surrogate: bool = False

    def __post_init__(self) -> None:
        if self.attack.for_training:
            raise ValueError(f"attack {self.name!r}: ramps and mode belong to training, an evaluation has neither")
        if self.targets < 0:
            raise ValueError(f"attack {self.name!r}: targets must be 0 (none) or more, got {self.targets}")
        if self.surrogate and not self.attack.transfers:
            raise ValueError(
                f"attack {self.name!r}: {self.attack.kind} follows the network's own boundary and cannot be searched "
                f"on a surrogate"
            )

    @property
    def family(self) -> str:
        """``white_box`` (gradients of the network itself), ``black_box`` (its outputs alone) or ``transfer``."""
        if self.surrogate:
            return "transfer"
        return "white_box" if self.attack.needs == "gradients" else "black_box"

    def under(self, threat: Threat) -> "AttackSpec":
        """Return the trial in this threat model; a step length made for another radius is dropped with it."""
        attack = self.attack.under(threat.norm, threat.eps)
        return self if attack is self.attack else replace(self, attack=attack)

    def passes(self, classes: int) -> Iterator[tuple[BaseAttack, int]]:
        """Yield a search and the rank of its target class (0: none) for each pass over examples still robust."""
        ranks = range(1, min(self.targets, classes - 1) + 1) if self.targets else (0,)
        once, restarts = self.attack.runs()
        for rank in ranks:
            for _ in range(restarts):
                yield once, rank


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Trials in their order; with ``survivors`` each one attacks only what those before it left robust.

    ``caution`` says what its figure must not be taken for.
    """

    name: str
    attacks: tuple[AttackSpec, ...]
    survivors: bool = False
    caution: str = ""

    def __post_init__(self) -> None:
        names = [trial.name for trial in self.attacks]
        if len(set(names)) < len(names):
            raise ValueError(f"attacks need different names, got {', '.join(names)}")

    def under(self, threat: Threat) -> "Suite":
        """Return the suite in this threat model."""
        return replace(self, attacks=tuple(trial.under(threat) for trial in self.attacks))


def standard(threat: Threat) -> Suite:
    """Return AutoAttack's ``standard`` (Croce and Hein 2020); under l1 with the settings of their 2021 paper."""
    l1 = threat.norm == "l1"
    return Suite(
        name="standard",
        survivors=True,
        attacks=(
            AttackSpec(name="apgd-ce", attack=APGD(restarts=5 if l1 else 1)),
            AttackSpec(name="apgd-t", attack=APGD(), loss="dlr", targets=5 if l1 else 9),
            AttackSpec(name="fab-t", attack=FAB(), loss="margin", targets=9),
            AttackSpec(name="square", attack=Square(queries=5000), loss="margin"),
        ),
    ).under(threat)


def quick(threat: Threat) -> Suite:
    """Return a short form of ``standard``: 20 steps, three targets; robust accuracy is at most its figure."""
    return Suite(
        name="quick",
        survivors=True,
        caution="an upper estimate: the standard suite may break more",
        attacks=(
            AttackSpec(name="apgd-ce-20", attack=APGD(steps=20)),
            AttackSpec(name="apgd-t-20", attack=APGD(steps=20), loss="dlr", targets=3),
        ),
    ).under(threat)


def mtard(threat: Threat) -> Suite:
    """Return the attacks of the MTARD papers, each on every example; steps are those of 8/255, scaled with eps.

    The margin search (their CW) stays in [0, 1] at every step, where the published code clips only its last point, and
    its confidence of 50 is left out: it stops a gradient only where an example is long misclassified.
    """
    pgd = partial(PGD, norm=threat.norm, eps=threat.eps)
    quarter, trades = _scale_step("2/255", threat.eps), _scale_step("0.003", threat.eps)
    return Suite(
        name="mtard",
        attacks=(
            AttackSpec(name="fgsm", attack=pgd(steps=1, step=threat.eps, start="none")),
            AttackSpec(name="pgd-sat", attack=pgd(steps=20, step=quarter)),
            AttackSpec(name="pgd-trades", attack=pgd(steps=20, step=trades)),
            AttackSpec(name="cw", attack=pgd(steps=30, step=quarter, start="none"), loss="margin"),
            AttackSpec(name="transfer-pgd", attack=pgd(steps=20, step=trades), surrogate=True),
            AttackSpec(
                name="transfer-cw",
                attack=pgd(steps=30, step=quarter, start="none"),
                loss="margin",
                surrogate=True,
            ),
            AttackSpec(name="square-100", attack=Square(norm=threat.norm, eps=threat.eps, queries=100), loss="margin"),
        ),
    )


def rrm(threat: Threat) -> Suite:
    """Return the RRM paper's attack on CIFAR-10 images: APGD on cross-entropy, 50 steps, 10 restarts."""
    attack = APGD(norm=threat.norm, eps=threat.eps, steps=50, restarts=10)
    return Suite(name="rrm", attacks=(AttackSpec(name="apgd-ce-50x10", attack=attack),))


def shipped(threat: Threat) -> Suite:
    """Return the attacks on a file that gives outputs and no gradients: transfer, Square and HopSkipJump.

    Transfer attacks search on the network that the file came from. Under l1 there is no HopSkipJump. Each attack is let
    loose on every example, so that two files can be compared attack by attack.
    """
    pgd = PGD(steps=50, best=True)
    boundary = (AttackSpec(name="hopskipjump-1000", attack=HopSkipJump(queries=1000), loss="margin"),)
    return Suite(
        name="shipped",
        caution="no gradient goes through the file itself, so this is an upper estimate",
        attacks=(
            AttackSpec(name="transfer-pgd-50", attack=pgd, surrogate=True),
            AttackSpec(name="transfer-margin-50", attack=pgd, loss="margin", surrogate=True),
            AttackSpec(name="square-1000", attack=Square(queries=1000), loss="margin"),
            *(() if threat.norm == "l1" else boundary),
        ),
    ).under(threat)


_SUITES: dict[str, Callable[[Threat], Suite]] = {
    "standard": standard,
    "quick": quick,
    "shipped": shipped,
    "mtard": mtard,
    "rrm": rrm,
    "rrm-l2": rrm,
}


def _check_suite(suite: Any) -> None:
    if isinstance(suite, type) or not callable(suite):
        raise ValueError(f"this is {thing(suite)}; a suite is a function from a Threat to a Suite")


class _Suites(Registry[Callable[[Threat], Suite]]):
    def _named(self, word: str, where: str, code: Code) -> Callable[[Threat], Suite]:
        make = super()._named(word, where, code)

        @wraps(make)
        def checked(threat: Threat) -> Suite:
            try:
                suite = make(threat)
            except InputError:
                raise
            except Exception as problem:
                raise InputError(f"{where}: {word} raised {describe_exception(problem)}") from problem
            if not isinstance(suite, Suite) or not suite.attacks:
                what = thing(suite) if not isinstance(suite, Suite) else "a suite without attacks"
                raise InputError(f"{where}: {word} returned {what}; return a Suite with one attack or more")
            return suite.under(threat)

        return checked


SUITES: Registry[Callable[[Threat], Suite]] = _Suites("overproof.suites", "suite", lambda: _SUITES, _check_suite)
"""Suites by name, each a function of the threat model."""

_MI_FGSM = PGD(steps=10, momentum=1.0, start="none")
ALONE = (
    AttackSpec(name="apgd-dlr", attack=APGD(), loss="dlr"),
    AttackSpec(name="fab", attack=FAB(), loss="margin"),
    AttackSpec(name="mi-fgsm", attack=_MI_FGSM),
    AttackSpec(name="transfer-mi-fgsm", attack=_MI_FGSM, surrogate=True),
    AttackSpec(name="hopskipjump", attack=HopSkipJump(), loss="margin"),
)
"""Attacks that can be asked for by name and are in no suite."""

OWN_THREATS = {"rrm-l2": Threat(norm="l2", eps=Radius("1.0"))}
"""The threat model of a suite that was published with one, used unless the user says another."""


def _scale_step(step: str, eps: Radius) -> Radius:
    reference = Radius("8/255")
    return Radius(step) if eps == reference else Radius(float(Radius(step)) / reference * eps)

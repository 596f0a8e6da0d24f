"""``AutoAttack`` on a network and tensors: a suite of attacks in the engine that ``overproof evaluate`` uses."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.ball import Threat
from overproof.attacks.labelled import like_pixels
from overproof.attacks.objectives import Logits
from overproof.attacks.radius import AnyNorm
from overproof.attacks.suites import SUITES, AttackSpec, Suite
from overproof.data.images import stratified_subset
from overproof.errors import InputError, nearest
from overproof.evaluation.attacked import prepare_subject
from overproof.evaluation.engine import run_attacks
from overproof.evaluation.in_memory import check_given, device_of, given_classifier, given_images, undisturbed
from overproof.evaluation.input_checks import admit, need_gradients
from overproof.evaluation.results import Verdicts
from overproof.evaluation.tables import Cells, html_table, text_table
from overproof.models.precision import choose_precision
from overproof.statistics import Proportion

SuiteName = Literal["standard", "quick", "shipped", "mtard", "rrm", "rrm-l2"]
_SHOWN = 256  # images that the checks before an evaluation see


@dataclass(frozen=True, kw_only=True, eq=False)
class AutoAttackResult:
    """What a network withstood: a verdict per image, and what they add up to.

    ``x_adv`` is like the images given: the misclassified image where an attack found one, else the image itself.
    ``warnings`` say what the figures may not be taken for.
    """

    verdicts: Verdicts
    threat: Threat
    x_adv: Tensor
    warnings: tuple[str, ...] = ()

    @property
    def correct(self) -> Tensor:
        """Which images are classified correctly without an attack, bool ``[N]``."""
        return self.verdicts.correct.to(self.x_adv.device)

    @property
    def robust(self) -> Tensor:
        """Which images stay classified correctly under every attack, bool ``[N]``."""
        return self.verdicts.robust.to(self.x_adv.device)

    @property
    def clean_accuracy(self) -> float:
        """The share of images that are classified correctly, in [0, 1]."""
        return self.verdicts.clean.share

    @property
    def robust_accuracy(self) -> float:
        """The share of images that stay classified correctly under every attack, in [0, 1]."""
        return self.verdicts.worst.share

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95 % interval of the robust accuracy, in [0, 1]."""
        return self.verdicts.worst.interval

    @property
    def attacks(self) -> dict[str, Proportion]:
        """Accuracy after each attack in a suite on survivors, else under each alone, with its time in seconds."""
        return self.verdicts.attacks

    @property
    def misclassified_by(self) -> list[str | None]:
        """The first attack that had each correctly classified image misclassified, ``[N]`` names or None."""
        return self.verdicts.broken_by()

    def table(self) -> str:
        """Return the figures as a table in plain text."""
        return "\n".join([text_table(self._rows(), self._caption()), *self._notes()])

    def _repr_html_(self) -> str:
        notes = "".join(html_table([[note]]) for note in self._notes())
        return html_table(self._rows(), self._caption()) + notes

    @override
    def __repr__(self) -> str:
        return f"<AutoAttackResult: {self._caption()}, robust accuracy {self.verdicts.worst} %>"

    def _caption(self) -> str:
        return f"{self.verdicts.suite.name}, {self.threat.norm} {self.threat.eps}, {len(self.verdicts.labels)} images"

    def _notes(self) -> list[str]:
        caution = self.verdicts.suite.caution
        return [*([caution] if caution else []), *self.warnings]

    def _rows(self) -> Cells:
        forward, backward = (self.verdicts.state[name].sum(dim=0).tolist() for name in ("forward", "backward"))
        word = "after" if self.verdicts.suite.survivors else "under"
        rows = [["", "accuracy, %", "95 % interval", "forward", "backward", "seconds"]]
        rows.append(["clean", *_figures(self.verdicts.clean), "", "", f"{self.verdicts.clean.seconds:.1f}"])
        for column, (name, accuracy) in enumerate(self.attacks.items()):
            passes = [f"{forward[column]:,}", f"{backward[column]:,}"]
            rows.append([f"{word} {name}", *_figures(accuracy), *passes, f"{accuracy.seconds:.1f}"])
        worst = self.verdicts.worst
        return [*rows, ["robust", *_figures(worst), f"{sum(forward):,}", f"{sum(backward):,}", f"{worst.seconds:.1f}"]]


class AutoAttack:
    """A suite of attacks on a network: AutoAttack's ``standard`` (Croce and Hein 2020), or another one by name.

    The model is any ``nn.Module`` or function from pixels ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]``. ``suite`` is
    a name (``standard``, ``quick``, ...), a ``Suite`` or a sequence of ``AttackSpec``; transfer attacks search on the
    ``surrogate``. Draws depend on the ``seed`` and on an image's place, ``batch`` images are attacked together.
    Networks of ours are searched in a fast form of ``precision``; every success is confirmed by the model itself in
    float32. Verdicts are those of ``overproof evaluate`` on the same images with the same seed and batch.
    """

    def __init__(
        self,
        model: Logits,
        norm: AnyNorm = "linf",
        eps: str | float = "8/255",
        suite: SuiteName | Suite | tuple[AttackSpec, ...] = "standard",
        *,
        seed: int = 0,
        batch: int = 500,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        surrogate: nn.Module | None = None,
    ) -> None:
        self.model, self.surrogate = model, surrogate
        self.threat = Threat(norm=norm, eps=eps)
        self.suite = _suite(suite, self.threat)
        self.seed, self.batch = seed, _at_least_one(batch)
        self.precision: Literal["auto", "fp32", "bf16"] = precision

    def evaluate(self, x: Tensor, y: Tensor) -> AutoAttackResult:
        """Attack the images ``x`` ``[N, C, H, W]`` in [0, 1] with labels ``y`` ``[N]``; return a verdict per image.

        The model is in eval mode meanwhile; its modes, its weights' ``.grad`` and the global generators are as before
        afterwards. Raises ``InputError`` in one sentence for images, labels or a model that cannot be used.
        """
        return self._evaluate(x, y, self.batch)

    def run_standard_evaluation(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> Tensor:
        """Return the images like ``x_orig`` that the suite ends with, as the reference implementation calls it.

        A row is a misclassified image where an attack found one, and the image itself elsewhere. ``evaluate`` gives
        the figures as well.
        """
        return self._evaluate(x_orig, y_orig, _at_least_one(bs)).x_adv

    def _evaluate(self, x: Tensor, y: Tensor, batch: int) -> AutoAttackResult:
        check_given(x, y)
        if x.dtype == torch.uint8:
            raise InputError("pixels must be floating-point numbers in [0, 1], got torch.uint8; divide by 255")
        place = device_of(self.model, x)
        network = given_classifier(self.model, x)
        images = given_images(x, y, network.signature.classes, place)
        with undisturbed(network, place):
            (shown,) = images.at(stratified_subset(images, _SHOWN, self.seed)).batches(_SHOWN)
            warnings = admit(network, shown.x, shown.y, where="the model")
            for trial in self.suite.attacks:
                if trial.family == "white_box":
                    need_gradients(trial.name, network, shown.x, where="the model")
            precision = choose_precision(self.precision, place, network)
            subject = prepare_subject(network, precision=precision, surrogate=self.surrogate)
            blocks = []
            for number, block in enumerate(images.batches(batch)):
                *_, state = run_attacks(subject, block, self.suite, seed=self.seed, number=number)
                blocks.append(state)
        verdicts = Verdicts.of(blocks, suite=self.suite)
        # The state keeps the worst point of every image; only where it is misclassified is it a result.
        changed = (verdicts.correct & ~verdicts.robust).to(x.device)
        worst = like_pixels(verdicts.state["image"].to(x.device), x)
        with torch.inference_mode(False):
            x_adv = torch.where(changed[:, None, None, None], worst, x.detach())
        return AutoAttackResult(
            verdicts=verdicts, threat=self.threat, x_adv=like_pixels(x_adv, x), warnings=tuple(warnings)
        )


def _figures(accuracy: Proportion) -> list[str]:
    low, high = accuracy.interval
    return [f"{100 * accuracy.share:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]


def _suite(suite: str | Suite | tuple[AttackSpec, ...], threat: Threat) -> Suite:
    if isinstance(suite, Suite):
        return suite.under(threat)
    if isinstance(suite, str):
        if suite not in SUITES:
            raise InputError(f"there is no suite {suite!r}{nearest(suite, SUITES)}")
        return SUITES[suite](threat)
    trials = tuple(suite)
    if not all(isinstance(trial, AttackSpec) for trial in trials):
        raise InputError("a suite is its name, a Suite, or a sequence of AttackSpec(name=..., attack=...)")
    return Suite(name="chosen", attacks=trials).under(threat)


def _at_least_one(batch: int) -> int:
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    return batch

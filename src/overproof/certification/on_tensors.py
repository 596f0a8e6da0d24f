"""Certification of a network on tensors: the cascade that ``overproof certify`` uses, a verdict per image."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.ball import Threat
from overproof.attacks.radius import AnyNorm, radius_or_none
from overproof.certification.cascade import (
    BoundPrecision,
    Plan,
    Proposal,
    Reach,
    Verdict,
    certify_block,
    trace_classifier,
)
from overproof.certification.results import Certificates
from overproof.data.images import stratified_subset
from overproof.errors import InputError
from overproof.evaluation.attacked import prepare_subject
from overproof.evaluation.in_memory import (
    InFloat64,
    check_given,
    device_of,
    given_classifier,
    given_images,
    in_float64,
    signature_of,
    undisturbed,
)
from overproof.evaluation.input_checks import admit
from overproof.evaluation.tables import Cells, html_table, text_table
from overproof.models.classifier import Classifier
from overproof.statistics import Proportion

_SHOWN = 256  # images that the checks before a certification see


@dataclass(frozen=True, kw_only=True, eq=False)
class CertifyResult:
    """What was proved of a network: a verdict per image, and what they add up to.

    A verdict is ``verified`` (no image of the region changes the prediction, which is right), ``falsified`` (one does,
    or the prediction is wrong already), ``unknown`` or ``error``.
    """

    certificates: Certificates
    threat: Threat
    warnings: tuple[str, ...] = ()

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts, ``[N]``."""
        return self.certificates.verdicts

    @property
    def correct(self) -> Tensor:
        """Which images are classified correctly, bool ``[N]``, on the CPU."""
        return self.certificates.correct

    @property
    def verified(self) -> Tensor:
        """Which images are proved correct over their whole region, bool ``[N]``, on the CPU."""
        return self.certificates.verified

    @property
    def lower(self) -> Tensor:
        """The best proven lower bound of the smallest margin of each image, ``[N]``; -inf where nothing was proved."""
        return self.certificates.state["lower"]

    @property
    def clean_accuracy(self) -> float:
        """The share of images that are classified correctly, in [0, 1]."""
        return float(self.correct.double().mean())

    @property
    def certified_accuracy(self) -> float:
        """The share of images that are verified, in [0, 1]."""
        return self.certificates.evidence.share

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95 % interval of the certified accuracy, in [0, 1]."""
        return self.certificates.evidence.interval

    def records(self) -> list[dict[str, Any]]:
        """Return one record per image, as ``certificate.jsonl`` of a run has them (docs/reference/files.md)."""
        return self.certificates.records(index=range(len(self.correct)))

    def table(self) -> str:
        """Return the figures as a table in plain text."""
        return "\n".join([text_table(self._rows(), self._caption()), *self.warnings])

    def _repr_html_(self) -> str:
        return html_table(self._rows(), self._caption()) + "".join(html_table([[note]]) for note in self.warnings)

    @override
    def __repr__(self) -> str:
        return f"<CertifyResult: {self._caption()}, certified accuracy {self.certificates.evidence} %>"

    def _caption(self) -> str:
        return f"bound {self.certificates.plan.reach}, {self.threat.norm} {self.threat.eps}, {len(self.correct)} images"

    def _rows(self) -> Cells:
        of, seconds = len(self.correct), self.certificates.evidence.seconds
        clean = Proportion(claim="correct", passed=int(self.correct.sum()), of=of)
        counts = self.certificates.plain()["counts"]
        return [
            ["", "images", "share, %", "95 % interval", "seconds"],
            _row("correct", clean),
            _row("verified", self.certificates.evidence, f"{seconds:.1f}"),
            *[
                _row(name, Proportion(claim=name, passed=counts[name], of=of))
                for name in ("falsified", "unknown", "error")
                if counts[name] or name != "error"
            ],
        ]


def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: str | float,
    norm: AnyNorm = "linf",
    bound: Reach = "split",
    precision: BoundPrecision = "float32",
    seconds: float = 1.0,
    seed: int = 0,
    batch: int = 100,
) -> CertifyResult:
    """Prove for each image that no image within ``eps`` changes the model's right prediction; or find one that does.

    ``x`` are pixels ``[N, C, H, W]`` in [0, 1], ``y`` labels ``[N]``. An attack comes first, then the bounds up to
    ``bound`` (``ibp``, ``crown_ibp``, ``crown``, ``alpha``, ``split``), each on what those before it left open, with at
    most ``seconds`` per image. In ``precision`` float64 what rounding may do to bounds is a theorem; in float32 a
    margin that is tested; a network of float64 is bounded in float64. Norms are ``linf`` and ``l2``. Verdicts are those
    of ``overproof certify`` with the same seed and batch, but for what the clock decides. The model is in eval mode
    meanwhile; modes and the global generators are as before afterwards.

    Raises ``InputError`` in one sentence, for a layer without bounds with its name.
    """
    check_given(x, y)
    try:
        plan = Plan(
            threat=Threat(norm=norm, eps=radius_or_none(eps)), reach=bound, seconds=seconds, precision=precision
        )
    except ValueError as problem:
        raise InputError(str(problem)) from problem
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    if not isinstance(model, nn.Module):
        raise InputError(f"bounds need an nn.Module whose layers can be read, got an object of {type(model).__name__}")
    if in_float64(model):
        plan = replace(plan, precision="float64")
    place = device_of(model, x)
    network = _readable(model, x)
    images = given_images(x, y, network.signature.classes, place)
    with undisturbed(network, place):
        (shown,) = images.at(stratified_subset(images, _SHOWN, seed)).batches(_SHOWN)
        warnings = admit(network, shown.x, shown.y, where="the model")
        proposal = Proposal(prepare_subject(network), trace_classifier(network, where="the model"))
        blocks = []
        for number, block in enumerate(images.batches(batch)):
            *_, state = certify_block(proposal, block, plan, seed=seed, number=number)
            blocks.append(state)
    with torch.inference_mode(False):
        return CertifyResult(
            certificates=Certificates.of(blocks, plan=plan), threat=plan.threat, warnings=tuple(warnings)
        )


def _readable(model: nn.Module, x: Tensor) -> Classifier:
    """Return the network as a ``Classifier`` whose layers bounds can follow; raise ``InputError``."""
    if isinstance(model, Classifier):
        return given_classifier(model, x)
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.dtype not in (torch.float32, torch.float64):
            raise InputError(f"certificates are of float32 or float64, {name} is {weight.dtype}; use model.float()")
    model = InFloat64(model) if in_float64(model) else model
    classes = given_classifier(model, x if x.dtype == torch.uint8 else x.float()).signature.classes
    return Classifier(model, signature_of(x, classes)).to(device_of(model, x))


def _row(name: str, share: Proportion, seconds: str = "") -> list[str]:
    low, high = share.interval
    return [name, str(share.passed), f"{100 * share.share:.1f}", f"{100 * low:.1f} to {100 * high:.1f}", seconds]

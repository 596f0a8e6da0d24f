"""The options of the commands: what they mean, their defaults, and what results keep of them.

The ``TypedDict`` of a command has the same names: with it a type checker knows a misspelt one where a function takes
``**options``.
"""

from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypedDict

from torch import Tensor, nn

from overproof.attacks.radius import AnyNorm, Norm, read_norm
from overproof.certification.cascade import BoundPrecision, Reach
from overproof.certification.smoothing import Smoothing
from overproof.data.sources import Source
from overproof.errors import InputError
from overproof.recipe import source_values
from overproof.runs.folder import Run
from overproof.runs.resolve import origin_of
from overproof.runs.sources import AnySource, Images

Format = Literal["onnx", "int8", "torch", "vnnlib", "hub"]


class EvaluateOptions(TypedDict, total=False):
    """Options of ``overproof.evaluate``, see ``Evaluation``; ``data`` may be tensors of a network in memory."""

    attacks: str | tuple[str, ...]
    eps: str | float | None
    norm: AnyNorm | None
    examples: int | None
    seed: int
    device: str
    data: Images | None
    teacher: AnySource | None
    original: AnySource | None
    precision: Literal["auto", "fp32", "bf16"]
    batch: int | None
    reliability: bool
    save_adversarial: bool
    classes_by_position: bool
    resume: bool
    overwrite: bool
    out: Path | str | None
    trust_code: bool


class CertifyOptions(TypedDict, total=False):
    """Options of ``overproof.certify``, see ``Certification``; ``data`` may be tensors of a network in memory."""

    teacher: AnySource | None
    eps: str | float | None
    norm: AnyNorm | None
    bound: Reach
    precision: BoundPrecision
    seconds: float
    gamma: float | None
    smoothing: float | None
    samples: int
    examples: int | None
    seed: int
    batch: int
    device: str
    data: Images | None
    classes_by_position: bool
    resume: bool
    overwrite: bool
    out: Path | str | None
    trust_code: bool


class DecideOptions(TypedDict, total=False):
    """Options of ``overproof.decide``, see ``Decision``."""

    seconds: float
    seed: int
    precision: BoundPrecision
    out: Path | str


class ExportOptions(TypedDict, total=False):
    """Options of ``overproof.export``; each format takes some of them, and says so where it is given another."""

    opset: int
    licence: str
    calibration: Literal["minmax", "entropy", "percentile"]
    examples: int
    teacher: AnySource | None
    eps: str | float | None
    gamma: float
    timeout: int
    seed: int
    push: str | None
    private: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The options of an evaluation.

    ``attacks`` is a suite's name, a YAML file of one, or names of attacks (default: the recipe's own, or ``quick``).
    ``eps`` and ``norm`` replace the recipe's threat; with an eps of 0 nothing is attacked. ``examples`` takes a seeded
    subset in proportion to the classes (0: all). ``teacher`` is what transfer attacks search on and what agreement is
    measured with. ``classes_by_position`` takes images whose classes have other names than the network's, or another
    order. ``original`` is the network that an exported file came from (default: the run in whose folder it lies):
    transfer attacks search on it, and its verdicts are found by the same attacks and put beside the file's.
    ``precision`` is that of the search; every success is confirmed in float32. ``batch`` examples go through the suite
    together. ``reliability`` probes the network for hidden gradients. ``resume`` continues an evaluation that was
    interrupted. ``out`` is the folder of the results (default: the user's own run, or ``evaluations/NAME``); in it,
    results are kept side by side by what was asked. The same question again returns what was found, unless
    ``overwrite`` asks for it to be worked out again. ``trust_code`` runs code that the files of a run name, wherever it
    lies. Raises ``InputError``.
    """

    attacks: str | tuple[str, ...] = ()
    eps: str | float | None = None
    norm: AnyNorm | None = None
    examples: int | None = None
    seed: int = 0
    device: str = "auto"
    data: Images | None = None
    teacher: AnySource | None = None
    original: AnySource | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    batch: int | None = None
    reliability: bool = True
    save_adversarial: bool = False
    classes_by_position: bool = False
    resume: bool = False
    overwrite: bool = False
    out: Path | str | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise InputError(f"batch must be at least 1, got {self.batch}")

    @property
    def known_norm(self) -> Norm | None:
        """The norm that is meant, if one is said."""
        return None if self.norm is None else read_norm(self.norm)

    @property
    def words(self) -> tuple[str, ...]:
        """The attacks, one word each."""
        return (self.attacks,) if isinstance(self.attacks, str) else self.attacks


@dataclass(frozen=True, kw_only=True)
class Certification:
    """The options of a certification.

    ``teacher`` asks for the pair as well: agreement and the gap of confidences, attacked and proven. ``eps`` and
    ``norm`` (linf or l2) replace the recipe's threat. ``bound`` is how far the cascade goes (see ``certified``), with
    ``seconds`` (above 0) for an example, attack and pair included; what they do not suffice for is left out and told.
    ``precision`` is that of the bounds; in float64 what rounding may do to them is a theorem.
    ``gamma``, in [0, 1], is one more gap at which faithful examples are counted. ``smoothing`` is a sigma: randomised
    smoothing with so many ``samples`` certifies l2 balls of the smoothed network, instead of bounds. ``examples`` takes
    a seeded subset in proportion to the classes (0: all); ``batch`` of them are certified together. The others are as
    in ``Evaluation``. Raises ``InputError``.
    """

    teacher: AnySource | None = None
    eps: str | float | None = None
    norm: AnyNorm | None = None
    bound: Reach = "split"
    precision: BoundPrecision = "float32"
    seconds: float = 1.0
    gamma: float | None = None
    smoothing: float | None = None
    samples: int = Smoothing.samples
    examples: int | None = None
    seed: int = 0
    batch: int = 100
    device: str = "auto"
    data: Images | None = None
    classes_by_position: bool = False
    resume: bool = False
    overwrite: bool = False
    out: Path | str | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"batch must be at least 1, got {self.batch}")

    @property
    def known_norm(self) -> Norm | None:
        """The norm that is meant, if one is said."""
        return None if self.norm is None else read_norm(self.norm)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The options of deciding a query.

    ``seconds`` is the time of everything, above 0; ``precision`` that in which bounds are computed; ``out`` the folder
    that a counter-example is written to. Raises ``InputError``.
    """

    seconds: float = 60.0
    seed: int = 0
    precision: BoundPrecision = "float64"
    out: Path | str = "."

    def __post_init__(self) -> None:
        if not (isfinite(self.seconds) and self.seconds > 0):
            raise InputError(f"seconds must be above 0, got {self.seconds:g}")
        if self.precision not in ("float32", "float64"):
            raise InputError(f"precision is float32 or float64, got {self.precision!r}")


_OF_THE_MOMENT = ("resume", "overwrite", "out")
"""Options that change no figure."""


def call_of(source: AnySource, options: Evaluation | Certification, **settled: Any) -> dict[str, Any]:
    """Return what results keep of the call that they came from: the source, and the options that say what was done.

    Options at their defaults are left out; ``settled`` are those whose values were chosen for this machine and network.
    The source, and every option that a command line cannot say (tensors, a network in memory), is None.
    """
    given = {part.name: getattr(options, part.name) for part in fields(options) if part.name not in _OF_THE_MOMENT}
    changed = {part.name for part in fields(options) if not _same(getattr(options, part.name), part.default)}
    said = {name: _say(value) for name, value in given.items() if name in changed}
    return {"source": _say(source), "kind": origin_of(source).kind, "options": {**said, **settled}}


def _same(value: Any, default: Any) -> bool:
    """Whether an option is at its default; a tensor is not to be compared."""
    return value is default or (
        isinstance(value, bool | int | float | str | tuple) and not _in_memory(value) and value == default
    )


def _in_memory(value: Any) -> bool:
    return isinstance(value, nn.Module) or (
        isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value)
    )


def _say(value: Any) -> Any:
    if _in_memory(value):
        return None
    if isinstance(value, Run):
        return str(value.folder)
    if isinstance(value, Source):
        return source_values(value)
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float) else str(value)

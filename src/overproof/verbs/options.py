"""The options of the commands as types, so that a type checker knows a misspelt one; what they mean is said there."""

from pathlib import Path
from typing import Literal, TypedDict

from torch import Tensor

from overproof.attacks.radius import AnyNorm
from overproof.data.sources import Source
from overproof.evaluation.certified import Reach

Images = Source | str | tuple[Tensor, Tensor]
"""A source, a word for one, or pixels ``[N, C, H, W]`` (uint8, or floats in [0, 1]) and labels ``[N]``."""
Format = Literal["onnx", "int8", "torch", "vnnlib", "hub"]


class EvaluateOptions(TypedDict, total=False):
    """Options of ``overproof.evaluate``, see ``evaluating``; ``data`` may be tensors where the network is a module."""

    attacks: str | tuple[str, ...]
    eps: str | float | None
    norm: AnyNorm | None
    examples: int | None
    seed: int
    device: str
    data: Images | None
    teacher: Path | str | None
    original: Path | str | None
    precision: Literal["auto", "fp32", "bf16"]
    batch: int | None
    reliability: bool
    save_adversarial: bool
    classes_by_position: bool
    resume: bool
    overwrite: bool
    out: Path | str | None


class CertifyOptions(TypedDict, total=False):
    """Options of ``overproof.certify``, see ``certifying``; ``data`` may be tensors where the network is a module."""

    teacher: Path | str | None
    eps: str | float | None
    norm: AnyNorm | None
    bound: Reach
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


class ExportOptions(TypedDict, total=False):
    """Options of ``overproof.export``; each format takes some of them, and says so where it is given another."""

    opset: int
    licence: str
    calibration: Literal["minmax", "entropy", "percentile"]
    examples: int
    teacher: Path | str | None
    eps: str | float | None
    gamma: float
    timeout: int
    seed: int
    push: str | None
    private: bool

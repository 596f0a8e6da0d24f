"""Options that several commands share, and the words that they may be."""

from enum import StrEnum
from typing import Annotated

import typer


class NormName(StrEnum):
    """The norms, as an option."""

    linf = "linf"
    l2 = "l2"
    l1 = "l1"


class BoundName(StrEnum):
    """How far a certificate's cascade goes, as an option."""

    ibp = "ibp"
    crown_ibp = "crown_ibp"
    crown = "crown"
    alpha = "alpha"
    splitting = "split"


class BoundPrecision(StrEnum):
    """The precisions of bounds, as an option."""

    float32 = "float32"
    float64 = "float64"


class LayoutName(StrEnum):
    """The orders of an ONNX file's axes, as an option."""

    nchw = "nchw"
    nhwc = "nhwc"


class PrecisionName(StrEnum):
    """The precisions, as an option."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


SOURCE = "A run, org/name of the Hub, package.module:factory, timm:NAME, robustbench:NAME or a file of a network."

Data = Annotated[
    str | None,
    typer.Option(
        help="Its images: a path, a hub id, digits or YAML as in a recipe ('{kind: folder, path: x}'). What the word "
        "leaves open is as in the run's own recipe."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]

Layout = Annotated[
    LayoutName | None,
    typer.Option(help="The order of the axes of an ONNX file's images, where it is guessed wrongly."),
]

TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Run code that a file names, wherever it lies; else only what lies beside it."),
]

ClassesByPosition = Annotated[
    bool,
    typer.Option("--classes-by-position", help="Take images whose classes have other names, or another order."),
]

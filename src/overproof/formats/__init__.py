"""File formats: ONNX, INT8, ``torch.export``, VNN-LIB, the Hub's repository and card, RobustBench's entry."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.formats.card import model_card
    from overproof.formats.footprint import Latency
    from overproof.formats.hub import fetch, push
    from overproof.formats.onnx import to_onnx
    from overproof.formats.program import read_program, to_program
    from overproof.formats.quantize import quantised

_HOMES = {
    "Latency": "overproof.formats.footprint",
    "fetch": "overproof.formats.hub",
    "model_card": "overproof.formats.card",
    "push": "overproof.formats.hub",
    "quantised": "overproof.formats.quantize",
    "read_program": "overproof.formats.program",
    "to_onnx": "overproof.formats.onnx",
    "to_program": "overproof.formats.program",
}

__all__ = [
    "Latency",
    "fetch",
    "model_card",
    "push",
    "quantised",
    "read_program",
    "to_onnx",
    "to_program",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)

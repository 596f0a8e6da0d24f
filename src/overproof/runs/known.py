"""Counter-examples that earlier results of the same network hold: what ``certify`` tries before it searches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from overproof.errors import InputError
from overproof.reading import is_file, parsing, read_bytes
from overproof.runs.results import CERTIFICATE, EVALUATION

_IMAGES = ((EVALUATION, "adversarial.safetensors"), (CERTIFICATE, "counterexamples.safetensors"))


@dataclass(frozen=True, eq=False)
class CounterExamples:
    """Images ``[M, C, H, W]`` in [0, 1] of one file, and the places ``[M]`` (int64) in the test split they are for."""

    index: Tensor
    images: Tensor

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return those for a block that holds these places ``[B]``: the rows of the block, and the images."""
        block, mine = (rows.cpu()[:, None] == self.index).nonzero(as_tuple=True)
        return block.to(rows.device), self.images[mine]


def known_counter_examples(folder: Path, digest: str) -> tuple[tuple[CounterExamples, ...], tuple[str, ...]]:
    """Return what evaluations and certificates in a folder of results found of the network of this digest.

    Whatever ball, labels or images they were for: who tries them looks whether they fit. The second are warnings about
    files that cannot be read, each a sentence.
    """
    sets, warnings = [], []
    for file in _files(folder, digest):
        try:
            with parsing(file, "images that overproof keeps"):
                body = load(read_bytes(file))
                known = CounterExamples(body["index"], body["images"])
                _check(known)
        except InputError as problem:
            warnings.append(f"counter-examples found before are not tried: {problem}")
        else:
            if len(known.index):
                sets.append(known)
    return tuple(sets), tuple(warnings)


def _files(folder: Path, digest: str) -> Iterator[Path]:
    for kind, name in _IMAGES:
        for kept in kind.all(folder):
            if kept.result.get("model_digest") == digest and is_file(kept.folder / name):
                yield kept.folder / name


def _check(known: CounterExamples) -> None:
    index, images = known.index, known.images
    if index.dtype != torch.int64 or index.dim() != 1 or len(index) != len(images):
        raise ValueError("an index is one int64 number for each image")
    if images.dtype != torch.float32 or images.dim() != 4:
        raise ValueError("images are float32, of four axes")

"""The misclassified images of a run beside the clean ones, and their way into a page: lossless sprites as data URIs."""

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from overproof.reading import parsing, read_bytes

if TYPE_CHECKING:
    from overproof.report.findings import Findings

Images = NDArray[np.uint8]

SHOWN = 200
"""So many misclassified images of a run are on a page, if they fit."""

MOST_BYTES = 8_500_000
"""Characters of a page that all images together may take."""

ACROSS = 20  # images in one row of a sprite


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """N misclassified images: ``clean`` and ``attacked``, uint8 ``[N, C, H, W]``, ``index`` and ``labels`` ``[N]``.

    ``answers`` holds the class and the confidence that a network gave, by ``clean``, ``attacked``, ``teacher_clean``
    and ``teacher_attacked``, the latter two only with a teacher.
    """

    clean: Images
    attacked: Images
    index: list[int]
    labels: list[int]
    answers: dict[str, list[tuple[int, float]]]


def read_pictures(file: Path) -> Pictures | None:
    """Read ``adversarial.safetensors``; None without images, or without the clean ones. Raises ``InputError``."""
    with parsing(file, "images that overproof keeps"):
        return _pictures(load(read_bytes(file)))


def _pictures(body: dict[str, NDArray[Any]]) -> Pictures | None:
    if "clean" not in body or not len(body["images"]):
        return None
    return Pictures(
        clean=body["clean"],
        attacked=(255 * body["images"]).round().astype(np.uint8),
        index=body["index"].tolist(),
        labels=body["labels"].tolist(),
        answers={
            name: _confidences(body[f"{name}_logits"])
            for name in ("clean", "attacked", "teacher_clean", "teacher_attacked")
            if f"{name}_logits" in body
        },
    )


def _confidences(logits: NDArray[np.float32]) -> list[tuple[int, float]]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    confidence = powers.max(axis=1) / powers.sum(axis=1)
    return list(zip(logits.argmax(axis=1).tolist(), np.round(confidence, 4).tolist(), strict=True))


def album(findings: Sequence["Findings"]) -> dict[str, Any]:
    """Return the images of all runs as JSON values.

    Runs on the same images share one sprite of clean ones; which are shown is decided together: those that most runs
    lost come first. A run's own sprite holds ``attacked - clean`` modulo 256, which is exact and compresses well. Fewer
    than ``SHOWN`` are taken where they would not fit in ``MOST_BYTES``.
    """
    most = SHOWN
    while True:
        pictures = _album(findings, most)
        if most <= 1 or _size(pictures) <= MOST_BYTES:
            return pictures
        most = min(most // 2, int(most * MOST_BYTES / _size(pictures)))


def _album(findings: Sequence["Findings"], most: int) -> dict[str, Any]:
    sets: dict[str, dict[int, Images]] = {}
    for footing, pictures in _with_pictures(findings):
        sets.setdefault(footing, {}).update(zip(pictures.index, pictures.clean, strict=True))
    counts: dict[str, Counter[int]] = {footing: Counter() for footing in sets}
    for footing, pictures in _with_pictures(findings):
        counts[footing].update(pictures.index)
    chosen = {
        footing: sorted(sorted(count, key=lambda index: (-count[index], index))[:most])
        for footing, count in counts.items()
    }
    return {
        "across": ACROSS,
        "sets": {
            footing: {
                "tile": list(sets[footing][indices[0]].shape[1:]),
                "sprite": _sprite([sets[footing][index] for index in indices]),
                "index": indices,
            }
            for footing, indices in chosen.items()
        },
        "runs": {
            str(place): _lay_out(one.pictures, chosen[_footing(one)], _footing(one))
            for place, one in enumerate(findings)
            if one.pictures is not None
        },
    }


def _lay_out(pictures: Pictures, chosen: list[int], footing: str) -> dict[str, Any]:
    wanted = {index: place for place, index in enumerate(chosen)}
    rows = [row for row, index in enumerate(pictures.index) if index in wanted]
    return {
        "set": footing,
        "of": len(pictures.index),
        "place": [wanted[pictures.index[row]] for row in rows],
        "sprite": _sprite([pictures.attacked[row] - pictures.clean[row] for row in rows]) if rows else "",
        "labels": [pictures.labels[row] for row in rows],
        "answers": {name: [given[row] for row in rows] for name, given in pictures.answers.items()},
    }


def _with_pictures(findings: Sequence["Findings"]) -> list[tuple[str, Pictures]]:
    return [(_footing(one), one.pictures) for one in findings if one.pictures is not None]


def _footing(findings: "Findings") -> str:
    return str(findings.evaluation["data"]["digest"])


def _sprite(images: Sequence[Images]) -> str:
    """Return images ``[C, H, W]`` of one size, row by row, as a lossless data URI; one channel is shown as grey."""
    from PIL import Image

    channels, height, width = images[0].shape
    rows = -(-len(images) // ACROSS)
    sheet = np.zeros((rows * height, min(len(images), ACROSS) * width, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        top, left = number // ACROSS * height, number % ACROSS * width
        sheet[top : top + height, left : left + width] = np.moveaxis(_rgb(image, channels), 0, -1)
    body = BytesIO()
    Image.fromarray(sheet).save(body, "WEBP", lossless=True, quality=60, method=2)
    return "data:image/webp;base64," + b64encode(body.getvalue()).decode()


def _rgb(image: Images, channels: int) -> Images:
    return image[:3] if channels >= 3 else np.repeat(image[:1], 3, axis=0)


def _size(page: dict[str, Any]) -> int:
    return sum(len(part["sprite"]) for kind in ("sets", "runs") for part in page[kind].values())

"""What is exported: a network, the images it is for, and what its file says of it."""

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overproof.attacks.ball import Threat
from overproof.data.images import ImageSet, hold_out
from overproof.data.sources import Source
from overproof.diagnostics.parity import BATCHES
from overproof.environment import versions
from overproof.errors import InputError
from overproof.formats.onnx import metadata_of
from overproof.models.classifier import Classifier, parameter_count
from overproof.recipe import source_values
from overproof.runs.folder import Run
from overproof.runs.loaded import Known, Origin
from overproof.runs.resolve import find_network, origin_of
from overproof.runs.sources import AnySource, Example, Images
from overproof.runs.subject import tensor_images


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportTask:
    """A network before its export; ``folder`` is where its files go unless the user says otherwise.

    ``run`` is the run or the repository of the Hub that it is, ``results`` where its evaluations and certificates lie;
    with ``trust_code`` files may name code wherever it lies. ``source`` is None for images in memory, which are not
    ``real`` where they are examples. ``fraction`` and ``seed`` draw the held-out part of the training images, as
    training did.
    """

    name: str
    folder: Path
    model: Classifier
    source: Source | None
    images: ImageSet
    known: Known
    digest: str
    results: Path
    run: Run | None = None
    trust_code: bool = False
    real: bool = True
    fraction: float = 0.1
    seed: int = 0

    @property
    def threat(self) -> Threat:
        """What it was made to withstand, or the usual."""
        return self.known.threat or Threat()

    def split(self) -> tuple[ImageSet, ImageSet]:
        """Return the training images that the network learnt from, and those held out."""
        return hold_out(self.images, self.fraction, self.seed)

    def metadata(self, licence: str) -> dict[str, str]:
        """Return what a file says of itself as far as it is known, as text: classes, threat, data, digest, licence."""
        known = self.known
        said = {
            "name": known.name,
            "method": known.method or "foreign",
            "architecture": known.architecture or "unknown",
            "recipe_digest": known.recipe.digest if known.recipe else None,
            "selected_on": known.selected_on,
            "classes": json.dumps(list(self.images.classes)) if self.source else None,
            "norm": known.threat.norm if known.threat else None,
            "eps": str(known.threat.eps) if known.threat else None,
            "data": json.dumps(source_values(self.source)) if self.source else None,
            "digest": self.digest,
            "parameters": str(parameter_count(self.model)),
            "version": versions()["overproof"],
        }
        return metadata_of({name: value for name, value in said.items() if value is not None}, licence)


def export_task(
    source: AnySource, data: Images | None, *, example: Example | None = None, trust_code: bool = False
) -> ExportTask:
    """Return what a source stands for, with training images of its recipe or of ``data``; raise ``InputError``.

    A network in memory may have images as tensors, or an ``example``: pixels ``[N, C, H, W]`` in [0, 1], or the size
    ``(C, H, W)`` of one image.
    """
    origin = origin_of(source)
    if origin.kind == "onnx":
        raise InputError(f"{origin.source}: this is exported already; name the run or the network it came from")
    if example is not None and data is not None:
        raise InputError(f"{origin.source}: images of data are examples as well; leave example out")
    tensors = data if isinstance(data, tuple | list) else None if example is None else (_example(example, origin), None)
    network = find_network(source, trust_code=trust_code, layers=True, like=None if tensors is None else tensors[0])
    chosen = None if isinstance(data, tuple | list) or tensors else network.source(data)
    images = chosen.load("train") if chosen else tensor_images(source, tensors, network)
    loaded = network.load(images.signature)
    loaded.check_classes(images.classes)
    known = loaded.known
    carried = ExportTask(
        name=known.title,
        folder=known.origin.folder("exports"),
        model=(deepcopy(loaded.model) if isinstance(source, nn.Module) else loaded.model).cpu(),  # the user's stays
        source=chosen,
        images=images,
        known=known,
        digest=loaded.digest,
        results=known.origin.folder("evaluations"),
        run=known.origin.run,
        trust_code=trust_code,
        real=example is None,
    )
    recipe = known.recipe
    return carried if recipe is None else replace(carried, fraction=recipe.selection.fraction, seed=recipe.seed)


def _example(example: Example, origin: Origin) -> Tensor:
    """Return example pixels ``[N, C, H, W]``: those that are given, or drawn ones of the size that is."""
    if isinstance(example, Tensor):
        return example
    size = tuple(example) if isinstance(example, tuple | list) else ()
    if len(size) != 3 or not all(isinstance(part, int) and part > 0 for part in size):
        raise InputError(f"{origin.source}: an example is a tensor [N, C, H, W] or a size such as (3, 32, 32)")
    return torch.rand(sum(BATCHES), *size, generator=torch.Generator().manual_seed(0))


def report_of(out: Path) -> Path:
    """Return where the report of an exported file lies: beside it, under its whole name."""
    return out.with_name(f"{out.name}.json")


def parity_lines(comparisons: Any) -> list[dict[str, Any]]:
    """Return the parity of each batch size as JSON values."""
    return [{"batch": one.batch, "difference": one.difference, "agreeing": one.agreeing} for one in comparisons]

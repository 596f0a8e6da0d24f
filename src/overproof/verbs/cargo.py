"""What is exported: a network, the images it is for, and what its file says of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overproof.attacks.ball import Threat
from overproof.data.images import ImageSet, hold_out
from overproof.data.sources import Source
from overproof.environment import versions
from overproof.errors import InputError
from overproof.formats.onnx import described
from overproof.models.classifier import Classifier, parameter_count
from overproof.recipe import plain
from overproof.run import Run
from overproof.verbs.resolve import find, origin_of
from overproof.verbs.sources import AnySource


@dataclass(frozen=True, kw_only=True, eq=False)
class Cargo:
    """A network before its export; ``folder`` is where its files go unless the user says otherwise.

    ``run`` is the run or the repository of the Hub that it is, ``results`` where its evaluations and certificates lie;
    with ``trust_code`` files may name code wherever it lies. ``fraction`` and ``seed`` draw the held-out part of the
    training images, as training did.
    """

    name: str
    folder: Path
    model: Classifier
    source: Source
    images: ImageSet
    threat: Threat
    digest: str
    facts: Mapping[str, str]
    results: Path
    run: Run | None = None
    trust_code: bool = False
    fraction: float = 0.1
    seed: int = 0

    def split(self) -> tuple[ImageSet, ImageSet]:
        """Return the training images that the network learnt from, and those held out."""
        return hold_out(self.images, self.fraction, self.seed)

    def metadata(self, licence: str) -> dict[str, str]:
        """Return what a file says of itself: classes, threat, data, digest, licence; all values are text."""
        own = {
            **self.facts,
            "classes": json.dumps(list(self.images.classes)),
            "norm": self.threat.norm,
            "eps": str(self.threat.eps),
            "data": json.dumps(plain(self.source)),
            "digest": self.digest,
            "parameters": str(parameter_count(self.model)),
            "version": versions()["overproof"],
        }
        return described(own, licence)


def cargo(source: AnySource, data: Source | str | None, *, trust_code: bool = False) -> Cargo:
    """Return what a source stands for, with training images of its recipe or of ``data``; raise ``InputError``."""
    origin = origin_of(source)
    if origin.kind == "onnx":
        raise InputError(f"{origin.source}: this is exported already; name the run or the network it came from")
    found = find(source, trust_code=trust_code, layers=True)
    chosen = found.source(data)
    images = chosen.load("train")
    loaded = found.load(images.signature)
    loaded.check_classes(images.classes)
    known, recipe = loaded.known, loaded.known.recipe
    facts = {"name": known.name, "method": known.method or "foreign", "architecture": known.architecture or "unknown"}
    if recipe is not None:
        facts["recipe_digest"] = recipe.digest
    if known.selected_on is not None:
        facts["selected_on"] = known.selected_on
    carried = Cargo(
        name=known.title,
        folder=known.origin.folder("exports"),
        model=loaded.model.cpu(),
        source=chosen,
        images=images,
        threat=known.threat or Threat(),
        digest=loaded.digest,
        facts=facts,
        results=known.origin.folder("evaluations"),
        trust_code=trust_code,
        run=known.origin.run,
    )
    return carried if recipe is None else replace(carried, fraction=recipe.selection.fraction, seed=recipe.seed)


def report_of(out: Path) -> Path:
    """Return where the report of an exported file lies: beside it, under its whole name."""
    return out.with_name(f"{out.name}.json")


def parity_lines(found: Any) -> list[dict[str, Any]]:
    """Return the parity of each batch size as JSON values."""
    return [{"batch": one.batch, "difference": one.difference, "agreeing": one.agreeing} for one in found]

"""What is exported: a network, the images it is for, and what its file says of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overproof.attacks.ball import Threat
from overproof.data.images import ImageSet, hold_out
from overproof.data.sources import Source
from overproof.environment import versions
from overproof.errors import InputError
from overproof.formats.onnx import described
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.foreign import foreign, is_foreign, is_onnx
from overproof.reading import field
from overproof.recipe import build, data_source, plain
from overproof.run import Run, find_run
from overproof.verbs.networks import check_classes, digest_of
from overproof.wording import folder_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Cargo:
    """A network before its export; ``folder`` is where its files go unless the user says otherwise.

    ``fraction`` and ``seed`` draw the held-out part of the training images, as training did.
    """

    name: str
    folder: Path
    model: Classifier
    source: Source
    images: ImageSet
    threat: Threat
    digest: str
    facts: Mapping[str, str]
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


def cargo(word: Run | Path | str, data: Source | str | None) -> Cargo:
    """Return what a word stands for: a run folder, or a foreign network with ``data``; raise ``InputError``."""
    if isinstance(word, str) and is_foreign(word):
        return _foreign_cargo(word, data)
    run = word if isinstance(word, Run) else find_run(word)
    if (imported := run.imported()) is not None:
        return _imported_cargo(run, imported, data)
    recipe = run.recipe()
    return _of_run(
        run,
        recipe.data if data is None else _source(data, recipe.data),
        recipe.threat,
        {
            "name": recipe.name,
            "method": recipe.method.kind,
            "architecture": recipe.student.label,
            "recipe_digest": recipe.digest,
        },
        fraction=recipe.selection.fraction,
        seed=recipe.seed,
    )


def _imported_cargo(run: Run, imported: Mapping[str, Any], data: Source | str | None) -> Cargo:
    """Return an imported network, which has no recipe; nobody knows what it was trained to withstand."""
    known = imported.get("data")
    if data is None and known is None:
        raise InputError(f"{run.folder}: say on which images it is checked, with --data digits, a hub id or a path")
    before: Source | None = None if known is None else build(Source, known, where=f"{run.folder}: data")
    source = _source(data, before) if data is not None else before
    assert source is not None
    description = run.description()
    architecture = str(description["architecture"].get("kind"))
    name = field(description, "name", str, where=run.folder)
    return _of_run(run, source, Threat(), {"name": name, "method": "imported", "architecture": architecture})


def _of_run(
    run: Run, source: Source, threat: Threat, facts: Mapping[str, str], *, fraction: float = 0.1, seed: int = 0
) -> Cargo:
    """Return the network of a run folder; raise ``InputError`` where it is not for these images."""
    model, description = run.model()
    images = source.load("train")
    if images.signature != model.signature:
        raise InputError(f"{run.folder}: the network is for {model.signature}, the images are {images.signature}")
    check_classes(description["classes"], images.classes, where=str(run.folder))
    return Cargo(
        name=str(run.folder),
        folder=run.folder,
        model=model,
        source=source,
        images=images,
        threat=threat,
        digest=description["digest"],
        facts={**facts, "selected_on": str(description.get("selected_on", "unknown"))},
        fraction=fraction,
        seed=seed,
    )


def _foreign_cargo(word: str, data: Source | str | None) -> Cargo:
    if is_onnx(word):
        raise InputError(f"{word}: this is exported already; name the run or the network it came from")
    if data is None:
        raise InputError(
            f"{word}: say on which images it is checked, with --data digits, --data ylecun/mnist or a path"
        )
    source = _source(data)
    images = source.load("train")
    model = foreign(word, images.signature)
    return Cargo(
        name=word,
        folder=Path("exports") / folder_name(word),
        model=model.cpu(),
        source=source,
        images=images,
        threat=Threat(),
        digest=digest_of(model),
        facts={"name": word, "method": "foreign", "architecture": type(model.backbone).__name__},
    )


def _source(data: Source | str, before: Source | None = None) -> Source:
    return data if isinstance(data, Source) else data_source(data, before)


def report_of(out: Path) -> Path:
    """Return where the report of an exported file lies: beside it, under its whole name."""
    return out.with_name(f"{out.name}.json")


def parity_lines(found: Any) -> list[dict[str, Any]]:
    """Return the parity of each batch size as JSON values."""
    return [{"batch": one.batch, "difference": one.difference, "agreeing": one.agreeing} for one in found]

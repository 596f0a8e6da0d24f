"""A network with what is known of it, as every command takes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from typing import Any

from safetensors.torch import save

from overproof.attacks.ball import Threat
from overproof.data.sources import Source
from overproof.errors import InputError
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.external.onnx_file import OnnxFile
from overproof.models.external.onnx_network import file_of
from overproof.models.weights import unshare
from overproof.recipe import Recipe
from overproof.runs.folder import Run
from overproof.runs.sources import Kind
from overproof.signature import Signature
from overproof.wording import folder_name

BY_POSITION = "; where only their places count, add --classes-by-position"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The mean and the std, per channel in [0, 1] pixel units, of the normalisation that is inside the network."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a network is from: the kind of the source, how it was written, and the run or Hub repository that it is.

    ``checkpoint`` is the name of the weights in the run: ``model``, or ``last``.
    """

    kind: Kind
    source: str
    run: Run | None = None
    checkpoint: str = "model"

    def folder(self, home: str) -> Path:
        """Return where results go unless the user says otherwise: into the user's own run, else ``<home>/NAME``.

        The Hub's cache, a zoo and a file are no places for results.
        """
        if self.run is not None and self.run.own and self.checkpoint == "model":
            return self.run.folder
        return Path(home) / folder_name(self.source)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a network. Everything but its name and origin may be ``None``: nobody said.

    ``name`` is what its maker calls it; ``data`` and ``threat`` are what it was trained on and for; ``seed`` and
    ``selected_on`` how its weights were drawn and chosen; ``recipe`` is that of a run of ours, ``recipe_digest`` its
    SHA-256. ``digest`` is the SHA-256 of the weights in safetensors' form, or of the file that it is.
    """

    name: str
    origin: Origin
    method: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    classes: tuple[str, ...] | None = None
    data: Source | None = None
    threat: Threat | None = None
    preprocessing: Preprocessing | None = None
    digest: str | None = None
    seed: int | None = None
    selected_on: str | None = None
    recipe: Recipe | None = None

    @property
    def title(self) -> str:
        """What sentences call it: the source as it was written, or the folder of the run."""
        return self.origin.source

    def facts(self) -> dict[str, Any]:
        """Return what a file of results says of the network."""
        return {
            "run": self.name,
            "method": self.method or "foreign",
            "architecture": self.architecture or "unknown",
            "recipe_seed": self.seed,
            "model_digest": self.digest,
            "selected_on": self.selected_on or "unknown",
            "parameters": self.parameters,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A network in eval mode, and what is known of it."""

    model: Classifier
    known: Known

    @classmethod
    def of(cls, model: Classifier, known: Known, signature: Signature) -> "LoadedModel":
        """Return a network with what can be read off itself; raise ``InputError`` where it is for other images."""
        if model.signature != signature:
            raise InputError(f"{known.title}: it is for {model.signature}, the data are {signature}")
        parameters = known.parameters
        if parameters is None and not isinstance(model.backbone, OnnxFile):
            parameters = parameter_count(model)
        inside = None
        if model.normalises:
            mean, std = (tuple(part.flatten().tolist()) for part in (model.mean, model.std))
            inside = Preprocessing(mean=mean, std=std)
        return cls(
            model=model,
            known=replace(
                known,
                parameters=parameters,
                preprocessing=known.preprocessing or inside,
                architecture=known.architecture or type(model.backbone).__name__,
                digest=known.digest or digest_of(model),
            ),
        )

    @property
    def file(self) -> OnnxFile | None:
        """The ONNX file that it is; None for any other network."""
        return file_of(self.model.backbone)

    @property
    def has_layers(self) -> bool:
        """Whether layers and gradients can be had; an ONNX file that has no form in torch has none."""
        return not isinstance(self.model.backbone, OnnxFile)

    @property
    def digest(self) -> str:
        """The SHA-256 of its weights, or of the file that it is."""
        assert self.known.digest is not None  # it is worked out when the network is loaded
        return self.known.digest

    def check_classes(self, ours: Sequence[str], *, where: str = "", advice: str = "") -> None:
        """Raise ``InputError`` where its classes have other names, or another order, than those of the images."""
        check_classes(self.known.classes or (), ours, where=where or self.known.title, advice=advice)


def check_classes(theirs: Sequence[str], ours: Sequence[str], *, where: str, advice: str = "") -> None:
    """Raise ``InputError`` where a network's classes have other names, or another order, than those of the images.

    A network whose classes have no names (``theirs`` is empty) cannot be checked. ``advice`` ends the sentence.
    """
    if not theirs or tuple(theirs) == tuple(ours):
        return
    longest = zip_longest(theirs, ours)
    index, (one, other) = next((i, pair) for i, pair in enumerate(longest) if pair[0] != pair[1])
    raise InputError(f"{where} was trained on other classes: its {index} is {one!r}, here it is {other!r}{advice}")


def digest_of(model: Classifier) -> str:
    """Return the SHA-256 of a network's weights and buffers."""
    return sha256(save(unshare(model.state_dict()))).hexdigest()

"""Networks beside the one that a command is about: the teachers of a recipe, and what another one is compared with."""

from pathlib import Path

from overproof.data.images import Labelled
from overproof.errors import InputError
from overproof.models.classifier import Classifier
from overproof.models.weights import freeze
from overproof.runs.loaded import BY_POSITION, LoadedModel
from overproof.runs.resolve import resolve
from overproof.runs.sources import AnySource


def load_teacher(
    role: str, word: str, images: Labelled, *, beside: Path | None = None, trust_code: bool = False
) -> Classifier:
    """Return the teacher that a word names (see ``resolve``), frozen.

    Raises ``InputError`` where it is for other images or classes, or not the one that the word pins.
    """
    try:
        network = resolve(word, images.signature, beside=beside, trust_code=trust_code)
    except InputError as problem:
        raise InputError(f"teacher {role!r}: {problem}") from problem
    network.check_classes(images.classes, where=f"teacher {role!r} ({network.known.title})")
    return freeze(network.model)


def load_other(
    source: AnySource, images: Labelled, *, by_position: bool = False, trust_code: bool = False, layers: bool = False
) -> LoadedModel:
    """Return the network of a source that is put beside another one on these images; raise ``InputError``.

    ``by_position`` takes one whose classes have other names or another order.
    """
    network = resolve(source, images.signature, trust_code=trust_code, layers=layers)
    if not by_position:
        network.check_classes(images.classes, where=f"teacher {network.known.title}", advice=BY_POSITION)
    return network

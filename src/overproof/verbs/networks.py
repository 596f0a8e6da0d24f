"""Which network a word means: a run's, a Hub repository's, another package's; pinned by its digest or not."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

from safetensors.torch import save

from overproof.data.images import Labelled
from overproof.errors import InputError
from overproof.models.classifier import Classifier
from overproof.models.foreign import foreign, is_foreign, is_onnx
from overproof.models.weights import freeze, unshared
from overproof.run import find_run
from overproof.signature import Signature

BY_POSITION = "; where only their places count, add --classes-by-position"
_PIN = "#sha256="


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network by the word that names it; ``classes`` is empty where nobody said what its classes are called.

    ``digest`` is the SHA-256 of its weights and buffers in safetensors' form.
    """

    word: str
    model: Classifier
    classes: tuple[str, ...]
    digest: str


def find_network(word: Path | str, signature: Signature, *, beside: Path | None = None) -> Network:
    """Return the network of a word, in eval mode.

    A path is a run folder or an ONNX file. A word is one as well, or a Hub repository (``org/name``,
    ``hub:org/name@revision``), ``timm:NAME``, ``robustbench:[DATASET/THREAT/]NAME``, ``package.module:factory``;
    ``#sha256=`` and the digest of the weights behind it pin the network. A module is also looked for in the folder
    ``beside``. Raises ``InputError`` where there is none, where it is for other images than the signature's, and for
    another digest than the pinned one.
    """
    digest = ""
    if isinstance(word, str):
        word, digest = split_pin(word)
    if is_onnx(str(word)) or (isinstance(word, str) and is_foreign(word)):
        model, classes = foreign(str(word), signature, beside=beside), ()
        found = digest_of(model)
    else:
        model, description = find_run(word).model()
        classes, found = tuple(description["classes"]), description["digest"]
        if model.signature != signature:
            raise InputError(f"{word}: it is for {model.signature}, the data are {signature}")
    if digest and found != digest:
        raise InputError(f"{word}: this is another network: its SHA-256 is {found}, the pin says {digest}")
    return Network(word=str(word), model=model, classes=classes, digest=found)


def load_teacher(role: str, word: str, images: Labelled, *, beside: Path | None = None) -> Classifier:
    """Return the teacher that a word names (see ``find_network``), frozen.

    Raises ``InputError`` where it is for other images or classes, or not the one that the word pins.
    """
    try:
        found = find_network(word, images.signature, beside=beside)
    except InputError as problem:
        raise InputError(f"teacher {role!r}: {problem}") from problem
    check_classes(found.classes, images.classes, where=f"teacher {role!r} ({found.word})")
    return freeze(found.model)


def load_other(word: Path | str, images: Labelled, *, by_position: bool = False) -> Classifier:
    """Return the network of a word that is put beside another one on these images; raise ``InputError``.

    ``by_position`` takes one whose classes have other names or another order.
    """
    found = find_network(word, images.signature)
    if not by_position:
        check_classes(found.classes, images.classes, where=f"teacher {found.word}", advice=BY_POSITION)
    return found.model


def check_classes(theirs: Sequence[str], ours: Sequence[str], *, where: str, advice: str = "") -> None:
    """Raise ``InputError`` where a network's classes have other names, or another order, than those of the images.

    A network whose classes have no names (``theirs`` is empty) cannot be checked. ``advice`` ends the sentence.
    """
    if not theirs or tuple(theirs) == tuple(ours):
        return
    longest = zip_longest(theirs, ours)
    index, (one, other) = next((i, pair) for i, pair in enumerate(longest) if pair[0] != pair[1])
    raise InputError(f"{where} was trained on other classes: its {index} is {one!r}, here it is {other!r}{advice}")


def split_pin(word: str) -> tuple[str, str]:
    """Return a word without its pin, and the pinned digest (``""``: none); raise ``InputError`` for half a digest."""
    name, mark, digest = word.partition(_PIN)
    if mark and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise InputError(f"{word}: a pin is {_PIN} and the 64 hexadecimal digits of the weights' SHA-256")
    return name, digest.lower()


def digest_of(model: Classifier) -> str:
    """Return the SHA-256 of a network's weights and buffers."""
    return sha256(save(unshared(model.state_dict()))).hexdigest()

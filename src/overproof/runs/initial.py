"""Which weights a student begins with: the word of a recipe's ``init``, read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from overproof.errors import InputError
from overproof.models.classifier import Classifier
from overproof.models.external.imports import importable, like
from overproof.models.external.loading import call_factory, robustbench
from overproof.models.external.module import External
from overproof.models.external.onnx_file import OnnxFile
from overproof.models.external.onnx_network import in_torch, lacking_of
from overproof.models.external.untrusted import read_untrusted, tensor_maps
from overproof.models.external.zoos import ZOOS, load_pretrained
from overproof.models.initial import Taken, name_in_order, take_over
from overproof.models.weights import load_description, unshare
from overproof.reading import is_folder, parsing, read_bytes
from overproof.runs.folder import Run
from overproof.runs.resolve import find_network, program, run_of
from overproof.runs.sources import Word, read_word, split_pin
from overproof.signature import Signature

_TEACHER = "teacher:"


@dataclass(frozen=True, kw_only=True, eq=False)
class InitialWeights:
    """Tensors by their names, and the normalisation they were trained with, where it is known.

    ``whole`` is the SHA-256 of the file that a run keeps them in, with its normalisation. ``named`` says that the
    names are those of a network's layers, not an ONNX file's.
    """

    tensors: Mapping[str, Tensor]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    whole: str = ""
    named: bool = True

    @property
    def digest(self) -> str:
        """The run's own SHA-256, or that of the tensors in safetensors' form."""
        return self.whole or sha256(save(unshare(self.tensors))).hexdigest()


def read_weights(
    word: str,
    teachers: Mapping[str, Classifier],
    signature: Signature,
    *,
    beside: Path | None = None,
    trust_code: bool = False,
) -> InitialWeights:
    """Return the weights of a word: ``teacher:ROLE``, or any source of a network (see ``resolve.find_network``).

    A file of weights needs no architecture here; an ONNX file is read for images of the ``signature``. Raises
    ``InputError``.
    """
    name, pin = split_pin(word)
    of_file = False
    if name.startswith(_TEACHER):
        role = name.removeprefix(_TEACHER)
        if role not in teachers:
            raise InputError(f"init: there is no teacher in the role {role!r}{like(role, teachers)}")
        weights = _of(teachers[role])
    else:
        try:
            read = read_word(word)
            weights, of_file = _of_source(read, signature, beside, trust_code), read.kind == "checkpoint"
        except InputError as problem:
            raise InputError(f"init: {str(problem).removeprefix('init: ')}") from problem
    if pin and not of_file and weights.digest != pin:  # a file was compared with it as it was read
        raise InputError(
            f"init: {name}: these are other weights: their SHA-256 is {weights.digest}, the pin says {pin}"
        )
    return weights


def _of_source(word: Word, signature: Signature, beside: Path | None, trust_code: bool) -> InitialWeights:
    if word.kind == "checkpoint":
        if word.options:
            raise InputError(f"{word.text}: weights to begin with are taken by their names, so it takes no options")
        return _of_file(word.path, word.pin)
    if word.kind in ("run", "hub"):
        return _of_run(run_of(word))
    if word.kind == "onnx":
        source = find_network(word.name, trust_code=trust_code)
        model = source.load(signature).model
        if isinstance(model.backbone, OnnxFile):
            raise InputError(f"{word.text}: it has no weights to begin with{lacking_of(model.backbone)}")
        return replace(_of(in_torch(model)), whole=source.file_digest, named=False)
    if word.kind in ZOOS:
        if word.options:
            raise InputError(f"{word.text}: options are for a factory of your own; these weights come as they are")
        loaded = load_pretrained(word.text, where=word.text)
        return InitialWeights(tensors=loaded.network.state_dict(), mean=loaded.mean, std=loaded.std)
    if word.kind == "robustbench":
        return _of(robustbench(word.text))
    if word.kind == "program":
        network, digest = program(word, trust_code)
        return replace(_of(network), whole=digest)
    with importable(*([] if beside is None else [beside]), Path.cwd()):
        return _of(call_factory(word.text, word.options, None))


def begin_with(student: Classifier, word: str, weights: InitialWeights) -> Taken:
    """Copy into a student what fits it of these weights; the normalisation stays its own. Raises ``InputError``."""
    where = f"init: {word}"
    tensors = weights.tensors if weights.named else name_in_order(student.backbone, weights.tensors, where=where)
    return take_over(student.backbone, tensors, where=where)


def with_pretrained(word: str, student: Any) -> str:
    """Return the word that ``pretrained`` stands for: the student's own network in its zoo; others as they are."""
    name, mark, pin = word.partition("#")
    if name != "pretrained":
        return word
    if isinstance(student, External) and student.factory.partition(":")[0] in ZOOS:
        return student.factory + mark + pin
    raise InputError("init: pretrained means timm's or torchvision's weights of a student that is one of theirs")


def _of(network: nn.Module) -> InitialWeights:
    if not isinstance(network, Classifier):
        return InitialWeights(tensors=network.state_dict())
    weights = InitialWeights(tensors=network.backbone.state_dict())
    if not network.normalises:
        return weights
    mean, std = (tuple(part.flatten().tolist()) for part in (network.mean, network.std))
    return replace(weights, mean=mean, std=std)


def _of_file(file: Path, pin: str) -> InitialWeights:
    """Return the network in a checkpoint, among averages and an optimiser's state; nothing in it is run.

    A pin is that of the file.
    """
    maps = [tensors for _, tensors in tensor_maps(read_untrusted(file, digest=pin))]
    if not maps:
        raise InputError(f"{file}: there are no tensors in it")
    return InitialWeights(tensors=max(maps, key=_likeness))


def _likeness(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return by how many names tensors are a network's, and how many numbers they hold.

    What Adam remembers of one large layer is more numbers than a small network has.
    """
    named = sum(name.endswith(("weight", "bias")) for name in tensors)
    return named, sum(value.numel() for value in tensors.values())


def _of_run(run: Run) -> InitialWeights:
    from safetensors.torch import load

    folder = run.folder
    if not is_folder(folder):
        raise InputError(f"{folder}: there is no such run folder or checkpoint file")
    description = load_description(folder)
    file = folder / "model.safetensors"
    body = read_bytes(file)
    if sha256(body).hexdigest() != description["digest"]:
        raise InputError(f"{file}: damaged or exchanged; its digest is not the one in its description")
    with parsing(file, "safetensors"):
        tensors = load(body)
    inside = description.get("normalisation") or {}
    own = {key.removeprefix("backbone."): value for key, value in tensors.items() if key not in ("mean", "std")}
    with parsing(folder, "a model description of overproof"):
        mean, std = (tuple(map(float, inside.get(part, ()))) for part in ("mean", "std"))
    return InitialWeights(tensors=own, mean=mean, std=std, whole=description["digest"])

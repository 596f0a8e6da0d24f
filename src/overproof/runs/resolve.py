"""Which network is this? Answered once, for every command, for teachers, surrogates and weights to begin with.

``find_network`` says what is known of a source before its network is made, such as the images it is for;
``NetworkSource.load`` makes it for the images that are meant; ``resolve`` does both.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overproof.attacks.ball import Threat
from overproof.attacks.radius import Radius
from overproof.data.sources import Source
from overproof.errors import InputError, nearest
from overproof.evaluation.in_memory import InFloat64, device_of, given_classifier, in_float64
from overproof.formats.hub import repository_id
from overproof.formats.onnx import own_words
from overproof.formats.program import read_program
from overproof.models.classifier import Classifier
from overproof.models.external.loading import fitting, load_external
from overproof.models.external.onnx_file import OnnxFile
from overproof.models.external.onnx_network import full_network
from overproof.models.external.untrusted import read_untrusted
from overproof.models.weights import load_description
from overproof.reading import field, is_file, is_folder, parsing, read_bytes, read_object
from overproof.recipe import Recipe, build_value, data_source
from overproof.runs.checkpoints import network_of, read_architecture, weights_in
from overproof.runs.folder import Run, find_run
from overproof.runs.loaded import Known, LoadedModel, Origin
from overproof.runs.sources import AnySource, Word, read_word
from overproof.signature import Signature
from overproof.trust import Code
from overproof.wording import one_line

_NAMED = ("model.json", "config.json")
_WEIGHTS = ("model", "mean", "std", "key")  # options behind a file of weights
_ONNX = ("mean", "std", "layout")  # and behind an ONNX file


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkSource:
    """A source that was looked at: what is ``known``, and how its network is made for images of a signature."""

    known: Known
    make: Callable[[Signature], Classifier]
    pin: str = ""
    file_digest: str = ""

    def load(self, signature: Signature) -> LoadedModel:
        """Return the network for these images.

        Raises ``InputError`` where it cannot be made, is for other images, or is not the one that was pinned.
        """
        made = LoadedModel.of(self.make(signature), self.known, signature)
        digest = self.file_digest or made.digest
        if self.pin and digest != self.pin:
            raise InputError(
                f"{made.known.title}: this is another network: its SHA-256 is {digest}, the pin says {self.pin}"
            )
        return made

    def source(self, data: Source | str | None) -> Source:
        """Return the images that are meant: ``data`` in the form of those it is known to be for, or those themselves.

        Raises ``InputError`` where neither is known.
        """
        before = self.known.data
        if isinstance(data, str):
            return data_source(data, before)
        chosen = data or before
        if chosen is None:
            how = "--data digits, --data ylecun/mnist or a path"
            if self.known.origin.kind == "in memory":
                how = "data=(x, y) or data='digits'"
            raise InputError(f"{self.known.title}: say on which images, with {how}")
        return chosen


def resolve(
    source: AnySource,
    signature: Signature,
    *,
    beside: Path | None = None,
    trust_code: bool = False,
    layers: bool = False,
) -> LoadedModel:
    """Return the network of a source for images of a signature (see ``find_network``).

    The recipe of a run is not read: what it says of images and attacks is not asked for here.
    """
    return find_network(source, beside=beside, trust_code=trust_code, layers=layers, recipe=False).load(signature)


def find_network(
    source: AnySource,
    *,
    beside: Path | None = None,
    trust_code: bool = False,
    layers: bool = False,
    like: Tensor | None = None,
    recipe: bool = True,
) -> NetworkSource:
    """Return what is known of a source, with the way to its network.

    A source is an ``nn.Module``, a ``Run``, a path or a word (see ``sources.read_word``): a run folder, a repository of
    the Hub, ``FILE.onnx``, a file of weights, ``FILE.pt2``, ``package.module:factory?key=value``, ``timm:NAME``,
    ``torchvision:NAME``, ``robustbench:NAME``. A module is also looked for in the folder ``beside``. ``trust_code``
    runs code that a run's files name wherever it lies, and reads programs. ``layers`` says that the layers of a module
    in memory must be found in it, as bounds need it; ``like`` are images ``[N, C, H, W]`` in the form in which it is
    asked. With ``recipe`` that of a run is read for what it says of the network. Raises ``InputError``.
    """
    if isinstance(source, nn.Module):
        return _in_memory(source, layers, like)
    if isinstance(source, Run):
        return _of_run(source, Origin(kind="run", source=str(source.folder), run=source), trust_code, recipe=recipe)
    if not isinstance(source, Path | str):
        raise InputError(
            f"a network is an nn.Module, a Run, a run folder or a word such as package.module:factory, got an object "
            f"of type {type(source).__name__}"
        )
    word = read_word(source)
    if word.kind in ("run", "hub"):
        run = run_of(word)
        return _of_run(run, Origin(kind=word.kind, source=word.text, run=run), trust_code, word.pin, recipe=recipe)
    if word.kind == "onnx":
        return _of_onnx(word, trust_code)
    if word.kind == "checkpoint":
        return _of_checkpoint(word, trust_code, recipe)
    if word.kind == "program":
        return _of_program(word, trust_code)
    known = Known(name=word.name, origin=Origin(kind=word.kind, source=word.name))
    return NetworkSource(
        known=known,
        make=lambda signature: load_external(word.text, signature, options=word.options, beside=beside),
        pin=word.pin,
    )


def origin_of(source: AnySource) -> Origin:
    """Return where a source is from, without opening it."""
    if isinstance(source, nn.Module):
        return Origin(kind="in memory", source=_class_of(source))
    if isinstance(source, Run):
        return Origin(kind="run" if source.own else "hub", source=str(source.folder), run=source)
    word = read_word(source)
    if word.kind == "checkpoint" and not word.options and (described := _find_description(word.path)) is not None:
        folder, name = described
        return Origin(kind="run", source=word.text, run=Run(folder), checkpoint=name)
    run = Run(word.path) if word.kind == "run" else None
    return Origin(kind=word.kind, source=word.name, run=run)


def run_of(word: Word) -> Run:
    """Return the run in a folder, or in a repository of the Hub; raise ``InputError`` where that does not give it."""
    if word.kind == "hub" and repository_id(word.text) is None:
        raise InputError(f"{word.text}: a repository of the Hub is written hub:org/name or hub:org/name@revision")
    return find_run(word.text) if word.kind == "hub" else Run(word.path)


def results_folder(source: AnySource, out: Path | str | None) -> Path:
    """Return where the results of an examination go: ``out``, the run's own folder, or ``evaluations/NAME``.

    What has no folder of the user's goes to the latter: a foreign network, and a repository in the Hub's cache.
    """
    return origin_of(source).folder("evaluations") if out is None else Path(out)


def evaluated_folder(source: AnySource) -> Path:
    """Return the folder whose results about a source are read; raise ``InputError`` where nothing was evaluated."""
    if isinstance(source, nn.Module):
        raise InputError(f"{_class_of(source)}: of a network in memory name the folder of its results, its out")
    origin = origin_of(source)
    folder = origin.folder("evaluations")
    if origin.run is not None and folder == origin.run.folder:
        return folder
    if any(is_file(folder / name) for name in ("evaluation.json", "certificate.json")):
        return folder
    if origin.kind == "hub" and isinstance(source, str):
        return run_of(read_word(source)).folder
    raise InputError(f"{origin.source}: not evaluated yet; run: overproof evaluate {origin.source}")


# --- a run, in a folder or on the Hub ---------------------------------------------------------------------------------


def _of_run(run: Run, origin: Origin, trust_code: bool, pin: str = "", *, recipe: bool = True) -> NetworkSource:
    folder, name = run.folder, origin.checkpoint
    if not is_folder(folder):
        raise InputError(f"{one_line(str(folder), 300)}: no such run folder")
    trained = is_file(folder / "recipe.yaml")
    if not trained and not any(is_file(folder / one) for one in _NAMED):
        run.recipe()  # which says that there is none
    known = _describe_run(run, origin, trust_code)
    if trained and recipe:
        known = _with_recipe(known, run.recipe(imports=True, trust_code=trust_code))
    return NetworkSource(known=known, make=lambda _: run.model(name, trust_code=trust_code)[0], pin=pin)


def _describe_run(run: Run, origin: Origin, trust_code: bool) -> Known:
    """Return what the description of a network says of it."""
    description = load_description(run.folder, origin.checkpoint)
    # Every description says how its weights were chosen; a repository's need not.
    said = [key for key in ("name", "selected_on") if key in description or (key == "selected_on" and run.own)]
    texts = {key: field(description, key, str, where=run.folder) for key in said}
    imported = run.imported()
    data, where = None if imported is None else imported.get("data"), f"{run.folder}: data"
    return Known(
        name=texts.get("name", run.folder.name),
        origin=origin,
        method=None if imported is None else "imported",
        architecture=str(description["architecture"].get("kind")),
        classes=tuple(description["classes"]) or None,
        data=None
        if data is None
        else build_value(Source, data, where=where, code=run.code(where, trust_code=trust_code)),
        digest=description["digest"],
        selected_on=texts.get("selected_on"),
    )


def _with_recipe(known: Known, recipe: Recipe) -> Known:
    return replace(
        known,
        name=recipe.name,
        method=recipe.method.kind,
        architecture=recipe.student.label,
        data=recipe.data,
        threat=recipe.threat,
        seed=recipe.seed,
        recipe=recipe,
    )


# --- a file -----------------------------------------------------------------------------------------------------------


def _of_onnx(word: Word, trust_code: bool) -> NetworkSource:
    """Return an ONNX file as a full network, or as one that answers queries, where it cannot be had in torch.

    What is said of it is told when it is made, for the images that it is made for.
    """
    for name in word.options:
        if name not in _ONNX:
            raise InputError(f"{word.text}: it takes no {name!r}{nearest(name, _ONNX)}")
    layout = word.options.get("layout")
    mean, std = (_numbers(word, part) for part in ("mean", "std"))
    file = OnnxFile.read(word.path, layout=None if layout is None else str(layout))
    said, code = own_words(file.metadata), Code(where=word.text, load=False, trust_code=trust_code, imports=trust_code)
    origin = Origin(kind="onnx", source=word.name)

    def make(signature: Signature) -> Classifier:
        network = full_network(file, signature)
        try:
            made = Classifier(network, signature, mean=mean, std=std)
        except ValueError as problem:
            raise InputError(f"{word.text}: {problem}") from problem
        return fitting(made, signature, word.text)

    with parsing(word.text, "metadata of data, threat and classes"):
        known = Known(
            name=word.name,
            origin=origin,
            method=said.get("method"),
            architecture=said.get("architecture"),
            parameters=int(said["parameters"]) if "parameters" in said else None,
            classes=tuple(map(str, json.loads(said["classes"]))) if "classes" in said else None,
            data=build_value(Source, json.loads(said["data"]), where=word.text, code=code) if "data" in said else None,
            threat=_threat(said, word.text) if "norm" in said else None,
            # With options it is another network, whose digest is that of all its numbers, the normalisation included.
            digest=None if word.options else file.digest,
            selected_on=said.get("selected_on"),
        )
    return NetworkSource(known=known, make=make, pin=word.pin, file_digest=file.digest)


def _threat(said: Mapping[str, str], where: str) -> Threat:
    try:
        return Threat(norm=said["norm"], eps=Radius(said["eps"]))  # type: ignore[arg-type]
    except InputError as problem:
        raise InputError(f"{where}: not readable as metadata of its threat ({problem})") from problem


def program(word: Word, trust_code: bool) -> tuple[nn.Module, str]:
    """Return the network of a ``torch.export`` program and the SHA-256 of its file; raise ``InputError``."""
    if not trust_code:
        raise InputError(
            f"{word.text}: reading a torch.export program can run any code that is in it; where you trust it, add "
            "--trust-code"
        )
    body = read_bytes(word.path)
    return read_program(body, where=word.text), sha256(body).hexdigest()


def _of_program(word: Word, trust_code: bool) -> NetworkSource:
    """Return a ``torch.export`` program; what its report and the run beside it say is known, where they are of it."""
    network, digest = program(word, trust_code)
    known = Known(name=word.text, origin=Origin(kind="program", source=word.text))
    report = word.path.with_name(f"{word.path.name}.json")
    if is_file(report) and (said := read_object(report)).get("sha256") == digest:
        known = _of_report(said, known, word.path.parent)
    return NetworkSource(
        known=known,
        make=lambda signature: fitting(Classifier(network, signature), signature, word.text),
        pin=word.pin,
        file_digest=digest,
    )


def _of_report(said: Mapping[str, Any], known: Known, folder: Path) -> Known:
    """Return what is known of a program by its report, and by the run in whose folder it lies, if that is its own."""
    with parsing(folder, "the report of an export"):
        described = replace(known, classes=tuple(map(str, said["classes"])) or None)
        if not is_file(folder / "model.json") or load_description(folder)["digest"] != said["digest"]:
            return described
    of_run = _of_run(Run(folder), Origin(kind="run", source=str(folder), run=Run(folder)), False).known
    return replace(
        described,
        method=of_run.method,
        architecture=of_run.architecture,
        data=of_run.data,
        threat=of_run.threat,
        selected_on=of_run.selected_on,
    )


def _of_checkpoint(word: Word, trust_code: bool, recipe: bool) -> NetworkSource:
    """Return the network of a file of weights: the run's whose file it is, or that of the architecture that is said."""
    file, options = word.path, word.options
    if not options and (described := _find_description(file)) is not None:
        folder, name = described
        origin = Origin(kind="run", source=word.text, run=Run(folder), checkpoint=name)
        return _of_run(Run(folder), origin, trust_code, word.pin, recipe=recipe)
    besides = {name: value for name, value in options.items() if name not in _WEIGHTS}  # the model's own options
    model = options.get("model", "")
    for name in besides:
        if not isinstance(model, str) or not (model == "chain" or ":" in model):
            raise InputError(f"{word.text}: it takes no {name!r}{nearest(name, _WEIGHTS)}")
    if "model" not in options:
        raise InputError(
            f"{word.text}: a file of weights does not say of which network they are; write {word.text}?model=resnet18, "
            f"or import it once: overproof teacher import {word.text} --model resnet18"
        )
    called, said = read_architecture(
        model if isinstance(model, str) else json.dumps(model), where=f"{word.text}: model", options=besides
    )
    mean, std = (_numbers(word, part) for part in ("mean", "std"))
    tree = read_untrusted(file, digest=word.pin)

    def make(signature: Signature) -> Classifier:
        key = str(options.get("key", ""))
        weights, architecture = weights_in(
            tree, said, signature, where=file, name=called, classes=signature.classes, key=key
        )
        return network_of(weights, architecture, signature, where=file, given=(mean, std))

    known = Known(
        name=word.text, origin=Origin(kind="checkpoint", source=word.name), method="imported", architecture=called
    )
    return NetworkSource(known=known, make=make)


def _find_description(file: Path) -> tuple[Path, str] | None:
    """Return the folder and the name of weights that lie beside their description, as ``save_model`` writes them."""
    named = {f"{file.stem}.json", *(["config.json"] if file.stem == "model" else [])}
    if file.suffix != ".safetensors" or not is_file(file):
        return None
    for name in sorted(named):
        if is_file(file.with_name(name)):
            try:
                load_description(file.parent, file.stem)
            except InputError:  # a config.json of timm's or Hugging Face's
                return None
            return file.parent, file.stem
    return None


def _numbers(word: Word, name: str) -> tuple[float, ...]:
    text = word.options.get(name, "")
    parts = text if isinstance(text, list) else str(text).split(",") if text != "" else []
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError) as problem:
        raise InputError(
            f"{word.text}: {name}={one_line(str(text), 100)}: write one number per channel, such as 0.49,0.48,0.45"
        ) from problem


# --- a network in memory ----------------------------------------------------------------------------------------------


def _in_memory(module: nn.Module, layers: bool, like: Tensor | None) -> NetworkSource:
    name = _class_of(module)
    known = Known(name=name, origin=Origin(kind="in memory", source=name), architecture=name)

    def make(signature: Signature) -> Classifier:
        device = device_of(module, torch.empty(0))
        shape = (2, signature.channels, signature.height, signature.width)
        model = given_classifier(module, torch.full(shape, 0.5, device=device) if like is None else like)
        if model.signature != signature:
            raise InputError(f"{known.title}: it is for {model.signature}, the data are {signature}")
        if not layers or model is module:
            return model
        return Classifier(InFloat64(module) if in_float64(module) else module, signature).to(device)

    return NetworkSource(known=known, make=make)


def _class_of(module: nn.Module) -> str:
    return type(module.backbone if isinstance(module, Classifier) else module).__name__

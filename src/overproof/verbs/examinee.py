"""Who is examined: a run folder, a foreign network or an exported file; its data, its threat and its attacks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from overproof.attacks.ball import Norm, Radius, Threat
from overproof.data.images import Batch, ImageSet, Labelled, stratified_subset
from overproof.data.sources import Source
from overproof.errors import InputError, nearest
from overproof.evaluation.trial import ALONE, OWN_THREATS, SUITES, Suite, Trial
from overproof.formats.hub import repository_id
from overproof.formats.onnx import own_words
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.foreign import foreign, is_foreign, is_onnx
from overproof.models.onnx_file import OnnxFile
from overproof.reading import field, parsing, read_fraction
from overproof.recipe import build, data_source, read_suite
from overproof.run import Run, find_run
from overproof.verbs.networks import BY_POSITION, check_classes, digest_of
from overproof.wording import folder_name

_HARMLESS = "an eps of 0 allows no change, so nothing was attacked and the robust accuracy is the clean one"
_SHOWN = 256  # of them the reliability probes take up to 128 correct ones


@dataclass(frozen=True, kw_only=True, eq=False)
class Examinee:
    """A network before its examination; ``facts`` is what ``evaluation.json`` says of it.

    ``suite`` attacks it where neither the user nor a recipe says what does. ``file`` is the exported file that it is.
    """

    name: str
    folder: Path
    model: Classifier
    images: Labelled
    threat: Threat
    trials: tuple[Trial, ...] = ()
    examples: int = 0
    batch: int = 500
    suite: str = "quick"
    file: OnnxFile | None = None
    facts: Mapping[str, Any]

    def rows(self, examples: int | None, seed: int) -> Tensor:
        """Return the indices of a seeded subset of so many images, classes in proportion.

        0 means all, None as many as the recipe says.
        Raises ``InputError`` for a number below 0.
        """
        count = self.examples if examples is None else examples
        if count < 0:
            raise InputError(f"examples must be 0 (all) or more, got {count}")
        return stratified_subset(self.images, count or len(self.images), seed)

    def said_of(self, images: ImageSet) -> dict[str, Any]:
        """Return what a file of results says of the images that it is about."""
        return {
            "name": images.name,
            "split": "test",
            "examples": len(images),
            "of": len(self.images),
            "digest": images.digest,
            "notes": list(images.notes),
        }


def shown(images: ImageSet, seed: int) -> Batch:
    """Return what is shown of the images to checks that need not see all; files are often in the order of classes."""
    (batch,) = images.at(stratified_subset(images, _SHOWN, seed)).batches(_SHOWN)
    return batch


def examinee(word: Run | Path | str, data: Source | str | None, *, classes_by_position: bool = False) -> Examinee:
    """Return whom a word names, with test images of its recipe or of ``data``.

    Raises ``InputError``, also where the images' classes have other names or another order than the network's, unless
    ``classes_by_position`` says that their places are what counts.
    """
    if not isinstance(word, Run) and is_foreign(str(word)):
        return _foreigner(str(word), data, classes_by_position)
    run = word if isinstance(word, Run) else find_run(word)
    home = results_folder(word, None)
    if (imported := run.imported()) is not None:
        return _newcomer(run, home, imported, data, classes_by_position)
    recipe = run.recipe()
    model, description = run.model()
    return Examinee(
        name=str(home),
        folder=home,
        model=model,
        images=_images(run, model, _source(data, recipe.data), classes_by_position),
        threat=recipe.threat,
        trials=recipe.evaluation.attacks,
        examples=recipe.evaluation.examples,
        batch=recipe.evaluation.batch,
        facts={
            "run": recipe.name,
            "method": recipe.method.kind,
            "architecture": recipe.student.label,
            "recipe_seed": recipe.seed,
            "model_digest": description["digest"],
            "selected_on": field(description, "selected_on", str, where=run.folder),
            "parameters": parameter_count(model),
        },
    )


def _newcomer(
    run: Run, home: Path, imported: Mapping[str, Any], data: Source | str | None, by_position: bool
) -> Examinee:
    """Return an imported network: it has no recipe, and the images it is for may be known or not."""
    model, description = run.model()
    known = imported.get("data")
    if data is None and known is None:
        raise InputError(f"{run.folder}: say on which images, with --data uoft-cs/cifar10, --data digits or a path")
    before = None if known is None else build(Source, known, where=f"{run.folder}: data")
    source = _source(data, before)
    return Examinee(
        name=str(home),
        folder=home,
        model=model,
        images=_images(run, model, source, by_position),
        threat=Threat(),
        facts={
            "run": field(description, "name", str, where=run.folder),
            "method": "imported",
            "architecture": description["architecture"]["kind"],
            "recipe_seed": None,
            "model_digest": description["digest"],
            "selected_on": field(description, "selected_on", str, where=run.folder),
            "parameters": parameter_count(model),
        },
    )


def _images(run: Run, model: Classifier, source: Source, by_position: bool) -> Labelled:
    images = source.open("test")
    if images.signature != model.signature:
        raise InputError(f"{run.folder}: the network is for {model.signature}, the test images are {images.signature}")
    if not by_position:
        check_classes(run.description()["classes"], images.classes, where=str(run.folder), advice=BY_POSITION)
    return images


def results_folder(word: Run | Path | str, out: Path | str | None) -> Path:
    """Return where the results of an examination go: ``out``, the run's own folder, or ``evaluations/NAME``.

    What has no folder of the user's goes to the latter: a foreign network, and a repository in the Hub's cache.
    """
    if out is not None:
        return Path(out)
    if isinstance(word, Run):
        return word.folder
    if isinstance(word, str) and (is_foreign(word) or repository_id(word)):
        return Path("evaluations") / folder_name(word)
    return Path(word)


def _foreigner(word: str, data: Source | str | None, by_position: bool) -> Examinee:
    said = own_words(OnnxFile.read(Path(word)).metadata) if is_onnx(word) else {}
    if data is None and "data" not in said:
        raise InputError(f"{word}: say on which images, with --data digits, --data ylecun/mnist or a path")
    with parsing(word, "metadata of data and threat"):
        source = _source(data, build(Source, json.loads(said["data"]), where=word) if "data" in said else None)
        try:
            threat = Threat(norm=said["norm"], eps=Radius(said["eps"])) if said else Threat()  # type: ignore[arg-type]
        except InputError as problem:
            raise InputError(f"{word}: not readable as metadata of data and threat ({problem})") from problem
        parameters = int(said["parameters"]) if said else None
    images = source.open("test")
    model = foreign(word, images.signature)
    if "classes" in said and not by_position:
        with parsing(word, "metadata of its classes"):
            names = tuple(map(str, json.loads(said["classes"])))
        check_classes(names, images.classes, where=word, advice=BY_POSITION)
    file = model.backbone if isinstance(model.backbone, OnnxFile) else None
    return Examinee(
        name=word,
        folder=results_folder(word, None),
        model=model,
        images=images,
        threat=threat,
        suite="quick" if file is None else "shipped",
        file=file,
        facts={
            "run": word,
            "method": said.get("method", "foreign"),
            "architecture": said.get("architecture", type(model.backbone).__name__),
            "recipe_seed": None,
            "model_digest": digest_of(model) if file is None else file.digest,
            "selected_on": said.get("selected_on", "unknown"),
            "parameters": parameter_count(model) if parameters is None else parameters,
        },
    )


def chosen_suite(
    subject: Examinee, words: tuple[str, ...], norm: Norm | None, eps: str | float | None
) -> tuple[Threat | None, Suite]:
    """Return the threat model and the suite that words mean for a network; raise ``InputError``.

    One word may be a suite's name or a YAML file of one; otherwise they are names of the recipe's attacks, or of
    attacks of the suites. No words: the recipe's attacks, or the subject's suite where there is no recipe. With an eps
    of 0 there is nothing to fear: no threat, and the suite without its attacks.
    """
    default = subject.threat
    if len(words) == 1 and words[0] in OWN_THREATS and norm is None and eps is None:
        default = OWN_THREATS[words[0]]
    harmless = eps is not None and _is_zero(eps)
    try:
        threat = Threat(norm=norm or default.norm, eps=default.eps if eps is None or harmless else Radius(eps))
        suite = _suite(words, subject.trials, threat, subject.suite)
    except ValueError as problem:  # of a radius that cannot be meant, or an attack that is not defined for the norm
        raise InputError(str(problem)) from problem
    if harmless:
        return None, replace(suite, attacks=(), caution=_HARMLESS)
    return threat, suite


def _suite(words: tuple[str, ...], trials: tuple[Trial, ...], threat: Threat, default: str) -> Suite:
    if not words:
        return Suite(name="recipe", attacks=trials).under(threat) if trials else SUITES[default](threat)
    if len(words) == 1 and words[0] in SUITES:
        return SUITES[words[0]](threat)
    if len(words) == 1 and words[0].endswith((".yaml", ".yml")):
        return read_suite(Path(words[0]), threat)
    known = {trial.name: trial for suite in SUITES.values() for trial in suite(threat).attacks}
    known |= {trial.name: trial for trial in (*ALONE, *trials)}
    for word in words:
        if word in SUITES or word.endswith((".yaml", ".yml")):
            own = ", ".join(trial.name for trial in SUITES[word](threat).attacks) if word in SUITES else "in the file"
            raise InputError(f"{word!r} is a suite and is named alone; beside others, name its attacks ({own})")
        if word not in known:
            raise InputError(f"there is no attack or suite {word!r}{nearest(word, [*SUITES, *known])}")
    return Suite(name="chosen", attacks=tuple(known[word] for word in words)).under(threat)


def _is_zero(eps: str | float) -> bool:
    try:
        return read_fraction(str(eps).replace(" ", "")) == 0
    except (ValueError, ZeroDivisionError):  # Radius says what is wrong with it
        return False


def _source(data: Source | str | None, before: Source | None) -> Source:
    """Return what is said to be examined on, in the form of the images known ``before``, or those themselves."""
    if isinstance(data, str):
        return data_source(data, before)
    found = data or before
    assert found is not None  # whoever asks has made sure that one of them is there
    return found

"""Who is examined: a run folder or a foreign network, with its data, its threat model and its attacks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from overproof.attacks.ball import Norm, Radius, Threat
from overproof.data.images import Batch, ImageSet, balanced_subset
from overproof.data.sources import Source
from overproof.errors import InputError, nearest
from overproof.evaluation.trial import ALONE, OWN_THREATS, SUITES, Suite, Trial
from overproof.models.classifier import Classifier
from overproof.models.foreign import foreign, is_foreign
from overproof.recipe import build, data_source
from overproof.run import Run
from overproof.signature import Signature

_HARMLESS = "an eps of 0 allows no change, so nothing was attacked and the robust accuracy is the clean one"
_SHOWN = 256  # of them the reliability probes take up to 128 correct ones


@dataclass(frozen=True, kw_only=True, eq=False)
class Examinee:
    """A network before its examination; ``facts`` is what ``evaluation.json`` says of it."""

    name: str
    folder: Path
    model: Classifier
    images: ImageSet
    threat: Threat
    trials: tuple[Trial, ...] = ()
    examples: int = 0
    batch: int = 500
    facts: Mapping[str, Any]

    def rows(self, examples: int | None, seed: int) -> Tensor:
        """Return the indices of a seeded, class-balanced subset of so many images; 0: all, None: as the recipe says.

        Raises ``InputError`` for a number below 0.
        """
        count = self.examples if examples is None else examples
        if count < 0:
            raise InputError(f"examples must be 0 (all) or more, got {count}")
        return balanced_subset(self.images, count or len(self.images), seed)


def shown(images: ImageSet, seed: int) -> Batch:
    """Return what is shown of the images to checks that need not see all; files are often in the order of classes."""
    (batch,) = images.at(balanced_subset(images, _SHOWN, seed)).batches(_SHOWN)
    return batch


def examinee(word: Run | Path | str, data: Source | str | None) -> Examinee:
    """Return whom a word names, with test images of its recipe or of ``data``; raise ``InputError``."""
    if isinstance(word, str) and is_foreign(word):
        return _foreigner(word, data)
    run = word if isinstance(word, Run) else Run(Path(word))
    recipe = run.recipe()
    model, description = run.model()
    images = (recipe.data if data is None else _source(data)).load("test")
    if images.signature != model.signature:
        raise InputError(f"{run.folder}: the network is for {model.signature}, the test images are {images.signature}")
    return Examinee(
        name=str(run.folder),
        folder=run.folder,
        model=model,
        images=images,
        threat=recipe.threat,
        trials=recipe.evaluation.attacks,
        examples=recipe.evaluation.examples,
        batch=recipe.evaluation.batch,
        facts={
            "run": recipe.name,
            "method": recipe.method.kind,
            "architecture": recipe.student.kind,
            "recipe_seed": recipe.seed,
            "model_digest": description["digest"],
            "selected_on": description["selected_on"],
        },
    )


def results_folder(word: Path | str, out: Path | str | None) -> Path:
    """Return where the results of an examination go: ``out``, the run's own folder, or ``evaluations/NAME``."""
    if out is not None or not (isinstance(word, str) and is_foreign(word)):
        return Path(word if out is None else out)
    return Path("evaluations") / "".join(letter if letter.isalnum() else "-" for letter in word)


def _foreigner(word: str, data: Source | str | None) -> Examinee:
    if data is None:
        raise InputError(f"{word}: say on which images, with --data digits, --data ylecun/mnist or a path")
    images = _source(data).load("test")
    model = foreign(word, images.signature)
    return Examinee(
        name=word,
        folder=results_folder(word, None),
        model=model,
        images=images,
        threat=Threat(),
        facts={
            "run": word,
            "method": "foreign",
            "architecture": type(model.backbone).__name__,
            "recipe_seed": None,
            "model_digest": digest_of(model),
            "selected_on": "unknown",
        },
    )


def network(word: Path | str, signature: Signature) -> Classifier:
    """Return the network of a run folder or a foreign word, in eval mode; raise ``InputError`` if it does not fit."""
    if isinstance(word, str) and is_foreign(word):
        return foreign(word, signature)
    model, _ = Run(Path(word)).model()
    if model.signature != signature:
        raise InputError(f"{word}: this teacher is for {model.signature}, the test images are {signature}")
    return model


def digest_of(model: Classifier) -> str:
    """Return the SHA-256 of a network's weights and buffers."""
    return sha256(
        save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()})
    ).hexdigest()


def chosen_suite(
    subject: Examinee, words: tuple[str, ...], norm: Norm | None, eps: str | float | None
) -> tuple[Threat | None, Suite]:
    """Return the threat model and the suite that words mean for a network; raise ``InputError``.

    One word may be a suite's name or a YAML file of one; otherwise they are names of the recipe's attacks, or of
    attacks of the suites. No words: the recipe's attacks, or ``quick`` where there is no recipe. With an eps of 0
    there is nothing to fear: no threat, and the suite without its attacks.
    """
    default = subject.threat
    if len(words) == 1 and words[0] in OWN_THREATS and norm is None and eps is None:
        default = OWN_THREATS[words[0]]
    harmless = eps is not None and _is_zero(eps)
    try:
        threat = Threat(norm=norm or default.norm, eps=default.eps if eps is None or harmless else Radius(eps))
        suite = _suite(words, subject.trials, threat)
    except ValueError as problem:  # of a radius that cannot be meant, or an attack that is not defined for the norm
        raise InputError(str(problem)) from problem
    if harmless:
        return None, replace(suite, attacks=(), caution=_HARMLESS)
    return threat, suite


def _suite(words: tuple[str, ...], trials: tuple[Trial, ...], threat: Threat) -> Suite:
    if not words:
        return Suite(name="recipe", attacks=trials).under(threat) if trials else SUITES["quick"](threat)
    if len(words) == 1 and words[0] in SUITES:
        return SUITES[words[0]](threat)
    if len(words) == 1 and words[0].endswith((".yaml", ".yml")):
        return _read_suite(Path(words[0]), threat)
    known = {trial.name: trial for suite in SUITES.values() for trial in suite(threat).attacks}
    known |= {trial.name: trial for trial in (*ALONE, *trials)}
    for word in words:
        if word not in known:
            raise InputError(f"there is no attack or suite {word!r}{nearest(word, [*SUITES, *known])}")
    return Suite(name="chosen", attacks=tuple(known[word] for word in words)).under(threat)


def _is_zero(eps: str | float) -> bool:
    try:
        return Fraction(str(eps).replace(" ", "")) == 0
    except (ValueError, ZeroDivisionError):  # Radius says what is wrong with it
        return False


def _read_suite(file: Path, threat: Threat) -> Suite:
    try:
        text = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        reason = getattr(problem, "strerror", None) or " ".join(str(problem).split())
        raise InputError(f"{file}: cannot read this suite ({reason})") from problem
    suite = build(Suite, text, where=str(file), threat=threat)
    assert isinstance(suite, Suite)
    if not suite.attacks:
        raise InputError(f"{file}: a suite needs at least one attack")
    return suite.under(threat)


def _source(data: Source | str) -> Source:
    return data if isinstance(data, Source) else data_source(data)

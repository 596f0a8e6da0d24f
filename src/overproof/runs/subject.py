"""Who is examined: a run folder, a foreign network or an exported file; its data, its threat and its attacks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overproof.attacks.ball import Norm, Radius, Threat
from overproof.attacks.radius import is_zero
from overproof.attacks.suites import ALONE, OWN_THREATS, SUITES, AttackSpec, Suite
from overproof.data.images import Batch, ImageSet, Labelled, stratified_subset
from overproof.errors import InputError, nearest
from overproof.evaluation.in_memory import check_given, given_classifier, given_images
from overproof.formats.onnx import own_words
from overproof.models.classifier import Classifier
from overproof.models.external.onnx_file import OnnxFile
from overproof.recipe import read_suite
from overproof.runs.loaded import BY_POSITION
from overproof.runs.resolve import NetworkSource, find_network
from overproof.runs.sources import AnySource, Images

_HARMLESS = "an eps of 0 allows no change, so nothing was attacked and the robust accuracy is the clean one"
_SHOWN = 256  # of them the reliability probes take up to 128 correct ones


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationTask:
    """A network before its examination; ``facts`` is what ``evaluation.json`` says of it.

    ``suite`` attacks it where neither the user nor a recipe says what does. ``file`` is the ONNX file that it is.
    """

    name: str
    folder: Path
    model: Classifier
    images: Labelled
    threat: Threat
    trials: tuple[AttackSpec, ...] = ()
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

    def wanted(self, count: int) -> int:
        """Return how a command asks for so many images: 0 are all of them."""
        return 0 if count == len(self.images) else count

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


def draw_batch(images: ImageSet, seed: int) -> Batch:
    """Return what is shown of the images to checks that need not see all; files are often in the order of classes."""
    (batch,) = images.at(stratified_subset(images, _SHOWN, seed)).batches(_SHOWN)
    return batch


def evaluation_task(
    source: AnySource,
    data: Images | None,
    *,
    classes_by_position: bool = False,
    layers: bool = False,
    trust_code: bool = False,
) -> EvaluationTask:
    """Return whom a source names, with test images of its recipe or of ``data``.

    ``layers`` says that the layers of a module in memory must be found in it, as bounds need it. Raises ``InputError``,
    also where the images' classes have other names or another order than the network's, unless ``classes_by_position``
    says that their places are what counts.
    """
    tensors = data if isinstance(data, tuple | list) else None
    like = tensors[0] if tensors and isinstance(tensors[0], Tensor) else None
    network = find_network(source, trust_code=trust_code, layers=layers, like=like)
    images = (
        tensor_images(source, data, network) if isinstance(data, tuple | list) else network.source(data).open("test")
    )
    loaded = network.load(images.signature)
    if not classes_by_position:
        loaded.check_classes(images.classes, advice=BY_POSITION)
    known = loaded.known
    # What we exported is judged beside the run that it came from: by transfer from it, and by queries.
    exported = loaded.file is not None and bool(own_words(loaded.file.metadata))
    examined = EvaluationTask(
        name=known.title,
        folder=known.origin.folder("evaluations"),
        model=loaded.model,
        images=images,
        threat=known.threat or Threat(),
        suite="shipped" if loaded.file and (exported or not loaded.has_layers) else "quick",
        file=loaded.file,
        facts=known.facts(),
    )
    if known.recipe is None:
        return examined
    wanted = known.recipe.evaluation
    return replace(examined, trials=wanted.attacks, examples=wanted.examples, batch=wanted.batch)


def tensor_images(source: AnySource, data: Any, network: NetworkSource) -> ImageSet:
    """Return images ``[N, C, H, W]`` and their labels (None: all 0) as a set for a network in memory.

    The network says how many classes there are. Raises ``InputError``.
    """
    name = network.known.title
    if not isinstance(source, nn.Module):
        raise InputError(f"{name}: images as tensors are for a network in memory; name a source of images instead")
    if len(data) != 2:
        raise InputError(f"{name}: data is (x, y), images and their labels, got {len(data)} values")
    x, y = data
    if y is None and isinstance(x, Tensor):
        y = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    check_given(x, y)
    return given_images(x, y, given_classifier(source, x).signature.classes, x.device, name="tensors")


def choose_suite(
    subject: EvaluationTask,
    words: tuple[str, ...],
    norm: Norm | None,
    eps: str | float | None,
    *,
    trust_code: bool = False,
) -> tuple[Threat | None, Suite]:
    """Return the threat model and the suite that words mean for a network; raise ``InputError``.

    One word may be a suite's name or a YAML file of one; otherwise they are names of the recipe's attacks, or of
    attacks of the suites. No words: the recipe's attacks, or the subject's suite where there is no recipe. With an eps
    of 0 there is nothing to fear: no threat, and the suite without its attacks. ``trust_code`` runs code that a file of
    a suite names, wherever it lies.
    """
    default = subject.threat
    if len(words) == 1 and words[0] in OWN_THREATS and norm is None and eps is None:
        default = OWN_THREATS[words[0]]
    harmless = eps is not None and is_zero(eps)
    try:
        threat = Threat(norm=norm or default.norm, eps=default.eps if eps is None or harmless else Radius(eps))
        suite = _suite(words, subject.trials, threat, subject.suite, trust_code)
    except ValueError as problem:  # of a radius that cannot be meant, or an attack that is not defined for the norm
        raise InputError(str(problem)) from problem
    if harmless:
        return None, replace(suite, attacks=(), caution=_HARMLESS)
    return threat, suite


def _suite(
    words: tuple[str, ...], trials: tuple[AttackSpec, ...], threat: Threat, default: str, trust_code: bool
) -> Suite:
    if not words:
        return Suite(name="recipe", attacks=trials).under(threat) if trials else SUITES[default](threat)
    if len(words) == 1 and words[0] in SUITES:
        return SUITES[words[0]](threat)
    if len(words) == 1 and words[0].endswith((".yaml", ".yml")):
        return read_suite(Path(words[0]), threat, trust_code=trust_code)
    known = {trial.name: trial for suite in SUITES.values() for trial in suite(threat).attacks}
    known |= {trial.name: trial for trial in (*ALONE, *trials)}
    for word in words:
        if word in SUITES or word.endswith((".yaml", ".yml")):
            own = ", ".join(trial.name for trial in SUITES[word](threat).attacks) if word in SUITES else "in the file"
            raise InputError(f"{word!r} is a suite and is named alone; beside others, name its attacks ({own})")
        if word not in known:
            raise InputError(f"there is no attack or suite {word!r}{nearest(word, [*SUITES, *known])}")
    return Suite(name="chosen", attacks=tuple(known[word] for word in words)).under(threat)

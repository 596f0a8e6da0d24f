"""The recipe: one frozen tree of every package's options, and its YAML text.

The packages own plain frozen dataclasses; ``building`` makes values of text.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields, replace
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import ClassVar, Literal

import yaml

from overproof.attacks.ball import Threat
from overproof.attacks.pgd import PGD
from overproof.attacks.suites import AttackSpec, Suite
from overproof.bases import KEY as BASE
from overproof.bases import parse_whole, read_whole
from overproof.building import SOURCES as SOURCES
from overproof.building import alternatives as alternatives
from overproof.building import build_value as build_value
from overproof.building import data_source as data_source
from overproof.building import hints as hints
from overproof.building import leaves as leaves
from overproof.building import plain as plain
from overproof.data.augment import Augment
from overproof.data.sources import Source
from overproof.data.streaming import Loading
from overproof.errors import InputError
from overproof.methods.method import Method
from overproof.models.architectures.architecture import Architecture
from overproof.models.external.module import external_of
from overproof.plain_yaml import LARGEST, Plain, parse_yaml, read_yaml
from overproof.reading import read_text
from overproof.training.optimisation import Training
from overproof.training.performance import Performance
from overproof.trust import Code
from overproof.unloaded import UnloadedMethod
from overproof.wording import check_path_name

_DEEPEST_EDIT = 20  # keys above the edited one
_LATER: Mapping[str, Plain] = {
    "init": "",
    "normalise.of": "numbers",
    "data.config": "",
    "data.on_error": "refuse",
    "data.extra": None,
    "augment.scale": [1.0, 1.0],
    "augment.ratio": [3 / 4, 4 / 3],
    **{f"augment.{name}": 0.0 for name in ("brightness", "contrast", "saturation", "hue", "mixup", "cutmix")},
    "augment.trivial": False,
    "augment.crop_shift": 0,
    "augment.colour_shape": False,
    "augment.erasing": 0.0,
    "augment.auto_augment": False,
    "augment.rand_augment": 0,
    "augment.rand_magnitude": 9,
    "training.freeze": [],
    "training.learning_rates": {},
    "training.balance": 0.0,
}
_BY_KL: Mapping[str, Plain] = {"divergence": {"kind": "kl"}}
_SHARP: Mapping[str, Plain] = {"label_smoothing": 0.0}
_LATER_OF_KIND: Mapping[str, Mapping[str, Plain]] = {
    **dict.fromkeys(("b_mtard", "mtard", "rslad", "saad"), _BY_KL),
    **dict.fromkeys(("fast_at", "free_at", "mart", "rrm", "trades"), _SHARP),
    **{kind: {**_BY_KL, **_SHARP} for kind in ("adaiad", "ard", "fast_ard", "iad", "kd", "peeraid")},
    "adaad": {**_BY_KL, "search_target": "attacked"},
    "igdm": {"attacked_forward": "shared"},
    "ema": {"warmup": 0.0, "batchnorm": "measured"},
    "swa": {"batchnorm": "measured"},
    "preact": {"activation": "relu"},
    "resnet": {"stem_stride": 1},
}


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """Mean and standard deviation per channel, in [0, 1] pixel units; a layer inside the student. Empty: none.

    ``of``, or the bare word in the place of all, says whose they are: ``data`` are those of the training images,
    ``init`` those that the weights to begin with were trained with.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    of: Literal["numbers", "data", "init"] = "numbers"

    bare: ClassVar[str] = "of"

    def __post_init__(self) -> None:
        if self.of != "numbers" and (self.mean or self.std):
            raise ValueError(f"mean and std are those of {self.of}; give numbers or {self.of}, not both")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How the best epoch is chosen: robust accuracy on a held-out ``fraction`` of the training part.

    ``every`` so many epochs (and at the last) the network is attacked by ``trial``, on at most ``examples`` images.
    """

    fraction: float = 0.1
    examples: int = 1000
    every: int = 1
    trial: AttackSpec = field(default_factory=lambda: AttackSpec(name="pgd-10", attack=PGD(steps=10)))

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(
                f"fraction is the held-out share of the training part, between 0 and 1, got {self.fraction}"
            )
        if self.examples < 1 or self.every < 1:
            raise ValueError(f"examples and every must be at least 1, got {self.examples} and {self.every}")


def _default_trials() -> tuple[AttackSpec, ...]:
    return (
        AttackSpec(name="fgsm", attack=PGD(steps=1, start="none")),
        AttackSpec(name="pgd-20", attack=PGD(steps=20, restarts=3)),
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What the test split is attacked with: trials, on ``examples`` images, classes in proportion (0: all)."""

    attacks: tuple[AttackSpec, ...] = field(default_factory=_default_trials)
    examples: int = 0
    batch: int = 500

    def __post_init__(self) -> None:
        names = [trial.name for trial in self.attacks]
        if not names:
            raise ValueError("evaluation needs at least one attack")
        if len(set(names)) < len(names):
            raise ValueError(f"attacks need different names, got {', '.join(names)}")
        if self.examples < 0 or self.batch < 1:
            raise ValueError(
                f"examples must be 0 (all) or more and batch at least 1, got {self.examples} and {self.batch}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run depends on. ``name`` is that of its folder too, below ``runs``.

    ``teachers`` maps a role of the method to a run folder, a Hub repository (``org/name``), ``timm:NAME`` or
    ``robustbench:NAME``, each with ``#sha256=...`` behind it or not. Attacks inherit of ``threat`` what they leave out.
    ``init`` names weights that the student begins with (see ``runs.initial``): ``pretrained``, ``teacher:ROLE``, a
    run, a checkpoint file, ``timm:NAME``, ``torchvision:NAME`` or ``package.module:factory``.
    ``trackers`` are told what every epoch found; they change nothing in a run.
    """

    name: str
    seed: int = 0
    data: Source
    loading: Loading = field(default_factory=Loading)
    augment: Augment = field(default_factory=Augment)
    normalise: Normalise = field(default_factory=Normalise)
    threat: Threat = field(default_factory=Threat)
    student: Architecture
    init: str = ""
    teachers: dict[str, str] = field(default_factory=dict)
    method: Method
    training: Training = field(default_factory=Training)
    performance: Performance = field(default_factory=Performance)
    selection: Selection = field(default_factory=Selection)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()

    def __post_init__(self) -> None:
        check_path_name(self.name)
        # What a method that is not imported listens to was checked when the run began.
        given = set(self.teachers)
        roles = given if isinstance(self.method, UnloadedMethod) else set(self.method.roles)
        if missing := sorted(roles - given):
            raise ValueError(
                f"method {self.method.kind!r} needs a teacher in the role {missing[0]!r}; add it to teachers"
            )
        if extra := sorted(given - roles):
            wants = f"only {', '.join(sorted(roles))}" if roles else "no teacher"
            raise ValueError(f"method {self.method.kind!r} has {wants}, but teachers names {extra[0]!r}")
        if self.normalise.of == "init" and not self.init:
            raise ValueError("normalise: init means the weights to begin with, but there is no init")
        if self.training.teacher_cache and self.augment.mixes:
            raise ValueError(
                "training.teacher_cache keeps answers to whole images, and mixup and cutmix show mixed ones; "
                "set augment.mixup and augment.cutmix to 0, or training.teacher_cache to false"
            )
        if self.training.teacher_cache and not self.augment.draws:
            raise ValueError(
                "training.teacher_cache keeps one answer per image and draw, and this augmentation draws without end; "
                "set augment.bank to a number of draws, or training.teacher_cache to false"
            )

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's text; a key that a later version brought counts where it is not at its default."""
        return sha256(identity(self).encode()).hexdigest()


def read(path: Path | str, sets: Sequence[str] = (), *, trust_code: bool = False) -> Recipe:
    """Read a recipe file, apply ``path=value`` edits to its text and validate it; raise ``InputError``.

    It may be the difference from its ``base`` (see ``bases``). The file may be a stranger's: code that it or its base
    names must lie beside it or in the current folder, unless the caller says ``trust_code`` (see ``trust``). The edits
    are the caller's own.
    """
    file = Path(path)
    whole = read_whole(file)
    return of_tree(whole.tree, sets, where=whole.where, folder=file.parent, trust_code=trust_code)


def read_values(path: Path, code: Code) -> Recipe:
    """Read the recipe of a run for its values; raise ``InputError`` for what is no recipe.

    A method and an augmentation of other packages are not imported: nothing is trained. Data and attacks are where
    ``code`` allows it; what is not can be shown and not used.
    """
    return _built(read_yaml(path), str(path), replace(code, where=str(path), load=False))


def parse(text: str, sets: Sequence[str] = (), *, where: str = "recipe") -> Recipe:
    """Validate a recipe's YAML text, the caller's own, after ``path=value`` edits; raise ``InputError``."""
    whole = parse_whole(text, where)
    return of_tree(whole.tree, sets, where=whole.where)


def of_tree(
    tree: Plain,
    sets: Sequence[str] = (),
    *,
    edits: Sequence[str] = (),
    where: str = "recipe",
    folder: Path | tuple[Path, ...] | None = None,
    trust_code: bool = False,
) -> Recipe:
    """Validate a recipe's plain values, after the edits ``sets`` of the user and then ``edits`` of a file.

    ``folder`` is that of the file, or of several, where code that they name may lie; None says that the values are the
    caller's own. The tree stays as it is. Raises ``InputError``.
    """
    tree = deepcopy(_mapping(tree, where))
    for edit in (*sets, *edits):
        _apply(tree, edit)
    done = [(edit.partition("=")[0], typed) for given, typed in ((sets, True), (edits, False)) for edit in given]
    folders = folder if isinstance(folder, tuple) else () if folder is None else (folder,)
    code = Code(where=where, folders=folders, own=folder is None, trust_code=trust_code, edits=tuple(done))
    recipe = _built(tree, where, code)
    for role, word in sorted(recipe.teachers.items()):
        code.check(word, f"{where}.teachers.{role}")
    if recipe.init and not recipe.init.startswith("teacher:"):
        code.check(recipe.init, f"{where}.init")
    if (external := external_of(recipe.student)) is not None:
        code.check(external.factory, f"{where}.student", f"{where}.student.kind", f"{where}.student.factory")
    return recipe


def _built(tree: Plain, where: str, code: Code | None) -> Recipe:
    if BASE in _mapping(tree, where):
        raise InputError(
            f"{where}: base: only the file of a recipe names one, not --set, an axis of a sweep or the recipe of a run"
        )
    recipe = build_value(Recipe, _mapping(tree, where), where=where, code=code)
    assert isinstance(recipe, Recipe)
    return recipe


def _mapping(tree: Plain, where: str) -> dict[str, Plain]:
    if not isinstance(tree, dict):
        raise InputError(f"{where}: a recipe is a mapping with the keys {', '.join(f.name for f in fields(Recipe))}")
    return tree


def read_suite(file: Path, threat: Threat, *, trust_code: bool = False) -> Suite:
    """Read a suite of attacks from a YAML file, in a threat model; raise ``InputError``.

    Code that it names must lie beside it or in the current folder, unless the caller says ``trust_code``.
    """
    code = Code(where=str(file), folders=(file.parent,), trust_code=trust_code)
    suite = build_value(Suite, read_yaml(file), where=str(file), threat=threat, code=code)
    assert isinstance(suite, Suite)
    if not suite.attacks:
        raise InputError(f"{file}: a suite needs at least one attack")
    return suite.under(threat)


def whole_text(file: Path) -> str:
    """Return a recipe file's text; of one with a base the text of both together, after its own first comments.

    Nothing is validated but that both can be read. Raises ``InputError``.
    """
    text = read_text(file, limit=LARGEST)
    own, tree = parse_yaml(text, where=str(file)), read_whole(file).tree
    if not isinstance(own, dict) or BASE not in own:
        return text
    comments = takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True))
    order = [part.name for part in fields(Recipe)]
    return "".join(comments) + _write(
        {**{key: tree[key] for key in order if key in tree}, **{key: tree[key] for key in tree if key not in order}}
    )


def dump(recipe: Recipe) -> str:
    """Return the whole recipe as YAML, defaults included; ``parse`` reads it back to an equal value."""
    return _write(plain(recipe))


def identity(recipe: Recipe) -> str:
    """Return the recipe as YAML without the keys that came later (0.10) and are at their defaults.

    So the runs and results of an earlier version stay those of the same recipe.
    """
    tree = plain(recipe)
    _drop_paths(tree)
    _drop_later(tree)
    return _write(tree)


def source_values(source: Source) -> dict[str, Plain]:
    """Return a source of images as plain values, without the keys that came later and are at their defaults."""
    tree: dict[str, Plain] = {"data": plain(source)}
    _drop_paths(tree)
    values: dict[str, Plain] = tree["data"]
    return values


def _drop_paths(tree: dict[str, Plain]) -> None:
    """Remove, in place, the keys of ``_LATER`` that are at their defaults."""
    for path, default in _LATER.items():
        *above, last = path.split(".")
        node: Plain = tree
        for part in above:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node and node[last] == default:
            del node[last]


def _drop_later(tree: Plain) -> None:
    """Remove, in place and at any depth, the keys that a kind got later and that are at their defaults."""
    if isinstance(tree, list):
        for part in tree:
            _drop_later(part)
    elif isinstance(tree, dict):
        for name, default in _LATER_OF_KIND.get(str(tree.get("kind")), {}).items():
            if name in tree and tree[name] == default:
                del tree[name]
        for part in tree.values():
            _drop_later(part)


def _write(tree: Plain) -> str:
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    return text


def differences(before: Recipe | Plain, after: Recipe) -> list[str]:
    """Return ``path: old -> new`` for every leaf that differs; ``before`` may be the plain values of a recipe."""
    old, new = dict(leaves(plain(before))), dict(leaves(plain(after)))
    return [
        f"{path}: {old.get(path, 'absent')} -> {new.get(path, 'absent')}"
        for path in dict.fromkeys([*old, *new])
        if old.get(path, MISSING) != new.get(path, MISSING)
    ]


def _apply(tree: dict[str, Plain], edit: str) -> None:
    """Apply one ``a.b.c=value`` to the text tree in place; the value is YAML."""
    path, sign, value = edit.partition("=")
    *parents, last = path.split(".")
    if not sign or not last or len(parents) > _DEEPEST_EDIT:
        raise InputError(f"--set {edit}: write path=value, for example training.epochs=10")
    node = tree
    for part in parents:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise InputError(f"--set {edit}: {part!r} is a value and has no keys of its own")
    node[last] = parse_yaml(value, where=f"--set {edit}")

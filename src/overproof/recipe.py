"""The recipe: one frozen tree of every room's options, and its YAML text.

The rooms own plain frozen dataclasses. Text becomes values here and nowhere else: keys are checked against the fields,
``kind`` chooses among alternatives, pydantic reads the leaves, and the dataclass itself has the last word.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from overproof.attacks.ball import Radius, Threat
from overproof.attacks.pgd import PGD
from overproof.attacks.radius import ReadField
from overproof.data.augment import Augment
from overproof.data.sources import Digits, Folder, Hub, Npz, Parquet, Source
from overproof.data.streaming import Loading
from overproof.data.words import described
from overproof.errors import InputError, nearest
from overproof.evaluation.trial import Search, Trial
from overproof.methods.catalogue import methods
from overproof.methods.method import Method
from overproof.models.architecture import Architecture
from overproof.models.catalogue import FAMILIES, named
from overproof.models.external import External, external_of
from overproof.plain_yaml import Plain, parse_yaml, read_yaml
from overproof.training.optimisation import Training
from overproof.training.performance import Performance
from overproof.trust import check_named_code
from overproof.wording import check_path_name, one_line

_SEARCHES = get_args(Search)
_DEEPEST_EDIT = 20  # keys above the edited one
_YAML = re.compile(r"\s*(\{|kind\s*:\s)")
_LATER: Mapping[str, Plain] = {
    "init": "",
    "normalise.of": "numbers",
    "data.config": "",
    "data.on_error": "refuse",
    "augment.scale": [1.0, 1.0],
    "augment.ratio": [3 / 4, 4 / 3],
    **{f"augment.{name}": 0.0 for name in ("brightness", "contrast", "saturation", "hue", "mixup", "cutmix")},
    "augment.trivial": False,
    "training.freeze": [],
    "training.learning_rates": {},
    "training.balance": 0.0,
}
SOURCES: dict[str, type[Source]] = {source.kind: source for source in (Digits, Hub, Parquet, Folder, Npz)}


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """Mean and standard deviation per channel, in [0, 1] pixel units; a layer inside the student. Empty: none.

    ``of``, or the bare word in the place of all, says whose they are: ``data`` are those of the training images,
    ``init`` those that the weights to begin with were trained with.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    of: Literal["numbers", "data", "init"] = "numbers"

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
    trial: Trial = field(default_factory=lambda: Trial(name="pgd-10", attack=PGD(steps=10)))

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(
                f"fraction is the held-out share of the training part, between 0 and 1, got {self.fraction}"
            )
        if self.examples < 1 or self.every < 1:
            raise ValueError(f"examples and every must be at least 1, got {self.examples} and {self.every}")


def _default_trials() -> tuple[Trial, ...]:
    return (
        Trial(name="fgsm", attack=PGD(steps=1, start="none")),
        Trial(name="pgd-20", attack=PGD(steps=20, restarts=3)),
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the test split is attacked with: trials, on ``examples`` images, classes in proportion (0: all)."""

    attacks: tuple[Trial, ...] = field(default_factory=_default_trials)
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
    ``init`` names weights that the student begins with (see ``verbs.initial``): ``pretrained``, ``teacher:ROLE``, a
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
    evaluation: Evaluation = field(default_factory=Evaluation)
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()

    def __post_init__(self) -> None:
        check_path_name(self.name)
        roles, given = set(self.method.roles), set(self.teachers)
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

    The file may be a stranger's: code that it names must lie beside it or in the current folder, unless the caller says
    ``trust_code`` (see ``trust``). The edits are the caller's own.
    """
    file = Path(path)
    return of_tree(read_yaml(file), sets, where=str(file), folder=file.parent, trust_code=trust_code)


def parse(text: str, sets: Sequence[str] = (), *, where: str = "recipe") -> Recipe:
    """Validate a recipe's YAML text, the caller's own, after ``path=value`` edits; raise ``InputError``."""
    return of_tree(parse_yaml(text, where=where), sets, where=where)


def of_tree(
    tree: Plain,
    sets: Sequence[str] = (),
    *,
    edits: Sequence[str] = (),
    where: str = "recipe",
    folder: Path | None = None,
    trust_code: bool = False,
) -> Recipe:
    """Validate a recipe's plain values, after the edits ``sets`` of the user and then ``edits`` of a file.

    ``folder`` is that of the file, where code that it names may lie; None says that the values are the caller's own.
    The tree stays as it is. Raises ``InputError``.
    """
    if not isinstance(tree, dict):
        raise InputError(f"{where}: a recipe is a mapping with the keys {', '.join(f.name for f in fields(Recipe))}")
    tree = deepcopy(tree)
    typed = set[str]()
    for edit in sets:
        _apply(tree, edit)
        typed |= _typed_roles(edit, tree)
    for edit in edits:
        _apply(tree, edit)
        typed -= _typed_roles(edit, tree)
    recipe = build(Recipe, tree, where=where)
    assert isinstance(recipe, Recipe)
    if folder is not None:
        places = (folder, Path.cwd())
        for role in sorted(set(recipe.teachers) - typed):
            place = f"{where}.teachers.{role}"
            check_named_code(recipe.teachers[role], folders=places, where=place, trust_code=trust_code)
        if recipe.init and "init" not in typed and not recipe.init.startswith("teacher:"):
            check_named_code(recipe.init, folders=places, where=f"{where}.init", trust_code=trust_code)
        external = external_of(recipe.student)
        if external is not None and "student" not in typed:
            check_named_code(external.factory, folders=places, where=f"{where}.student", trust_code=trust_code)
    return recipe


def data_source(word: str, like: Source | None = None) -> Source:
    """Return the images of a word: a path, a hub id, ``digits``, or a source's YAML as in a recipe.

    What the word leaves open of ``form``, ``label`` and ``on_error`` is as in ``like``, the source whose place it
    takes. Raises ``InputError`` for a word without meaning.
    """
    where = f"data {one_line(word, 300)}"
    tree = parse_yaml(word, where=where) if _YAML.match(word) else described(word)
    if not isinstance(tree, dict):
        raise InputError(f"{where}: a source is a mapping such as {{kind: folder, path: x, form: {{size: 32}}}}")
    kind = SOURCES.get(str(tree.get("kind")))
    shared = {"form", "label", "on_error"} & set(hints(kind) if kind else ()) & set(hints(type(like)) if like else ())
    under = {key: plain(getattr(like, key)) for key in shared}
    source = build(Source, _overlay({"kind": tree.get("kind"), **under}, tree), where=where)
    assert isinstance(source, Source)
    return source


def dump(recipe: Recipe) -> str:
    """Return the whole recipe as YAML, defaults included; ``parse`` reads it back to an equal value."""
    return _written(plain(recipe))


def identity(recipe: Recipe) -> str:
    """Return the recipe as YAML without the keys that came later (0.10) and are at their defaults.

    So the runs and results of an earlier version stay those of the same recipe.
    """
    tree = plain(recipe)
    for path, default in _LATER.items():
        *above, last = path.split(".")
        node = tree
        for part in above:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and last in node and node[last] == default:
            del node[last]
    return _written(tree)


def _written(tree: Plain) -> str:
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    return text


def differences(before: Recipe, after: Recipe) -> list[str]:
    """Return ``path: old -> new`` for every leaf that differs."""
    old, new = dict(leaves(plain(before))), dict(leaves(plain(after)))
    return [
        f"{path}: {old.get(path, 'absent')} -> {new.get(path, 'absent')}"
        for path in dict.fromkeys([*old, *new])
        if old.get(path, MISSING) != new.get(path, MISSING)
    ]


def plain(value: Any) -> Plain:
    """Return a value of the tree as YAML can say it: dataclasses as mappings, lengths as written, tuples as lists."""
    if is_dataclass(value):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Radius):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return value


def build(hint: Any, text: Plain, *, where: str = "recipe", threat: Threat | None = None) -> Any:
    """Return the value that ``text`` describes for a type hint; raise ``InputError`` naming the place."""
    kinds = alternatives(hint)
    if not kinds:
        return _sequence(hint, text, where, threat) if get_origin(hint) is tuple else _leaf(hint, text, where)
    if text is None and NoneType in get_args(hint):
        return None
    if hint is Architecture and (student := _student(text, where)) is not None:
        return student
    if isinstance(text, str) and hint is Source and text not in kinds:
        return data_source(text)
    if isinstance(text, str) and hint is Normalise:
        text = {"of": text}
    if isinstance(text, str) and all(hasattr(cls, "kind") for cls in kinds.values()):
        text = {"kind": text}  # a bare name stands for its kind with all defaults
    if not isinstance(text, Mapping):
        raise InputError(f"{where}: expected a mapping, got {text!r}")
    if len(kinds) == 1 and "kind" not in text:
        (cls,) = kinds.values()
    elif "kind" not in text:
        raise InputError(f"{where}: say which kind (one of: {', '.join(kinds)})")
    elif (kind := text["kind"]) not in list(kinds):
        raise InputError(f"{where}.kind: there is no {kind!r}{nearest(str(kind), kinds)}")
    else:
        cls = kinds[kind]
    return _record(cls, text, where, threat)


def _student(text: Plain, where: str) -> Architecture | None:
    """Return the network of a name in the field, or of a word with a colon, which is other people's code; else None."""
    word = text.get("kind") if isinstance(text, Mapping) else text
    if not isinstance(word, str) or (isinstance(text, Mapping) and ":" not in word):
        return None
    try:
        if ":" not in word:
            return named(word)
        keys = {key: value for key, value in text.items() if key != "kind"} if isinstance(text, Mapping) else {}
        return External.of(word, keys)
    except ValueError as problem:
        raise InputError(f"{where}: {problem}") from problem


def _record(cls: type, text: Mapping[str, Plain], where: str, threat: Threat | None) -> Any:
    """Build one dataclass: unknown keys refused, presets and inherited keys filled in, defaults merged key by key."""
    if "preset" in text:
        text = _with_preset(cls, text, where)
    if threat and (cls is Threat or cls in _SEARCHES):
        text = {"norm": threat.norm, "eps": threat.eps, **text}
    known = {part.name: part for part in fields(cls)}
    for key in text:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")
    if cls is Recipe:
        threat = build(Threat, text.get("threat", {}), where=f"{where}.threat")
    values = {}
    for name, hint in hints(cls).items():
        default = _default(known[name])
        if name not in text and default is MISSING:
            raise InputError(f"{where}: key {name!r} is missing")
        values[name] = build(hint, _merged(default, text, name), where=f"{where}.{name}", threat=threat)
    try:
        return cls(**values)
    except ValueError as problem:
        raise InputError(f"{where}: {problem}") from problem


def _with_preset(cls: type, text: Mapping[str, Plain], where: str) -> dict[str, Plain]:
    presets = getattr(cls, "presets", {})
    name = text["preset"]
    if name not in list(presets):
        known = nearest(str(name), presets) if presets else ""
        raise InputError(f"{where}: {text.get('kind')!r} has no preset {name!r}{known}")
    written = {key: value for key, value in text.items() if key != "preset"}
    return {
        **written,
        **{key: _overlay(value, written.get(key, value)) for key, value in presets[name].items()},
    }


def _merged(default: Any, text: Mapping[str, Plain], name: str) -> Plain:
    """Return the text of a field: what is written, laid over the field's own default."""
    under = _without_threat(default)
    return _overlay(under, text[name]) if name in text else under


def _without_threat(default: Any) -> Plain:
    """Return a default as text without the norm and eps of its attacks, which come from the recipe's threat."""
    if isinstance(default, Search | Threat):
        return {key: value for key, value in plain(default).items() if key not in ("norm", "eps")}
    if is_dataclass(default):
        return {part.name: _without_threat(getattr(default, part.name)) for part in fields(default)}
    return [_without_threat(part) for part in default] if isinstance(default, tuple) else plain(default)


def _overlay(under: Plain, over: Plain) -> Plain:
    """Lay one text over another key by key; where it names another ``kind``, nothing of the lower one remains."""
    if not isinstance(under, Mapping) or not isinstance(over, Mapping):
        return over
    if over.get("kind", under.get("kind")) != under.get("kind"):
        return over
    return {**under, **{key: _overlay(under.get(key), value) for key, value in over.items()}}


def _sequence(hint: Any, text: Plain, where: str, threat: Threat | None) -> tuple[Any, ...]:
    kinds = get_args(hint)
    if not isinstance(text, list | tuple) or not (kinds[-1] is ... or len(kinds) == len(text)):
        raise InputError(f"{where}: expected a list, got {text!r}")
    inner = [kinds[0]] * len(text) if kinds[-1] is ... else kinds
    return tuple(
        build(kind, part, where=f"{where}.{index}", threat=threat)
        for index, (kind, part) in enumerate(zip(inner, text, strict=True))
    )


def _leaf(hint: Any, text: Plain, where: str) -> Any:
    if Radius in (hint, *get_args(hint)):
        if text is None and NoneType in get_args(hint):
            return None
        try:
            return Radius(text)
        except ValueError as problem:
            raise InputError(f"{where}: {problem}") from problem
    if isinstance(text, bool) and hint in (int, float):
        raise InputError(f"{where}: cannot use {text!r}: expected a number")
    try:
        return _reader(hint).validate_python(text)
    except ValidationError as problem:
        reason = problem.errors()[0]["msg"].removeprefix("Input should be ")
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        hint_text = nearest(str(text), map(str, choices)) if choices else f": expected {reason}"
        raise InputError(f"{where}: cannot use {text!r}{hint_text}") from problem


@cache
def _reader(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


@cache
def hints(cls: type) -> dict[str, Any]:
    """Return the type of every field's value, in order."""
    names = {part.name for part in fields(cls)}
    return {name: _held(hint) for name, hint in get_type_hints(cls).items() if name in names}


def _held(hint: Any) -> Any:
    """Return the type of what a field keeps, where its annotation says what it reads."""
    return hint.holds if isinstance(hint, type) and issubclass(hint, ReadField) else hint


def alternatives(hint: Any) -> dict[str, type]:
    """Return the dataclasses a hint allows, by kind; nothing for a leaf or a sequence."""
    open_kinds: dict[Any, Mapping[str, type]] = {
        Method: methods(),
        Architecture: {**FAMILIES, External.kind: External},
        Source: SOURCES,
    }
    if hint in open_kinds:
        return dict(open_kinds[hint])
    if get_origin(hint) in (Union, UnionType):
        return {kind: cls for part in get_args(hint) for kind, cls in alternatives(part).items()}
    return {getattr(hint, "kind", hint.__name__): hint} if is_dataclass(hint) and isinstance(hint, type) else {}


def _default(part: Any) -> Any:
    return part.default_factory() if part.default_factory is not MISSING else part.default


def _typed_roles(edit: str, tree: Mapping[str, Plain]) -> set[str]:
    """Return the roles of teachers whose word an edit has set; ``student`` or ``init`` where it has set theirs."""
    head, *rest = edit.partition("=")[0].split(".")
    if head == "init" or (head == "student" and rest in ([], ["kind"], ["factory"])):
        return {head}
    if head != "teachers":
        return set()
    return set(rest[:1]) or set(tree["teachers"] if isinstance(tree["teachers"], Mapping) else ())


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


def leaves(tree: Plain, path: str = "") -> Iterable[tuple[str, Plain]]:
    """Yield each value of a plain tree after its path, with dots between the keys; a list is one value."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree

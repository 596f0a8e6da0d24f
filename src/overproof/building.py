"""From plain values to frozen dataclasses and back: keys are checked, ``kind`` chooses, the class has the last word.

Text becomes values here and nowhere else: pydantic reads the leaves, and what a ``kind`` means is asked of a registry.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from os.path import relpath
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from overproof.attacks.ball import Radius, Threat
from overproof.attacks.base import BaseAttack
from overproof.attacks.radius import ReadField
from overproof.attacks.suites import ATTACKS
from overproof.data.augment import Augment
from overproof.data.sources import Digits, Folder, Hub, Npz, Parquet, Source
from overproof.data.words import described
from overproof.errors import InputError, nearest
from overproof.methods.catalogue import methods
from overproof.methods.method import Method
from overproof.models.architectures.architecture import Architecture
from overproof.models.architectures.catalogue import FAMILIES, NAMED, find_architecture
from overproof.models.external.imports import describe_exception
from overproof.models.external.module import External
from overproof.plain_yaml import Plain, overlay, parse_yaml
from overproof.registry import Registry, a_class_of, is_word
from overproof.trust import Code, entry_points
from overproof.unloaded import Unloaded, make_stand_in
from overproof.wording import one_line

SOURCES: dict[str, type[Source]] = {source.kind: source for source in (Digits, Hub, Parquet, Folder, Npz)}
"""The data sources of this package, by their ``kind``."""
_METHOD = a_class_of(Method, "method")


def _check_method(cls: Any) -> None:
    _METHOD(cls)
    if isinstance(cls.roles, str) or isinstance(cls.auxiliary_models, str):
        raise ValueError("roles and auxiliary models are tuples of names, such as roles = ('robust',)")


METHODS = Registry[type[Method]]("overproof.methods", "method", methods, _check_method)
DATA = Registry[type[Source]]("overproof.data", "data source", lambda: SOURCES, a_class_of(Source, "data source"))
AUGMENTATIONS = Registry[type[Augment]](
    "overproof.augmentations", "augmentation", lambda: {"standard": Augment}, a_class_of(Augment, "augmentation")
)
"""Augmentations by their ``kind``; ``standard`` is the one that a recipe means where it names none."""
_MODELS = "overproof.models"
_REGISTRIES: Mapping[Any, Registry[Any]] = {
    Method: METHODS,
    Source: DATA,
    BaseAttack: ATTACKS,
    Augment: AUGMENTATIONS,
}
_YAML = re.compile(r"\s*(\{|kind\s*:\s)")


@dataclass(frozen=True, kw_only=True)
class _Context:
    """What holds for all values below a place.

    The ``threat`` that attacks inherit, the ``code`` that may be run, and the classes that are ``here`` already, as
    those of defaults, by the names that a recipe has for them.
    """

    threat: Threat | None = None
    code: Code | None = None
    here: Mapping[str, type] = field(default_factory=dict)

    def knowing(self, default: Any) -> "_Context":
        """Return the context in which the classes of a default need not be looked for."""
        return replace(self, here={**self.here, **dict(_classes(default))})


def build_value(
    hint: Any, text: Plain, *, where: str = "recipe", threat: Threat | None = None, code: Code | None = None
) -> Any:
    """Return the value that ``text`` describes for a type hint; raise ``InputError`` naming the place.

    ``code`` says which code the text may name; without it, it is a stranger's and may name none.
    """
    return _build(hint, text, where, _Context(threat=threat, code=code))


def data_source(word: str, like: Source | None = None) -> Source:
    """Return the images of a word that the user typed: a path, a hub id, ``digits``, or YAML as in a recipe.

    It may also be an entry point's name, or ``package.module:Name``. What the word leaves open of ``form``, ``label``
    and ``on_error`` is as in ``like``, the source whose place it takes. Raises ``InputError`` for a word without
    meaning.
    """
    where = f"data {one_line(word, 300)}"
    tree = parse_yaml(word, where=where) if _YAML.match(word) else _describe_word(word)
    if not isinstance(tree, dict):
        raise InputError(f"{where}: a source is a mapping such as {{kind: folder, path: x, form: {{size: 32}}}}")
    kind, before = SOURCES.get(str(tree.get("kind"))), {} if like is None else plain(like)
    shared = {"form", "label", "on_error"} & set(hints(kind) if kind else ()) & set(before)
    under = {key: before[key] for key in shared}
    code = Code(where=where, own=True)
    source = build_value(Source, overlay({"kind": tree.get("kind"), **under}, tree), where=where, code=code)
    assert isinstance(source, Source)
    return source


def _describe_word(word: str) -> dict[str, str]:
    """Return which source a word means, as a recipe says it: ours first, then what an installed package brings."""
    return {"kind": word} if is_word(word) or word in DATA.names() else described(word)


def plain(value: Any) -> Plain:
    """Return a value of the tree as YAML can say it: dataclasses as mappings, lengths as written, tuples as lists.

    The ``kind`` of other packages' classes is the name by which a recipe finds them again.
    """
    if isinstance(value, Unloaded):
        return dict(value.text)
    if is_dataclass(value) and not isinstance(value, type):
        tree = {part.name: plain(getattr(value, part.name)) for part in fields(value)}
        return {**tree, "kind": _name_of(type(value))} if "kind" in tree else tree
    if isinstance(value, Radius):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return value


def _name_of(cls: type) -> str:
    """Return the ``kind`` of a class as a recipe says it."""
    registry = next((kinds for base, kinds in _REGISTRIES.items() if issubclass(cls, base)), None)
    return str(getattr(cls, "kind", cls.__name__)) if registry is None else registry.word(cls)


def _classes(value: Any) -> Iterable[tuple[str, type]]:
    """Yield the classes of a value and of those in it, each after the name that a recipe has for it."""
    if is_dataclass(value) and not isinstance(value, type):
        if any(isinstance(value, base) for base in _REGISTRIES):
            yield _name_of(type(value)), type(value)
        value = tuple(getattr(value, part.name) for part in fields(value))
    if isinstance(value, tuple):
        for part in value:
            yield from _classes(part)


def code_folders(value: Any, folder: Path) -> list[str]:
    """Return the folders of the modules of other people's classes in a value, seen from ``folder``.

    They are what has to be looked through to read the value again; those of installed packages are not.
    """
    folders = set()
    for _, cls in _classes(value):
        module = sys.modules.get(cls.__module__)
        file = Path(str(getattr(module, "__file__", None) or ""))
        if module is None or not file.is_absolute() or cls.__module__.partition(".")[0] == "overproof":
            continue
        root = file.resolve().parents[cls.__module__.count(".") + (file.name == "__init__.py")]
        if not {"site-packages", "dist-packages"} & set(root.parts):
            folders.add(relpath(root, folder.resolve()))
    return sorted(folders)


def _build(hint: Any, text: Plain, where: str, context: _Context) -> Any:
    kinds = alternatives(hint)
    if not kinds:
        if get_origin(hint) is tuple:
            return _sequence(hint, text, where, context)
        return _leaf(hint, text, where)
    if text is None and NoneType in get_args(hint):
        return None
    if hint is Architecture and (student := _student(text, where, context)) is not None:
        return student
    if isinstance(text, str) and hint is Source and text not in kinds:
        text = _describe_word(text)
    if isinstance(text, str) and (bare := _bare(hint)):
        text = {bare: text}
    if isinstance(text, str) and (hint in _REGISTRIES or all(hasattr(cls, "kind") for cls in kinds.values())):
        text = {"kind": text}  # a bare name stands for its kind with all defaults
    if not isinstance(text, Mapping):
        raise InputError(f"{where}: expected a mapping, got {text!r}")
    if len(kinds) == 1 and "kind" not in text:
        (cls,) = kinds.values()
        return _record(cls, text, where, context)
    if "kind" not in text:
        raise InputError(f"{where}: say which kind (one of: {', '.join(kinds)})")
    return _build_kind(hint, kinds, text, where, context)


def _build_kind(hint: Any, kinds: Mapping[str, type], text: Mapping[str, Plain], where: str, context: _Context) -> Any:
    """Build what ``kind`` says; where that is code of other packages which is not run, a stand-in for it."""
    kind, code, registry = text["kind"], context.code, _REGISTRIES.get(hint)
    known = {**kinds, **{_name_of(cls): cls for cls in kinds.values()}}
    if registry is not None and isinstance(kind, str) and kind in context.here:
        known[kind] = context.here[kind]
    if isinstance(kind, str) and kind in known:
        cls = known[kind]
    elif registry is None or not isinstance(kind, str):
        raise InputError(f"{where}.kind: there is no {kind!r}{nearest(str(kind), kinds)}")
    elif code is not None and not code.load and hint in (Method, Augment):
        return make_stand_in(hint, text, f"{where}.kind: {kind} is not imported here, as it is only needed to train")
    else:
        try:
            may = code if code is not None and code.imports else None
            cls = registry.find(kind, where=f"{where}.kind", code=may, also=(where,))
        except InputError as problem:
            if code is None or code.load:
                raise
            return make_stand_in(hint, text, str(problem))
    own = {"kind": cls.kind} if hasattr(cls, "kind") else {}  # in the place of the word that it was found by
    return _record(cls, {**{key: value for key, value in text.items() if key != "kind"}, **own}, where, context)


def _bare(hint: Any) -> str:
    """Return the field that a bare word means, in the place of a mapping."""
    return str(getattr(hint, "bare", "")) if isinstance(hint, type) else ""


def _student(text: Plain, where: str, context: _Context) -> Architecture | None:
    """Return a network with a name in the field, or one that other people's code makes; None for our families' keys.

    Other people's code is a word with a colon, or the name of an installed package's entry point.
    """
    word = text.get("kind") if isinstance(text, Mapping) else text
    keys = {key: value for key, value in text.items() if key != "kind"} if isinstance(text, Mapping) else {}
    if not isinstance(word, str) or (isinstance(text, Mapping) and word in (*FAMILIES, External.kind)):
        return None
    points = [] if ":" in word or word in NAMED else [each for each in entry_points(_MODELS) if each.name == word]
    if points and context.code is None:
        raise InputError(f"{where}: {word!r} is code that is not part of overproof, and is not run here")
    if len({point.word for point in points}) > 1:
        raise InputError(
            f"{where}: two installed packages have a student {word!r}, {points[0].package} and {points[1].package}; "
            f"write {points[0].word} or {points[1].word}"
        )
    try:
        if ":" in word or points:
            return External.of(points[0].word if points else word, keys)
        return None if isinstance(text, Mapping) else find_architecture(word)
    except ValueError as problem:
        raise InputError(f"{where}: {problem}") from problem


def _record(cls: type, text: Mapping[str, Plain], where: str, context: _Context) -> Any:
    """Build one dataclass: unknown keys refused, presets and inherited keys filled in, defaults merged key by key."""
    if "preset" in text:
        text = _with_preset(cls, text, where)
    if context.threat and issubclass(cls, Threat | BaseAttack):
        text = {"norm": context.threat.norm, "eps": context.threat.eps, **text}
    known = {part.name: part for part in fields(cls)}
    for key in text:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")
    types = _hints(cls, where)
    if types.get("threat") is Threat and context.threat is None:  # a recipe's, which all below inherits
        context = replace(context, threat=build_value(Threat, text.get("threat", {}), where=f"{where}.threat"))
    values = {}
    for name, hint in types.items():
        default = _default(known[name])
        if name not in text and default is MISSING:
            raise InputError(f"{where}: key {name!r} is missing")
        values[name] = _build(hint, _merge(default, text, name), f"{where}.{name}", context.knowing(default))
    return _make(cls, values, where)


def _hints(cls: type, where: str) -> dict[str, Any]:
    try:
        return hints(cls)
    except Exception as problem:  # an annotation that is only there for the type checker, in other people's classes
        raise InputError(
            f"{where}: the types of the fields of {cls.__module__}:{cls.__name__} cannot be read "
            f"({describe_exception(problem)})"
        ) from problem


def _make(cls: type, values: Mapping[str, Any], where: str) -> Any:
    ours = cls.__module__.partition(".")[0] == "overproof"
    try:
        made = cls(**values)
        if not ours and any(issubclass(cls, base) for base in _REGISTRIES):
            hash(made)
    except ValueError as problem:
        raise InputError(f"{where}: {problem}") from problem
    except Exception as problem:
        if ours:
            raise
        hashing = isinstance(problem, TypeError) and "unhashable" in str(problem)
        advice = "; its values must be hashable: a tuple in the place of a list" if hashing else ""
        raise InputError(f"{where}: making {cls.__name__} raised {describe_exception(problem)}{advice}") from problem
    return made


def _with_preset(cls: type, text: Mapping[str, Plain], where: str) -> dict[str, Plain]:
    presets = getattr(cls, "presets", {})
    name = text["preset"]
    if name not in list(presets):
        known = nearest(str(name), presets) if presets else ""
        raise InputError(f"{where}: {text.get('kind')!r} has no preset {name!r}{known}")
    written = {key: value for key, value in text.items() if key != "preset"}
    return {
        **written,
        **{key: overlay(value, written.get(key, value)) for key, value in presets[name].items()},
    }


def _merge(default: Any, text: Mapping[str, Plain], name: str) -> Plain:
    """Return the text of a field: what is written, laid over the field's own default.

    With a preset it is not laid over that, which would hide the preset's values.
    """
    written = text.get(name)
    if isinstance(written, Mapping) and "preset" in written:
        return written
    under = _without_threat(default)
    return overlay(under, text[name]) if name in text else under


def _without_threat(default: Any) -> Plain:
    """Return a default as text without the norm and eps of its attacks, which come from the recipe's threat."""
    if isinstance(default, BaseAttack | Threat):
        return {key: value for key, value in plain(default).items() if key not in ("norm", "eps")}
    if is_dataclass(default) and not isinstance(default, type):
        tree = {part.name: _without_threat(getattr(default, part.name)) for part in fields(default)}
        return {**tree, "kind": _name_of(type(default))} if "kind" in tree else tree
    return [_without_threat(part) for part in default] if isinstance(default, tuple) else plain(default)


def _sequence(hint: Any, text: Plain, where: str, context: _Context) -> tuple[Any, ...]:
    kinds = get_args(hint)
    if not isinstance(text, list | tuple) or not (kinds[-1] is ... or len(kinds) == len(text)):
        raise InputError(f"{where}: expected a list, got {text!r}")
    inner = [kinds[0]] * len(text) if kinds[-1] is ... else kinds
    return tuple(
        _build(kind, part, f"{where}.{index}", context)
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
    except PydanticUserError as problem:  # a field of other people's classes may be anything
        raise InputError(f"{where}: a recipe cannot say a value of the type {hint}") from problem


@cache
def _reader(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


@cache
def hints(cls: type) -> dict[str, Any]:
    """Return the type of every field's value, in order."""
    names = {part.name for part in fields(cls)}
    return {name: _held_type(hint) for name, hint in get_type_hints(cls).items() if name in names}


def _held_type(hint: Any) -> Any:
    """Return the type of what a field keeps, where its annotation says what it reads."""
    return hint.holds if isinstance(hint, type) and issubclass(hint, ReadField) else hint


def alternatives(hint: Any) -> dict[str, type]:
    """Return the dataclasses of ours that a hint allows, by kind; nothing for a leaf or a sequence."""
    if hint is Architecture:
        return {**FAMILIES, External.kind: External}
    if hint is Augment:
        return {"standard": Augment}
    if isinstance(hint, type) and hint in _REGISTRIES:
        return dict(_REGISTRIES[hint].ours())
    if get_origin(hint) in (Union, UnionType):
        return {kind: cls for part in get_args(hint) for kind, cls in alternatives(part).items()}
    return {getattr(hint, "kind", hint.__name__): hint} if is_dataclass(hint) and isinstance(hint, type) else {}


def _default(part: Any) -> Any:
    return part.default_factory() if part.default_factory is not MISSING else part.default


def leaves(tree: Plain, path: str = "") -> Iterable[tuple[str, Plain]]:
    """Yield each value of a plain tree after its path, with dots between the keys; a list is one value."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree

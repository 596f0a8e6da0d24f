"""Finding what a recipe names: ours by a short name, an installed package's by its entry point, any by its word."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from importlib import invalidate_caches
from importlib.util import find_spec
from inspect import isabstract
from pathlib import Path
from typing import Any, TypeVar

from overproof.errors import InputError, nearest
from overproof.models.external.imports import import_named, importable, thing
from overproof.models.mode import default_type_kept
from overproof.trust import Code, EntryPoint, entry_points, list_folders, module_word, source_of

T = TypeVar("T")
_OWN = Code(own=True)


class Registry(Mapping[str, T]):
    """What there is of one sort: a mapping from names to what they mean. Iterating leaves out what cannot be used.

    ``group`` is that of the entry points (``overproof.methods``), ``what`` says what is in it (``method``), ``ours``
    returns those of this package. ``check`` raises ``ValueError`` for an object that is no such thing.
    """

    def __init__(
        self, group: str, what: str, ours: Callable[[], Mapping[str, T]], check: Callable[[Any], None]
    ) -> None:
        self.group, self.what, self.ours, self._check = group, what, ours, check

    def __getitem__(self, name: str) -> T:
        """Return what the user means by a name or a word; raise ``KeyError`` for a name that nothing has."""
        if name not in self:
            raise KeyError(name)
        return self.find(name, where=self.what, code=_OWN)

    def __contains__(self, name: object) -> bool:
        """Whether a name is known; a word ``package.module:name`` always is, nothing is imported to look."""
        return isinstance(name, str) and (is_word(name) or name in self.names())

    def __iter__(self) -> Iterator[str]:
        yield from self.ours()
        yield from (name for name, item in self.installed().items() if not isinstance(item, str))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def names(self) -> list[str]:
        """Return the names of ours and of entry points, of those that cannot be used as well; imports nothing."""
        return list(dict.fromkeys([*self.ours(), *(point.name for point in entry_points(self.group))]))

    def installed(self) -> dict[str, T | str]:
        """Return what installed packages bring, by name; in the place of what cannot be used the sentence why."""
        items: dict[str, T | str] = {}
        for point in entry_points(self.group):
            if point.name in self.ours():
                said = f"the package {point.package} names {point.word} as overproof's own {point.name!r} is"
                items[f"{point.name} ({point.package})"] = f"{said}; it can be had by {point.word}"
                continue
            try:
                items[point.name] = self.find(point.name, where=self.group, code=_OWN)
            except InputError as problem:
                items[point.name] = str(problem).removeprefix(f"{self.group}: ")
        return items

    def find(self, name: str, *, where: str, code: Code | None = None, also: Sequence[str] = ()) -> T:
        """Return what a name in the place ``where`` means: one of ours, an entry point, a ``package.module:name``.

        Without ``code`` the name is a stranger's, who may name ours and nothing else. ``also`` are further places that
        stand for this one. Raises ``InputError``.
        """
        if name in self.ours():
            return self.ours()[name]
        points = [point for point in entry_points(self.group) if point.name == name]
        if not points and not is_word(name):
            known = nearest(name, self.names())
            said = "" if known.startswith(" (did") else "; no installed package brings one of this name"
            raise InputError(f"{where}: there is no {name!r}{known}{said}")
        if code is None:
            raise InputError(
                f"{where}: {name!r} is code that is not part of overproof; it is not run, unless you add --trust-code"
            )
        if is_word(name):
            code.check(name, where, *also)
            return self._named(name, where, code)
        return self._of_point(points, where, code)

    def word(self, cls: type) -> str:
        """Return the name by which a class is found again: its kind where that is known, else ``module:name``."""
        kind, word = str(getattr(cls, "kind", "")), f"{cls.__module__}:{cls.__qualname__}"
        if self.ours().get(kind) is cls or any((p.name, p.word) == (kind, word) for p in entry_points(self.group)):
            return kind
        return word

    def _of_point(self, points: Sequence[EntryPoint], where: str, code: Code) -> T:
        first, *others = points
        if other := next((point for point in others if point.word != first.word), None):
            raise InputError(
                f"{where}: two installed packages have a {self.what} {first.name!r}, {first.package} and "
                f"{other.package}; write {first.word} or {other.word}"
            )
        place = f"{where}: {first.name!r} of the package {first.package}"
        item = self._named(first.word, place, code)
        kind = getattr(item, "kind", first.name)
        if kind != first.name:
            raise InputError(f"{place}: {first.word} is of kind {kind!r}; the entry point must have the same name")
        return item

    def _named(self, word: str, where: str, code: Code) -> T:
        item = _import(word, where, code)
        try:
            self._check(item)
            kind = str(getattr(item, "kind", ""))
            if kind in self.ours() and self.ours()[kind] is not item:
                raise ValueError(f"its kind {kind!r} is that of a {self.what} of overproof; choose another")
        except ValueError as problem:
            raise InputError(f"{where}: {word}: {problem}") from problem
        return item  # type: ignore[no-any-return]


def is_word(name: str) -> bool:
    """Whether a name is ``package.module:name``, which says what to import."""
    named = module_word(name)
    return named is not None and all(part.isidentifier() for part in (*named[0].split("."), *named[1].split(".")))


def a_class_of(base: type, what: str, *, has: Sequence[str] = ()) -> Callable[[Any], None]:
    """Return the check that an object is a class as recipes take it: derived from ``base``, a frozen dataclass.

    ``has`` are fields that it needs beside its ``kind``.
    """
    home = f"{base.__module__.rpartition('.')[0]}.{base.__name__}"  # its package has it as a public name
    above = "put @dataclass(frozen=True, kw_only=True) above the class"

    def check(item: Any) -> None:
        if not (isinstance(item, type) and issubclass(item, base)):
            raise ValueError(f"this is {thing(item)}; a {what} is a class derived from {home}")
        cls: Any = item
        if isabstract(cls):
            raise ValueError(f"this {what} does not define {', '.join(sorted(cls.__abstractmethods__))}")
        if "__dataclass_fields__" not in vars(cls):
            raise ValueError(f"this {what} is not a dataclass; {above}")
        if not cls.__dataclass_params__.frozen:
            raise ValueError(f"this {what} is a dataclass that is not frozen; {above}")
        parts = {part.name: part for part in fields(cls)}
        if "kind" not in parts or not isinstance(parts["kind"].default, str) or not parts["kind"].default:
            raise ValueError(f"this {what} does not say its kind; add the field: kind: str = {cls.__name__.lower()!r}")
        for name in has:
            if name not in parts:
                raise ValueError(f"this {what} has no field {name!r}")

    return check


def _import(word: str, where: str, code: Code) -> Any:
    """Return what a word names that may be run; raise ``InputError`` where it is not here, or not what was looked for.

    Modules are looked for in the current folder, in the folders of ``code``, and among installed packages.
    """
    module, _ = module_word(word) or ("", "")
    top, folders = module.partition(".")[0], (Path.cwd(), *code.folders)
    invalidate_caches()  # the file may be younger than Python's list of its folder
    with importable(*code.folders):
        with importable(Path.cwd()):
            if top not in sys.modules and find_spec(top) is None:
                raise InputError(
                    f"{where}: {word}: there is no module {top!r} in {list_folders(folders)}, nor is one installed"
                )
        try:
            with default_type_kept():
                item = import_named(word)
        except InputError as problem:
            raise InputError(f"{where}: {problem}") from problem
    file = getattr(sys.modules[module], "__file__", None)
    expected = next((source for folder in folders if (source := source_of(module, folder)) is not None), None)
    if expected is not None and file is not None and Path(file).resolve() != expected:
        raise InputError(
            f"{where}: {word}: Python has another module {module!r} already, {file}, in the place of {expected}; "
            "rename one of them"
        )
    return item

"""YAML as plain values: every key once; bounded in size, depth and numbers, so that no small file is endless work."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from overproof.errors import InputError
from overproof.reading import parsing, read_text

Plain = Any
"""What YAML and JSON can say: mappings, lists, strings, numbers, booleans and nothing."""

LARGEST = 1 << 20  # bytes of a file that a person writes; the largest shipped recipe has 2 KiB
_DEEPEST = 50  # levels
_NODES = 20_000  # values, aliases written out
_INTEGERS = 1 << 63


def read_yaml(file: Path) -> Plain:
    """Return what a YAML file of at most 1 MiB says; raise ``InputError`` for one that cannot be read or used."""
    return parse_yaml(read_text(file, limit=LARGEST), where=str(file))


def parse_yaml(text: str, *, where: str) -> Plain:
    """Return what YAML text says.

    Raises ``InputError`` for what is not YAML, a key that is there twice, more than 50 levels or 20,000 values, a
    value that contains itself, and an integer of more than 64 bits.
    """
    with parsing(where, "YAML"):
        try:
            # A subclass of the safe loader: plain values alone, no objects.
            tree = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as problem:
            raise InputError(f"{where}: not readable as YAML ({' '.join(str(problem).split())[:500]})") from problem
        _check_size(tree, where)
    return tree


def overlay(under: Plain, over: Plain) -> Plain:
    """Lay one tree over another key by key; where it names another ``kind``, nothing of the lower one remains."""
    if not isinstance(under, Mapping) or not isinstance(over, Mapping):
        return over
    if over.get("kind", under.get("kind")) != under.get("kind"):
        return over
    return {**under, **{key: overlay(under.get(key), value) for key, value in over.items()}}


class _Loader(yaml.SafeLoader):
    """The safe loader; it stops at nesting that would exhaust the stack, and at a key that is there twice."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {_DEEPEST} levels", None)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if isinstance(name, Hashable) and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is there twice", key.start_mark)
            seen.add(name if isinstance(name, Hashable) else None)
        return super().construct_mapping(node, deep=deep)


def _check_size(tree: Plain, where: str) -> None:
    """Raise ``InputError`` for values too many (an alias counts as often as it stands), endless or too large."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(value: Plain) -> int:
        if isinstance(value, int) and abs(value) >= _INTEGERS:
            raise InputError(f"{where}: an integer of more than 64 bits")
        if not isinstance(value, Mapping | list | tuple | set):
            return 1
        place = id(value)
        if place in open_nodes:
            raise InputError(f"{where}: a value contains itself")
        if place not in sizes:
            open_nodes.add(place)
            parts = [*value, *value.values()] if isinstance(value, Mapping) else value
            sizes[place] = 1 + sum(map(size, parts))
            open_nodes.remove(place)
            if sizes[place] > _NODES:
                raise InputError(f"{where}: more than {_NODES:,} values")
        return sizes[place]

    size(tree)

"""The page of published settings: what papers and their code publish beside what the shipped recipes have."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from overproof.recipe import plain, read
from overproof.shipped import recipe_folder

FILE = Path(__file__).with_name("published.yaml")
HEAD = """# Published settings

What the papers and their authors' code publish of every shipped recipe that carries a paper's name, key by key, and
where ours differ and why. A test holds the recipes to this table. Where a paper and its code differ, the code counts,
and the method's card says so. `docs/published.yaml` is the source of this page.
"""


@dataclass(frozen=True)
class Setting:
    """What is ``published`` of one key of a recipe, and what is ``here``; ``why`` they differ, else empty."""

    recipe: str
    key: str
    published: Any
    here: Any
    why: str = ""


@cache
def papers() -> dict[str, tuple[str, tuple[Setting, ...]]]:
    """Return the source and the settings of every paper; a ``ValueError`` for an entry that is not of the form."""
    tree = yaml.safe_load(FILE.read_text())
    return {
        name: (entry["source"], tuple(_settings(entry["recipes"])))
        for name, entry in tree.items()
        if not name.startswith("x-")  # what entries share
    }


def _settings(recipes: dict[str, dict[str, Any]]) -> Iterator[Setting]:
    for recipe, keys in recipes.items():
        for key, value in keys.items():
            if not isinstance(value, dict):
                yield Setting(recipe, key, value, value)
            elif set(value) == {"published", "here", "why"} and value["why"]:
                yield Setting(recipe, key, **value)
            else:
                raise ValueError(f"{recipe} {key}: write a value, or published, here and why")


@cache
def _tree(recipe: str) -> Any:
    return plain(read(recipe_folder() / f"{recipe}.yaml"))


def value_in_recipe(recipe: str, key: str) -> Any:
    """Return a recipe's value at a path of keys; a search's step as a number of its own where it is left to us.

    Raises ``KeyError`` where the recipe has no such key.
    """
    tree = _tree(recipe)
    *above, last = key.split(".")
    for part in above:
        tree = tree[part]
    if last == "step" and tree[last] is None:  # then it is 2.5 eps / steps
        return Fraction(str(tree["eps"])) * Fraction(5, 2) / tree["steps"]
    return tree[last]


def is_same(value: Any, other: Any) -> bool:
    """Tell whether two values of a setting are the same, whatever way a number is written (8/255, 0.1, 1)."""
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(is_same, value, other))
    try:
        return Fraction(str(value)) == Fraction(str(other))
    except ValueError:
        return bool(value == other)


def published_page() -> str:
    """Return the page."""
    return "\n".join(
        [HEAD, *(line for paper, (source, settings) in papers().items() for line in _part(paper, source, settings))]
    )


def _part(paper: str, source: str, settings: tuple[Setting, ...]) -> Iterator[str]:
    recipes = list(dict.fromkeys(setting.recipe for setting in settings))
    yield f"## {paper}\n\n{source}.\n"
    yield f"| key | {' | '.join(f'`{recipe}`' for recipe in recipes)} |"
    yield f"|{'---|' * (len(recipes) + 1)}"
    for key in dict.fromkeys(setting.key for setting in settings):
        cells = {one.recipe: _text(one.published) + " (*)" * bool(one.why) for one in settings if one.key == key}
        yield f"| `{key}` | {' | '.join(cells.get(recipe, '') for recipe in recipes)} |"
    yield ""
    differing = {
        f"- (*) `{one.key}`: published {_text(one.published)}, here {_text(one.here)}: {one.why}."
        for one in settings
        if one.why
    }
    yield from sorted(differing)
    yield from [""] * bool(differing)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)

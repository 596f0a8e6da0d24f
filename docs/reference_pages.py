"""The reference pages: the recipe from its dataclasses, the files of a run from a small run that is made for it."""

import inspect
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from overproof.attacks.ball import Radius
from overproof.commands.certify import certify
from overproof.commands.evaluate import evaluate
from overproof.commands.train import train
from overproof.methods.method import Method
from overproof.models.architectures.architecture import Architecture
from overproof.recipe import Recipe, alternatives, hints, parse, plain

TOY = """
name: toy
data: {kind: digits}
threat: {eps: 0.1}
student: {kind: mlp, hidden: [16]}
method: {kind: pgd_at, inner: {steps: 1, eps: 0.01}}
training: {epochs: 3, batch: 64, optimiser: {kind: adamw, lr: 0.02}, precision: fp32}
selection: {every: 2, examples: 20, trial: {name: pgd-1, attack: {steps: 1}}}
evaluation: {examples: 40, attacks: [{name: fgsm, attack: {steps: 1, start: none}}]}
"""

FILES = {
    "metrics.jsonl": "One line per finished epoch.",
    "model.json": "What the weights beside it belong to; `last.json` is the same of the last epoch's.",
    "evaluation.json": "What `evaluate` found. The keys of `attacks` are the names of the trials.",
    "examples.jsonl": "One line per example that `evaluate` attacked.",
    "certificate.json": "What `certify` found.",
    "certificate.jsonl": "One line per example that `certify` was asked about.",
}
"""The files whose keys are listed, and a sentence on each."""


def recipe_page() -> str:
    """Return the keys of a recipe: a table per mapping, with what each takes and its default."""
    waiting, sections = [Recipe], {}
    while waiting:
        cls = waiting.pop(0)
        if cls not in sections:
            sections[cls] = _section(cls)
            for hint in hints(cls).values():
                waiting += [found for found in _below(hint) if not issubclass(found, Method)]
    return "\n".join([RECIPE_HEAD, *sections.values()]).rstrip() + "\n"


def files_page() -> str:
    """Return the files of a run and their keys, as a small run on digits writes them."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(parse(TOY), Path(folder) / "toy", device="cpu")
        evaluate(run, teacher=run.folder, device="cpu", save_adversarial=True)
        certify(run, teacher=run.folder, eps="0.01", bound="crown", examples=20, device="cpu")
        parts = [FILES_HEAD]
        for name, sentence in FILES.items():
            lines = (run.folder / name).read_text()
            records = [json.loads(line) for line in lines.splitlines()] if name.endswith("l") else [json.loads(lines)]
            keys: dict[str, dict[str, None]] = {}
            for record in records:
                for path, kind in _keys(record):
                    keys.setdefault(path, {})[kind] = None
            rows = [f"| `{path}` | {' or '.join(sorted(kinds))} |" for path, kinds in keys.items()]
            parts.append("\n".join([f"## {name}", "", sentence, "", "| key | value |", "|---|---|", *rows, ""]))
    return "\n".join(parts).rstrip() + "\n"


def _section(cls: type) -> str:
    rows = []
    for part in fields(cls):
        if part.name == "kind":
            continue
        default = part.default_factory() if part.default_factory is not MISSING else part.default
        rows.append(f"| `{part.name}` | {_takes(hints(cls)[part.name])} | {_shown(default)} |")
    card = inspect.cleandoc(cls.__doc__ or "").replace("``", "`")
    table = ["| key | takes | default |", "|---|---|---|", *rows] if rows else ["It has no options."]
    return "\n".join([f"## {_title(cls)}", "", card, "", *table, ""])


def _title(cls: type) -> str:
    """Return the class's name, and how a recipe chooses it where it is one of several."""
    kind = getattr(cls, "kind", None)
    return f"{cls.__name__}: `kind: {kind}`" if isinstance(kind, str) else cls.__name__


def _anchor(cls: type) -> str:
    """Return the anchor that the site gives to a section's heading."""
    kind = getattr(cls, "kind", None)
    return f"{cls.__name__}-kind-{kind}".lower() if isinstance(kind, str) else cls.__name__.lower()


def _below(hint: Any) -> Iterable[type]:
    """Return the dataclasses that a hint leads to, through lists and unions."""
    if found := alternatives(hint):
        return found.values()
    return [cls for part in get_args(hint) for cls in _below(part)] if get_origin(hint) is tuple else []


def _takes(hint: Any) -> str:
    if hint is Method:
        return "a method: [the list](../methods/index.md)"
    if get_origin(hint) is tuple:
        inner = list(dict.fromkeys(_takes(part) for part in get_args(hint) if part is not ...))
        return f"a list of {' and '.join(inner)}"
    optional = " or nothing" if NoneType in get_args(hint) else ""
    if found := list(_below(hint)):
        named = "a name (`overproof list models`), or " if hint is Architecture else ""
        return named + ", ".join(f"[{getattr(cls, 'kind', cls.__name__)}](#{_anchor(cls)})" for cls in found) + optional
    if get_origin(hint) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join("nothing" if part is NoneType else _takes(part) for part in get_args(hint))
    if get_origin(hint) in (dict, Mapping):
        return "a mapping of names"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return {**names, Radius: "a length in pixels, such as 8/255"}[hint]


def _shown(default: Any) -> str:
    if default is MISSING:
        return "must be written"
    if is_dataclass(default):
        kind = getattr(default, "kind", None)
        return f"`{kind}`" if isinstance(kind, str) else "its own defaults"
    value = plain(default)
    if isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        return ", ".join(f"`{part['name']}`" for part in value)
    return "nothing" if value is None or value == "" else f"`{json.dumps(value)}`"


def _keys(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Yield the path and the kind of every value; a list of mappings is shown by its entries."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            # Names that a user chose, and classes by number, are not keys of the format.
            name = "*" if path in ("attacks", "terms") or str(key).isdecimal() else key
            yield from _keys(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for inner in value:
            yield from _keys(inner, f"{path}[]")
    else:
        kinds = {bool: "true or false", int: "number", float: "number", str: "text", NoneType: "null"}
        yield path, {**kinds, list: "list", dict: "mapping"}[type(value)]


RECIPE_HEAD = """# The recipe

Made from the dataclasses that a recipe becomes. `--set a.b.c=value` edits any key; an unknown one is answered with the
nearest right one. `preset: NAME`, where a method has presets, fills in the rest of its mapping. Attacks inherit norm
and eps from `threat` unless they name their own. Whatever is not written is written into the run's `recipe.yaml`.

## A recipe as a difference

`base:` names another recipe that this one changes. Mappings are merged key by key; lists and single values replace
those of the base, and so does a mapping of another `kind`.

```yaml
# my-ard.yaml
base: mnist/ard                           # a file in this folder or below it, or a shipped recipe or base
name: my-ard
student: {channels: [16, 32]}             # the rest of the student is as in the base
training: {epochs: 20, optimiser: {kind: sgd, lr: 0.1}}   # another kind: nothing of the base's optimiser remains
```

A base may have a base itself. `--set` edits what they make together, and `overproof recipe show` prints it;
`overproof recipe copy` writes it, and a run keeps it, without a base. The shipped recipes of one data set share one
file, such as `mnist/base`, which is no recipe to train, but a base for yours. A key of the base cannot be taken away,
only given another value.
"""

FILES_HEAD = """# Files

A run is a folder. Its JSON and YAML read without overproof, weights are safetensors, and nothing is pickled but the
checkpoints, which are read with `weights_only=True`.

| file | written by | holds |
|---|---|---|
| `recipe.yaml` | `train` | the whole [recipe](recipe.md), defaults included |
| `metrics.jsonl` | `train` | a line per epoch |
| `model.safetensors`, `model.json` | `train`, `teacher import` | the best epoch's network, and what it is |
| `last.safetensors`, `last.json` | `train` | the network of the last epoch |
| `checkpoint/` | `train` | the exact state, two of them, until the run is finished (`--keep-checkpoint`: for good) |
| `evaluations/*/`, `certificates/*/` | `evaluate`, `certify` | the results of one question each, as named below |
| `evaluation.json`, `examples.jsonl` | `evaluate` | the strongest findings; a line per example |
| `adversarial.safetensors` | `evaluate` | misclassified images; with `--save-adversarial` clean ones, labels, logits |
| `certificate.json`, `certificate.jsonl` | `certify` | the strongest proofs; a line per example |
| `counterexamples.safetensors` | `certify` | images that falsify |
| `teacher.json` | `teacher check` | the verdict and its figures |
| `report.html` | `evaluate`, `certify` | [the page](../report.md) |
| `model.onnx`, `model-int8.onnx`, `model.pt2`, `vnnlib/` | `export` | [the forms it ships in](../shipping.md) |

The tables below were made from a small run on digits, with itself as the teacher of `evaluate` and `certify`. `*`
stands for a name that is not part of the format. `schema` counts the changes that a reader would notice.
"""

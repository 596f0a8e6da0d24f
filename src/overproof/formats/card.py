"""The model card: what a network is, what it withstood and what was proved, with every number's footing."""

from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

import yaml

from overproof.plain_yaml import parse_yaml
from overproof.report.table import footing
from overproof.report.text import fence_around, in_code, in_markdown
from overproof.statistics import Proportion
from overproof.wording import visible

Facts = Mapping[str, Any]
_MOST_CLASSES = 100  # of which a card has rows


def model_card(
    config: Facts, *, recipe: str | None, evaluation: dict[str, Any] | None, certificate: dict[str, Any] | None
) -> str:
    """Return the card as Markdown with the Hub's YAML header (huggingface.co/docs/hub/model-cards).

    ``config`` is the network's description, ``evaluation`` and ``certificate`` the contents of the files of that name.
    """
    parts = [
        f"---\n{yaml.safe_dump(_header(config, recipe, evaluation), sort_keys=False, allow_unicode=True)}---\n",
        f"# {in_markdown(_title(config))}\n",
        _what(config),
        "## Evidence\n",
        *_evidence(evaluation, certificate),
        "## Limits\n",
        *_limits(evaluation, certificate),
        "## Use\n",
        _use(config),
        "## Origin\n",
        _origin(config),
    ]
    if recipe is not None:
        fence = fence_around(recipe)
        parts.append(
            f"<details><summary>The recipe, as run</summary>\n\n{fence}yaml\n{visible(recipe.strip())}\n{fence}\n\n"
            "</details>\n"
        )
    return "\n".join(parts)


def _header(config: Facts, recipe: str | None, evaluation: Facts | None) -> dict[str, Any]:
    data = (parse_yaml(recipe, where="the recipe") if recipe else {}).get("data", {})
    known = [data["id"]] if data.get("kind") == "hub" else []
    return {
        "library_name": "overproof",
        "license": config["license"],
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "knowledge-distillation"],
        **({"datasets": known} if known else {}),
        **({"model-index": [_index(config, evaluation, *known)]} if evaluation else {}),
    }


def _index(config: Facts, evaluation: Facts, data_id: str = "") -> dict[str, Any]:
    """Return the figures in the form that the Hub lists (``model-index``); a data set's type is its id there."""
    threat, name = evaluation["threat"], evaluation["data"]["name"]
    figures = {
        "Accuracy": evaluation["clean"]["share"],
        f"Accuracy under attack ({threat['norm']}, eps {threat['eps']})": evaluation["worst"]["share"],
    }
    return {
        "name": _title(config),
        "results": [
            {
                "task": {"type": "image-classification"},
                "dataset": {"name": name, "type": data_id or name, "split": "test"},
                "metrics": [{"type": "accuracy", "name": name, "value": value} for name, value in figures.items()],
            }
        ],
    }


def _title(config: Facts) -> str:
    return str(config.get("name") or config["architecture"]["kind"])


def _what(config: Facts) -> str:
    size, classes = config["signature"], config["classes"]
    names = f": {in_markdown(', '.join(map(str, classes)))}" if 0 < len(classes) <= 20 else ""
    inside = "inside the network" if config["normalisation"] else "not used"
    return (
        f"A {in_code(str(config['architecture']['kind']))} of {config['parameters']:,} parameters for images "
        f"{size['channels']}x{size['height']}x{size['width']} in [0, 1] and {size['classes']} classes{names}. "
        f"Normalisation is {inside}.\n"
    )


def _evidence(evaluation: dict[str, Any] | None, certificate: dict[str, Any] | None) -> Iterator[str]:
    if evaluation is None and certificate is None:
        yield "Nothing was measured: trust it with nothing before `overproof evaluate` and `overproof certify`.\n"
    if evaluation is not None:
        figures = {"clean": evaluation["clean"], **evaluation["attacks"], "worst": evaluation["worst"]}
        evidence = {name: Proportion(claim=name, passed=one["passed"], of=one["of"]) for name, one in figures.items()}
        lines = [f"| {in_markdown(name)} | {one} | {one.of} |" for name, one in evidence.items()]
        suite = in_code(str(evaluation["suite"]["name"]))
        yield f"Attacked: {in_markdown(footing(evaluation))}; suite {suite}, seed {evaluation['seed']}.\n"
        yield "\n".join(["| attack | correct, % [95 %] | images |", "|---|---|---|", *lines]) + "\n"
        yield from _classes(evaluation)
        yield from _verdicts(evaluation)
    if certificate is not None:
        threat, data, proven = certificate["threat"], certificate["data"], certificate["verified"]
        certified = Proportion(claim=proven["claim"], passed=proven["passed"], of=proven["of"])
        how = "by bounds" if certificate["kind"] == "bounds" else "of the network smoothed with noise, not of itself"
        yield (
            f"Proven {how}: correct everywhere within {threat['norm']} eps {threat['eps']} on {certified} % of "
            f"{data['examples']} of {data['of']} test images of {in_markdown(str(data['name']))}.\n"
        )


def _classes(evaluation: Facts) -> Iterator[str]:
    """Yield the figures of each class, of up to 100, and their means where classes are unequal."""
    classes = evaluation.get("per_class") or ()
    if not 0 < len(classes) <= _MOST_CLASSES:
        return
    rows = [
        f"| {in_markdown(str(one['class']))} | {one['of']} | {_percent(one['clean'], one['of'])} "
        f"| {_percent(one['worst'], one['of'])} |"
        for one in classes
    ]
    heads = ["| class | images | clean, % | worst case, % |", "|---|---:|---:|---:|"]
    means = (mean(one[part] / one["of"] for one in classes) for part in ("clean", "worst"))
    clean, worst = (f"{100 * one:.1f}" for one in means)
    rows.append(f"| mean over the classes (balanced accuracy) | | {clean} | {worst} |")
    yield "\n".join(["<details><summary>By class</summary>\n", *heads, *rows, "\n</details>"]) + "\n"


def _percent(passed: int, of: int) -> str:
    return f"{100 * passed / of:.1f}"


def _verdicts(evaluation: Facts) -> Iterator[str]:
    calibration, reliability = evaluation.get("calibration"), evaluation.get("reliability")
    if calibration:
        yield (
            f"Calibration error (15 bins): {calibration['clean']['ece']:.3f} on clean images, "
            f"{calibration['attacked']['ece']:.3f} on attacked ones.\n"
        )
    answers = evaluation.get("answers") or {}
    if answers.get("level", "fine") != "fine":
        yield f"**Not to be used**: {in_markdown(answers['finding'])}.\n"
    if reliability:
        yield f"Reliability of the attacks: {in_markdown(reliability['sentence'])}\n"


def _limits(evaluation: Facts | None, certificate: Facts | None) -> Iterator[str]:
    limits = ["Measured on the named test images alone; other data, other corruptions and larger changes were not."]
    if evaluation is not None:
        threat = evaluation["threat"]
        limits.append(
            f"The robust figures are upper estimates for {threat['norm']} changes of at most {threat['eps']}: a "
            f"stronger attack can only lower them."
        )
        if evaluation["suite"]["caution"]:
            limits.append(f"Of the suite: {in_markdown(evaluation['suite']['caution'])}.")
        if evaluation["selected_on"] == "unknown":
            limits.append("How its weights were selected is unknown; a choice on these test images would flatter it.")
    if certificate is None:
        limits.append("Nothing is proved about it.")
    else:
        limits.append(
            "A proof is about the network of this repository in exact arithmetic: how a device rounds, and a converted "
            "file, are not part of it."
        )
    yield "\n".join(f"* {limit}" for limit in limits) + "\n"


def _use(config: Facts) -> str:
    size = config["signature"]
    return (
        "```python\nimport overproof\n\n"
        'network = overproof.load("org/name")  # or the folder of this repository; checks the digest\n'
        f"logits = network(pixels)  # [N, {size['channels']}, {size['height']}, {size['width']}] in [0, 1] -> "
        f"[N, {size['classes']}]\n```\n\n"
        "`model.safetensors` holds no code; `config.json` says the architecture, and how pixels are normalised.\n"
    )


def _origin(config: Facts) -> str:
    lines = {
        "SHA-256 of the weights": in_code(config["digest"]),
        "SHA-256 of the recipe": in_code(str(config["recipe_digest"])) if config.get("recipe_digest") else None,
        **{
            f"SHA-256 of the {in_markdown(role)} teacher's weights": in_code(str(digest))
            for role, digest in config.get("teachers", {}).items()
        },
        "imported from": _describe_origin(config.get("imported")),
        "licence": "not stated by its publisher" if config["license"] == "unknown" else config["license"],
        "written by": in_markdown(
            ", ".join(f"{name} {version}" for name, version in config.get("versions", {}).items())
        ),
    }
    return "\n".join(f"* {name}: {value}" for name, value in lines.items() if value) + "\n"


def _describe_origin(origin: Facts | None) -> str | None:
    return None if origin is None else f"{in_code(str(origin['file']))} (SHA-256 {in_code(str(origin['sha256']))})"

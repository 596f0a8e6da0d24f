"""Where figures come from: commands to make them again, digests, versions, and in what recipes differ."""

from collections.abc import Iterator, Mapping, Sequence
from shlex import join
from typing import Any

from overproof.report.findings import Findings, Plain


def commands(findings: Findings) -> list[str]:
    """Return the commands that make a run's figures again, quoted for a shell."""
    evaluation, folder = findings.evaluation, findings.folder or findings.name
    again = f"{folder}-again"
    found = []
    if findings.recipe is not None:
        found.append(["overproof", "train", f"{folder}/recipe.yaml", "--out", again])
    else:
        again = folder
    found.append(["overproof", "evaluate", again, *_evaluating(evaluation)])
    if findings.certificate is not None:
        found.append(["overproof", "certify", again, *_certifying(findings.certificate)])
    return [join(map(str, words)) for words in found]


def _evaluating(evaluation: Plain) -> Iterator[Any]:
    suite, threat = evaluation.get("suite") or {}, evaluation["threat"]
    attacks = ",".join(evaluation["attacks"]) if suite.get("name") == "chosen" else suite.get("name", "recipe")
    yield from () if attacks in ("recipe", "") else ("--attacks", attacks)
    yield from ("--norm", threat["norm"], "--eps", threat["eps"])
    yield from ("--examples", _examples(evaluation), "--seed", evaluation.get("seed", 0))
    yield from ("--batch", evaluation["batch"]) if "batch" in evaluation else ()
    if evaluation.get("teacher"):
        yield from ("--teacher", evaluation["teacher"]["name"])


def _certifying(certificate: Plain) -> Iterator[Any]:
    threat = certificate["threat"]
    yield from ("--norm", threat["norm"], "--eps", threat["eps"])
    if certificate["kind"] == "smoothing":
        noise = certificate["smoothing"]
        yield from ("--smoothing", noise["sigma"], "--samples", noise["samples"])
    else:
        yield from ("--bound", certificate["bound"], "--seconds", certificate["budget"])
    yield from ("--examples", _examples(certificate), "--seed", certificate["seed"], "--batch", certificate["batch"])
    if certificate.get("teacher"):
        yield from ("--teacher", certificate["teacher"]["name"])


def _examples(found: Plain) -> int:
    data = found["data"]
    return 0 if data["examples"] == data["of"] else int(data["examples"])


def differences(findings: Sequence[Findings]) -> list[tuple[str, list[str]]]:
    """Return the paths but name and seed at which recipes differ, with each run's value; nothing without two recipes.

    A run without the key, or without a recipe, has an empty value.
    """
    leaves = [dict(_leaves(one.recipe)) if one.recipe is not None else None for one in findings]
    known = [one for one in leaves if one is not None]
    if len(known) < 2:
        return []
    paths = dict.fromkeys(path for one in known for path in one if path not in ("name", "seed"))
    return [
        (path, ["" if one is None else one.get(path, "") for one in leaves])
        for path in paths
        if len({one.get(path, "") for one in known}) > 1
    ]


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list | tuple) and any(isinstance(part, Mapping) for part in tree):
        for number, part in enumerate(tree):
            yield from _leaves(part, f"{path}.{number}")
    else:
        yield path, str(tree)


def missing(findings: Findings) -> list[tuple[str, str]]:
    """Return what a run does not hold, each with the command that would add it."""
    evaluation, folder = findings.evaluation, findings.folder or findings.name
    found = [("left out", note) for note in findings.notes]
    evaluate = join(["overproof", "evaluate", folder])
    if findings.certificate is None:
        found.append(("certificate: not run", join(["overproof", "certify", folder])))
    if not evaluation.get("teacher"):
        found.append(("comparison with the teacher: not run", f"{evaluate} --teacher RUN"))
    if not evaluation.get("reliability"):
        found.append(("reliability probes: not run", evaluate))
    if findings.pictures is None:
        found.append(("broken images: not kept, or none was broken", f"{evaluate} --save-adversarial"))
    if not evaluation.get("calibration"):
        found.append(("calibration: not recorded", evaluate))
    return found

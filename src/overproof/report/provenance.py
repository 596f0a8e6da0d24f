"""Where figures come from: commands to make them again, digests, versions, and in what recipes differ."""

from collections.abc import Iterator, Mapping, Sequence
from json import dumps
from shlex import join
from typing import Any

from overproof.report.findings import Findings, Plain


def commands(findings: Findings) -> list[str]:
    """Return the commands that make a run's figures again, quoted for a shell.

    A run that was trained is trained again, into a folder of its own, and that is evaluated; results about every other
    network are made again in a folder beside them. There is none for what no command line can say: a network or images
    in the memory of a Python program.
    """
    folder = findings.folder or findings.name
    again = f"{folder}-again"
    lines = list(_training(findings, folder, again))
    parts = {"evaluate": (findings.evaluation, _evaluating), "certify": (findings.certificate, _certifying)}
    for command, (result, earlier) in parts.items():
        if result is None or (command == "evaluate" and (result.get("suite") or {}).get("name") == "certify"):
            continue  # a certificate alone is shown as an evaluation by its own attack
        call = result.get("call")
        words = list(earlier(result)) if call is None else _words(call["options"])
        source: str | None
        place: list[str] = []
        if findings.recipe is not None:
            source = again
        elif call is None:  # of an earlier version, which did not say
            source = folder
        else:
            source, place = _pin(call, result), ["--out", again]
        if source is not None and words is not None:
            lines.append(["overproof", command, source, *words, *place])
    return [join(map(str, words)) for words in lines]


def _training(findings: Findings, folder: str, again: str) -> Iterator[list[str]]:
    """Yield the commands that train a run; one that was extended is trained to its first length, and then on."""
    if findings.recipe is None:
        return
    train = ["overproof", "train", f"{folder}/recipe.yaml"]
    for number, epochs in enumerate(findings.lengths):
        going_on = ["--resume"] if number else []
        yield [*train, "--set", f"training.epochs={epochs}", "--out", again, "--keep-checkpoint", *going_on]
    yield [*train, "--out", again, *(["--resume"] if findings.lengths else [])]


def _pin(call: Plain, result: Plain) -> str | None:
    """Return a source; with the digest of the network behind it where its name may be another one's some day."""
    source: str | None = call["source"]
    if source is not None and call["kind"] == "hub" and "#" not in source:
        return f"{source}#sha256={result['model_digest']}"
    return source


def _words(options: Plain) -> list[Any] | None:
    """Return options as a command line says them; None where it cannot."""
    words: list[Any] = []
    for name, value in options.items():
        word = f"--{name.replace('_', '-')}"
        if value is None:
            return None
        if isinstance(value, bool):
            words.append(word if value else f"--no-{word.removeprefix('--')}")
        elif isinstance(value, list):
            words += [word, ",".join(map(str, value))]
        else:
            words += [word, dumps(value) if isinstance(value, Mapping) else value]
    return words


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


def _examples(result: Plain) -> int:
    data = result["data"]
    return 0 if data["examples"] == data["of"] else int(data["examples"])


def compare_recipes(findings: Sequence[Findings]) -> list[tuple[str, list[str]]]:
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


def _asking(findings: Findings, command: str, folder: str) -> str:
    """Return the command that asks more about the network of these results, and puts the answer beside them."""
    call = findings.evaluation.get("call") or (findings.certificate or {}).get("call")
    if findings.recipe is not None or call is None:
        return join(["overproof", command, folder])
    kept = {name: value for name, value in call["options"].items() if name in ("data", "trust_code")}
    source, words = _pin(call, findings.evaluation), _words(kept)
    if source is None or words is None:
        return f"overproof.{command}(network, ..., out={folder!r}) in Python"
    return join(map(str, ["overproof", command, source, *words, "--out", folder]))


def missing(findings: Findings) -> list[tuple[str, str]]:
    """Return what a run does not hold, each with the command that would add it."""
    evaluation, folder = findings.evaluation, findings.folder or findings.name
    notes = [("left out", note) for note in findings.notes]
    evaluate, certify = (_asking(findings, command, folder) for command in ("evaluate", "certify"))
    if findings.certificate is None:
        notes.append(("certificate: not run", certify))
    if not evaluation.get("teacher"):
        notes.append(("comparison with the teacher: not run", f"{evaluate} --teacher RUN"))
    if not evaluation.get("reliability"):
        notes.append(("reliability probes: not run", evaluate))
    if findings.pictures is None:
        notes.append(("misclassified images: not kept, or there were none", f"{evaluate} --save-adversarial"))
    if not evaluation.get("calibration"):
        notes.append(("calibration: not recorded", evaluate))
    return notes

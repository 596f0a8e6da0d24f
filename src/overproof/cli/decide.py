"""The words of `overproof certify --query` and `--instances`: what a verifier prints."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from overproof.cli.console import say, stoppable, warn
from overproof.errors import InputError


def decide_query(
    networks: Sequence[str],
    query: Path | None,
    unfit: Sequence[str],
    *,
    seconds: float | None,
    seed: int,
    precision: Literal["float32", "float64"],
    out: Path,
) -> None:
    """Print the decision of one query on the last line, ``error`` where there is none; refuse ``unfit`` options."""
    try:
        if not networks:
            raise InputError("say which ONNX file the query is about: overproof certify NET.onnx --query QUERY")
        _refuse(unfit, "--query")
        from overproof.commands.decide import decide

        assert query is not None
        with stoppable("no query was decided"):
            limit = 60.0 if seconds is None else seconds
            decision = decide(networks, query, seconds=limit, seed=seed, precision=precision, out=out)
        for note in decision["notes"]:
            warn(note)
        names = " and ".join(decision["networks"])
        say(f"{names}; {decision['query']}; cases {decision['cases']}; {decision['seconds']:.1f} s")
        if decision["witness"]:
            say(f"counter-example, confirmed by onnxruntime: {decision['witness']}")
    except Exception:  # which the program's one end says in a sentence, or shows
        say("error")
        raise
    say(decision["result"])


def decide_instances(
    unfit: Sequence[str],
    instances: Path,
    *,
    out: Path,
    jobs: int,
    seconds: float | None,
    seed: int,
    precision: Literal["float32", "float64"],
    resume: bool,
    overwrite: bool,
) -> None:
    """Print a line for each instance as it ends, then how many had which result; ``unfit`` words are refused."""
    _refuse(unfit, "--instances")
    from overproof.commands.instances import RESULTS, iter_decide

    counts, took = Counter[str](), 0.0
    with stoppable("finished instances are kept, continue with --resume"):
        events = iter_decide(
            instances,
            out,
            jobs=jobs,
            seconds=seconds,
            seed=seed,
            precision=precision,
            resume=resume,
            overwrite=overwrite,
        )
        for ended in events:
            network, query, _ = ended.instance.cells
            say(f"{ended.done}/{ended.total} {network}, {query}: {ended.result}, {ended.seconds:.1f} s")
            for note in ended.notes:
                warn(f"{query}: {note}")
            counts[ended.result] += 1
            took += ended.seconds
    said = ", ".join(f"{name} {counts[name]}" for name in ("sat", "unsat", "unknown", "error"))
    say(f"{said}; {took:.1f} s; {out / RESULTS}")


def _refuse(unfit: Sequence[str], what: str) -> None:
    if unfit:
        raise InputError(f"{unfit[0]} has no meaning with {what}; leave it out")

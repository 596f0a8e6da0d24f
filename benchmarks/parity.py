"""``python -m benchmarks.parity RUN``: our ``standard`` against pyautoattack's, attack by attack, in one process.

Both attack in the same order. After each attack it is compared what each broke *of the reference's survivors*; our own
chain goes on with our own. Times are CPU seconds of one thread, so that other work on the machine does not count.
"""

import argparse
import json
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.reference import images, network
from overproof.attacks.ball import Radius, Threat
from overproof.attacks.suites import Suite, standard
from overproof.data.images import Batch, balanced_subset, pixels
from overproof.environment import hardware, versions
from overproof.evaluation.attacked import prepare_subject
from overproof.evaluation.engine import run_attacks
from overproof.models.precision import choose_precision
from overproof.runs.folder import Run
from overproof.statistics import Proportion

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Compare on one network and write ``benchmarks/results/parity-NAME.json`` after every attack."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("run", type=Path, help="a run folder, or cnn_pgd: the network of the reference verdicts")
    words.add_argument("--examples", type=int, default=500)
    words.add_argument("--norm", default=None)
    words.add_argument("--eps", default=None)
    words.add_argument("--batch", type=int, default=250, help="the reference's batch size")
    given = words.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if str(given.run) == "cnn_pgd":
        threat = Threat(norm=given.norm or "linf", eps=Radius(given.eps or "0.15"))
        x, y = images(given.examples)
        compare(network(), x, y, threat, given.batch, f"cnn_pgd-{threat.norm}-{threat.eps}")
        return
    run = Run(given.run)
    recipe, (model, _) = run.recipe(), run.model()
    threat = Threat(norm=given.norm or recipe.threat.norm, eps=Radius(given.eps or recipe.threat.eps))
    test = recipe.data.load("test")
    test = test.at(balanced_subset(test, given.examples, 0))
    name = f"{recipe.name}-{threat.norm}-{str(threat.eps).replace('/', '_')}"
    compare(model.requires_grad_(False), pixels(test.images), test.labels, threat, given.batch, name)


def compare(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, batch: int, name: str) -> dict[str, Any]:
    """Run both suites and return what each attack broke and took."""
    with torch.no_grad():
        correct = torch.cat([model(part) for part in x.split(batch)]).argmax(dim=1) == y
    ours, theirs = correct.clone(), correct.clone()
    precision = choose_precision("auto", torch.device("cpu"), model)
    found: dict[str, Any] = {
        "network": name,
        "threat": {"norm": threat.norm, "eps": str(threat.eps)},
        "examples": len(y),
        "clean": int(correct.sum()),
        "search_precision": precision,
        "attacks": {},
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    for trial in standard(threat).attacks:
        both = ours | theirs
        suite = Suite(name="one", attacks=(trial,))
        survived, our_seconds = _timed(partial(_ours, model, x[both], y[both], suite, precision))
        held = both.clone()
        held[both] = survived
        before = theirs.clone()
        kept, their_seconds = _timed(partial(_theirs, model, x[before], y[before], threat, trial.name, batch))
        theirs[before] = kept
        ours &= held
        found["attacks"][trial.name] = {
            "given": int(before.sum()),
            "ours_left": int((held & before).sum()),
            "theirs_left": int(theirs.sum()),
            "ours_examples": int(both.sum()),
            "our_seconds": round(our_seconds, 2),
            "their_seconds": round(their_seconds, 2),
            "ratio": round(their_seconds / our_seconds, 3) if our_seconds else None,
        }
        found |= {
            "ours": Proportion(claim="ours", passed=int(ours.sum()), of=len(y)).plain(),
            "theirs": Proportion(claim="pyautoattack", passed=int(theirs.sum()), of=len(y)).plain(),
            "points": round(100 * float(ours.sum() - theirs.sum()) / len(y), 2),
            "speed": round(
                sum(one["their_seconds"] for one in found["attacks"].values())
                / sum(one["our_seconds"] for one in found["attacks"].values()),
                3,
            ),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"parity-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(trial.name, json.dumps(found["attacks"][trial.name]), flush=True)
    print(
        f"ours {found['ours']['passed']}, theirs {found['theirs']['passed']}, {found['points']} points, "
        f"{found['speed']} times the speed",
        flush=True,
    )
    return found


def _ours(model: nn.Module, x: Tensor, y: Tensor, suite: Suite, precision: Any) -> Tensor:
    *_, state = run_attacks(prepare_subject(model, precision=precision), Batch(x, y), suite, seed=0, number=0)
    return state["survived"][:, 0] & (state["prediction"] == y)


def _theirs(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, name: str, batch: int) -> Tensor:
    from pyautoattack import AutoAttack

    attack = AutoAttack(model, norm=threat.norm.capitalize(), eps=float(threat.eps), seed=0, version="standard")
    attack.verbose = False
    attack.attacks_to_run = [name]
    _, predicted = attack.run_standard_evaluation(x, y, batch_size=batch)
    return predicted == y


def _timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    started = time.process_time()
    return work(), time.process_time() - started


if __name__ == "__main__":
    main()

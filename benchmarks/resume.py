"""``python -m benchmarks.resume``: kill a run (SIGKILL) at random moments, resume it, compare with one left alone."""

import json
import random
import signal
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from time import sleep

RESULT = Path(__file__).parents[1] / "docs" / "results" / "resume.json"
EDITS = [
    "training.epochs=8",
    "training.checkpoint_minutes=0.001",
    "selection.every=2",
    "training.averaging={kind: ema}",
]
KILLS = 4


def train(out: Path) -> subprocess.Popen[bytes]:
    """Start (or continue) adversarial training on digits in a process of its own."""
    words = [sys.executable, "-m", "overproof", "train", "digits/at", "--out", str(out), "--resume"]
    for edit in EDITS:
        words += ["--set", edit]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def kill_when_under_way(out: Path, moments: random.Random) -> bool:
    """Train until there is a new checkpoint, and a random moment longer, then kill; return whether it was in time."""
    before = set(out.glob("checkpoint/*.pt"))
    process = train(out)
    while process.poll() is None and not set(out.glob("checkpoint/*.pt")) - before:
        sleep(0.01)
    sleep(moments.uniform(0, 0.4))
    in_time = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return in_time


def digest(run: Path, name: str) -> str:
    """Return the SHA-256 of a file of the run."""
    return sha256((run / name).read_bytes()).hexdigest()


def main() -> None:
    """Write and print both runs' digests and how often the second was killed."""
    moments = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        train(alone).wait()
        kills = sum(kill_when_under_way(killed, moments) for _ in range(KILLS))
        train(killed).wait()
        files = ("model.safetensors", "last.safetensors")
        found = {
            "kills": kills,
            "edits": EDITS,
            **{name: {"alone": digest(alone, name), "killed and resumed": digest(killed, name)} for name in files},
        }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    if any(len(set(found[name].values())) > 1 for name in files):
        sys.exit("the resumed run is not the uninterrupted one")


if __name__ == "__main__":
    main()

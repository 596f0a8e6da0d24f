"""Faults of the machine: a small disk, read-only folders, clocks that jump, no shared memory, no memory, two at once.

    python -m reliability.machine [NAME ...]

Each fault befalls a command on a small run, in a process of its own. The command must end well or in one sentence, and
the same command without the fault must then end with the files of an undisturbed run. Mounting needs root on Linux;
what cannot be tried here is called "not tried".
"""

import argparse
import ctypes
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import torch

from overproof.commands.train import train
from overproof.data.sources import Digits, Folder
from overproof.files import write_atomically
from overproof.recipe import parse
from reliability.stages import RECIPE, STAGES, contents, forked, left_over, waited, warm

_LEFT = 4096  # bytes on the small disk
_NEW_MOUNTS, _PRIVATE, _READ_ONLY, _REMOUNT = 0x20000, 0x44000, 1, 32


class NotPermittedError(Exception):
    """The fault cannot be made here."""


def mounted(place: Path, options: str, flags: int = 0) -> None:
    """Mount an empty file system in memory over a folder, for this process alone; raise ``NotPermittedError``."""
    system = ctypes.CDLL(None, use_errno=True)
    for failed in (
        system.unshare(_NEW_MOUNTS),
        system.mount(b"none", b"/", None, _PRIVATE, None),
        system.mount(b"tmpfs", os.fsencode(place), b"tmpfs", flags, options.encode()),
    ):
        if failed:
            raise NotPermittedError(os.strerror(ctypes.get_errno()))


class Runs:
    """A finished run to start from, and what every stage makes of it undisturbed."""

    def __init__(self, place: Path) -> None:
        self.place, self.said = place, place / "said"
        self.whole, self.trained = place / "whole", place / "trained"
        self.whole.mkdir()
        self.wanted = {}
        for name, stage in STAGES.items():
            self._must(waited(forked(lambda work=stage.work: work(self.whole), self.said)), name)  # type: ignore[misc]
            self.wanted[name] = contents(self.whole, stage)
            if name == "train":
                shutil.copytree(self.whole, self.trained)

    def _must(self, status: int, name: str) -> None:
        if status:
            raise RuntimeError(f"{name}, undisturbed: {self.said.read_text()}")

    def copy(self, stage: str) -> Path:
        """Return a new folder from which a stage may start."""
        folder = Path(tempfile.mkdtemp(dir=self.place)) / "run"
        if stage == "train":
            folder.mkdir()
        else:
            shutil.copytree(self.trained, folder)
        return folder

    def after(self, stage: str, folder: Path, fault: Callable[[], object], wishes: tuple[int, ...]) -> list[str]:
        """Return what is wrong with a stage under a fault, and after it; ``wishes`` are how it may end."""
        status = waited(forked(fault, self.said))
        said = self.said.read_text()
        if "NotPermittedError" in said:
            return ["not tried"]
        wrong = [] if status in wishes else [f"{stage}: ended with {status}: {said[-1500:]}"]
        wrong += [f"{stage}: a traceback: {said[-1500:]}"] if "Traceback" in said and status in wishes else []
        return wrong + self.again(stage, folder)

    def again(self, stage: str, folder: Path) -> list[str]:
        """Return what is wrong with a stage that goes on undisturbed in a folder."""
        work = STAGES[stage].work
        if waited(forked(lambda: work(folder), self.said)) != 0:
            return [f"{stage}, afterwards: {self.said.read_text()[-1500:]}"]
        found = contents(folder, STAGES[stage])
        return [
            *(f"{stage}: {name} differs" for name, value in self.wanted[stage].items() if found[name] != value),
            *(f"{stage}: left over: {name}" for name in left_over(folder)),
        ]


def small_disk(runs: Runs) -> list[str]:
    """Every stage on a file system that is full before the stage has finished."""
    wrong = []
    for stage in STAGES:
        folder = runs.copy(stage)
        kept = folder.with_name("kept")

        def full(stage: str = stage, folder: Path = folder, kept: Path = kept) -> None:
            shutil.copytree(folder, kept)
            mounted(folder, "size=10m")
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            free = os.statvfs(folder)
            filler = folder / "filler"
            filler.write_bytes(bytes(free.f_bavail * free.f_bsize - _LEFT))
            try:
                STAGES[stage].work(folder)
            finally:  # what is on the small disk goes back to where there is space
                filler.unlink()
                shutil.copytree(folder, kept, dirs_exist_ok=True)

        wrong += runs.after(stage, kept, full, (2,))
    return wrong


def read_only(runs: Runs) -> list[str]:
    """Every stage in a folder that takes no file."""
    wrong = []
    for stage in STAGES:
        folder = runs.copy(stage)

        def refused(stage: str = stage, folder: Path = folder) -> None:
            kept = folder.with_name("kept")
            shutil.copytree(folder, kept)
            mounted(folder, "size=10m")
            shutil.copytree(kept, folder, dirs_exist_ok=True)
            if ctypes.CDLL(None).mount(None, os.fsencode(folder), None, _REMOUNT | _READ_ONLY, None):
                raise NotPermittedError
            STAGES[stage].work(folder)

        wrong += runs.after(stage, folder, refused, (2,))
    return wrong


def clocks(runs: Runs) -> list[str]:
    """Every stage while the clock on the wall jumps by up to a year at every look."""
    wrong, draw, wall = [], random.Random(0), time.time
    for stage in STAGES:
        folder = runs.copy(stage)

        def jumping(stage: str = stage, folder: Path = folder) -> None:
            with (
                mock.patch.object(time, "time", lambda: wall() + draw.uniform(-3e7, 3e7)),
                mock.patch.object(time, "time_ns", lambda: int(1e9 * (wall() + draw.uniform(-3e7, 3e7)))),
            ):
                STAGES[stage].work(folder)

        wrong += runs.after(stage, folder, jumping, (0,))
    return wrong


def no_shared_memory(runs: Runs) -> list[str]:
    """A training whose images are decoded by a worker, where shared memory takes nothing."""
    from PIL import Image

    data = runs.place / "pictures"
    for split in ("train", "test"):
        images = Digits().load(split)
        for number in range(200 if split == "train" else 40):
            file = data / split / images.classes[int(images.labels[number])] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.images[number, 0].numpy()).save(file)
    source = Folder(path=str(data))
    edits = (f"data={{kind: folder, path: {source.path}}}", "loading={mode: streamed, workers: 1}")

    def streamed(out: str) -> None:
        train(parse(RECIPE, edits), runs.place / out, device="cpu", resume=True)

    def without() -> None:
        mounted(Path("/dev/shm"), "size=4k", _READ_ONLY)
        streamed("without")

    if waited(forked(lambda: streamed("with"), runs.said)) != 0:
        return [runs.said.read_text()[-1500:]]
    status = waited(forked(without, runs.said))
    said = runs.said.read_text()
    if "NotPermittedError" in said:
        return ["not tried"]
    wrong = [] if status in (0, 2) and "Traceback" not in said else [f"ended with {status}: {said[-1500:]}"]
    if waited(forked(lambda: streamed("without"), runs.said)) != 0:
        return [*wrong, f"afterwards: {runs.said.read_text()[-1500:]}"]
    both = [contents(runs.place / name, STAGES["train"]) for name in ("with", "without")]
    return wrong + [f"{name} differs" for name in both[0] if both[0][name] != both[1][name]]


def two_at_once(runs: Runs) -> list[str]:
    """Two processes with the same command in the same folder: one may be refused, and what is there is right."""
    wrong = []
    for stage in STAGES:
        folder = runs.copy(stage)
        work = STAGES[stage].work
        sayings = [runs.place / f"said-{number}" for number in range(2)]
        both = [forked(lambda work=work, folder=folder: work(folder), said) for said in sayings]  # type: ignore[misc]
        for process, said in zip(both, sayings, strict=True):
            if (status := waited(process)) not in (0, 2):
                wrong.append(f"{stage}: ended with {status}: {said.read_text()[-1500:]}")
        wrong += runs.again(stage, folder)
    return wrong


def no_memory(runs: Runs) -> list[str]:
    """Every stage as a command whose memory runs out, after as many bytes as it has and a few more.

    Native code of the libraries may end the process where even its smallest allocation fails; that is as a kill is.
    """
    wrong = []
    for stage in STAGES:
        for more in (2**20, 2**24, 2**26):
            folder = runs.copy(stage)
            words = {
                "train": ["train", str(_recipe(runs.place)), "--out", str(folder), "--resume"],
                "evaluate": ["evaluate", str(folder), "--out", str(folder.with_name("elsewhere"))],
                "certify": ["certify", str(folder), "--bound", "crown", "--out", str(folder.with_name("elsewhere"))],
                "export": ["export", str(folder), "--to", "onnx", "--out", str(folder.with_name("x.onnx"))],
            }[stage]

            def short(words: list[str] = words, more: int = more) -> None:
                from overproof.cli import main

                taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (taken + more, taken + more))
                sys.argv = ["overproof", *words, "--device", "cpu"] if words[0] != "export" else ["overproof", *words]
                try:
                    main()
                except SystemExit as end:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(int(end.code or 0))

            wrong += [
                f"{more:,} bytes more, {line}"
                for line in runs.after(stage, folder, short, (0, 2, -signal.SIGSEGV, -signal.SIGABRT))
            ]
    return wrong


def _recipe(place: Path) -> Path:
    file = place / "recipe.yaml"
    write_atomically(file, RECIPE.encode())
    return file


def linked_weights(runs: Runs) -> list[str]:
    """Weights and description that are symbolic links, as in a cache: read as they are, and never written through."""
    folder = runs.copy("evaluate")
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir()
    for name in ("model.safetensors", "model.json"):
        (folder / name).rename(elsewhere / name)
        (folder / name).symlink_to(elsewhere / name)
    before = {file.name: file.read_bytes() for file in elsewhere.iterdir()}
    wrong = [line for stage in ("evaluate", "certify", "export", "train") for line in runs.again(stage, folder)]
    after = {file.name: file.read_bytes() for file in elsewhere.iterdir()}
    return wrong + (["what the links lead to was changed"] if before != after else [])


FAULTS: Mapping[str, Callable[[Runs], list[str]]] = {
    "a small disk": small_disk,
    "a read-only folder": read_only,
    "a clock that jumps": clocks,
    "no shared memory": no_shared_memory,
    "two at once": two_at_once,
    "no memory": no_memory,
    "linked weights": linked_weights,
}


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names or list(FAULTS)
    torch.set_num_threads(1)
    warm()
    failed = False
    print("| fault | outcome |\n|---|---|")
    with tempfile.TemporaryDirectory() as place:
        runs = Runs(Path(place))
        for name in names:
            wrong = FAULTS[name](runs)
            tried = [line for line in wrong if line != "not tried"]
            outcome = f"{len(tried)} wrong" if tried else "not tried" if wrong else "right"
            print(f"| {name} | {outcome} |", flush=True)
            for line in tried:
                print(f"  {line}", file=sys.stderr)
            failed = failed or bool(tried)
    return int(failed)


if __name__ == "__main__":
    sys.exit(_main())

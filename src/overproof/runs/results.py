"""Results of a run kept side by side, each in a folder named by what was asked; the strongest also at the run's root.

``evaluations/NAME-KEY/`` and ``certificates/NAME-KEY/`` hold the results themselves. The files of the same names at the
root are copies of the strongest ones, for whoever reads a run without overproof.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from overproof.errors import InputError
from overproof.files import make_folder, write_atomically
from overproof.reading import is_file, read_bytes, read_object
from overproof.wording import folder_name

Plain = Mapping[str, Any]


class StoredResult(NamedTuple):
    """One result: its folder, and the content of its main file."""

    folder: Path
    result: Plain


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What one command keeps: its ``main`` file, files ``beside`` it, the folder ``home`` of all, and which is best.

    ``schema`` counts the changes of the main file that a reader would notice.
    ``strongest`` takes results of one network, at least one, and returns the place of the strongest.
    """

    main: str
    schema: int
    beside: tuple[str, ...]
    home: str
    strongest: Callable[[Sequence[Plain]], int]

    def place(self, root: Path, asked: Plain, title: str) -> Path:
        """Return the folder of what was asked: ``title`` is for people, the key behind it says all."""
        key = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
        return root / self.home / f"{folder_name(title)}-{key}"

    def finished(self, place: Path, *, overwrite: bool) -> dict[str, Any] | None:
        """Return the result of the same question, which is not worked out twice; None where there is none."""
        return None if overwrite or not is_file(place / self.main) else read_object(place / self.main)

    def promote(self, root: Path, digest: str) -> None:
        """Put the strongest result about the network of this ``digest`` at the root; keep what lay there.

        The main file is copied last. Raises ``InputError`` where the disk does not take it.
        """
        self._keep_earlier(root)
        candidates = [
            one for one in self.all(root) if one.result.get("model_digest") == digest and self._ranks(one.result)
        ]
        if not candidates:
            return
        best = candidates[self.strongest([one.result for one in candidates])]
        for name in (*self.beside, self.main):
            if name.endswith(".safetensors") and _link(best.folder / name, root / name):
                continue
            if is_file(best.folder / name):
                write_atomically(root / name, read_bytes(best.folder / name))
            else:
                (root / name).unlink(missing_ok=True)

    def _ranks(self, result: Plain) -> bool:
        """Whether a file holds what results are ranked by; one that somebody edited must not cost another its place."""
        try:
            self.strongest([result])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
            return False
        return True

    def shows(self, root: Path, result: Plain) -> bool:
        """Whether this result is the one at the root."""
        return is_file(root / self.main) and _same(read_object(root / self.main), result)

    def all(self, root: Path) -> Iterator[StoredResult]:
        """Yield the results that lie side by side and can be read, in the order of their names."""
        for file in sorted((root / self.home).glob(f"*/{self.main}")):
            try:
                yield StoredResult(file.parent, read_object(file))
            except InputError:  # written by something else: no reason to lose the others
                continue

    def folder(self, root: Path, result: Plain) -> Path:
        """Return where the files beside a result lie that was read at the root: in its own folder where there is one.

        A root whose copying was interrupted holds files of two results.
        """
        return next((one.folder for one in self.all(root) if _same(one.result, result)), root)

    def others(self, root: Path, result: Plain) -> list[StoredResult]:
        """Return the other results about the network that ``result``, one of this root, is about."""
        digest = result.get("model_digest")
        return [
            one for one in self.all(root) if not _same(one.result, result) and one.result.get("model_digest") == digest
        ]

    def _keep_earlier(self, root: Path) -> None:
        """Copy what an older version wrote at the root into a folder of its own, unless it is a copy already."""
        file = root / self.main
        if not is_file(file):
            return
        try:
            earlier = read_object(file)
        except InputError:
            earlier = None
        if earlier is not None and any(_same(one.result, earlier) for one in self.all(root)):
            return
        body = read_bytes(file)
        kept = root / self.home / f"earlier-{sha256(body).hexdigest()[:12]}"
        make_folder(kept)
        for name in self.beside:
            if is_file(root / name):
                shutil.copyfile(root / name, kept / name)
        write_atomically(kept / self.main, body)


def _same(one: Plain, other: Plain) -> bool:
    """Whether two results are one, written out: a figure that is not a number equals nothing, itself included."""
    return json.dumps(one) == json.dumps(other)


def strongest_evaluation(result: Sequence[Plain]) -> int:
    """Return the place of the evaluation that says most about what an attacker can do.

    Those under the threat and on the images of the recipe come first. Of them, one that another surpasses both in
    searching (planned passes per example) and in images is out; of the rest it is the one whose 95 % interval of
    worst-case accuracy ends lowest.
    """
    own = [number for number, one in enumerate(result) if one.get("as_trained")] or list(range(len(result)))
    weight = {number: (_search(result[number]), int(result[number]["data"]["examples"])) for number in own}

    def surpassed(number: int) -> bool:
        mine = weight[number]
        return any(
            other != mine and other[0] >= mine[0] and other[1] >= mine[1]
            for place, other in weight.items()
            if place != number
        )

    return min(
        (number for number in own if not surpassed(number)),
        key=lambda number: float(result[number]["worst"]["interval"][1]),
    )


def strongest_certificate(result: Sequence[Plain]) -> int:
    """Return the place of the certificate that says most.

    Under the recipe's threat rather than another, of the network itself rather than of the smoothed one, about more
    images, with a teacher, with more images verified.
    """

    def strength(number: int) -> tuple[Any, ...]:
        one = result[number]
        return (
            bool(one.get("as_trained")),
            one.get("kind") == "bounds",
            int(one["data"]["examples"]),
            bool(one.get("teacher")),
            int(one["verified"]["passed"]),
        )

    return max(range(len(result)), key=strength)


def _search(result: Plain) -> int:
    """Return how many passes per example the attacks of an evaluation may take at most, as they were set."""
    return sum(_count_passes(attack.get("trial") or {}) for attack in result["attacks"].values())


def _count_passes(trial: Plain) -> int:
    attack = trial.get("attack") or {}
    length = attack.get("queries") or attack.get("steps") or 1
    return int(length) * int(attack.get("restarts", 1)) * max(1, int(trial.get("targets", 0)))


def _link(file: Path, place: Path) -> bool:
    """Give a large file a second name, where the file system can: images need no second copy."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        os.link(file, temporary)
        temporary.replace(place)
    except OSError:  # there is no such file, or there are no links: it is copied, with a sentence where that fails
        return False
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


EVALUATION = Kind(
    main="evaluation.json",
    schema=2,
    beside=("examples.jsonl", "adversarial.safetensors"),
    home="evaluations",
    strongest=strongest_evaluation,
)
CERTIFICATE = Kind(
    main="certificate.json",
    schema=1,
    beside=("certificate.jsonl", "counterexamples.safetensors"),
    home="certificates",
    strongest=strongest_certificate,
)

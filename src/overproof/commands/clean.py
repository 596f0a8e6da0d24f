"""``clean``: removes from run folders what only an interrupted command needs to go on; results are never touched."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from overproof.errors import InputError
from overproof.locking import exclusive
from overproof.reading import is_file, is_folder, read_object
from overproof.runs.folder import Run
from overproof.runs.results import CERTIFICATE, EVALUATION
from overproof.training.checkpoint import checkpoints
from overproof.wording import one_line

DROPPED = "its checkpoint was removed when the run was finished; train with --keep-checkpoint to train on later"
"""Why a finished run cannot be made longer."""
_WORKS = ("train", "evaluate", "certify")
_RESULTS = {"evaluation-state": "evaluation.json", "original-state": "evaluation.json"}
_RESULTS |= {"certificate-state": "certificate.json"}
"""The folders of unfinished work, and the file that is written beside them when it is finished."""
_HOMES = (EVALUATION.home, CERTIFICATE.home)


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What was removed of a folder (or, in a dry run, would be): files and their bytes; ``kept`` says what was not."""

    folder: Path
    files: tuple[Path, ...]
    bytes: int
    kept: tuple[str, ...] = ()


def is_finished(run: Run, epochs: int) -> bool:
    """Whether a run has the results of so many epochs; raise ``InputError`` for metrics that cannot be read."""
    return (run.folder / "last.json").is_file() and len(run.metrics()) >= epochs


def clean(*runs: Run | Path | str, unfinished: bool = False, dry_run: bool = False) -> list[Cleaned]:
    """Remove checkpoints of finished runs, states of finished evaluations and temporary files; return what was.

    ``unfinished`` removes those of unfinished ones as well, which can then not go on. With ``dry_run`` all stays.
    Raises ``InputError``, before anything is removed, for a folder that is no run and for one at which a process is at
    work.
    """
    folders = [run.folder if isinstance(run, Run) else Path(run) for run in runs]
    for folder in folders:
        _check_run(folder)
    with ExitStack() as held:
        for folder in dict.fromkeys(folder.resolve() for folder in folders):
            for work in _WORKS:
                try:
                    held.enter_context(exclusive(folder, work))
                except InputError as problem:
                    raise InputError(str(problem).partition(", or choose another --out")[0]) from problem
        return [_clean(folder, unfinished, dry_run) for folder in dict.fromkeys(folders)]


def _check_run(folder: Path) -> None:
    names = ("recipe.yaml", "model.json", "config.json", *_RESULTS.values())
    if not is_folder(folder) or not any(is_file(folder / name) for name in names):
        raise InputError(f"{one_line(str(folder), 300)}: not a run folder (it has no recipe, network or results)")


def _clean(folder: Path, unfinished: bool, dry_run: bool) -> Cleaned:
    run, kept = Run(folder), list[str]()
    places = [folder, *sorted(place for home in _HOMES for place in folder.glob(f"{home}/*") if place.is_dir())]
    files = [file for place in places for file in place.glob(".*.tmp") if _is_temporary(file)]

    def add(candidates: list[Path], finished: Callable[[], bool], what: str) -> None:
        if candidates and (unfinished or finished()):
            files.extend(candidates)
        elif candidates:
            kept.append(f"{what} is not finished: {sum(map(_size, candidates)):,} bytes are kept")

    states = [*checkpoints(run.checkpoints), *run.checkpoints.glob(".*.tmp")]
    add(states, lambda: is_finished(run, run.recipe().training.epochs), "the training")
    for state in (place / name for place in places for name in _RESULTS):
        candidates = sorted(file for file in state.glob("*") if file.suffix in (".json", ".safetensors", ".tmp"))
        add(candidates, partial(_is_of, state), f"what {state.relative_to(folder)} belongs to")
    size = sum(map(_size, files))
    if not dry_run:
        for file in files:
            try:
                file.unlink()
            except OSError as problem:
                raise InputError(f"{file}: cannot be removed ({problem.strerror or problem})") from problem
        emptied = {file.parent for file in files} | {file.parent.parent for file in files}
        for one in sorted((one for one in emptied if folder in one.parents), reverse=True):  # what lies deeper first
            with suppress(OSError):  # something else lies in it
                one.rmdir()
    return Cleaned(folder=folder, files=tuple(files), bytes=size, kept=tuple(kept))


def _is_temporary(file: Path) -> bool:
    """Whether a name is that of a half-written file of ours, ``.NAME.PROCESS.tmp``; nobody is at work in the folder."""
    return file.is_file() and not file.is_symlink() and file.name.split(".")[-2].isdigit()


def _size(file: Path) -> int:
    return file.stat().st_size


def _is_of(state: Path) -> bool:
    """Whether the results beside it are those of the very work whose state lies here: then it was finished."""
    result = state.with_name(_RESULTS[state.name])
    if not is_file(result) or not is_file(state / "setting.json"):
        return False
    with suppress(InputError, KeyError, TypeError, AttributeError):
        setting, result_file = read_object(state / "setting.json"), read_object(result)
        return all(setting[name] == value for name, value in _describe(result_file).items())
    return False


def _describe(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what results say of the setting they were found in."""
    same = {"network": result["model_digest"], "seed": result["seed"], "batch": result["batch"]}
    return same | {"examples": result["data"]["examples"], "data": result["data"]["digest"]}

"""A network as a repository of the Hugging Face Hub: a folder to be pushed, and fetching one that was."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from overproof.errors import InputError
from overproof.files import write_atomically
from overproof.formats.card import model_card
from overproof.models.weights import load_description, load_model
from overproof.plain_yaml import LARGEST
from overproof.reading import exists, is_file, parsing, read_bytes, read_object, read_text

WEIGHTS, CONFIG, CARD, RECIPE = "model.safetensors", "config.json", "README.md", "recipe.yaml"
EVIDENCE = {"evaluation.json": 2, "certificate.json": 1}
"""The files of evidence, and the schema of each that the card can show."""
FILES = (WEIGHTS, CONFIG, CARD, RECIPE, *EVIDENCE)
"""What a repository may hold of ours; nothing else of it is fetched."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_OURS = "runs"  # where runs lie when nobody says; a word that begins so is never looked up elsewhere


def repository_id(word: str) -> tuple[str, str] | None:
    """Return the id and the revision (``""``: the newest) that ``hub:org/name@revision`` or ``org/name`` means.

    None for every other word. Without ``hub:`` a word is an id only where it cannot be a path: neither it nor its first
    part is here, and it is not a run's usual place. A missing ``runs/teacher`` must not become somebody else's network.
    """
    marked = word.startswith("hub:")
    name, _, revision = word.removeprefix("hub:").partition("@")
    if not _ID.fullmatch(name):
        return None
    first = name.partition("/")[0]
    if not marked and (first == _OURS or exists(Path(first)) or exists(Path(word))):
        return None
    return name, revision


def write_repository(folder: Path, out: Path, *, licence: str = "unknown", trust_code: bool = False) -> Path:
    """Write the network of a run folder as a Hub repository: weights, config.json, model card, recipe and evidence.

    The folder ``out`` appears whole or not at all. ``licence`` is an id of the Hub's list (``apache-2.0``, ``mit``,
    ``other``, ``unknown``). Evidence is taken along where it is this network's; where the user's own code lies is not
    said. ``trust_code`` runs code that makes the network wherever it lies. Returns ``out``. Raises ``InputError`` for a
    run whose weights are damaged, evidence about another network, and a folder that is in use.
    """
    if not _LICENCE.fullmatch(licence):
        raise InputError(f"licence {licence!r}: write the Hub's id of it, such as apache-2.0, mit, other or unknown")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; choose another --out")
    # Every weight is read, so that nothing damaged is published.
    model, description = load_model(folder, trust_code=trust_code)
    del model
    evidence = {name: reports for name in EVIDENCE if (reports := _evidence(folder / name, description["digest"]))}
    recipe = read_text(folder / RECIPE, limit=LARGEST) if is_file(folder / RECIPE) else None
    config = {**_without_folders(description), "library_name": "overproof", "license": licence}
    with parsing(folder, "a description and evidence of overproof"):
        card = model_card(
            config,
            recipe=recipe,
            evaluation=evidence.get("evaluation.json"),
            certificate=evidence.get("certificate.json"),
        )
    bodies = {
        WEIGHTS: read_bytes(folder / WEIGHTS),
        CONFIG: (json.dumps(config, indent=1) + "\n").encode(),
        CARD: card.encode(errors="backslashreplace"),
        **({} if recipe is None else {RECIPE: recipe.encode()}),
        **{name: read_bytes(folder / name) for name in evidence},
    }
    with _appearing(out) as unfinished:
        for name, body in bodies.items():
            write_atomically(unfinished / name, body)
    return out


def _without_folders(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description that does not tell the world its maker's folders."""
    public = {name: value for name, value in description.items() if name != "code_folders"}
    if isinstance(code := public.get("code"), dict):
        public["code"] = {name: value for name, value in code.items() if name != "folder"}
    return public


def push(repository: Path, name: str, *, token: str | None = None, private: bool = False) -> str:
    """Push a folder that ``write_repository`` wrote to ``org/name`` as one commit; return the repository's address.

    The token is the one given, ``HF_TOKEN``'s or that of ``hf auth login``; ``HF_ENDPOINT`` may name another Hub.
    Raises ``InputError`` for a folder that is no repository, a name that is none, and whatever the Hub refuses; the
    local folder stays as it is, and the Hub has either all files or none.
    """
    from huggingface_hub import HfApi, get_token

    if not _ID.fullmatch(name):
        raise InputError(f"{name!r}: a repository of the Hub is written org/name")
    description = load_description(repository)
    if sha256(read_bytes(repository / WEIGHTS)).hexdigest() != description["digest"]:
        raise InputError(f"{repository / WEIGHTS}: damaged or exchanged; its digest is not the one in {CONFIG}")
    if not (repository / CONFIG).is_file() or not (repository / CARD).is_file():
        raise InputError(f"{repository}: not a Hub repository yet; write one with export --to hub first")
    secret = token or get_token()
    if not secret:
        raise InputError(f"{name}: pushing needs a token; set HF_TOKEN or run: hf auth login ({repository} is written)")
    files = [file for file in FILES if (repository / file).is_file()]
    hub = HfApi(endpoint=_endpoint(), token=secret)
    with _hub_errors(name, f"nothing was pushed, {repository} is written"):
        hub.create_repo(name, private=private, exist_ok=True)
        done = hub.upload_folder(
            repo_id=name, folder_path=repository, allow_patterns=files, commit_message="Network and its evidence"
        )
    return str(done.repo_url)


def fetch(name: str, revision: str = "") -> Path:
    """Return the folder of a Hub repository's files, fetched once and then taken from the Hub's cache.

    ``revision`` is a branch, a tag or a commit. Only files that a repository of ours may hold are fetched. Raises
    ``InputError`` where the Hub does not answer, does not know the repository, or wants a login.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    with _hub_errors(name, "nothing was fetched"):
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=list(FILES), endpoint=_endpoint())
        )


def _endpoint() -> str | None:
    # The client reads this variable when it is imported, which another package may have done long ago.
    return os.environ.get("HF_ENDPOINT")


@contextmanager
def _hub_errors(name: str, state: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one sentence that says what was kept."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = _endpoint() or "https://huggingface.co"
    try:
        yield
    except GatedRepoError as problem:
        raise InputError(f"{name}: its owners grant access on request; ask at {where}/{name} ({state})") from problem
    except RevisionNotFoundError as problem:
        raise InputError(f"{name}: the Hub has the repository, but not this revision ({state})") from problem
    except RepositoryNotFoundError as problem:
        raise InputError(
            f"{name}: no such repository at {where}, or it is private and needs: hf auth login ({state})"
        ) from problem
    except LocalEntryNotFoundError as problem:
        raise InputError(
            f"{name}: the Hub at {where} cannot be reached and the repository is not in the cache; check the "
            f"connection, or name a folder ({state})"
        ) from problem
    except OfflineModeIsEnabled as problem:
        raise InputError(f"{name}: HF_HUB_OFFLINE keeps this machine from the Hub ({state})") from problem
    except HfHubHTTPError as problem:
        answer = getattr(problem.response, "status_code", "none")
        raise InputError(f"{name}: the Hub at {where} refuses (HTTP status {answer}; {state})") from problem
    except OSError as problem:
        raise InputError(f"{name}: {problem.strerror or problem} ({state})") from problem
    except Exception as problem:  # the client's own transport raises a dozen unrelated types
        raise InputError(
            f"{name}: the Hub at {where} cannot be reached ({type(problem).__name__}; {state})"
        ) from problem


def _evidence(file: Path, digest: str) -> dict[str, Any] | None:
    if not is_file(file):
        return None
    try:
        record = read_object(file)
    except InputError as problem:
        raise InputError(f"{problem}; measure it again") from problem
    if record.get("schema") != EVIDENCE[file.name] or "model_digest" not in record:
        raise InputError(f"{file}: not evidence of this version of overproof; measure it again")
    if record["model_digest"] != digest:
        raise InputError(f"{file}: it is about another network than {WEIGHTS}; measure it again, or remove it")
    return record


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Give a folder to fill that takes its name when the block ends well, and is gone otherwise."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if folder.is_dir():
            folder.rmdir()  # an empty one, which not every system renames over
        unfinished.replace(folder)
    except OSError as problem:
        raise InputError(f"{folder}: cannot be written ({problem.strerror or problem})") from problem
    finally:
        with suppress(OSError):
            shutil.rmtree(unfinished)

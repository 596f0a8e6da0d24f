"""A data set of the Hugging Face Hub as a table: asked where it answers, read from the cache where it does not."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from overproof.data.notes import first_of
from overproof.data.tables import pick
from overproof.errors import InputError

if TYPE_CHECKING:
    import pyarrow

_SECONDS = 5.0  # to reach the Hub; its client tries again and again for half a minute
_CONFIGS = re.compile(r"available configs: \[(.*?)\]", re.DOTALL)


def hub_table(id: str, config: str, split: str) -> tuple["pyarrow.Table", list[str], str]:
    """Return the rows of a split, the names of all splits and the one that was picked.

    Without a connection the cache is asked alone, at once. Raises ``InputError`` in every other case, and where there
    are several configurations and none was named.
    """
    import datasets
    from huggingface_hub import constants

    datasets.disable_progress_bars()
    named = {"name": config} if config else {}
    here = constants.HF_HUB_OFFLINE or answers(constants.ENDPOINT)
    try:
        with _from_cache(not here):
            splits = list(datasets.get_dataset_split_names(id, *named.values()))
            picked = pick(split, splits, id)
            return datasets.load_dataset(id, split=picked, **named).with_format("arrow")[:], splits, picked
    except InputError:
        raise
    except Exception as problem:
        if known := _CONFIGS.search(str(problem)):
            names = [name.strip(" '\"\n") for name in known[1].split(",")]
            raise InputError(
                f"{id}: it has several configurations; choose one with config: {names[0]} among the keys of data "
                f"({first_of(names)})"
            ) from problem
        # The hub's client raises a dozen unrelated types; whichever it is, the way out is the same.
        said = type(problem).__name__ if here else "the hub does not answer, and its cache here does not hold it"
        raise InputError(
            f"cannot read data set {id!r} from the hub ({said}); check the name and the connection, or point "
            f"OVERPROOF_DATA at a folder that holds {id.rsplit('/', 1)[-1]!r}"
        ) from problem


def answers(endpoint: str, seconds: float = _SECONDS) -> bool:
    """Whether a server takes connections, within so many seconds; where there is a proxy, it is left to the client."""
    parts = urlsplit(endpoint)
    if getproxies().get(parts.scheme) or not parts.hostname:
        return True
    place, addresses = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), list[bool]()

    def ask() -> None:
        try:
            socket.create_connection(place, seconds).close()
            addresses.append(True)
        except OSError:
            pass

    # A thread, because the search for an address keeps to no time.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(addresses)


@contextmanager
def _from_cache(alone: bool) -> Iterator[None]:
    """Let the hub's packages ask their caches ``alone``."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if alone:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before

"""Runs: folders of results, what a source of a network is, and what a training needs before its first step."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.runs.folder import Run, find_run, load
    from overproof.runs.loaded import Known, LoadedModel, Origin, Preprocessing

_HOMES = {
    "Known": "overproof.runs.loaded",
    "LoadedModel": "overproof.runs.loaded",
    "Origin": "overproof.runs.loaded",
    "Preprocessing": "overproof.runs.loaded",
    "Run": "overproof.runs.folder",
    "find_run": "overproof.runs.folder",
    "load": "overproof.runs.folder",
}

__all__ = [
    "Known",
    "LoadedModel",
    "Origin",
    "Preprocessing",
    "Run",
    "find_run",
    "load",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)

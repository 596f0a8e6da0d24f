"""Images and labels: sources by name, checked sets in memory, augmentation, batches in a seeded order."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.data.augment import Augment
    from overproof.data.draws import drawn
    from overproof.data.images import Batch, ImageSet, stratified_subset
    from overproof.data.loader import Loader
    from overproof.data.sources import Digits, Folder, Hub, Npz, Parquet, Source
    from overproof.data.streaming import Loading

_HOMES = {
    "Augment": "overproof.data.augment",
    "Batch": "overproof.data.images",
    "Digits": "overproof.data.sources",
    "Folder": "overproof.data.sources",
    "Hub": "overproof.data.sources",
    "ImageSet": "overproof.data.images",
    "Loader": "overproof.data.loader",
    "Loading": "overproof.data.streaming",
    "Npz": "overproof.data.sources",
    "Parquet": "overproof.data.sources",
    "Source": "overproof.data.sources",
    "drawn": "overproof.data.draws",
    "stratified_subset": "overproof.data.images",
}

__all__ = [
    "Augment",
    "Batch",
    "Digits",
    "Folder",
    "Hub",
    "ImageSet",
    "Loader",
    "Loading",
    "Npz",
    "Parquet",
    "Source",
    "drawn",
    "stratified_subset",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)

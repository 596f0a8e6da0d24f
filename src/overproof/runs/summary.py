"""What a command says before its work begins: which images, which networks, how, and where results go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from overproof.data.images import Labelled
from overproof.data.sources import Source
from overproof.environment import hardware
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.external.onnx_network import file_of
from overproof.wording import one_line

_NAMED = 12  # classes that are named with their numbers of images; of more, the range is told


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Sentences to be shown at once, before the next thing that takes time."""

    lines: tuple[str, ...]


def source_line(name: str, source: Source) -> str:
    """Return what is being read for whom."""
    place = next((f" {one_line(str(getattr(source, key)), 300)}" for key in ("path", "id") if hasattr(source, key)), "")
    return f"{name}: reading {source.kind}{place}"


def images_line(splits: Mapping[str, Labelled]) -> str:
    """Return how many images there are of each split, and of which form and how many classes."""
    counts = ", ".join(f"{len(images):,} {name}" for name, images in splits.items())
    form = next(iter(splits.values())).signature
    channels = "grey" if form.channels == 1 else f"{form.channels} channels"
    return f"images: {counts}; {form.height}x{form.width}, {channels}, {form.classes} classes"


def per_class_line(splits: Mapping[str, Labelled]) -> str:
    """Return how many images of each class there are in each split; of many classes, the least and the most."""
    classes = next(iter(splits.values())).classes
    counts = {name: torch.bincount(one.labels.cpu(), minlength=len(classes)) for name, one in splits.items()}
    title = f"images per class ({'/'.join(counts)})"
    if len(classes) > _NAMED:
        spans = []
        for each in counts.values():
            low, high = int(each.min()), int(each.max())
            spans.append(f"{low:,}" if low == high else f"{low:,} to {high:,}")
        return f"{title}: {', '.join(spans)}"
    shown = (
        f"{one_line(name, 60)!r} {'/'.join(f'{int(each[number]):,}' for each in counts.values())}"
        for number, name in enumerate(classes)
    )
    return f"{title}: {', '.join(shown)}"


def notes_of(*sets: Any) -> tuple[str, ...]:
    """Return what data sets say of how they were read, each sentence once."""
    return tuple(dict.fromkeys(note for images in sets for note in getattr(images, "notes", ())))


def network_line(role: str, kind: str, model: Classifier) -> str:
    """Return what a network is and how large it is."""
    return f"{role}: {one_line(kind, 300)}, {parameter_count(model):,} parameters"


def file_notes(model: Classifier) -> tuple[str, ...]:
    """Return what is to be said of an ONNX file: what was guessed or changed, and why it has no gradients."""
    file = file_of(model.backbone)
    if file is None:
        return ()
    alone = (f"it answers queries and has no gradients, as {file.lacking}",) if file.lacking else ()
    return tuple(f"{one_line(file.where, 300)}: {note}" for note in (*file.notes, *alone))


def subject_name(run: Any) -> str:
    """Return what a run, or the word for a network, is called."""
    return one_line(str(getattr(run, "folder", run)), 300)


def known_lines(subject: Any, images: Labelled, model: Classifier) -> tuple[str, ...]:
    """Return which images an examination is about, what their set says of itself, and the network."""
    count = len(subject.images)
    part = "" if len(images) == count else f" of {count:,}"
    counted = images_line({f"test{part}": images})
    return (
        f"{counted}, of {one_line(images.name, 300)}",
        *notes_of(subject.images),
        *file_notes(model),
        network_line("network", str(subject.facts["architecture"]), model),
    )


def device_line(device: torch.device, precision: str, *, graphs: bool = False) -> str:
    """Return what computes, in which precision, and whether searches are replayed as CUDA graphs."""
    name = hardware(device)
    said = f"device: {device}{'' if name == str(device) else f' ({name})'}, {precision}"
    return f"{said}; CUDA graphs, which are experimental: no GPU has run them yet" if graphs else said


def results_line(folder: Path, names: Sequence[str]) -> str:
    """Return where results go, and under which names."""
    return f"results go to {one_line(str(folder), 300)}: {', '.join(names)}"

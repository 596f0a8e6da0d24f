"""Tiny data sets on disk, in every form the sources read."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from overproof.data import hub
from overproof.data.images import ImageSet


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    monkeypatch.delenv("OVERPROOF_DATA", raising=False)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(hub, "answers", lambda *_: True)  # what is asked of it is replaced in the tests


@pytest.fixture
def pictures():
    """Return a function: n random pictures [n, side, side(, 3)] uint8."""

    def draw(n, side=6, colour=False, seed=0):
        shape = (n, side, side, 3) if colour else (n, side, side)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return draw


@pytest.fixture
def encode():
    """Return a function: one picture as the bytes of an image file."""

    def to_bytes(picture, form="PNG"):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, form)
        return file.getvalue()

    return to_bytes


@pytest.fixture
def write_parquet(encode):
    """Return a function: write one parquet file in the hub's schema; ``names`` go into its metadata."""

    def write(file, images, labels, *, image="image", label="label", names=None, **more):
        cells = [{"bytes": encode(picture), "path": f"{i}.png"} for i, picture in enumerate(images)]
        table = pa.table({image: cells, label: labels, **more})
        if names:
            features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, file)

    return write


@pytest.fixture
def write_folder(encode):
    """Return a function: write pictures as image files of two classes in turn, under ``root/train``."""

    def write(root, images, form="PNG"):
        for number, picture in enumerate(images):
            file = root / "train" / ("ant", "bee")[number % 2] / f"{number:03d}.{form.lower()}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(picture, form))
        return root

    return write


@pytest.fixture
def image_set():
    """Return a function: a set of grey pictures whose pixels say which example they are."""

    def make(labels, classes=None, side=4, name="made"):
        labels = torch.as_tensor(labels)
        images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].repeat(1, 1, side, side)
        names = tuple(map(str, range(int(labels.max()) + 1 if classes is None else classes)))
        return ImageSet(name, images, labels, names)

    return make

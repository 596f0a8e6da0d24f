"""The table of docs/reference/data.md, cell by cell: what every source makes of what people have."""

import io
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from overproof.data.images import check_held_out, check_trainable, hold_out
from overproof.data.sources import Digits, Folder, Hub, Npz, Parquet
from overproof.data.survey import surveyed
from overproof.errors import InputError

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.stack([RAMP, RAMP.T, RAMP[::-1]], axis=-1)
ENCODED = ["folder", "parquet", "hub"]
TABLES = ["parquet", "hub"]
KINDS = {"folder": Folder, "parquet": Parquet, "hub": Hub}


def body(picture, form="PNG", **options):
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, form, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 3
    return body(RAMP, exif=exif)


def transparent():
    image = Image.fromarray(COLOUR)
    image.putalpha(Image.fromarray(RAMP))
    return body(image)


def palette():
    image = Image.fromarray(RAMP // 32).convert("P")
    image.putpalette([value for index in range(256) for value in (index * 9 % 256, 9, index)])
    return body(image)


PALETTE = np.stack([RAMP // 32 * 9, np.full((8, 8), 9), RAMP // 32], axis=-1).astype(np.uint8)
IMAGES = {
    "grey": (body(RAMP), RAMP, ""),
    "colour": (body(COLOUR), COLOUR, ""),
    "one bit": (body(RAMP > 99), np.where(RAMP > 99, 255, 0), ""),
    "palette": (palette(), PALETTE, ""),
    "opaque alpha": (body(Image.fromarray(COLOUR).convert("RGBA")), COLOUR, ""),
    "alpha": (transparent(), COLOUR, "1 image has transparent pixels"),
    "grey and alpha": (body(Image.fromarray(RAMP).convert("LA")), RAMP, ""),
    "CMYK": (
        body(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"),
        np.asarray(Image.fromarray(COLOUR).convert("CMYK").convert("RGB")),
        "1 image is in colours for print (CMYK)",
    ),
    "animated": (
        body(Image.fromarray(COLOUR), save_all=True, append_images=[Image.fromarray(COLOUR[::-1])]),
        COLOUR,
        "1 image holds several pictures: the first is read",
    ),
    "EXIF": (turned(), RAMP[::-1, ::-1], "1 image is turned as its EXIF orientation says"),
}
PLAIN = (body(RAMP), body(RAMP))
REFUSED = {
    "16 bits": (body(RAMP.astype(np.uint16) * 257), "only 8-bit images are read"),
    "truncated": (body(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))[:90], "cannot be decoded ("),
    "text": (b"no image", "cannot be decoded (UnidentifiedImageError"),
    "empty": (b"", "cannot be decoded ("),
}


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Return a function: a source of this kind with these image files, of two classes in turn."""

    def make(kind, bodies, test=PLAIN, labels=None, suffix=".png", **options):
        root = tmp_path / "set"
        tables = {}
        for part, files in (("train", bodies), ("test", test)):
            numbers = [number % 2 for number in range(len(files))] if labels is None or part == "test" else labels
            if kind == "folder":
                for number, (one, label) in enumerate(zip(files, numbers, strict=True)):
                    place = root / part / f"c{label}" / f"{number}{suffix}"
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(one)
                continue
            names = {"names": ["c0", "c1"], "_type": "ClassLabel"}
            told = {"info": {"features": {"image": {"_type": "Image"}, "label": names}}}
            cells = [{"bytes": one, "path": f"{number}{suffix}"} for number, one in enumerate(files)]
            tables[part] = pa.table({"image": cells, "label": numbers})
            if labels is None:
                tables[part] = tables[part].replace_schema_metadata({"huggingface": json.dumps(told)})
            root.mkdir(exist_ok=True)
            parquet.write_table(tables[part], root / f"{part}.parquet")
        if kind != "hub":
            return KINDS[kind](path=str(root), **options)

        def load_dataset(id, split):
            return datasets.Dataset(tables[split])

        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: list(tables))
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return Hub(id="someone/set", **options)

    return make


@pytest.mark.parametrize("kind", ENCODED)
@pytest.mark.parametrize("name", IMAGES)
def test_images_that_are_read_and_what_is_said(source, kind, name):
    one, pixels, said = IMAGES[name]
    plain = RAMP if np.ndim(pixels) == 2 else COLOUR
    found = source(kind, [one, body(plain)], [body(plain), body(plain)]).load("train")
    wanted = torch.from_numpy(np.array(pixels, dtype=np.uint8))
    assert torch.equal(found.images[0], wanted[None] if wanted.dim() == 2 else wanted.permute(2, 0, 1))
    assert len(found.notes) == bool(said)
    assert said in " ".join(found.notes)


@pytest.mark.parametrize("kind", ENCODED)
@pytest.mark.parametrize("name", REFUSED)
def test_images_that_are_refused_all_at_once_or_left_out_and_counted(source, kind, name):
    one, said = REFUSED[name]
    good = [body(RAMP), body(COLOUR[..., 1])]
    with pytest.raises(InputError) as caught:
        surveyed(source(kind, [*good, one, one], [*good, one]))
    assert "2 of 4 images cannot be used: " in str(caught.value)
    assert str(caught.value).count(said) == 3
    found = surveyed(source(kind, [*good, one, one], [*good, one], on_error="skip"))
    assert len(found) == 2
    assert [note.partition(" cannot")[0].split(": ")[-1] for note in found.notes if "skip" in note] == [
        "2 images of 4",
        "1 image of 3",
    ]


@pytest.mark.parametrize("kind", ENCODED)
def test_images_of_several_sizes_are_refused_unless_a_form_makes_them_alike(source, kind):
    bodies = [body(RAMP), body(RAMP[:6])]
    with pytest.raises(InputError, match=r"form: \{size: 32, channels: 3\} among the keys of data makes them alike"):
        source(kind, bodies).load("train")


@pytest.mark.parametrize("kind", ["npz", *ENCODED])
def test_the_same_image_in_both_parts_is_counted(source, kind, tmp_path):
    if kind == "npz":
        np.savez(tmp_path / "a.npz", x_train=[RAMP, RAMP.T], y_train=[0, 1], x_test=[RAMP, RAMP[::-1]], y_test=[0, 1])
        made = Npz(path=str(tmp_path / "a.npz"))
    else:
        made = source(kind, [body(RAMP), body(RAMP.T)], [body(RAMP, "TIFF"), body(RAMP[::-1])])
    assert "1 test image of 2 is a training image as well" in surveyed(made).notes[-1]


@pytest.mark.parametrize("kind", ["npz", *ENCODED])
def test_copies_among_training_images_are_counted(source, kind, tmp_path):
    if kind == "npz":
        np.savez(tmp_path / "a.npz", x_train=[RAMP, RAMP, RAMP, RAMP.T], y_train=[0, 1, 0, 1])
        made = Npz(path=str(tmp_path / "a.npz"))
    else:
        made = source(kind, [body(RAMP), body(RAMP, "TIFF"), body(RAMP), body(RAMP.T)], [body(COLOUR[..., 1])] * 2)
    (name,) = {note for note in surveyed(made).notes if "are copies" in note}
    assert name.endswith(
        "2 training images of 4 are copies of others, pixel by pixel; 3 images among copies of different labels"
    )


@pytest.mark.parametrize("kind", ["npz", *ENCODED])
def test_a_set_without_a_test_part_can_be_trained_on(source, kind, tmp_path, monkeypatch):
    if kind == "npz":
        np.savez(tmp_path / "a.npz", x_train=[RAMP, RAMP.T], y_train=[0, 1])
        made = Npz(path=str(tmp_path / "a.npz"))
    else:
        made = source(kind, [body(RAMP), body(RAMP.T)])
        shutil.rmtree(tmp_path / "set" / "test", ignore_errors=True)
        (tmp_path / "set" / "test.parquet").unlink(missing_ok=True)
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train"])
    found = surveyed(made)
    assert len(found) == 2
    assert found.notes[0].startswith("there is no test part: ")


@pytest.mark.parametrize("kind", ["npz", *TABLES])
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 2, 2, 0], "no training image of class '1'"),
        ([1, 2, 1, 2], "no training image of class '0'"),
        ([0, 1, 0, 0], "class '1' has one training image, which is held out"),
        ([0, -1, 0, -1], "label -1 is outside 0.."),
        ([0, 0, 0, 0], "every training image has the same label"),
        ([0, 10**6, 0, 0], "label 1000000 is too large"),
    ],
    ids=["gap", "from 1", "single", "negative", "one class", "huge"],
)
def test_labels_that_cannot_be_learnt_are_one_sentence(source, kind, labels, said, tmp_path):
    images = [RAMP, RAMP.T, RAMP[::-1], RAMP[:, ::-1]]
    if kind == "npz":
        np.savez(tmp_path / "a.npz", x_train=images, y_train=labels)
        made = Npz(path=str(tmp_path / "a.npz"))
    else:
        made = source(kind, [body(image) for image in images], labels=labels)
    with pytest.raises(InputError, match=said):
        learnt(made)


def learnt(made):
    """Open the training part and check it, in the order of ``train``."""
    images = made.open("train")
    kept, _ = hold_out(images, 0.3, 0)
    check_held_out(images, kept)
    check_trainable(kept, 1)


def test_a_folder_without_an_image_and_one_with_a_single_image(source):
    made = source("folder", [body(RAMP), body(RAMP.T), body(RAMP), body(RAMP)], labels=[0, 1, 0, 0])
    with pytest.raises(InputError, match="class 'c1' has one training image, which is held out"):
        learnt(made)
    (Path(made.path) / "train" / "c9").mkdir()
    (Path(made.path) / "train" / "c1" / "more.png").write_bytes(body(RAMP))
    with pytest.raises(InputError, match="no training image of class 'c9'"):
        learnt(made)


def test_the_digits_are_what_they_are():
    assert surveyed(Digits()).notes == ()
    learnt(Digits())

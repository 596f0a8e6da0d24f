from itertools import pairwise
from math import floor

import numpy as np
import pytest
import torch

from overproof.data.augment import Augment
from overproof.data.extra import UNLABELLED, ExtraImages, Mixture, open_extra
from overproof.data.images import ImageSet, pixels
from overproof.data.loader import Loader
from overproof.data.sources import Digits, Extra, Folder, Npz
from overproof.errors import InputError
from overproof.processes import Processes
from overproof.signature import Signature

REAL = Signature(channels=3, height=4, width=5, classes=3)


def real(n=50, dtype=torch.uint8):
    """Return images whose first pixel is their number."""
    images = torch.zeros(n, 3, 4, 5, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(n)
    images = images if dtype == torch.uint8 else images.float() / 255
    return ImageSet("real", images, torch.arange(n) % 3, ("a", "b", "c"))


def extra(n=200, labels=None):
    """Return images whose last pixel is 255, and whose first is their number."""
    array = np.zeros((n, 4, 5, 3), dtype=np.uint8)
    array[:, 0, 0, 0], array[:, 3, 4, 2] = np.arange(n) % 256, 255
    known = torch.arange(n) % 3 if labels is None else labels
    return ExtraImages("extra", array, known, channels_first=False)


def loader(fraction, batch=10, **options):
    return Loader(Mixture(options.pop("real", real()), extra(), fraction), batch, Augment(), seed=0, **options)


def is_extra(batch):
    return batch.x[:, 2, 3, 4] == 1


@pytest.mark.parametrize("fraction", [0.29, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("batch", [10, 16, 50])
def test_every_batch_has_its_share_and_an_epoch_is_that_of_the_real_images(fraction, batch):
    ours = loader(fraction, batch)
    alone = Loader(real(), batch, Augment(), seed=0)
    batches = list(ours.batches(0))
    assert len(batches) == len(ours) == len(alone)
    for mixed, plain in zip(batches, alone.batches(0), strict=True):
        assert len(mixed.y) == len(plain.y)
        assert int(is_extra(mixed).sum()) == floor(round(fraction * len(mixed.y), 6))


def test_0_29_of_100_are_29():
    mixture = Mixture(real(100), extra(), 0.29)
    (rows,) = mixture.rows(torch.arange(100), [100], torch.Generator())
    assert int((rows >= 100).sum()) == 29


def test_no_real_image_comes_twice_in_an_epoch_and_extra_ones_are_drawn_with_replacement():
    ours = loader(0.5)
    rows = torch.cat(ours.rows(0))
    mine, drawn = rows[rows < 50], rows[rows >= 50]
    assert len(mine) == len(set(mine.tolist())) == 25
    assert drawn.max() < 250
    small = Mixture(real(), ExtraImages("one", np.zeros((2, 3, 4, 5), np.uint8), torch.zeros(2).long()), 0.5)
    assert set(torch.cat(small.rows(torch.arange(50), [10] * 5, torch.Generator())).tolist()) >= {50, 51}


def test_pixels_and_labels_belong_to_their_numbers():
    ours = loader(0.7)
    for batch, rows in zip(ours.batches(3), ours.rows(3), strict=True):
        for x, y, row in zip(batch.x, batch.y, rows.tolist(), strict=True):
            number = row if row < 50 else (row - 50) % 256
            assert x[0, 0, 0] == torch.tensor(number / 255.0, dtype=torch.float32) and y == (
                row % 3 if row < 50 else (row - 50) % 3
            )


def test_float_images_get_extra_ones_as_floats():
    whole, floats = (list(loader(0.5, real=real(dtype=dtype)).batches(0)) for dtype in (torch.uint8, torch.float32))
    for first, second in zip(whole, floats, strict=True):
        torch.testing.assert_close(first.x, second.x)
        assert torch.equal(first.y, second.y)


def test_epochs_differ_and_what_a_batch_holds_does_not_depend_on_where_one_begins():
    ours = loader(0.7)
    assert all(not torch.equal(a, b) for a, b in pairwise([torch.cat(ours.rows(epoch)) for epoch in range(4)]))
    for whole, later in zip(list(ours.batches(2))[3:], ours.batches(2, start=3), strict=True):
        assert torch.equal(whole.x, later.x) and torch.equal(whole.y, later.y)


def test_processes_share_the_batches_of_one():
    alone = list(loader(0.7).batches(1))
    parts = [list(loader(0.7, processes=Processes(rank, 3)).batches(1)) for rank in range(3)]
    for number, whole in enumerate(alone):
        for rank in range(3):
            assert torch.equal(parts[rank][number].x, whole.x[rank::3])
            assert torch.equal(parts[rank][number].y, whole.y[rank::3])


def test_cutmix_mixes_labels_of_both():
    mixing = Loader(Mixture(real(), extra(), 0.5), 10, Augment(cutmix=1.0), seed=0)
    assert all(batch.y.shape == (10, 3) for batch in mixing.batches(0))


# --- archives as they are published -----------------------------------------------------------------------------------


def saved(path, *, packed=False, **arrays):
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    return Npz(path=str(path))


def generated(n=30, size=(4, 5, 3)):
    return np.random.default_rng(0).integers(0, 256, (n, *size), dtype=np.uint8)


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_of_generated_images_is_read_and_mapped_where_it_can_be(packed, tmp_path):
    images, labels = generated(), np.arange(30) % 3
    source = saved(tmp_path / "1m.npz", packed=packed, image=images, label=labels)
    read = open_extra(Extra(source=source, fraction=0.7), REAL)
    assert isinstance(read.array, np.memmap) != packed
    assert torch.equal(read.at(torch.tensor([7, 3, 7])), torch.from_numpy(images[[7, 3, 7]]).permute(0, 3, 1, 2))
    assert read.labels.tolist() == labels.tolist()


def test_a_map_finds_the_array_behind_others_and_long_names(tmp_path):
    images = generated()
    source = saved(tmp_path / "x.npz", aaa=np.arange(999), label=np.arange(30) % 3, image=images)
    read = open_extra(Extra(source=source, fraction=0.5), REAL)
    assert isinstance(read.array, np.memmap) and np.array_equal(read.array, images)


def test_images_whose_channels_come_first_and_grey_ones_are_read(tmp_path):
    first = generated(size=(3, 4, 5))
    read = open_extra(Extra(source=saved(tmp_path / "a.npz", image=first), fraction=0.5, labels="none"), REAL)
    assert torch.equal(read.at(torch.arange(30)), torch.from_numpy(first))
    grey = generated(size=(4, 5))
    asked = Signature(channels=1, height=4, width=5, classes=3)
    read = open_extra(Extra(source=saved(tmp_path / "b.npz", image=grey), fraction=0.5, labels="none"), asked)
    assert torch.equal(read.at(torch.arange(30))[:, 0], torch.from_numpy(grey))


@pytest.mark.parametrize("labels", ["teacher", "none"])
def test_labels_that_are_not_wanted_are_not_read(labels, tmp_path):
    source = saved(tmp_path / "x.npz", image=generated(), label=np.full(30, 9))
    read = open_extra(Extra(source=source, fraction=0.5, labels=labels), REAL)
    assert (read.labels == UNLABELLED).all()


def test_any_source_may_be_the_second_stream():
    asked = Digits().load("train").signature
    read = open_extra(Extra(source=Digits(), fraction=0.5), asked)
    assert len(read) == 1437
    assert torch.equal(pixels(read.at(torch.arange(5))), pixels(Digits().load("train").images[:5]))


def test_the_digest_follows_pixels_and_labels(tmp_path):
    images = generated()
    digests = set()
    for name, changed in (("a", images), ("b", images), ("c", images[::-1]), ("d", 255 - images)):
        for labels in (np.arange(30) % 3, np.arange(30) % 2):
            source = saved(tmp_path / f"{name}.npz", image=changed, label=labels)
            digests.add(open_extra(Extra(source=source, fraction=0.5), REAL).digest)
    assert len(digests) == 6  # a and b are the same


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"image": generated(size=(8, 8, 3))}, "has images of 3x8x8 .* the data of 3x4x5; make them alike"),
        ({"image": generated(size=(4, 5))}, "has images of 1x4x5 .* the data of 3x4x5; make them alike"),
        ({"image": generated()}, "has no labels; use labels: teacher or none"),
        ({"image": generated(), "label": np.arange(30) % 4}, r"has a label 3, and the data 3 classes \(0 to 2\)"),
        ({"image": generated(), "label": np.arange(29) % 3}, "30 images and 29 labels"),
        ({"image": generated()[:0], "label": np.arange(0)}, "there are no images"),
        ({"image": generated(size=(4, 5, 2, 1))}, "expected images"),
        ({"image": generated().astype(np.float64) * 3, "label": np.arange(30) % 3}, "float images must lie in"),
    ],
)
def test_a_stream_that_does_not_fit_is_refused(arrays, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        open_extra(Extra(source=saved(tmp_path / "x.npz", **arrays), fraction=0.5), REAL)


def test_a_file_that_is_missing_damaged_or_holds_objects_is_refused(tmp_path):
    for name, body, sentence in (
        ("none.npz", None, "no such file"),
        ("odd.npz", b"PK\x03\x04 no more", "damaged or cut off|archive"),
    ):
        if body:
            (tmp_path / name).write_bytes(body)
        with pytest.raises(InputError, match=sentence):
            open_extra(Extra(source=Npz(path=str(tmp_path / name)), fraction=0.5), REAL)
    np.savez(tmp_path / "objects.npz", image=np.array([{}], dtype=object))
    with pytest.raises(InputError):
        open_extra(Extra(source=Npz(path=str(tmp_path / "objects.npz")), fraction=0.5), REAL)


def test_another_number_of_classes_is_refused():
    asked = Signature(channels=1, height=8, width=8, classes=3)
    with pytest.raises(InputError, match="digits has 10 classes, the data 3"):
        open_extra(Extra(source=Digits(), fraction=0.5), asked)
    assert len(open_extra(Extra(source=Digits(), fraction=0.5, labels="none"), asked)) == 1437


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_of_nothing_or_all_is_refused(fraction):
    with pytest.raises(ValueError, match=r"^fraction is the share of extra images .*, between 0 and 1, got"):
        Extra(source=Digits(), fraction=fraction)


def test_extra_images_have_no_extra_images():
    inner = Folder(path="x", extra=Extra(source=Digits(), fraction=0.5))
    with pytest.raises(ValueError, match=r"^the source of extra images cannot have extra images of its own$"):
        Extra(source=inner, fraction=0.5)

"""A look at both parts before training: damaged images of both, copies, and what does not fit together."""

import numpy as np
import pytest
import torch

from overproof.data.encoded import EncodedSet
from overproof.data.sources import Digits, Folder, Npz, Parquet
from overproof.data.survey import surveyed
from overproof.errors import InputError


@pytest.fixture
def both(tmp_path, pictures, write_folder):
    """A folder of 30 training and 30 other test images."""
    root = write_folder(tmp_path / "set", pictures(30, seed=1))
    (root / "train").rename(root / "test")
    return write_folder(root, pictures(30))


def damage(root, *numbers, part="train"):
    for number in numbers:
        next((root / part).rglob(f"{number:03d}.png")).write_bytes(b"no image")


def refused(source):
    with pytest.raises(InputError) as caught:
        surveyed(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sound_set_is_what_it_was_and_nothing_is_said(both):
    before, found = Folder(path=str(both)).open("train"), surveyed(Folder(path=str(both)))
    assert found.notes == ()
    assert found.digest == before.digest
    assert torch.equal(found.decoded().images, before.decoded().images)
    part = torch.tensor([7, 0, 29])
    assert torch.equal(found.at(part).decoded().images, before.at(part).decoded().images)
    assert surveyed(Digits()).digest == Digits().open("train").digest


def test_no_image_is_decoded_twice(both, monkeypatch):
    found, asked = surveyed(Folder(path=str(both))), []
    monkeypatch.setattr(EncodedSet, "_decoded", lambda *_: asked.append(1))
    found.decoded()
    found.check()
    found.at(torch.tensor([3])).decoded()
    assert asked == []


def test_all_damaged_images_of_both_parts_are_named_at_once(both):
    damage(both, *range(12))
    damage(both, 5, part="test")
    found = refused(Folder(path=str(both)))
    assert found.startswith(f"{both / 'train'}: 12 of 30 images cannot be used: {both / 'train' / 'ant' / '000.png'} ")
    assert (
        "; and 2 more; mend or remove them, or leave them out with on_error: skip among the keys of data; and" in found
    )
    assert f"; and {both / 'test'}: {both / 'test' / 'bee' / '005.png'} cannot be decoded (" in found
    assert found.count("cannot be decoded") == 11


@pytest.mark.parametrize("source", [Folder, Parquet])
def test_damaged_images_can_be_left_out_and_are_counted(both, write_parquet, pictures, source):
    if source is Folder:
        damage(both, 0, 3, 4)
        damage(both, 1, part="test")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        for part, seed, gone in (("train", 0, {0, 3, 4}), ("test", 1, {1})):
            write_parquet(both / f"{part}.parquet", pictures(30, seed=seed), [0, 1] * 15, names=["ant", "bee"])
            table = parquet.read_table(both / f"{part}.parquet")
            cells = [
                {"bytes": b"no image", "path": cell["path"]} if number in gone else cell
                for number, cell in enumerate(table["image"].to_pylist())
            ]
            parquet.write_table(table.set_column(0, "image", pa.array(cells)), both / f"{part}.parquet")
    found = surveyed(source(path=str(both), on_error="skip"))
    assert len(found) == 27
    assert [note.partition(" image")[0].rpartition(" ")[2] for note in found.notes if "on_error: skip" in note] == [
        "3",
        "1",
    ]
    assert found.labels.bincount().tolist() == [13, 14]
    kept = [number for number in [*range(0, 30, 2), *range(1, 30, 2)] if number not in (0, 3, 4)]
    images = torch.from_numpy(pictures(30))[:, None]
    assert torch.equal(found.decoded().images, images[sorted(kept) if source is Parquet else kept])
    assert len(source(path=str(both), on_error="skip").open("test")) == 29


def test_where_nothing_can_be_decoded_skipping_does_not_help(both):
    damage(both, *range(30))
    for on_error in ("skip", "refuse"):
        assert "30 of 30 images cannot be used" in refused(Folder(path=str(both), on_error=on_error))


def test_images_of_another_size_are_not_skipped(both, pictures, encode):
    (both / "test" / "ant" / "odd.png").write_bytes(encode(pictures(1, side=7)[0]))
    for on_error in ("skip", "refuse"):
        assert "must have one size" in refused(Folder(path=str(both), on_error=on_error))


def test_the_same_image_in_both_parts_is_counted(both):
    body = (both / "train" / "ant" / "000.png").read_bytes()
    (both / "test" / "ant" / "copy.png").write_bytes(body)
    (note,) = surveyed(Folder(path=str(both))).notes
    assert note.startswith("set: 1 test image of 31 is a training image as well, pixel by pixel: ")


def test_copies_among_training_images_are_counted_and_their_labels_compared(tmp_path, pictures):
    x = pictures(6)
    x[3], x[5] = x[0], x[1]
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[0, 1, 0, 0, 1, 0], x_test=pictures(2, seed=1), y_test=[0, 1])
    assert surveyed(Npz(path=str(tmp_path / "a.npz"))).notes == (
        "a: 2 training images of 6 are copies of others, pixel by pixel; 2 images among copies of different labels",
    )


def test_a_set_without_a_test_part_can_be_trained_on(tmp_path, pictures):
    np.savez(tmp_path / "a.npz", x_train=pictures(4), y_train=[0, 1, 0, 1])
    (note,) = surveyed(Npz(path=str(tmp_path / "a.npz"))).notes
    assert note.startswith("there is no test part: ")


def test_what_an_evaluation_would_find_is_found_before_training(both, tmp_path, pictures):
    (both / "test" / "wasp").mkdir()
    assert refused(Folder(path=str(both))).endswith("class 'wasp' is not among the training folders")
    np.savez(tmp_path / "a.npz", x_train=pictures(4), y_train=[0, 1, 0, 1], x_test=pictures(2, 7), y_test=[0, 1])
    assert "training images are 1x6x6" in refused(Npz(path=str(tmp_path / "a.npz")))


def test_a_set_that_is_missing_is_one_sentence_and_not_two(tmp_path):
    assert refused(Folder(path=str(tmp_path / "x"))).count("no such data folder") == 1


def test_a_source_that_returns_no_images_is_named():
    class Odd(Digits):
        def open(self, split):
            return None if split == "train" else (1, 2)

    assert refused(Odd()) == (
        "data 'digits': open returned an object of type NoneType for 'train'; it must return an ImageSet; and "
        "data 'digits': open returned an object of type tuple for 'test'; it must return an ImageSet"
    )

"""Folders of images as people have them: hidden and nested ones, links, other files. Nothing is lost without a word."""

import pytest
import torch

from overproof.data.folders import Left, files_below, is_hidden
from overproof.data.sources import Folder
from overproof.errors import InputError


@pytest.fixture
def tree(tmp_path, pictures, write_folder):
    """Six images of ant and bee for training, and the test part of the first two."""
    root = write_folder(tmp_path / "set", pictures(6))
    for name in ("ant/000.png", "bee/001.png"):
        (root / "test" / name).parent.mkdir(parents=True)
        (root / "test" / name).write_bytes((root / "train" / name).read_bytes())
    return root


def opened(root, split="train"):
    return Folder(path=str(root)).open(split)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir"])
def test_hidden_folders_are_left_out_and_counted(tree, pictures, encode, name, split):
    before = opened(tree, split)
    for place in (tree / split / name, tree / split / "ant" / name):
        place.mkdir()
        (place / "x.png").write_bytes(encode(pictures(1)[0]))
    found = opened(tree, split)
    assert found.classes == before.classes == ("ant", "bee")
    assert found.digest == before.digest
    assert found.notes == (f"{tree / split}: 2 hidden folders were left out",)


@pytest.mark.parametrize("name", ["._000.png", ".DS_Store", "Thumbs.db", "desktop.ini"])
def test_hidden_files_are_left_out_and_counted(tree, name):
    (tree / "train" / "ant" / name).write_bytes(b"no image")
    assert opened(tree).notes == (f"{tree / 'train'}: 1 hidden file was left out",)
    assert len(opened(tree)) == 6


def test_files_that_are_no_images_are_counted_by_their_suffix(tree):
    for name in ("a.txt", "b.txt", "c.heic", "d", "e.pdf"):
        (tree / "train" / "ant" / name).write_bytes(b"")
    kinds = ".txt: 2, no suffix: 1, .heic: 1, .pdf: 1"
    assert opened(tree).notes == (f"{tree / 'train'}: 5 files that are no images ({kinds}) were left out",)
    assert len(opened(tree)) == 6


def test_images_beside_the_classes_are_counted(tree, pictures, encode):
    (tree / "train" / "lost.png").write_bytes(encode(pictures(1)[0]))
    assert opened(tree).notes == (f"{tree / 'train'}: 1 image beside the folders of the classes was left out",)


def test_images_in_deeper_folders_are_read_and_said(tree):
    before = opened(tree).decoded()
    for name in ("002.png", "004.png"):
        (tree / "train" / "ant" / "more" / "and more").mkdir(parents=True, exist_ok=True)
        (tree / "train" / "ant" / name).rename(tree / "train" / "ant" / "more" / "and more" / name)
    found = opened(tree)
    assert torch.equal(found.decoded().images, before.images)
    assert found.labels.tolist() == before.labels.tolist()
    assert found.notes == (
        f"{tree / 'train'}: 2 of 6 images lie in folders below those of the classes and count as the class above",
    )


def test_suffixes_in_upper_case(tree):
    (tree / "train" / "ant" / "000.png").rename(tree / "train" / "ant" / "000.PNG")
    assert (len(opened(tree)), opened(tree).notes) == (6, ())


def test_links_to_files_and_folders_are_followed(tree, tmp_path):
    before = opened(tree).decoded()
    (tree / "train" / "bee").rename(tmp_path / "elsewhere")
    (tree / "train" / "bee").symlink_to(tmp_path / "elsewhere")
    (tree / "train" / "ant" / "000.png").rename(tmp_path / "x.png")
    (tree / "train" / "ant" / "000.png").symlink_to(tmp_path / "x.png")
    assert torch.equal(opened(tree).decoded().images, before.images)
    assert opened(tree).notes == ()


def test_links_in_a_circle_are_left_out_and_counted(tree):
    (tree / "train" / "ant" / "again").symlink_to(tree / "train" / "ant")
    (tree / "train" / "ant" / "itself").symlink_to(tree / "train" / "ant" / "itself")
    (tree / "train" / "ant" / "up").symlink_to(tree / "train")
    found = opened(tree)
    assert found.notes[0].startswith(f"{tree / 'train'}: ")
    assert "to a folder above" in found.notes[0]
    assert len(found) == 9  # 'up' is not above as one looks, and leads to bee


def test_broken_links(tree):
    (tree / "train" / "ant" / "gone.png").symlink_to(tree / "nowhere.png")
    with pytest.raises(InputError, match=r"gone\.png cannot be decoded \(FileNotFoundError"):
        opened(tree).examined()
    (tree / "train" / "cat").symlink_to(tree / "nowhere")
    with pytest.raises(InputError, match=r"train/cat: a link to what is not there; mend or remove it$"):
        opened(tree)


def test_other_parts_are_said(tree):
    (tree / "extra").mkdir()
    (tree / "validation").mkdir()
    assert opened(tree).notes == ("set: extra is not read",)
    assert opened(tree, "test").notes == ("set: extra and validation are not read",)


def test_a_folder_of_other_files_alone_says_what_they_are(tree):
    for file in (tree / "train").rglob("*.png"):
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(InputError, match=r"train: there are no images; 6 files that are no images \(\.heic: 6\) were"):
        opened(tree)


def test_class_folders_without_train_and_test_are_one_sentence(tree):
    with pytest.raises(InputError, match=r"no 'train' split; found ant, bee; expected train/<class>/\*\.png and test"):
        opened(tree / "train")


def test_a_wish_is_hidden_by_its_name_alone():
    assert [is_hidden(name) for name in (".a", "Thumbs.DB", "thumbs", "a.b")] == [True, True, False, False]


def test_the_order_of_a_flat_folder_is_that_of_its_names(tmp_path):
    for name in ("b.png", "B.png", "a.png", "a-1.png", "10.png", "9.png"):
        (tmp_path / name).write_bytes(b"")
    assert files_below(tmp_path, {".png"}, Left()) == sorted(tmp_path.glob("*"))

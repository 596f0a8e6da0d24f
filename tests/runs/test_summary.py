from dataclasses import dataclass
from pathlib import Path

import torch

from overproof.data.images import ImageSet
from overproof.data.sources import Digits, Npz
from overproof.runs.summary import device_line, images_line, notes_of, per_class_line, results_line, source_line


def images(labels, classes, channels=3):
    return ImageSet("set", torch.zeros(len(labels), channels, 4, 6, dtype=torch.uint8), torch.tensor(labels), classes)


def test_the_source_is_named_with_its_place():
    assert source_line("toy", Digits()) == "toy: reading digits"
    assert source_line("toy", Npz(path="data/x.npz")) == "toy: reading npz data/x.npz"
    assert "\n" not in source_line("toy", Npz(path="data\nx.npz"))


def test_images_are_counted_by_split():
    splits = {"train": images([0, 1, 1], ("a", "b")), "test": images([0], ("a", "b"))}
    assert images_line(splits) == "images: 3 train, 1 test; 4x6, 3 channels, 2 classes"
    assert "4x6, grey, 1 classes" in images_line({"test": images([0], ("a",), channels=1)})


def test_few_classes_are_named_each_with_its_images_and_a_strangers_name_stays_in_its_line():
    splits = {"train": images([0, 1, 1], ("a", "b\nc")), "held out": images([0], ("a", "b\nc"))}
    assert per_class_line(splits) == "images per class (train/held out): 'a' 1/1, 'b c' 2/0"


def test_of_many_classes_the_least_and_the_most_is_told():
    classes = tuple(map(str, range(20)))
    splits = {"train": images([*range(20), 3], classes), "test": images(list(range(20)), classes)}
    assert per_class_line(splits) == "images per class (train/test): 1 to 2, 1"


def test_notes_are_told_once():
    @dataclass
    class Noted:
        notes: tuple

    assert notes_of(Noted(("two files are left out", "grey")), Noted(("grey",)), Digits()) == (
        "two files are left out",
        "grey",
    )


def test_a_device_is_named_with_what_it_is():
    assert device_line(torch.device("cpu"), "fp32").startswith("device: cpu (")
    assert device_line(torch.device("cpu"), "fp32").endswith("), fp32")
    assert device_line(torch.device("cpu"), "fp32", graphs=True).endswith(
        "fp32; CUDA graphs, which are experimental: no GPU has run them yet"
    )


def test_results_are_named_with_their_folder():
    assert results_line(Path("runs/x"), ["a.json", "b.json"]) == "results go to runs/x: a.json, b.json"

"""A network's classes and the images' classes are the same, in name and order, in every command that has both."""

import numpy as np
import pytest
from PIL import Image

from overproof.commands.certify import certify
from overproof.commands.evaluate import evaluate
from overproof.commands.export import export
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.runs.loaded import check_classes


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """A folder with the digits' test images under other names in another order."""
    folder, digits = tmp_path_factory.mktemp("words"), Digits()
    names = ("zero", "a", "b", "c", "d", "e", "f", "g", "h", "i")
    for part in ("train", "test"):
        images = digits.load("test")
        for number, (image, label) in enumerate(zip(images.images[:60], images.labels[:60].tolist(), strict=True)):
            place = folder / part / f"{9 - label}-{names[label]}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image[0])).save(place / f"{number}.png")
    return folder


@pytest.mark.parametrize("work", [evaluate, certify])
def test_other_names_are_refused_and_can_be_overridden(finished, words, work, tmp_path):
    options = {"data": str(words), "examples": 5, "device": "cpu", "eps": "0.01", "out": tmp_path / "o"}
    with pytest.raises(InputError, match=r"its 0 is '0', here it is '0-i'; where only their places count, add"):
        work(finished(), **options)
    assert not (tmp_path / "o").exists()
    found = work(finished(), **options, classes_by_position=True)
    assert found["data"]["examples"] == 5


def test_an_export_checks_on_images_of_its_own_classes(finished, words):
    with pytest.raises(InputError, match="was trained on other classes"):
        export(finished(), to="onnx", data=str(words))


def test_a_teacher_of_other_classes_is_no_partner(finished, toy, words, tmp_path):
    from overproof.commands.train import train

    other = train(toy(f"data={{kind: folder, path: {words}}}", "training.batch=16"), tmp_path / "other", device="cpu")
    for work in (evaluate, certify):
        with pytest.raises(InputError, match=rf"teacher {other.folder} was trained on other classes: its 0 is '0-i'"):
            work(finished(), teacher=str(other.folder), examples=5, device="cpu", eps="0.01", out=tmp_path / "o")


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (("a", "b"), ("b", "a"), "its 0 is 'a', here it is 'b'"),
        (("a", "b"), ("a", "b", "c"), "its 2 is None, here it is 'c'"),
    ],
)
def test_the_first_difference_is_named(theirs, ours, said):
    with pytest.raises(InputError, match=f"^net was trained on other classes: {said}!$"):
        check_classes(theirs, ours, where="net", advice="!")


def test_names_that_nobody_gave_cannot_be_compared():
    check_classes((), ("a", "b"), where="net")
    check_classes(["a"], ("a",), where="net")

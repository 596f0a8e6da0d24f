"""What a set says of itself is kept with what was found on it, and a word keeps the form of the run's own images."""

import json

import numpy as np
import pytest
from PIL import Image

from overproof.commands.certify import certify
from overproof.commands.evaluate import evaluate
from overproof.commands.train import train
from overproof.data.sources import Digits
from overproof.errors import InputError


@pytest.fixture
def photographs(tmp_path):
    """Return a function: a folder of larger digits, 4 training and 2 test images a class, with a file of other kind."""

    def make(name="photographs", side=16):
        root, images = tmp_path / name, Digits().load("train")
        for label in range(10):
            for number, index in enumerate((images.labels == label).nonzero().flatten()[:6].tolist()):
                place = root / ("train" if number < 4 else "test") / str(label) / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.asarray(images.images[index, 0])).resize((side, side)).save(place)
        (root / "test" / "0" / "notes.txt").write_text("")
        return root

    return make


def test_notes_are_kept_and_the_form_of_the_run_with_them(photographs, toy, tmp_path):
    root = photographs()
    data = f"data={{kind: folder, path: {root}, form: {{size: 8}}}}"
    run = train(toy(data, "training.batch=10"), tmp_path / "run", device="cpu")
    said = f"{root / 'test'}: 1 file that is no image (.txt: 1) was left out"
    assert json.loads((run.folder / "model.json").read_text())["data"] == {"notes": [said]}
    other = photographs("others", 24)
    options = {"examples": 5, "device": "cpu", "eps": "0.01", "out": tmp_path / "o"}
    for work in (evaluate, certify):
        found = work(run, data=str(other), **options)
        assert found["data"]["notes"] == [said.replace(str(root), str(other))]
    with pytest.raises(InputError, match="it is for"):
        evaluate(run, data=f"{{kind: folder, path: {other}, form: {{size: 12}}}}", **options)


def test_damaged_images_end_a_training_before_it_begins(photographs, toy, tmp_path):
    root = photographs()
    for place in ("train/3/1.png", "train/4/0.png", "test/9/5.png"):
        (root / place).write_bytes(b"no image")
    recipe = f"data={{kind: folder, path: {root}}}"
    with pytest.raises(InputError, match=r"train: 2 of 40 images cannot be used.*; and .*test: .*5\.png cannot be dec"):
        train(toy(recipe, "training.batch=10"), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    skipping = toy(f"data={{kind: folder, path: {root}, on_error: skip}}", "training.batch=10")
    run = train(skipping, tmp_path / "run2", device="cpu")
    notes = json.loads((run.folder / "model.json").read_text())["data"]["notes"]
    assert [note.partition(" cannot")[0].split(": ")[-1] for note in notes if "on_error" in note] == [
        "2 images of 40",
        "1 image of 20",
    ]
    assert evaluate(run, device="cpu", out=tmp_path / "o")["data"]["of"] == 19


def test_a_class_with_one_image_is_one_sentence(photographs, toy, tmp_path):
    root = photographs()
    for number in (1, 2, 3):
        (root / "train" / "9" / f"{number}.png").unlink()
    with pytest.raises(InputError, match="class '9' has one training image, which is held out"):
        train(toy(f"data={{kind: folder, path: {root}}}", "training.batch=10"), tmp_path / "run", device="cpu")


def test_a_last_batch_of_one_where_a_batchnorm_sees_one_value(photographs, toy, tmp_path):
    (root := photographs()).joinpath("train", "0", "3.png").unlink()
    made = f"data={{kind: folder, path: {root}, form: {{size: 8}}}}"
    net = "student={kind: mobilenetv2}"
    # Of 39 images 10 are held out; 29 are 2 batches of 14 and one image.
    run = train(toy(made, net, "training.batch=14"), tmp_path / "run", device="cpu")
    assert run.metrics()
    with pytest.raises(InputError, match=r"a batch of 1 is too small.*training\.batch=2 or more"):
        train(toy(made, net, "training.batch=1"), tmp_path / "other", device="cpu")

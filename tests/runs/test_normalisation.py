import json

import pytest
import torch
from PIL import Image

from overproof.commands.train import train
from overproof.data.images import ImageSet
from overproof.errors import InputError
from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build
from overproof.recipe import Normalise, dump, parse
from overproof.runs.initial import InitialWeights
from overproof.runs.normalisation import Normalisation, measure_normalisation, normalisation
from overproof.signature import Signature


def made(images):
    return ImageSet("made", images, torch.arange(len(images)) % 2, ("a", "b"))


def bytes_of(n=300, channels=3):
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, 5, 4), dtype=torch.uint8, generator=draws)


class TestMeasured:
    def test_is_the_mean_and_deviation_of_all_pixels(self):
        images = bytes_of()
        found = measure_normalisation(made(images))
        x = images.double() / 255
        assert found.mean == pytest.approx(x.mean(dim=(0, 2, 3)).tolist(), abs=1e-12)
        assert found.std == pytest.approx(x.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-12)

    def test_floats_too(self):
        x = bytes_of().float() / 255
        found = measure_normalisation(made(x))
        assert found.mean == pytest.approx(x.double().mean(dim=(0, 2, 3)).tolist(), abs=1e-12)
        assert found.std == pytest.approx(x.double().std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-9)

    def test_the_order_of_images_plays_no_part_to_the_bit(self):
        images = bytes_of()
        assert measure_normalisation(made(images)) == measure_normalisation(made(images.flip(0)))

    @pytest.mark.parametrize("value", [0, 77, 255])
    def test_a_channel_of_one_value(self, value):
        images = bytes_of()
        images[:, 1] = value
        with pytest.raises(InputError, match=r"^normalise: data: channel 1 of the training images has one value only"):
            measure_normalisation(made(images))
        with pytest.raises(InputError, match="channel 1"):
            measure_normalisation(made(images.float() / 255))


class TestWords:
    def wish(self, text):
        return parse(f"{{name: x, data: digits, student: mlp, method: natural, init: y, normalise: {text}}}").normalise

    @pytest.mark.parametrize("word", ["data", "init", "numbers"])
    def test_a_bare_word(self, word):
        assert self.wish(word) == self.wish(f"{{of: {word}}}") == Normalise(of=word)

    def test_it_is_written_so_that_it_can_be_read(self):
        recipe = parse("{name: x, data: digits, student: mlp, method: natural, normalise: data}")
        assert parse(dump(recipe)) == recipe

    def test_numbers_stay_numbers(self):
        assert self.wish("{mean: [0.5], std: [0.2]}") == Normalise(mean=(0.5,), std=(0.2,))

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("dta", "recipe.normalise.of: cannot use 'dta' (did you mean 'data'?)"),
            ("{of: data, mean: [0.5], std: [0.5]}", "give numbers or data, not both"),
        ],
    )
    def test_refused(self, text, sentence):
        with pytest.raises(InputError) as caught:
            self.wish(text)
        assert sentence in str(caught.value)

    def test_init_without_one(self):
        with pytest.raises(InputError, match="normalise: init means the weights to begin with, but there is no init"):
            parse("{name: x, data: digits, student: mlp, method: natural, normalise: init}")


class TestInit:
    def test_is_that_of_the_weights(self):
        weights = InitialWeights(tensors={}, mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.1))
        found = normalisation(Normalise(of="init"), made(bytes_of()), "timm:x", weights)
        assert (found.mean, found.std) == (weights.mean, weights.std)

    @pytest.mark.parametrize(
        ("mean", "sentence"),
        [
            ((), "normalise: init: w.pt does not say how its images were normalised; use data or numbers"),
            ((0.5,), "normalise: init: w.pt has a mean of 1 channels, the images have 3; use data or numbers"),
        ],
    )
    def test_what_is_not_known_or_for_other_images(self, mean, sentence):
        with pytest.raises(InputError) as caught:
            normalisation(
                Normalise(of="init"), made(bytes_of()), "w.pt", InitialWeights(tensors={}, mean=mean, std=mean)
            )
        assert str(caught.value) == sentence


def normalised(run, name="model"):
    return json.loads((run.folder / f"{name}.json").read_text())["normalisation"]


def test_a_run_normalises_by_its_data(toy, tmp_path):
    run = train(toy("normalise=data", "training.epochs=1"), tmp_path / "run", device="cpu", keep_checkpoint=True)
    found = normalised(run)
    assert 0.2 < found["mean"][0] < 0.4 and 0.3 < found["std"][0] < 0.45
    longer = toy("normalise=data", "training.epochs=2")
    assert normalised(train(longer, run.folder, device="cpu", resume=True), "last") == found


def test_a_run_normalises_as_the_run_it_began_with_also_when_it_goes_on(toy, finished, tmp_path):
    first = finished("normalise={mean: [0.25], std: [0.5]}")
    edits = (f"init={first.folder}", "normalise=init", "training.schedule={kind: constant}")
    run = train(toy(*edits), tmp_path / "run", device="cpu", keep_checkpoint=True)
    assert normalised(run) == {"mean": [0.25], "std": [0.5]}
    longer = toy(*edits, "training.epochs=3")
    went_on = train(longer, run.folder, device="cpu", resume=True)
    whole = train(longer, tmp_path / "whole", device="cpu")
    assert normalised(went_on, "last") == {"mean": [0.25], "std": [0.5]}
    assert went_on.model("last")[1]["digest"] == whole.model("last")[1]["digest"]


def test_streamed_images_are_measured_as_those_in_memory(toy, tmp_path):
    images = bytes_of(n=40)
    for number, image in enumerate(images):
        file = tmp_path / "data" / "train" / "ab"[number % 2] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    edits = (f"data={{kind: folder, path: {tmp_path / 'data'}}}", "training.batch=8", "normalise=data")
    found = [
        normalised(train(toy(*edits, f"loading={{mode: {mode}, workers: 0}}"), tmp_path / mode, device="cpu"))
        for mode in ("resident", "streamed")
    ]
    assert found[0] == found[1]


def test_it_is_said():
    assert str(Normalisation(mean=(0.5, 0.25), std=(0.1, 0.2))) == "mean 0.5000/0.2500, deviation 0.1000/0.2000"
    assert normalisation(Normalise(), made(bytes_of()), "", None) == Normalisation()
    assert build(MLP(), Signature(channels=1, height=2, width=2, classes=2)).normalises is False

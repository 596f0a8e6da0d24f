"""Recipes for images that are not here: networks fit their shape, and a run on generated images of it goes through."""

import numpy as np
import pytest
import torch

from overproof.commands.train import train
from overproof.recipe import parse, read
from overproof.shipped import find_recipe, recipe_names
from overproof.signature import Signature

SHAPES = {
    "fashion-mnist": Signature(channels=1, height=28, width=28, classes=10),
    "cifar100": Signature(channels=3, height=32, width=32, classes=100),
    "tiny-imagenet": Signature(channels=3, height=64, width=64, classes=200),
    "restricted-imagenet": Signature(channels=3, height=224, width=224, classes=9),
}
NAMES = [name for name in recipe_names() if name.split("/")[0] in SHAPES]


def test_each_data_set_has_recipes_of_training_alone_and_of_distillation():
    for data in SHAPES:
        roles = [bool(read(find_recipe(name)).teachers) for name in NAMES if name.startswith(data)]
        assert any(roles) and not all(roles), data


@pytest.mark.parametrize("name", NAMES)
def test_the_network_of_a_recipe_fits_the_shape(name):
    signature, recipe = SHAPES[name.split("/")[0]], read(find_recipe(name))
    with torch.device("meta"):
        network = recipe.student.build(signature).eval()
        x = torch.empty(1, signature.channels, signature.height, signature.width)
        assert network(x).shape == (1, signature.classes)
    assert len(recipe.normalise.mean) in (0, signature.channels)


@pytest.mark.parametrize("data", SHAPES)
def test_a_run_on_generated_images_of_the_shape(data, tmp_path):
    """Training alone: all of the recipe but its network, its length and its images."""
    signature, rng = SHAPES[data], np.random.default_rng(0)
    labels = np.arange(2 * signature.classes) % signature.classes
    shape = (len(labels), signature.height, signature.width, signature.channels)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    images = images if signature.channels == 3 else images[..., 0]
    file = tmp_path / "images.npz"
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    sets = [
        f"data={{kind: npz, path: {file}}}",
        "student={kind: mlp, hidden: [2]}",
        "training.epochs=1",
        "training.batch=8",
        "method.inner.steps=1",
        "selection={fraction: 0.5, examples: 4}",
    ]
    recipe = parse(find_recipe(f"{data}/at").read_text(), sets)
    run = train(recipe, tmp_path / "run", device="cpu")
    assert len(run.metrics()) == 1
    assert run.model()[0].signature == signature

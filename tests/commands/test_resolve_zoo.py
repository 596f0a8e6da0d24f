"""The row of timm and torchvision in the table of sources, with the real packages: all but the download."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.commands.every_command import COMMANDS, SENTENCES, TABLE, Around

from overproof.commands.train import train
from overproof.errors import InputError

ROW = TABLE["a network of timm or torchvision"]
timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")


@pytest.fixture(scope="module")
def around(toy, tmp_path_factory):
    """A current folder with coloured images of 32x32, a run for them, and weights where the zoos look for theirs."""
    from timm.models import _registry
    from torchvision.models import _api
    from torchvision.transforms._presets import ImageClassification

    folder = tmp_path_factory.mktemp("zoo")
    draws = np.random.default_rng(0)
    labels = np.arange(80) % 10
    images = draws.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    edits = ("data={kind: npz, path: images.npz}", "training.batch=16", "selection.examples=8")
    recipe = lambda *more: toy(*edits, *more)  # noqa: E731 - it is a value of the place
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        # timm: its entry of a network names a file of ours, for images of this size.
        (full,) = (name for name in _registry._model_pretrained_cfgs if name.startswith("resnet18.a1_in1k"))
        entry = _registry._model_pretrained_cfgs[full]
        entry = replace(
            entry, file=str(folder / "timm.pth"), num_classes=10, input_size=(3, 32, 32), test_input_size=None
        )
        torch.manual_seed(0)
        torch.save(timm.create_model("resnet18", num_classes=10).state_dict(), folder / "timm.pth")
        patch.setitem(_registry._model_pretrained_cfgs, full, entry)

        # torchvision: a network under a name of ours, whose weights have the address of a file.
        def small(*, weights=None, **options):
            network = models.resnet18(**{"num_classes": 10, **options})
            if weights is not None:
                network.load_state_dict(weights.get_state_dict())
            return network

        torch.save(small().state_dict(), folder / "small-0.pth")
        meta = {"categories": list("0123456789")}
        transforms = partial(ImageClassification, crop_size=32, resize_size=32)

        class SmallWeights(models.WeightsEnum):
            DEFAULT = models.Weights(url=(folder / "small-0.pth").as_uri(), transforms=transforms, meta=meta)

        small.__annotations__["weights"] = SmallWeights | None
        patch.setitem(_api.BUILTIN_MODELS, "small_of_ours", small)
        train(recipe("student={kind: convnet, channels: [4]}"), folder / "runs" / "toy", device="cpu")
        yield Around(recipe, "images.npz", lambda source: source.partition(".")[0])


@pytest.mark.parametrize("column", ROW)
@pytest.mark.parametrize("source", ["timm:resnet18.a1_in1k", "torchvision:small_of_ours"])
def test_every_cell_of_the_row(source, column, around, tmp_path):
    if ROW[column] == "yes":
        COMMANDS[column](source, tmp_path / "out", around)
    else:
        with pytest.raises(InputError, match=re.escape(SENTENCES[ROW[column]])):
            COMMANDS[column](source, tmp_path / "out", around)

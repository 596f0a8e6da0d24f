"""Checkpoints as others published them (``wild/README`` in the shared reference) are recognised, and still work."""

from pathlib import Path

import pytest

from overproof.commands.import_teacher import import_teacher
from overproof.data.sources import Parquet
from overproof.models.architectures.architecture import Architecture
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.plain_resnet import PlainResNet
from overproof.recipe import build_value

SHARED = Path(__file__).parents[3] / "shared"
WILD = SHARED / "reference/wild/checkpoints"
pytestmark = pytest.mark.skipif(not WILD.is_dir(), reason="needs the published files")

CNN_A = {"kernel": (4, 4), "stride": (2, 2), "padding": (1, 1)}
MEAN = (0.4914, 0.4822, 0.4465)
PUBLISHED = {
    "cifar_cnn_a_adv.model": ("cifar10-jpeg", ConvNet(**CNN_A), (MEAN, (0.2023, 0.1994, 0.2010))),
    "cifar_base.pth": ("cifar10-jpeg", ConvNet(channels=(8, 16), **CNN_A), ((0.485, 0.456, 0.406), (0.225,) * 3)),
    "resnet2b.pth": ("cifar10-jpeg", PlainResNet(), (MEAN, (0.2471, 0.2435, 0.2616))),
    "mnist_cnn_a_adv.model": ("mnist", ConvNet(**CNN_A), ((), ())),
    "MadryCNN_no_maxpool_tiny.pt": (
        "mnist",
        ConvNet(channels=(4, 8), kernel=(5, 5), stride=(2, 2), padding=(2, 2), hidden=(128,)),
        ((), ()),
    ),
    "mnist_6_100_nat.pth": ("mnist", MLP(hidden=(100,) * 5), ((), ())),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_is_recognised_from_its_tensors(name, tmp_path):
    data, architecture, (mean, std) = PUBLISHED[name]
    run = import_teacher(
        WILD / name, model="auto", mean=mean, std=std, data=str(SHARED / "data" / data), out=tmp_path / "run"
    )
    assert build_value(Architecture, run.description()["architecture"], where="x") == architecture
    images = Parquet(path=str(SHARED / "data" / data)).load("test")
    x, y = images.images[:1000].float() / 255, images.labels[:1000]
    share = float((run.model()[0](x).argmax(1) == y).float().mean())
    # A wrong stride or padding leaves chance, which is 10 %; the networks have 58 % and more on all images.
    assert share > (0.9 if data == "mnist" else 0.5)

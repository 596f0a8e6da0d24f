"""The families by their kind, and the networks that have a name in the field."""

from difflib import get_close_matches

from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.architecture import Architecture
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.dm_wide import DMWideResNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.mobilenetv2 import MobileNetV2
from overproof.models.architectures.plain_resnet import PlainResNet
from overproof.models.architectures.preact import PreActResNet
from overproof.models.architectures.resnet import DEPTHS, ResNet
from overproof.models.architectures.vgg import VGG
from overproof.models.architectures.wide import WideResNet

FAMILIES: dict[str, type[Architecture]] = {
    family.kind: family
    for family in (
        FeatureAdapter,
        ConvNet,
        DMWideResNet,
        MLP,
        MobileNetV2,
        PlainResNet,
        PreActResNet,
        ResNet,
        VGG,
        WideResNet,
    )
}
"""Every family of this package, by its ``kind``."""

NAMED: dict[str, Architecture] = {
    "mlp": MLP(),
    "cnn-small": ConvNet(),
    "cnn-large": ConvNet(channels=(32, 32, 64, 64), kernel=(3, 4, 3, 4), stride=(1, 2, 1, 2), hidden=(512, 512)),
    "mobilenetv2": MobileNetV2(),
    **{f"resnet{depth}": ResNet(depth=depth) for depth in DEPTHS},
    **{f"preactresnet{depth}": PreActResNet(depth=depth) for depth in (18, 34)},
    **{f"vgg{depth}": VGG(depth=depth) for depth in (11, 13, 16, 19)},
    **{
        f"wrn-{depth}-{width}": WideResNet(depth=depth, width=width)
        for depth, width in ((28, 10), (34, 10), (34, 20), (70, 16))
    },
    **{f"dm-wrn-{depth}-{width}": DMWideResNet(depth=depth, width=width) for depth, width in ((28, 10), (70, 16))},
}
"""The field's names; "cnn-small" and "cnn-large" are the networks of Wong et al. (2018)."""


def find_architecture(name: str) -> Architecture:
    """Return the architecture the field calls ``name``; else a ``ValueError`` names the nearest one."""
    if name not in NAMED:
        nearest = get_close_matches(name.lower().replace("_", "-"), NAMED, n=1, cutoff=0)[0]
        raise ValueError(f"there is no network named {name!r}; the nearest name is {nearest!r}")
    return NAMED[name]

import subprocess
import sys

import pytest
import torch
from torch import nn

from overproof.models.architectures.resnet import ResNet
from overproof.models.layout import lay_out, memory_format
from overproof.models.weights import build
from overproof.signature import Signature

SIZE = Signature(channels=1, height=28, width=28, classes=10)
NARROW, WIDE = (build(ResNet(depth=8, width=width), SIZE) for width in (0.25, 0.5))


def test_channels_last_moves_the_memory_and_not_the_numbers():
    model = build(ResNet(depth=8, width=0.5), SIZE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lay_out(torch.channels_last, model)
    assert model.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_plain_layout_leaves_a_network_alone():
    model = build(ResNet(depth=8, width=0.25), SIZE)
    lay_out(torch.contiguous_format, model)
    assert model.backbone.layer1[0].conv1.weight.is_contiguous()


@pytest.mark.parametrize(
    ("networks", "wanted"),
    [
        ([WIDE], torch.channels_last),
        ([NARROW], torch.contiguous_format),
        ([WIDE, NARROW], torch.contiguous_format),  # images are laid out for all of them
        ([nn.Conv2d(4, 8, 1)], torch.channels_last),
        ([nn.Conv2d(4, 8, 3, stride=2)], torch.channels_last),
        ([nn.Conv2d(16, 16, 1, stride=2, groups=4)], torch.contiguous_format),
        ([nn.Conv2d(4, 8, 1, stride=2, device="meta")], torch.channels_last),
        ([nn.Linear(4, 8)], torch.channels_last),
    ],
)
def test_a_narrow_strided_pointwise_convolution_asks_for_the_plain_layout(networks, wanted):
    assert memory_format(*networks) == wanted


TRAIN_AND_ATTACK = """
import torch
from overproof.attacks.pgd import PGD
from overproof.data.augment import Augment
from overproof.data.images import ImageSet
from overproof.data.loader import Loader
from overproof.evaluation.attacked import judge
from overproof.evaluation.engine import AttackSpec
from overproof.methods.pgd_at import PGDAT
from overproof.models.architectures.resnet import ResNet
from overproof.models.weights import build
from overproof.training.loop import Loop
from overproof.training.optimisation import Training

torch.set_num_threads(1)
labels = torch.arange(512) % 10
images = ImageSet("made", torch.randint(0, 256, (512, 1, 28, 28), dtype=torch.uint8), labels, tuple("abcdefghij"))
student = build(ResNet(depth=8, width=0.25), images.signature)
search = PGD(steps=2, eps=0.1)
for _ in Loop(PGDAT(inner=search), student, {}, Loader(images, 128, Augment(), seed=0), Training(epochs=1), 0).run():
    pass
judge(student, images.at(torch.arange(256)), (AttackSpec(name="pgd", attack=search),), batch=128)
"""


def test_such_a_network_is_trained_and_attacked_without_a_crash():
    """Torch ends the process where it does crash, so this one is another."""
    done = subprocess.run([sys.executable, "-c", TRAIN_AND_ATTACK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

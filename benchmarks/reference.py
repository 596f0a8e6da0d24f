"""The network and the images that the reference verdicts in ``tests/reference/attacks`` were computed on."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from overproof.models.architectures.convnet import ConvNet
from overproof.models.classifier import Classifier
from overproof.signature import Signature

FOLDER = Path(__file__).parents[1] / "tests" / "reference" / "attacks"


def network() -> Classifier:
    """Return ``cnn_pgd``: conv 16 and 32 (4x4, stride 2), 100, 10, PGD-trained on MNIST at linf 0.1; eval mode."""
    signature = Signature(channels=1, height=28, width=28, classes=10)
    backbone = ConvNet(channels=(16, 32), hidden=(100,)).build(signature)
    weights = load_file(FOLDER / "cnn_pgd.safetensors")
    backbone.load_state_dict(weights)
    model: nn.Module = Classifier(backbone, signature).eval().requires_grad_(False)
    return model


def images(count: int) -> tuple[Tensor, Tensor]:
    """Return the first test images of MNIST, pixels ``[N, 1, 28, 28]`` in [0, 1] and labels ``[N]``; at most 500."""
    data = load_file(FOLDER / "mnist-500.safetensors")
    return data["images"][:count].float() / 255, data["labels"][:count].long()

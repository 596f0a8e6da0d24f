"""Networks: families of small ones, the wrapper that keeps pixels in [0, 1], weights on disk."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.models.architectures.architecture import Architecture, Backbone
    from overproof.models.architectures.convnet import ConvNet
    from overproof.models.architectures.dm_wide import DMWideResNet
    from overproof.models.architectures.mlp import MLP
    from overproof.models.architectures.mobilenetv2 import MobileNetV2
    from overproof.models.architectures.plain_resnet import PlainResNet
    from overproof.models.architectures.preact import PreActResNet
    from overproof.models.architectures.resnet import ResNet
    from overproof.models.architectures.vgg import VGG
    from overproof.models.architectures.wide import WideResNet
    from overproof.models.classifier import Classifier, parameter_count
    from overproof.models.cost import multiply_adds
    from overproof.models.external.onnx_file import OnnxFile
    from overproof.models.mode import in_mode, no_gradient
    from overproof.models.weights import build, freeze, load_model, save_model
    from overproof.signature import Signature

_HOMES = {
    "Architecture": "overproof.models.architectures.architecture",
    "Backbone": "overproof.models.architectures.architecture",
    "Classifier": "overproof.models.classifier",
    "ConvNet": "overproof.models.architectures.convnet",
    "DMWideResNet": "overproof.models.architectures.dm_wide",
    "MLP": "overproof.models.architectures.mlp",
    "MobileNetV2": "overproof.models.architectures.mobilenetv2",
    "OnnxFile": "overproof.models.external.onnx_file",
    "PlainResNet": "overproof.models.architectures.plain_resnet",
    "PreActResNet": "overproof.models.architectures.preact",
    "ResNet": "overproof.models.architectures.resnet",
    "Signature": "overproof.signature",
    "VGG": "overproof.models.architectures.vgg",
    "WideResNet": "overproof.models.architectures.wide",
    "build": "overproof.models.weights",
    "freeze": "overproof.models.weights",
    "in_mode": "overproof.models.mode",
    "load_model": "overproof.models.weights",
    "multiply_adds": "overproof.models.cost",
    "no_gradient": "overproof.models.mode",
    "parameter_count": "overproof.models.classifier",
    "save_model": "overproof.models.weights",
}

__all__ = [
    "MLP",
    "VGG",
    "Architecture",
    "Backbone",
    "Classifier",
    "ConvNet",
    "DMWideResNet",
    "MobileNetV2",
    "OnnxFile",
    "PlainResNet",
    "PreActResNet",
    "ResNet",
    "Signature",
    "WideResNet",
    "build",
    "freeze",
    "in_mode",
    "load_model",
    "multiply_adds",
    "no_gradient",
    "parameter_count",
    "save_model",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)

"""Networks: families of small ones, the wrapper that keeps pixels in [0, 1], weights on disk."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.models.architecture import Architecture, Backbone
    from overproof.models.classifier import Classifier, parameter_count
    from overproof.models.convnet import ConvNet
    from overproof.models.cost import multiply_adds
    from overproof.models.dm_wide import DMWideResNet
    from overproof.models.mlp import MLP
    from overproof.models.mobilenetv2 import MobileNetV2
    from overproof.models.mode import in_mode, no_gradient
    from overproof.models.onnx_file import OnnxFile
    from overproof.models.plain_resnet import PlainResNet
    from overproof.models.preact import PreActResNet
    from overproof.models.resnet import ResNet
    from overproof.models.vgg import VGG
    from overproof.models.weights import build, freeze, load_model, save_model
    from overproof.models.wide import WideResNet
    from overproof.signature import Signature

_HOMES = {
    "Architecture": "overproof.models.architecture",
    "Backbone": "overproof.models.architecture",
    "Classifier": "overproof.models.classifier",
    "ConvNet": "overproof.models.convnet",
    "DMWideResNet": "overproof.models.dm_wide",
    "MLP": "overproof.models.mlp",
    "MobileNetV2": "overproof.models.mobilenetv2",
    "OnnxFile": "overproof.models.onnx_file",
    "PlainResNet": "overproof.models.plain_resnet",
    "PreActResNet": "overproof.models.preact",
    "ResNet": "overproof.models.resnet",
    "Signature": "overproof.signature",
    "VGG": "overproof.models.vgg",
    "WideResNet": "overproof.models.wide",
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

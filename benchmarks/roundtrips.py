"""``python -m benchmarks.roundtrips``: networks of every family, ours and timm's, as the files that are shipped.

No weights are downloaded: bodies are random, and heads are fitted to the digits by least squares, so that logits differ
from image to image and quantisation has something to lose. Writes
``benchmarks/results/roundtrips.json``. Needs the extras ``zoo`` and ``export``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overproof.data.images import pixels
from overproof.data.sources import Digits
from overproof.diagnostics.parity import same_logits
from overproof.environment import hardware, versions
from overproof.errors import InputError
from overproof.formats.onnx import to_onnx
from overproof.formats.program import read_program, to_program
from overproof.formats.quantize import quantised
from overproof.models.architectures.architecture import Architecture
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.mobilenetv2 import MobileNetV2
from overproof.models.architectures.preact import PreActResNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.architectures.vgg import VGG
from overproof.models.architectures.wide import WideResNet
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.external.onnx_file import OnnxFile
from overproof.models.weights import build
from overproof.signature import Signature

RESULTS = Path(__file__).parent / "results"
SIGNATURE = Signature(channels=3, height=32, width=32, classes=10)
OURS: Mapping[str, Architecture] = {
    one.kind: one
    for one in (
        MLP(hidden=(64,)),
        ConvNet(channels=(8, 16), hidden=(32,)),
        ResNet(depth=20),
        PreActResNet(width=0.25),
        WideResNet(depth=10, width=2),
        MobileNetV2(width=0.5),
        VGG(depth=11, width=0.25),
    )
}
_PATCHES = {"img_size": 32, "patch_size": 8}
TIMM: Mapping[str, Mapping[str, Any]] = {
    "resnet10t": {},
    "vgg11_bn": {"mlp_ratio": 1 / 32},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": _PATCHES,
    "regnety_002": {"zero_init_last": False},  # else its features are the same for every image
    "densenet121": {},
    "skresnet18": {},
    "poolformerv2_s12": {},
}
"""timm's names, each of another family, and what makes them small or fit for images of 32x32."""


def digits(split: Any, count: int) -> tuple[Tensor, Tensor]:
    """Return the first digits of a split as pixels ``[N, 3, 32, 32]``, and their labels ``[N]``."""
    images = Digits().load(split)
    x = pixels(images.images[:count]).repeat(1, 3, 1, 1).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    return x, images.labels[:count]


def network(name: str, x: Tensor, y: Tensor) -> Classifier:
    """Return a network of ``OURS`` or ``TIMM`` with its head fitted to the images, in eval mode."""
    torch.manual_seed(0)
    normalisation = {"mean": (0.3,) * 3, "std": (0.4,) * 3}
    if name in OURS:
        model = build(OURS[name], SIGNATURE, **normalisation)
    else:
        import timm

        body = timm.create_model(name, pretrained=False, num_classes=SIGNATURE.classes, **TIMM[name])
        model = Classifier(body, SIGNATURE, **normalisation)
    model.eval()
    with torch.no_grad():
        hidden = torch.cat([model.features(part)[1] for part in torch.split(x, 64)]).double()
        centre, scale = hidden.mean(dim=0), hidden.std()  # of a random body features may be as small as they like
        hidden = (hidden - centre) / scale
        square = hidden.T @ hidden
        square += 1e-3 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
        wanted = 10 * (nn.functional.one_hot(y, SIGNATURE.classes).double() - 1 / SIGNATURE.classes)
        weight = torch.linalg.solve(square, hidden.T @ wanted) / scale
        model.head.weight.copy_(weight.T)
        model.head.bias.copy_(-centre @ weight)
    return model


def roundtrip(name: str, x: Tensor, y: Tensor, test: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return what becomes of a network as ONNX, as a ``torch.export`` program and in INT8; or why it does not."""
    model = network(name, x, y)
    row: dict[str, Any] = {"parameters": parameter_count(model)}
    try:
        body = to_onnx(model, x, metadata={}, where=name)
        file = OnnxFile(body, where=name)
        program = read_program(to_program(model, x, where=name), where=name)
        small = OnnxFile(quantised(body, x[:128], calibration="minmax", where=name), where=name)
        for form, copy in (("onnx", file), ("torch", program)):
            row[f"{form}_difference"] = max(one.difference for one in same_logits(model, copy, test, where=name))
    except InputError as problem:
        return row | {"refused": str(problem)}
    with torch.no_grad():
        logits = [torch.cat([one(part) for part in torch.split(test, 64)]) for one in (model, small)]
    before, after = (one.argmax(dim=1) for one in logits)
    return row | {
        "largest_logit": float(logits[0].abs().max()),
        "images": len(test),
        "correct": int((before == labels).sum()),
        "correct_int8": int((after == labels).sum()),
        "agreeing": int((before == after).sum()),
        "bytes": file.size,
        "bytes_int8": small.size,
    }


def main() -> None:
    """Take through what the file does not hold yet of these versions, and print and write the rows."""
    torch.set_num_threads(1)
    x, y = digits("train", 256)
    test, labels = digits("test", 200)
    file, place = RESULTS / "roundtrips.json", {"hardware": hardware(torch.device("cpu")), "versions": versions()}
    before = json.loads(file.read_text()) if file.is_file() else {}
    known = before["networks"] if {key: before.get(key) for key in place} == place else {}
    rows = {}
    for name in (*OURS, *TIMM):
        rows[name] = known.get(name) or roundtrip(name, x, y, test, labels)
        print(name, json.dumps(rows[name]), flush=True)
    file.write_text(json.dumps({"networks": rows, **place}, indent=1) + "\n")


if __name__ == "__main__":
    main()

import sys
import warnings

import pytest
import torch
from benchmarks.roundtrips import TIMM, digits, network
from torch import nn

from overproof.diagnostics.parity import same_logits
from overproof.errors import InputError
from overproof.formats.onnx import metadata_of, own_words, to_onnx
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.mobilenetv2 import MobileNetV2
from overproof.models.architectures.plain_resnet import PlainResNet
from overproof.models.architectures.preact import PreActResNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.architectures.vgg import VGG
from overproof.models.architectures.wide import WideResNet
from overproof.models.classifier import Classifier
from overproof.models.external.onnx_file import OnnxFile
from overproof.models.weights import build
from overproof.signature import Signature

SIGNATURE = Signature(channels=3, height=16, width=16, classes=7)
FAMILIES = [
    MLP(hidden=(12,)),
    ConvNet(channels=(4, 8), hidden=(10,)),
    ResNet(depth=8, width=0.5),
    PreActResNet(width=0.125),
    WideResNet(depth=10, width=1),
    MobileNetV2(width=0.25),
    VGG(depth=11, width=0.125),
    PlainResNet(stem=4, channels=(6,), hidden=(9,)),
]


def images(number=72, signature=SIGNATURE):
    shape = (number, signature.channels, signature.height, signature.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        to_onnx(*arguments, **{"metadata": {}, "where": "net"} | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("architecture", FAMILIES, ids=lambda one: one.kind)
def test_every_family_is_itself_at_every_batch_size(architecture):
    network = build(architecture, SIGNATURE, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics that are not the identity
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    x = images()
    file = OnnxFile(to_onnx(network, x, metadata={}, where="net"), where="net")
    found = same_logits(network.eval(), file, x, where="net")
    assert max(one.difference for one in found) < 1e-4
    assert [one.agreeing for one in found] == [1, 7, 64]


@pytest.mark.parametrize("name", TIMM)
def test_ten_networks_of_timm_are_themselves(name):
    pytest.importorskip("timm")
    x, y = digits("train", 256)
    model = network(name, x, y)
    body = to_onnx(model, x, metadata={}, where=name)
    found = same_logits(model, OnnxFile(body, where=name), x, where=name)
    with torch.no_grad():
        logits, hidden = model.features(x[:64])
        torch.testing.assert_close(model.head(hidden), logits)
    # To 1e-4 of the largest logit, which parity demands; and the logits have something to say.
    assert max(one.difference for one in found) < logits.std(dim=0).min() / 1000
    assert [one.agreeing for one in found] == [1, 7, 64]


class TestTheFile:
    def test_normalisation_is_inside(self, small, small_body, small_pixels):
        bare = Classifier(small.backbone, small.signature)
        file = OnnxFile(small_body, where="net")
        with torch.no_grad():
            torch.testing.assert_close(file(small_pixels), small(small_pixels), atol=1e-5, rtol=0)
            assert (file(small_pixels) - bare(small_pixels)).abs().max() > 0.01

    def test_names_and_shapes_are_said_and_the_batch_is_free(self, small_body):
        import onnx

        model = onnx.load_model_from_string(small_body)
        (given,), (found,) = model.graph.input, model.graph.output
        assert (given.name, found.name) == ("pixels", "logits")
        assert [dim.dim_value for dim in given.type.tensor_type.shape.dim] == [0, 1, 8, 8]
        assert [dim.dim_value for dim in found.type.tensor_type.shape.dim] == [0, 5]
        assert model.opset_import[0].version == 18
        onnx.checker.check_model(model)

    def test_it_says_what_it_is_told_and_no_folder_of_its_maker(self, small_body):
        assert OnnxFile(small_body, where="net").metadata == {"about": "a test"}
        assert b".py" not in small_body and b"site-packages" not in small_body

    def test_another_opset_is_written_as_asked(self, small, small_pixels):
        import onnx

        body = to_onnx(small, small_pixels, metadata={}, where="net", opset=20)
        assert onnx.load_model_from_string(body).opset_import[0].version == 20

    def test_our_words_come_back(self):
        written = metadata_of({"eps": "8/255", "classes": "[]"}, "MIT")
        assert written == {"model_license": "MIT", "overproof.eps": "8/255", "overproof.classes": "[]"}
        assert own_words(written | {"other": "x"}) == {"eps": "8/255", "classes": "[]"}


class Odd(nn.Module):
    def forward(self, x):
        return torch.special.airy_ai(x)


class Changing(nn.Module):
    def forward(self, x):
        return 2 * x if x.sum() > 0 else x


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(2, 64)


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such luck")


def chain(*layers):
    return Classifier(nn.Sequential(*layers), Signature(channels=1, height=8, width=8, classes=5))


class TestBadInput:
    X = images(2, Signature(channels=1, height=8, width=8, classes=5))

    @pytest.mark.parametrize(
        ("opset", "said"),
        [
            (17, "opset 17 is too low: networks are translated to opset 18 or later"),
            (-1, "opset -1 is too low: networks are translated to opset 18 or later"),
            (24, "opset 24 is too high: runtimes read up to 23"),
        ],
    )
    def test_an_opset_that_cannot_be_written(self, small, opset, said):
        assert refused(small, self.X, opset=opset) == said

    def test_an_unknown_operator_is_named_with_its_layer(self):
        network = chain(nn.Flatten(), nn.Linear(64, 6), nn.Sequential(nn.ReLU(), Odd()), nn.Linear(6, 5))
        assert refused(network, self.X) == (
            "net: ONNX has no operator for aten.special_airy_ai, which layer 'backbone.2.1' (Odd) uses"
        )

    def test_a_course_that_depends_on_the_pixels(self, capfd):
        said = refused(chain(nn.Flatten(), nn.Linear(64, 5), Changing()), self.X)
        assert said == "net: its control flow depends on the values of the pixels, which no exported graph can follow"
        assert capfd.readouterr() == ("", "")  # torch prints the graph it gave up on

    def test_a_number_of_images_that_is_fixed(self):
        assert refused(chain(Fixed(), nn.Linear(64, 5)), self.X) == (
            "net: it computes for one number of images only; take it from the input (x.shape[0] or -1)"
        )

    def test_any_other_failure_is_one_sentence(self):
        assert refused(chain(Broken()), self.X) == ("net: torch.export cannot follow it (RuntimeError: no such luck)")

    @pytest.mark.parametrize("package", ["onnx", "onnxscript"])
    def test_a_missing_package_names_the_extra(self, small, monkeypatch, package):
        monkeypatch.setitem(sys.modules, package, None)
        assert refused(small, self.X) == "net: export to ONNX needs the extra: pip install 'overproof[export]'"

    def test_warnings_and_logging_are_as_before(self, small):
        import logging

        before = warnings.filters[:], logging.root.manager.disable
        refused(chain(Broken()), self.X)
        assert (warnings.filters[:], logging.root.manager.disable) == before

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from overproof.errors import InputError
from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.catalogue import FAMILIES
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.dm_wide import DMWideResNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.mobilenetv2 import MobileNetV2
from overproof.models.architectures.plain_resnet import PlainResNet
from overproof.models.architectures.preact import PreActResNet
from overproof.models.architectures.resnet import ResNet
from overproof.models.architectures.vgg import VGG
from overproof.models.architectures.wide import WideResNet
from overproof.models.external.module import External
from overproof.models.weights import build, freeze, from_plain, load_model, save_model, unshare
from overproof.signature import Signature

SIGNATURE = Signature(channels=3, height=16, width=16, classes=4)
CLASSES = ("a", "b", "c", "d")
SMALL = [
    MLP(hidden=(12, 10)),
    ConvNet(channels=(4, 8), kernel=(3, 4), hidden=(10,)),
    ResNet(depth=20, width=0.25),
    PreActResNet(width=0.0625),
    WideResNet(depth=10, width=1),
    DMWideResNet(depth=10, width=1),
    MobileNetV2(width=0.125),
    VGG(depth=11, width=0.0625),
    PlainResNet(stem=3, channels=(4,), blocks=(1,)),
    FeatureAdapter(base=MLP(hidden=(5,)), features=4),
]
MLP_SMALL = SMALL[0]


def trained(architecture, **options):
    """Return a classifier whose BatchNorm statistics are no longer the initial ones."""
    model = build(architecture, SIGNATURE, **options)
    with torch.no_grad():
        model(torch.rand(8, 3, 16, 16))
    return model


@pytest.fixture
def saved(tmp_path):
    """Return a folder with one saved network."""
    save_model(tmp_path, trained(MLP_SMALL), MLP_SMALL, CLASSES, facts={"epoch": 3})
    return tmp_path


def describe(folder, **changes):
    """Edit the description of a saved network."""
    file = folder / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# --- round trip -------------------------------------------------------------------------------------------------------


def test_every_family_is_examined():
    assert {type(architecture) for architecture in SMALL} == set(FAMILIES.values())


@pytest.mark.parametrize("architecture", SMALL, ids=lambda architecture: architecture.kind)
@pytest.mark.parametrize("normalisation", [{}, {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261)}])
def test_what_is_saved_is_loaded(architecture, normalisation, tmp_path):
    model = trained(architecture, **normalisation)
    digest = save_model(tmp_path, model, architecture, CLASSES, facts={"epoch": 3}, name="last")
    loaded, description = load_model(tmp_path, "last")
    assert sorted(contents(tmp_path)) == ["last.json", "last.safetensors"]
    assert not any(module.training for module in loaded.modules())
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(x), model.eval()(x))
    assert (loaded.signature, loaded.normalises) == (SIGNATURE, bool(normalisation))
    assert description["classes"] == list(CLASSES)
    assert description["epoch"] == 3
    assert description["digest"] == digest == sha256((tmp_path / "last.safetensors").read_bytes()).hexdigest()
    assert from_plain(description["architecture"]) == architecture


def test_saving_neither_moves_nor_shares_the_network(tmp_path):
    model = trained(SMALL[2])
    model.to(memory_format=torch.channels_last)
    modes = [module.training for module in model.modules()]
    save_model(tmp_path, model, SMALL[2], CLASSES, facts={})
    assert [module.training for module in model.modules()] == modes
    loaded, _ = load_model(tmp_path)
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(loaded(x), model.eval()(x))


def test_equal_weights_have_equal_digests(tmp_path):
    model = trained(MLP_SMALL)
    one = save_model(tmp_path, model, MLP_SMALL, CLASSES, facts={}, name="one")
    two = save_model(tmp_path, model, MLP_SMALL, CLASSES, facts={"epoch": 9}, name="two")
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    three = save_model(tmp_path, model, MLP_SMALL, CLASSES, facts={}, name="three")
    assert one == two != three


# --- what cannot be loaded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, missing):
    (saved / missing).unlink()
    with pytest.raises(InputError, match=f"no {missing} here, so this is not a finished run$"):
        load_model(saved)


def test_a_folder_that_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="not a finished run"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_weights_are_recognised(saved, damage):
    file = saved / "model.safetensors"
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes({"flip": bytes(body), "cut": bytes(body[:-5]), "empty": b""}[damage])
    with pytest.raises(InputError, match=r"damaged or exchanged; its digest is not the one in model\.json$"):
        load_model(saved)


def test_weights_of_another_run_are_recognised(saved, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    save_model(other, trained(MLP_SMALL), MLP_SMALL, CLASSES, facts={})
    (saved / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="damaged or exchanged"):
        load_model(saved)


@pytest.mark.parametrize("body", [b"", b"not safetensors", b"\xff" * 64], ids=["empty", "text", "bytes"])
def test_a_file_that_never_was_safetensors_is_recognised(saved, body):
    (saved / "model.safetensors").write_bytes(body)
    describe(saved, digest=sha256(body).hexdigest())
    with pytest.raises(InputError, match="not readable as safetensors"):
        load_model(saved)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'"architecture"',
        b"\xff\xfe\x00",
        b'{"hidden_size": 768, "model_type": "bert"}',
        b'{"architecture": "resnet18", "signature": {}}',
        b'{"architecture": {"kind": "mlp"}, "signature": {"channels": 3}}',
        b'{"architecture": {"kind": "mlp"}, "signature": {"channels":1,"height":2,"width":2,"classes":2}}',
    ],
    ids=["empty", "cut", "list", "number", "null", "string", "binary", "foreign", "named", "signature", "incomplete"],
)
def test_a_description_that_is_not_ours_is_recognised(saved, text):
    (saved / "model.json").write_bytes(text)
    with pytest.raises(InputError, match=r"model\.json: not a model description of overproof \("):
        load_model(saved)


def test_an_unknown_kind_is_answered_with_the_nearest(saved):
    describe(saved, architecture={"kind": "resnett"})
    with pytest.raises(
        InputError, match=r"model\.json: no architecture of kind 'resnett' \(did you mean 'resnet'\?\)$"
    ):
        load_model(saved)


@pytest.mark.parametrize(
    "architecture",
    [
        {"kind": "mlp", "hidden": [12, 10], "depth": 3},
        {"kind": "mlp", "hidden": [0]},
        {"kind": "mlp", "hidden": [12, 11]},
        {"kind": "mlp", "hidden": ["wide"]},
        {"kind": "resnet", "depth": 20, "width": 0.25},
    ],
    ids=["unknown-option", "impossible-option", "other-width", "wrong-type", "other-family"],
)
def test_a_description_of_another_network_is_recognised(saved, architecture):
    describe(saved, architecture=architecture)
    with pytest.raises(InputError, match=r"model\.json: does not describe the network in model\.safetensors$"):
        load_model(saved)


def test_a_description_for_other_images_is_recognised(saved):
    describe(saved, signature=asdict(Signature(channels=1, height=16, width=16, classes=4)))
    with pytest.raises(InputError, match="does not describe the network"):
        load_model(saved)


def test_weights_of_a_smaller_file_are_recognised(saved):
    body = save({"fc1.weight": torch.zeros(2, 2)})
    (saved / "model.safetensors").write_bytes(body)
    describe(saved, digest=sha256(body).hexdigest())
    with pytest.raises(InputError, match="does not describe the network"):
        load_model(saved)


# --- whole or not at all ----------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_what_was_there(saved, monkeypatch):
    before = contents(saved)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); what was there is kept$"):
        save_model(saved, trained(MLP_SMALL), MLP_SMALL, CLASSES, facts={})
    assert contents(saved) == before  # neither half-written nor left over


def test_a_new_network_is_not_begun_where_the_disk_is_full(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        save_model(tmp_path, trained(MLP_SMALL), MLP_SMALL, CLASSES, facts={})
    assert contents(tmp_path) == {}


def test_a_crash_between_the_two_files_is_recognised_and_not_loaded(saved, monkeypatch):
    replace = Path.replace

    def only_weights(self, target):
        if target.suffix == ".json":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", only_weights)
    with pytest.raises(InputError, match="No space left"):
        save_model(saved, trained(MLP_SMALL), MLP_SMALL, CLASSES, facts={})
    with pytest.raises(InputError, match="damaged or exchanged"):
        load_model(saved)


def test_a_folder_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save_model(tmp_path / "nowhere", trained(MLP_SMALL), MLP_SMALL, CLASSES, facts={})


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_network_that_does_not_fit_the_images_is_an_input_error():
    tiny = Signature(channels=3, height=2, width=2, classes=4)
    with pytest.raises(InputError, match=r"^convnet for 3x2x2, 4 classes: an input of 2x2 is too small"):
        build(ConvNet(kernel=7, padding=0), tiny)


def test_a_frozen_network_is_silent():
    model = freeze(build(SMALL[2], SIGNATURE))
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model(torch.rand(2, 3, 16, 16)).requires_grad
    point = torch.rand(2, 3, 16, 16).requires_grad_()
    model(point).sum().backward()  # the pixels still get their gradient
    assert point.grad.abs().sum() > 0


def test_tied_weights_and_parts_under_two_names_are_saved_and_have_a_digest(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.again = self.a

    whole = unshare(Tied().state_dict())
    assert whole.keys() == Tied().state_dict().keys()
    assert len({value.data_ptr() for value in whole.values()}) == len(whole)
    assert torch.equal(whole["a.weight"], whole["b.weight"])
    assert save(whole)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
def test_state_that_is_no_tensor_is_left_out_and_packed_and_quantised_weights_count():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def get_extra_state(self):
            return {"note": 1}

        def set_extra_state(self, state):
            del state

    assert unshare(Odd().state_dict()).keys() == {"a.weight", "a.bias"}
    torch.manual_seed(0)
    packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 4)), {nn.Linear}, dtype=torch.qint8)
    found = unshare(packed.state_dict())
    weights = [value for value in found.values() if value.shape == (4, 3)]
    assert len(weights) == 1 and weights[0].dtype == torch.int8 and save(found)
    rows = torch.quantize_per_channel(
        torch.randn(2, 3), torch.tensor([0.25, 0.5]), torch.tensor([0, 1]), 0, torch.qint8
    )
    tensor = torch.quantize_per_tensor(torch.randn(2, 3), 0.25, 3, torch.qint8)
    found = unshare({"rows": rows, "all": tensor})
    assert torch.equal(found["rows"], rows.int_repr())
    assert found["rows.scale"].tolist() == [0.25, 0.5] and found["rows.zero_point"].tolist() == [0, 1]
    assert (found["all.scale"].item(), found["all.zero_point"].item()) == (0.25, 3)


def test_a_student_whose_state_is_no_tensor_is_refused_before_it_trains(monkeypatch, tmp_path):
    (tmp_path / "odd_student.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"
        "    def get_extra_state(self):\n"
        "        return {'note': 1}\n"
        "    def set_extra_state(self, state):\n"
        "        pass\n"
    )
    monkeypatch.chdir(tmp_path)
    signature = Signature(channels=1, height=8, width=8, classes=10)
    with pytest.raises(InputError, match="_extra_state is an object of type dict; what a run keeps of a network are"):
        build(External(factory="odd_student:Net"), signature)

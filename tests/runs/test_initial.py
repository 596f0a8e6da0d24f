import json
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.models.external.onnx_files import LAST, chain, file, head
from torch import nn

from overproof.commands.train import TrainingEvent, iter_train, train
from overproof.errors import InputError
from overproof.models.architectures.mlp import MLP
from overproof.models.external import zoos
from overproof.models.external.module import External
from overproof.models.weights import build
from overproof.runs.initial import read_weights, with_pretrained
from overproof.runs.summary import Beginning
from overproof.signature import Signature
from overproof.stopping import Stop, Stopped
from overproof.training import pace

SIGNATURE = Signature(channels=1, height=8, width=8, classes=10)
PARTS = {"w": "weight", "b": "bias"}
STILL = ("training.optimiser={kind: sgd, lr: 0}", "training.epochs=1")
"""Nothing is learnt, so that the run's weights are those it began with."""


def refused(recipe, folder, **options):
    with pytest.raises(InputError) as caught:
        train(recipe, folder, device="cpu", **options)
    assert "\n" not in str(caught.value)
    assert not folder.exists()
    return str(caught.value)


def said(recipe, folder, **options):
    events = iter_train(recipe, folder, device="cpu", **options)
    return [line for event in events if isinstance(event, Beginning) for line in event.lines]


def begun(toy, tmp_path, word, *edits):
    """Return the log and the description of a run that began with a word's weights, and its tensors."""
    folder = tmp_path / "run"
    lines = said(toy(*STILL, f"init={word}", *edits), folder)
    (line,) = (line for line in lines if line.startswith("init: "))
    return line, json.loads((folder / "model.json").read_text())["init"], load_file(folder / "model.safetensors")


def mlp(seed=7, classes=10):
    torch.manual_seed(seed)
    return build(MLP(hidden=(16,)), Signature(channels=1, height=8, width=8, classes=classes)).backbone


def same(tensors, network):
    return all(torch.equal(tensors[f"backbone.{name}"], value) for name, value in network.state_dict().items())


class TestSources:
    def test_a_run(self, toy, finished, tmp_path):
        line, record, tensors = begun(toy, tmp_path, finished().folder)
        model, description = finished().model()
        assert line == f"init: {finished().folder}: 4 of 4 tensors taken over"
        assert record == {"source": str(finished().folder), "digest": description["digest"], "used": 4, "made": []}
        assert same(tensors, model.backbone)

    @pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
    @pytest.mark.parametrize("ending", ["pt", "pth", "safetensors"])
    def test_a_state_dict(self, toy, tmp_path, prefix, ending):
        file, other = tmp_path / f"weights.{ending}", mlp()
        named = {prefix + name: value for name, value in other.state_dict().items()}
        if ending == "safetensors":
            from safetensors.torch import save_file

            save_file(named, file)
        else:
            torch.save(named, file)
        line, record, tensors = begun(toy, tmp_path, file)
        assert line.endswith("4 of 4 tensors taken over")
        assert (record["used"], record["made"]) == (4, [])
        assert same(tensors, other)

    def test_a_checkpoint_with_an_optimiser_that_remembers_more_than_the_network_has(self, toy, tmp_path):
        other = mlp()
        optimiser = torch.optim.Adam(other.parameters())
        other(torch.rand(2, 1, 8, 8)).sum().backward()
        optimiser.step()
        torch.save({"optimizer": optimiser.state_dict(), "net": other.state_dict(), "epoch": 3}, tmp_path / "it.ckpt")
        assert same(begun(toy, tmp_path, tmp_path / "it.ckpt")[2], other)

    def test_a_training_checkpoint_of_ours(self, toy, finished, tmp_path):
        newest = max(finished().checkpoints.iterdir())
        line, _, tensors = begun(toy, tmp_path, newest)
        assert "4 of 4 tensors taken over" in line
        assert same(tensors, finished().model("last")[0].backbone)

    def test_a_teacher(self, toy, finished, tmp_path):
        teacher = str(finished().folder)
        edits = ("method={kind: kd}", f"teachers.robust={teacher}")
        line, record, tensors = begun(toy, tmp_path, "teacher:robust", *edits)
        assert line == "init: teacher:robust: 4 of 4 tensors taken over"
        assert record["source"] == "teacher:robust"
        assert same(tensors, finished().model()[0].backbone)

    def test_an_onnx_file(self, toy, tmp_path):
        other = mlp()
        weights = {name.replace("fc", ""): value.numpy() for name, value in other.state_dict().items()}
        arrays = {f"{kind}{number}": weights[f"{number}.{part}"] for number in "12" for kind, part in PARTS.items()}
        steps = chain(
            ("Flatten", (), {}),
            ("Gemm", ("w1", "b1"), {"transB": 1}),
            ("Relu", (), {}),
            ("Gemm", ("w2", "b2"), {"transB": 1}),
        )
        (tmp_path / "net.onnx").write_bytes(file(steps, arrays, sizes=(1, 8, 8), classes=10))
        digest = sha256((tmp_path / "net.onnx").read_bytes()).hexdigest()
        line, record, tensors = begun(toy, tmp_path, f"{tmp_path}/net.onnx#sha256={digest}")
        assert line.endswith("4 of 4 tensors taken over") and record["digest"] == digest
        assert same(tensors, other)

    def test_an_onnx_file_of_other_layers_or_without_weights(self, toy, tmp_path):
        (tmp_path / "net.onnx").write_bytes(file(chain(*LAST), head(64, 10), sizes=(1, 8, 8), classes=10))
        assert "number 1 is 10x64, the student's 16x64" in refused(toy(f"init={tmp_path}/net.onnx"), tmp_path / "run")
        steps = chain(("Sin", (), {}), *LAST)
        (tmp_path / "net.onnx").write_bytes(file(steps, head(64, 10), sizes=(1, 8, 8), classes=10))
        said = refused(toy(f"init={tmp_path}/net.onnx"), tmp_path / "run")
        assert "net.onnx: it has no weights to begin with (" in said and "Sin" in said

    def test_a_factory(self, toy, own, tmp_path):
        _, record, tensors = begun(toy, tmp_path, "own_weights:trained")
        assert same(tensors, mlp())
        assert record["source"] == "own_weights:trained"

    def test_a_module_that_is_there(self, toy, own, tmp_path):
        assert same(begun(toy, tmp_path, "own_weights:network")[2], mlp())

    @pytest.fixture
    def own(self, tmp_path, monkeypatch):
        code = """
            import torch
            from torch import nn
            from overproof.models.architectures.mlp import MLP
            from overproof.models.weights import build
            from overproof.signature import Signature

            def trained():
                torch.manual_seed(7)
                return build(MLP(hidden=(16,)), Signature(channels=1, height=8, width=8, classes=10)).backbone

            network = trained()
            def text(): return "weights"
            def fails(): raise RuntimeError("no luck")
        """
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "own_weights.py").write_text(dedent(code))
        monkeypatch.chdir(tmp_path / "code")
        yield
        sys.modules.pop("own_weights", None)

    @pytest.mark.parametrize(
        ("word", "sentence"),
        [
            (
                "own_weights:text",
                "init: own_weights:text: the factory returned an object of type str, not an nn.Module or a function of "
                "pixels",
            ),
            ("own_weights:fails", "init: own_weights:fails: the factory raised RuntimeError: no luck"),
            ("own_weights:trainde", "own_weights has no 'trainde' (did you mean 'trained'?)"),
        ],
    )
    def test_a_factory_that_gives_none(self, toy, own, tmp_path, word, sentence):
        assert sentence in refused(toy(f"init={word}"), tmp_path / "run")


class TestZoos:
    """timm and torchvision by stand-ins: nothing is downloaded here."""

    @pytest.fixture
    def zoo(self, monkeypatch):
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        network.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}

        def create_model(name, pretrained):
            assert pretrained
            if name != "resnet18":
                raise RuntimeError("Unknown model")
            return network

        timm = SimpleNamespace(
            create_model=create_model, is_model=lambda name: name == "resnet18", list_models=lambda **_: ["resnet18"]
        )
        weights = SimpleNamespace(transforms=lambda: SimpleNamespace(mean=[0.1, 0.2, 0.3], std=[0.3, 0.2, 0.1]))
        models = SimpleNamespace(
            get_model_weights=lambda name: SimpleNamespace(DEFAULT=weights),
            get_model=lambda name, weights: {"resnet18": network}[name],
            list_models=lambda: ["resnet18"],
        )
        packages = {"timm": timm, "torchvision": SimpleNamespace(models=models)}
        monkeypatch.setattr(zoos, "package", lambda name, **_: packages[name])
        return network

    def test_weights_come_with_their_normalisation(self, zoo):
        found = read_weights("timm:resnet18", {}, SIGNATURE)
        assert found.tensors.keys() == zoo.state_dict().keys()
        assert (found.mean, found.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
        found = read_weights("torchvision:resnet18", {}, SIGNATURE)
        assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))

    @pytest.mark.parametrize("kind", ["timm", "torchvision"])
    def test_what_cannot_be_loaded_is_one_sentence(self, zoo, kind):
        with pytest.raises(InputError, match=rf"^init: {kind}:resnet: {kind} cannot load it.*did you mean 'resnet18'"):
            read_weights(f"{kind}:resnet", {}, SIGNATURE)

    def test_pins(self, zoo):
        digest = read_weights("timm:resnet18", {}, SIGNATURE).digest
        assert read_weights(f"timm:resnet18#sha256={digest}", {}, SIGNATURE).digest == digest
        with pytest.raises(InputError, match="init: timm:resnet18: these are other weights: their SHA-256 is"):
            read_weights(f"timm:resnet18#sha256={'0' * 64}", {}, SIGNATURE)


@pytest.mark.parametrize("zoo", ["timm", "torchvision"])
def test_pretrained_is_the_students_own_network(zoo):
    student = External(factory=f"{zoo}:resnet18")
    assert with_pretrained("pretrained", student) == f"{zoo}:resnet18"
    assert with_pretrained("pretrained#sha256=1", student) == f"{zoo}:resnet18#sha256=1"
    assert with_pretrained("runs/x", student) == "runs/x"


@pytest.mark.parametrize("student", [MLP(), External(factory="mine:net")])
def test_pretrained_means_nothing_to_others(student):
    with pytest.raises(InputError, match="init: pretrained means timm's or torchvision's weights"):
        with_pretrained("pretrained", student)


class TestRuns:
    def test_a_head_for_other_classes_begins_anew(self, toy, squares, tmp_path):
        torch.save(mlp(classes=10).state_dict(), tmp_path / "ten.pt")
        data = f"data={{kind: npz, path: {squares(side=8, classes=3)}}}"
        line, record, tensors = begun(toy, tmp_path, tmp_path / "ten.pt", data, "training.batch=16")
        assert line.endswith("2 of 4 tensors taken over; newly made: fc2.weight, fc2.bias")
        assert record["made"] == ["fc2.weight", "fc2.bias"]
        assert torch.equal(tensors["backbone.fc1.weight"], mlp().fc1.weight)
        assert tensors["backbone.fc2.weight"].shape == (3, 16)

    def test_weights_of_which_none_fits(self, toy, tmp_path):
        torch.save({"conv.weight": torch.ones(3, 3)}, tmp_path / "other.pt")
        sentence = refused(toy(f"init={tmp_path / 'other.pt'}"), tmp_path / "run")
        assert sentence.startswith(
            f"init: {tmp_path / 'other.pt'}: none of its weights fits the student; it holds conv"
        )

    @pytest.mark.parametrize(
        ("word", "sentence"),
        [
            ("nowhere", "init: nowhere: there is no such run folder or checkpoint file"),
            ("nowhere.pt", "nowhere.pt: there is no such file"),
            ("teacher:robust", "init: there is no teacher in the role 'robust'"),
            ("pretrained", "init: pretrained means timm's or torchvision's weights"),
            ("no_such_module:net", "no module 'no_such_module'"),
            ("runs/x#sha256=12", "a pin is #sha256= and the 64 hexadecimal digits"),
        ],
    )
    def test_words_that_name_nothing(self, toy, tmp_path, word, sentence):
        assert sentence in refused(toy(f"init={word}"), tmp_path / "run")

    def test_a_pin_is_looked_at(self, toy, finished, tmp_path):
        run = finished().folder
        digest = json.loads((run / "model.json").read_text())["digest"]
        begun(toy, tmp_path, f"{run}#sha256={digest}")
        sentence = refused(toy(f"init={run}#sha256={'0' * 64}"), tmp_path / "other")
        assert sentence.startswith(f"init: {run}: these are other weights: their SHA-256 is {digest}, the pin says 000")

    def test_a_run_whose_file_was_exchanged(self, toy, finished, tmp_path):
        shutil.copytree(finished().folder, tmp_path / "old")
        shutil.copy(tmp_path / "old" / "recipe.yaml", tmp_path / "old" / "model.safetensors")
        sentence = refused(toy(f"init={tmp_path / 'old'}"), tmp_path / "run")
        assert "damaged or exchanged; its digest is not the one in its description" in sentence

    def test_a_resumed_run_does_not_read_them_again(self, toy, tmp_path, monkeypatch):
        torch.save(mlp().state_dict(), tmp_path / "begin.pt")
        recipe = toy(f"init={tmp_path / 'begin.pt'}")
        whole = train(recipe, tmp_path / "whole", device="cpu")
        monkeypatch.setattr(pace, "LOOK_SECONDS", 0)
        stop = Stop()
        with pytest.raises(Stopped):
            for event in iter_train(recipe, tmp_path / "run", device="cpu", stop=stop):
                if isinstance(event, TrainingEvent):
                    stop.number = 15
        Path(tmp_path / "begin.pt").unlink()
        run = train(recipe, tmp_path / "run", device="cpu", resume=True)
        assert run.model()[1]["digest"] == whole.model()[1]["digest"]
        assert run.model()[1]["init"] == whole.model()[1]["init"]

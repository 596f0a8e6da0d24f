import json
import shutil
from copy import deepcopy
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn

from overproof.commands import export as module
from overproof.commands.export import TARGETS, export
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.formats.onnx import own_words
from overproof.formats.program import read_program
from overproof.models.external.onnx_file import OnnxFile
from overproof.runs.folder import Run, load


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished().folder, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """Return a function: the report of an export, made once."""
    made = {}
    folder = tmp_path_factory.mktemp("exports")

    def make(to, **options):
        key = (to, *sorted(options.items()))
        if key not in made:
            made[key] = export(finished(), to=to, out=folder / f"{len(made)}-{TARGETS[to].file}", **options)
        return made[key]

    return make


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        export(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def digits():
    return Digits().load("test").images.float() / 255


class TestFiles:
    def test_onnx_is_the_network_and_says_what_it_is(self, exported, finished):
        found = exported("onnx", licence="CC-BY-4.0")
        file = OnnxFile.read(Path(found["file"]))
        with torch.no_grad():
            torch.testing.assert_close(file(digits()), load(finished().folder)(digits()), atol=1e-4, rtol=0)
        assert file.metadata["model_license"] == "CC-BY-4.0"
        assert own_words(file.metadata)["digest"] == finished().description()["digest"] == found["digest"]
        assert [one["batch"] for one in found["parity"]] == [one["agreeing"] for one in found["parity"]] == [1, 7, 64]

    @pytest.mark.parametrize("to", ["onnx", "torch", "int8"])
    def test_the_report_lies_beside_the_file_and_is_true_of_it(self, exported, to):
        found = exported(to) if to != "int8" else exported(to, examples=64)
        body = Path(found["file"]).read_bytes()
        assert json.loads(Path(f"{found['file']}.json").read_text()) == found
        assert (found["to"], found["bytes"], found["sha256"]) == (to, len(body), sha256(body).hexdigest())

    def test_torch_is_the_network(self, exported, finished):
        body = Path(exported("torch")["file"]).read_bytes()
        with torch.no_grad():
            expected = load(finished().folder)(digits())
            torch.testing.assert_close(read_program(body, where="p")(digits()), expected, atol=1e-5, rtol=0)

    def test_files_lie_in_the_run_folder_unless_told_otherwise(self, run):
        before = {file.name for file in run.folder.iterdir()}
        found = export(run, to="torch")
        assert {file.name for file in run.folder.iterdir()} - before == {"model.pt2", "model.pt2.json"}
        assert found["file"] == str(run.folder / "model.pt2")
        assert run.description()["digest"] == found["digest"]  # model.json is as it was


class TestInt8:
    def test_what_quantisation_cost_is_counted_on_held_out_images(self, exported, finished):
        found = exported("int8", examples=64)
        cost = found["cost"]
        assert (cost["images"], cost["of"]) == (143, "held-out part of the training split")
        assert cost["attacks"] == ["transfer-pgd-20", "square-200"]
        whole, small = load(finished().folder), OnnxFile.read(Path(found["file"]))
        _, held = module.export_task(finished(), None).split()
        x = held.images.float() / 255
        with torch.no_grad():
            before, after = whole(x).argmax(dim=1), small(x).argmax(dim=1)
        assert cost["agreeing"] == int((before == after).sum())
        clean = cost["clean"]
        assert (clean["float"], clean["int8"]) == (
            int((before == held.labels).sum()),
            int((after == held.labels).sum()),
        )
        paired = clean["paired"]
        assert paired["both"] + paired["only_after"] == clean["int8"]
        assert 0 < cost["robust"]["float"] < clean["float"]

    def test_it_says_how_it_was_calibrated_and_how_fast_it_is(self, exported):
        found = exported("int8", examples=64)
        assert found["calibration"] == {"method": "minmax", "images": 64, "of": "training images"}
        for one in (found["latency"], found["float"]["latency"]):
            assert 0 < one["median"] <= one["p99"]
        assert found["float"]["parity"][-1]["agreeing"] == 64

    @pytest.mark.parametrize("count", [63, 0])
    def test_a_calibration_set_that_is_too_small(self, run, count):
        before = sorted(run.folder.iterdir())
        assert refused(run, to="int8", examples=count) == (
            f"a calibration set of {count} images is too small; take at least 64"
        )
        assert sorted(run.folder.iterdir()) == before

    def test_a_calibration_set_larger_than_the_training_part(self, run):
        assert refused(run, to="int8", examples=1295) == (
            "digits: the training part has 1294 images, too few for a calibration set of 1295"
        )

    def test_an_unknown_calibration(self, run):
        assert refused(run, to="int8", calibration="entrophy") == (
            "there is no calibration 'entrophy' (did you mean 'entropy'?)"
        )


class Shifted(nn.Module):
    """A network whose exported form is another one, as some exporters' have been."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network(x)
        return logits + 0.1 if torch.compiler.is_exporting() else logits


@pytest.mark.parametrize("to", ["onnx", "int8", "torch"])
def test_a_mismatch_fails_the_export_and_leaves_nothing(run, to, monkeypatch):
    original = module.export_task

    def shifted(*arguments, **options):
        subject = original(*arguments, **options)
        subject.model.backbone = Shifted(subject.model.backbone)
        return subject

    monkeypatch.setattr(module, "export_task", shifted)
    before = sorted(run.folder.iterdir())
    said = refused(run, to=to)
    assert said.startswith(f"{run.folder}: at batch 1 its logits differ from the network's by 0.1, where rounding ")
    assert said.endswith("; nothing was written")
    assert sorted(run.folder.iterdir()) == before


def test_a_file_that_cannot_be_written_is_said(run, tmp_path):
    (tmp_path / "file").write_text("")
    assert refused(run, to="torch", out=tmp_path / "file" / "model.pt2").startswith(
        f"{tmp_path / 'file'}: cannot be made"
    )


class TestWords:
    def test_an_unknown_format(self, run):
        assert refused(run, to="onx") == "there is no format 'onx' (did you mean 'onnx'?)"

    def test_an_option_of_another_format(self, run):
        assert refused(run, to="onnx", calibration="minmax") == (
            "export to onnx has no use for 'calibration'; it takes opset, licence"
        )
        assert refused(run, to="torch", opset=18) == "export to torch has no use for 'opset'; it takes no options"

    def test_an_opset_that_is_too_low(self, run):
        assert refused(run, to="onnx", opset=11) == (
            "opset 11 is too low: networks are translated to opset 18 or later"
        )
        assert not (run.folder / "model.onnx").exists()

    def test_every_target_says_what_it_writes(self):
        for target in TARGETS.values():
            assert target.write.__doc__
        assert TARGETS["int8"].options == ("calibration", "examples", "opset", "licence")


class TestInMemory:
    """A network that is nowhere but in the memory of a program."""

    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @staticmethod
    def network():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))

    @pytest.mark.parametrize(
        "given",
        [
            {"example": (3, 6, 5)},
            {"example": torch.rand(1, 3, 6, 5)},
            {"data": (torch.rand(9, 3, 6, 5), torch.arange(9) % 4)},
        ],
        ids=["size", "one image", "images"],
    )
    def test_as_onnx_and_as_a_program(self, given, here, modes):
        module = self.network().train()
        was, x = modes(module), torch.rand(5, 3, 6, 5)
        report = module_report = export(module, to="torch", **given)
        assert report["file"] == "exports/Sequential/model.pt2"
        report = export(module, to="onnx", out="net.onnx", **given)
        assert report["digest"] == module_report["digest"]
        assert modes(module) == was
        expected = deepcopy(module).eval()(x)
        torch.testing.assert_close(OnnxFile.read(here / "net.onnx")(x), expected)
        said = own_words(OnnxFile.read(here / "net.onnx").metadata)
        assert said["architecture"] == "Sequential"
        assert not set(said) & {"norm", "eps", "data", "classes"}  # nobody said

    def test_as_int8_with_images(self, here):
        data = (torch.rand(90, 3, 6, 5), torch.arange(90) % 4)
        report = export(self.network(), to="int8", data=data, examples=64)
        assert report["calibration"]["images"] == 64 and Path(report["file"]).is_file()

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"to": "onnx"}, "Sequential: say on which images, with data=(x, y) or data='digits'"),
            ({"to": "int8", "example": (3, 6, 5)}, "Sequential: export to int8 is calibrated on images; say which, w"),
            ({"to": "vnnlib", "example": (3, 6, 5)}, "Sequential: queries are about the test split of a source of im"),
            ({"to": "hub", "example": (3, 6, 5)}, "Sequential: is no run folder; a repository holds a run's weights"),
            ({"to": "onnx", "example": (6, 5)}, "Sequential: an example is a tensor [N, C, H, W] or a size such as"),
            ({"to": "onnx", "example": (3, 6, 0)}, "Sequential: an example is a tensor [N, C, H, W] or a size such as"),
            (
                {"to": "onnx", "example": (3, 6, 5), "data": "digits"},
                "Sequential: images of data are examples as well;",
            ),
            ({"to": "onnx", "example": (1, 8, 8)}, "given images [2, 1, 8, 8] of torch.float32, the model raised"),
        ],
    )
    def test_what_cannot_be_exported_is_one_sentence(self, options, sentence, here):
        with pytest.raises(InputError) as caught:
            export(self.network(), **options)
        assert str(caught.value).startswith(sentence)
        assert list(here.iterdir()) == []

    def test_an_example_is_of_a_network_in_memory(self):
        with pytest.raises(InputError, match="timm:tiny: images as tensors are for a network in memory"):
            export("timm:tiny", to="onnx", example=(3, 6, 5))

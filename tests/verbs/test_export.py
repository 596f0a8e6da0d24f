import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn

from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.formats.onnx import own_words
from overproof.formats.program import read_program
from overproof.models.onnx_file import OnnxFile
from overproof.run import Run, load
from overproof.verbs import export as module
from overproof.verbs.export import TARGETS, export


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
        _, held = module.cargo(finished(), None).split()
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
    original = module.cargo

    def shifted(*arguments, **options):
        subject = original(*arguments, **options)
        subject.model.backbone = Shifted(subject.model.backbone)
        return subject

    monkeypatch.setattr(module, "cargo", shifted)
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

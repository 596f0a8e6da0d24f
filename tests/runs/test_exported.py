import json

import pytest

from overproof.attacks.ball import Threat
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.formats.onnx import own_words
from overproof.runs.exported import export_task, report_of


def refused(*arguments):
    with pytest.raises(InputError) as caught:
        export_task(*arguments)
    return str(caught.value)


def test_a_run_brings_its_data_threat_and_digest(finished):
    run = finished()
    for word in (run, run.folder, str(run.folder)):
        found = export_task(word, None)
        assert (found.name, found.folder, found.source) == (str(run.folder), run.folder, Digits())
        assert found.threat == run.recipe().threat
        assert found.digest == run.description()["digest"]
        assert found.images.digest == Digits().load("train").digest


def test_it_is_split_as_in_training(finished):
    run = finished()
    learnt, held = export_task(run, None).split()
    assert (len(learnt), len(held)) == (1294, 143)
    assert (export_task(run, None).fraction, export_task(run, None).seed) == (
        run.recipe().selection.fraction,
        run.recipe().seed,
    )


def test_metadata_are_all_text_and_name_no_folder(finished):
    found = export_task(finished(), None)
    metadata = found.metadata("MIT")
    assert metadata["model_license"] == "MIT"
    assert all(isinstance(value, str) for value in metadata.values())
    assert not any(str(found.folder) in value for value in metadata.values())
    own = own_words(metadata)
    assert json.loads(own["classes"]) == list("0123456789")
    assert (own["norm"], own["eps"], own["digest"]) == ("linf", "0.1", found.digest)
    assert json.loads(own["data"]) == {"kind": "digits"}
    assert int(own["parameters"]) == 64 * 16 + 16 + 16 * 10 + 10


def test_what_cannot_be_exported_is_refused(finished, squares, tmp_path):
    run, file = finished(), squares(side=6)
    assert refused(run, str(file)) == (f"{run.folder}: it is for 1x8x8, 10 classes, the data are 1x6x6, 10 classes")
    assert refused(tmp_path, None) == f"{tmp_path}: not a run folder (it has no recipe.yaml)"
    assert refused("model.onnx", None) == (
        "model.onnx: this is exported already; name the run or the network it came from"
    )
    assert refused("package.module:factory", None).startswith(
        "package.module:factory: say on which images, with --data"
    )


def test_a_network_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "cargo_net.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    found = export_task("cargo_net:make", "digits")
    assert (str(found.folder), found.threat) == ("exports/cargo-net-make", Threat())
    assert found.known.architecture == "Sequential"


def test_a_report_lies_beside_its_file(tmp_path):
    assert report_of(tmp_path / "model.onnx") == tmp_path / "model.onnx.json"

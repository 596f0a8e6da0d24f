import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from overproof.commands.certify import certify
from overproof.commands.evaluate import evaluate, iter_evaluate
from overproof.commands.export import export
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.models.classifier import Classifier
from overproof.runs.artefact import artefact
from overproof.runs.folder import Run, load
from overproof.runs.subject import evaluation_task

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shipped(finished, tmp_path_factory):
    """A run with its ONNX and INT8 files in its folder; not to be changed."""
    run = tmp_path_factory.mktemp("shipped") / "run"
    shutil.copytree(finished().folder, run)
    export(run, to="onnx")
    export(run, to="int8", examples=64)
    return Run(run)


@pytest.fixture(scope="module")
def evaluated(shipped, finished, tmp_path_factory):
    """The evaluation of the INT8 file beside the run and a teacher, and its folder."""
    out = tmp_path_factory.mktemp("evaluated")
    words = ("transfer-pgd-50", "square-1000", "hopskipjump")
    file, teacher = shipped.folder / "model-int8.onnx", finished("student.hidden=[32,32]").folder
    found = evaluate(file, attacks=words, teacher=teacher, examples=40, reliability=False, out=out, device="cpu")
    return found, out


@pytest.fixture
def stray(shipped, tmp_path):
    """The ONNX file without its run."""
    return Path(shutil.copy(shipped.folder / "model.onnx", tmp_path / "stray.onnx"))


@pytest.fixture
def quantised(shipped, tmp_path):
    """The INT8 file without its run."""
    return Path(shutil.copy(shipped.folder / "model-int8.onnx", tmp_path / "quantised.onnx"))


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        evaluate(*arguments, **{"reliability": False, "device": "cpu"} | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestExaminee:
    def test_a_file_brings_its_data_and_threat_along(self, shipped):
        file = shipped.folder / "model.onnx"
        for word in (file, str(file)):
            found = evaluation_task(word, None)
            assert found.images.digest == Digits().load("test").digest
            assert (found.threat, found.suite) == (shipped.recipe().threat, "shipped")
            assert found.facts["model_digest"] == found.file.digest
            assert (found.facts["method"], found.facts["architecture"]) == ("natural", "mlp")
            assert found.facts["parameters"] == 1210

    def test_a_file_of_another_tool_needs_data(self, stray):
        import onnx

        model = onnx.load(stray)
        del model.metadata_props[:]
        onnx.save(model, stray)
        assert refused(stray).startswith(f"{stray}: say on which images, with --data digits")
        assert evaluation_task(str(stray), "digits").facts["method"] == "foreign"

    @pytest.mark.parametrize(("key", "value"), [("data", "{"), ("data", '{"kind": "none"}'), ("eps", "wide")])
    def test_metadata_that_cannot_be_read(self, stray, key, value):
        import onnx

        model = onnx.load(stray)
        for entry in model.metadata_props:
            if entry.key == f"overproof.{key}":
                entry.value = value
        onnx.save(model, stray)
        assert refused(stray).startswith(f"{stray}")

    def test_images_of_another_number_of_classes(self, stray, squares):
        said = refused(stray, data=str(squares(side=8, classes=4)))
        assert said == f"{stray}: it returns 10 logits, the data have 4 classes"


class TestOriginal:
    def test_it_is_the_run_that_the_file_lies_in(self, shipped):
        found = artefact(evaluation_task(shipped.folder / "model.onnx", None), None, CPU)
        assert (found.name, found.warnings) == (str(shipped.folder), ())
        expected = load(shipped.folder).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in found.original.state_dict().items())

    def test_elsewhere_it_must_be_named(self, stray, shipped):
        subject = evaluation_task(stray, None)
        found = artefact(subject, None, CPU)
        assert found.original is None
        (warning,) = found.warnings
        assert warning.startswith(f"{stray}: the run that it came from does not lie beside it")
        assert artefact(subject, shipped.folder, CPU).original is not None

    def test_a_run_that_was_trained_anew_is_not_it(self, shipped, finished, tmp_path):
        shutil.copytree(finished("seed=1").folder, tmp_path / "run")
        file = Path(shutil.copy(shipped.folder / "model.onnx", tmp_path / "run" / "model.onnx"))
        assert artefact(evaluation_task(file, None), None, CPU).original is None

    def test_a_run_has_none(self, shipped):
        assert artefact(evaluation_task(shipped.folder, None), None, CPU) is None
        assert refused(shipped.folder, original=shipped.folder) == (
            f"{shipped.folder}: original is the network an exported file came from; this is no file, leave it out"
        )


class TestEvaluation:
    def test_verdicts_are_paired_with_those_of_the_float_network(self, evaluated, shipped):
        found, out = evaluated
        beside = found["artefact"]["original"]
        lines = [json.loads(line) for line in (out / "examples.jsonl").read_text().splitlines()]
        assert len(lines) == found["data"]["examples"] == 40
        kept = {name: [self.stands(one, name) for one in lines] for name in ("file", "original")}
        worst = beside["worst"]["paired"]
        pairs = list(zip(kept["original"], kept["file"], strict=True))
        counts = {name: worst[name] for name in ("both", "only_before", "only_after", "neither")}
        assert counts == {
            "both": pairs.count((True, True)),
            "only_before": pairs.count((True, False)),
            "only_after": pairs.count((False, True)),
            "neither": pairs.count((False, False)),
        }
        assert beside["worst"]["passed"] == sum(kept["original"])
        assert found["worst"]["passed"] == sum(kept["file"]) < found["clean"]["passed"]
        assert set(beside["attacks"]) == {"transfer-pgd-50", "square-1000", "hopskipjump"}

    @staticmethod
    def stands(line, who):
        one = line if who == "file" else line["original"]
        return one["prediction"] == line["label"] and one["broken_by"] is None

    def test_the_original_is_what_it_is_by_itself(self, evaluated, shipped):
        found, _ = evaluated
        alone = evaluate(
            shipped, attacks=("square-1000",), examples=40, reliability=False, device="cpu", out=shipped.folder / "x"
        )
        beside = found["artefact"]["original"]["attacks"]["square-1000"]
        assert beside["passed"] == alone["attacks"]["square-1000"]["passed"]

    def test_no_gradient_of_the_file_was_asked_for(self, evaluated):
        found, _ = evaluated
        assert found["attacks"]["square-1000"]["backward"] == found["attacks"]["hopskipjump"]["backward"] == 0
        assert found["attacks"]["transfer-pgd-50"]["backward"] > 0

    def test_the_verdict_doubts_the_attacks_and_does_not_call_absent_gradients_hidden(self, shipped):
        options = {"attacks": ("square-100",), "examples": 20, "device": "cpu", "out": shipped.folder / "y"}
        found = evaluate(shipped.folder / "model-int8.onnx", **options)["reliability"]
        assert [sign["name"] for sign in found["signs"]] == ["answers", "white-box", "determinism", "batch composition"]
        assert found["sentence"] == (
            "The robust accuracy is to be doubted: only black-box attacks were run; without gradients of the network "
            "an attack is weak."
        )

    def test_what_it_costs_stands_beside_the_teachers(self, evaluated, shipped):
        found, _ = evaluated
        file = found["artefact"]
        assert file["bytes"] == (shipped.folder / "model-int8.onnx").stat().st_size
        assert file["multiply_adds"] == file["original"]["multiply_adds"] == 64 * 16 + 16 * 10
        assert file["teacher"]["multiply_adds"] == 64 * 32 + 32 * 32 + 32 * 10
        assert file["original"]["parameters"] == 1210
        assert 0 < file["latency"]["median"] <= file["latency"]["p99"]
        assert file["latency"]["threads"] == 1

    def test_without_a_network_to_maximise_only_queries_are_left(self, stray, tmp_path):
        events = iter_evaluate(stray, examples=10, reliability=False, out=tmp_path / "out", device="cpu")
        first = next(events)
        assert [warning.partition(": ")[0] for warning in first.warnings] == [str(stray)]
        assert first.total == 3  # clean, square and hopskipjump
        events.close()

    def test_gradients_of_a_float_file_are_those_of_its_torch_network(self, shipped, tmp_path):
        """White-box attacks break what they break in the run, which is the same network, and the file judges."""
        options = {"attacks": ("apgd-ce",), "examples": 40, "reliability": False, "device": "cpu"}
        found = evaluate(shipped.folder / "model.onnx", out=tmp_path / "file", **options)
        alone = evaluate(shipped, out=tmp_path / "run", **options)
        assert found["attacks"]["apgd-ce"]["backward"] > 0
        assert found["worst"]["passed"] == alone["worst"]["passed"] < found["clean"]["passed"]

    def test_a_float_file_is_certified_as_its_run_is(self, stray, shipped, tmp_path):
        options = {"eps": "0.01", "examples": 20, "device": "cpu", "bound": "crown"}
        found, alone = (certify(one, out=tmp_path / name, **options) for name, one in (("a", stray), ("b", shipped)))
        assert found["counts"] == alone["counts"]

    def test_a_teacher_is_maximised_where_there_is_no_original(self, stray, finished, tmp_path):
        found = evaluate(
            stray, attacks=("transfer-mi-fgsm",), teacher=finished().folder, examples=20, reliability=False,
            out=tmp_path / "out", device="cpu",
        )  # fmt: skip
        assert found["attacks"]["transfer-mi-fgsm"]["backward"] > 0
        assert found["artefact"]["original"] is None

    def test_an_interrupted_evaluation_goes_on_to_the_same_end(self, shipped, tmp_path):
        file = shipped.folder / "model.onnx"
        options = {"attacks": ("transfer-mi-fgsm",), "examples": 20, "reliability": False, "device": "cpu"}
        whole = evaluate(file, out=tmp_path / "whole", **options)
        events = iter_evaluate(file, out=tmp_path / "parts", **options)
        assert [next(events).attack for _ in range(3)][-1] == "original, clean"
        events.close()
        parts = evaluate(file, out=tmp_path / "parts", resume=True, **options)
        assert sorted(one.name for one in (tmp_path / "parts").iterdir()) == [
            "adversarial.safetensors",
            "evaluation.json",
            "evaluations",
            "examples.jsonl",
        ]
        for name in ("clean", "worst"):
            assert parts[name]["passed"] == whole[name]["passed"]
            ours, theirs = (one["artefact"]["original"][name]["paired"] for one in (parts, whole))
            assert ours == theirs


class TestBadInput:
    def test_an_attack_that_needs_gradients_is_told_what_to_use(self, shipped):
        file = shipped.folder / "model-int8.onnx"
        said = refused(file, attacks=("apgd-dlr",))
        assert said.startswith(
            f"apgd-dlr needs gradients and {file} (operator DequantizeLinear of a quantised network "
        )
        assert said.endswith(
            "has no form in torch) gives none; use square, hopskipjump or, from another network, a transfer attack "
            "such as transfer-mi-fgsm"
        )

    def test_a_transfer_attack_needs_a_network_to_maximise(self, stray, quantised):
        assert refused(stray, attacks=("transfer-mi-fgsm",)) == (
            "attack 'transfer-mi-fgsm' searches on a teacher; name one with --teacher"
        )
        said = refused(stray, attacks=("transfer-mi-fgsm",), teacher=str(quantised))
        assert said.startswith("transfer-mi-fgsm needs gradients and the network that it searches on gives none")

    def test_an_original_for_other_images(self, stray, finished, squares):
        other = finished(f"data={{kind: npz, path: {squares(side=6)}}}", "training.batch=64").folder
        assert refused(stray, original=other).startswith(f"{other}: it is for 1x6x6")

    def test_bounds_cannot_follow_a_quantised_file(self, quantised):
        with pytest.raises(InputError) as caught:
            certify(quantised, examples=5, device="cpu")
        said = str(caught.value)
        assert said.startswith(f"{quantised}: bounds cannot follow OnnxFile: ") and "\n" not in said
        assert "Linear of a quantised network" in said

    def test_without_onnx_the_extra_is_named_before_anything_is_done(self, stray, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "onnx", None)
        assert refused(stray, out=tmp_path / "out") == (f"{stray} needs the extra: pip install 'overproof[export]'")
        assert not (tmp_path / "out").exists()


def test_a_file_as_a_teacher_agrees_with_the_run_it_came_from(shipped, tmp_path):
    found = evaluate(
        shipped, attacks=("fgsm",), teacher=shipped.folder / "model.onnx", examples=30, reliability=False,
        out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    assert found["teacher"]["clean"]["same"]["share"] == 1.0
    assert found["artefact"] is None
    assert isinstance(load(shipped.folder), Classifier)

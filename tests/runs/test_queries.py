import csv
import json
import shutil

import numpy as np
import pytest
import torch
import vnnlib
from safetensors.torch import load_file

from overproof.commands.certify import certify
from overproof.commands.decide import decide
from overproof.commands.export import export
from overproof.commands.instances import read_instances
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.formats.queries import Point, Query
from overproof.models.external.onnx_file import OnnxFile
from overproof.runs import queries as module
from overproof.runs.folder import Run
from overproof.runs.results import CERTIFICATE

EPS = "0.05"


@pytest.fixture(scope="module")
def certified(finished, tmp_path_factory):
    """A run with a certificate beside itself and beside a teacher; not to be changed."""
    folder = tmp_path_factory.mktemp("questions")
    run, teacher = folder / "run", folder / "teacher"
    shutil.copytree(finished().folder, run)
    shutil.copytree(finished("seed=1").folder, teacher)
    certify(run, eps=EPS, bound="crown", examples=30, teacher=teacher, device="cpu")
    return Run(run), Run(teacher)


@pytest.fixture(scope="module")
def asked(certified, tmp_path_factory):
    run, teacher = certified
    folder = tmp_path_factory.mktemp("asked") / "queries"
    report = export(run, to="vnnlib", out=folder, examples=12, eps=EPS, teacher=teacher.folder, gamma=2.0, timeout=60)
    return folder, report


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        export(*arguments, to="vnnlib", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(file):
    return list(csv.reader(file.read_text().splitlines()))


def test_our_verifier_reads_them_back_and_contradicts_no_known_answer(asked, tmp_path):
    folder, report = asked
    results = []
    for part in ("robust", "pair"):
        known = {one["file"]: one["known"] for one in report[part]["instances"]}
        instances = read_instances(folder / part / "instances.csv")
        assert len(instances) == len(known)
        # A few of each known answer; all are read alike.
        for answer in ("sat", "unsat", None):
            for each in [one for one in instances if known[one.query.name] == answer][:3]:
                found = decide(each.networks, each.query, seconds=2.0, out=tmp_path)
                assert found["result"] in ("unknown", answer or found["result"]), each.query
                assert not found["notes"] and len(found["networks"]) == (2 if part == "pair" else 1)
                results.append(found["result"])
    assert "unsat" in results and len(results) >= 10


class TestTheFolder:
    def test_a_benchmark_is_complete_in_itself(self, asked):
        folder, report = asked
        rows = table(folder / "robust" / "instances.csv")
        assert len(rows) == 12
        for network, query, seconds in rows:
            assert (folder / "robust" / network).is_file() and (folder / "robust" / query).is_file()
            assert seconds == "60"
        rows = table(folder / "pair" / "instances.csv")
        assert len(rows) == 24
        for networks, query, _ in rows:
            assert [name for name, _ in eval(networks)] == ["teacher", "student"]
            assert all((folder / "pair" / file).is_file() for _, file in eval(networks))
            assert (folder / "pair" / query).is_file()
        assert json.loads((folder / "report.json").read_text()) == report

    def test_images_are_correctly_classified_test_images_of_every_class(self, asked, certified):
        folder, report = asked
        test = Digits().load("test")
        x = test.images[report["images"]].float() / 255
        for run, file in zip(certified, ("student", "teacher"), strict=True):
            network = OnnxFile.read(folder / "pair" / "onnx" / f"{file}.onnx")
            assert torch.equal(network(x).argmax(dim=1), test.labels[report["images"]])
            assert network.metadata["overproof.digest"] == run.description()["digest"]
        assert len(set(test.labels[report["images"]].tolist())) >= 6

    def test_the_standards_parser_reads_every_pair(self, asked):
        folder, _ = asked
        for file in (folder / "pair" / "vnnlib").iterdir():
            query = vnnlib.parse_query_file(str(file))
            assert [network.name for network in query.networks] == ["teacher", "student"]

    def test_version_1_declares_every_pixel_and_logit_once(self, asked):
        folder, _ = asked
        for file in (folder / "robust" / "vnnlib").iterdir():
            text = file.read_text()
            assert text.count("(declare-const X_") == 64 and text.count("(declare-const Y_") == 10


class TestAnswers:
    def test_certified_images_are_known_to_be_unsat_and_misclassified_ones_to_be_sat(self, asked, certified):
        _, report = asked
        lines = [json.loads(line) for line in (certified[0].folder / "certificate.jsonl").read_text().splitlines()]
        verdicts = {one["index"]: one["verdict"] for one in lines}
        known = {one["index"]: one["known"] for one in report["robust"]["instances"]}
        shared = set(verdicts) & set(known)
        assert {verdicts[index] for index in shared} >= {"verified", "falsified"}
        for index in shared:
            expected = {"verified": {"unsat"}, "falsified": {"sat"}, "unknown": {None, "sat"}}
            assert known[index] in expected[verdicts[index]]

    def test_a_known_counter_example_satisfies_its_query_and_no_other(self, asked, certified):
        folder, report = asked
        found = load_file(certified[0].folder / "counterexamples.safetensors")
        network = OnnxFile.read(folder / "robust" / "onnx" / "student.onnx")
        misclassified = dict(zip(found["index"].tolist(), found["images"], strict=True))
        shared = [one for one in report["robust"]["instances"] if one["index"] in misclassified]
        assert shared
        for one in shared:
            image = misclassified[one["index"]]
            point = Point({"X": image.double().numpy()}, {"Y": network(image[None])[0].double().numpy()})
            for other in report["robust"]["instances"]:
                text = (folder / "robust" / "vnnlib" / other["file"]).read_text()
                assert Query.read(text).satisfied_by(point) is (other["index"] == one["index"])

    def test_sampled_points_satisfy_no_query_that_is_certified(self, asked):
        folder, report = asked
        test = Digits().load("test")
        network = OnnxFile.read(folder / "robust" / "onnx" / "student.onnx")
        certain = [one for one in report["robust"]["instances"] if one["known"] == "unsat"]
        assert len(certain) >= 3
        draws = np.random.default_rng(5)
        for one in certain:
            query = Query.read((folder / "robust" / "vnnlib" / one["file"]).read_text())
            x = test.images[one["index"]].float() / 255
            for _ in range(20):
                noise = torch.from_numpy(draws.choice([-1.0, 1.0], tuple(x.shape))).float()
                point = (x + float(EPS) * noise).clamp(0, 1)
                outputs = network(point[None])[0].double().numpy()
                assert not query.satisfied_by(Point({"X": point.double().numpy()}, {"Y": outputs}))

    def test_pairs_have_known_answers_in_both_directions(self, asked):
        _, report = asked
        known = report["pair"]["known"]
        assert known["sat"] + known["unsat"] + known["open"] == 24
        assert known["sat"] > 0 and known["unsat"] > 0


class TestContradictions:
    def test_a_false_certificate_is_found_out(self, certified, tmp_path):
        """Every image is said to be verified, also those that an attack breaks."""
        run = Run(tmp_path / "run")
        shutil.copytree(certified[0].folder, run.folder)
        beside = Run(CERTIFICATE.folder(run.folder, run.certificate()))
        lines = [json.loads(line) for line in (beside.folder / "certificate.jsonl").read_text().splitlines()]
        beside.write_lines("certificate.jsonl", [one | {"verdict": "verified"} for one in lines])
        said = refused(run, examples=12, eps=EPS)
        assert said.endswith("certificate.json proves that there is no counter-example, but one satisfies it")
        assert not (run.folder / "vnnlib").exists()

    def test_a_query_that_asks_something_else_is_found_out(self, certified, monkeypatch, tmp_path):
        right = module.vnnlib.robustness
        monkeypatch.setattr(module.vnnlib, "robustness", lambda x, label, *rest: right(x, (label + 1) % 10, *rest))
        said = refused(certified[0], examples=12, eps="0.3", out=tmp_path / "queries")
        assert "a counter-example does not satisfy it" in said or "one satisfies it" in said

    def test_a_certificate_of_another_radius_says_nothing(self, certified, tmp_path):
        report = export(certified[0], to="vnnlib", out=tmp_path / "queries", examples=3, eps="0.01")
        assert report["robust"]["known"]["unsat"] == 0
        assert report["pair"] is None
        assert not (tmp_path / "queries" / "pair").exists()

    def test_a_damaged_certificate_is_said(self, certified, tmp_path):
        run = Run(tmp_path / "run")
        shutil.copytree(certified[0].folder, run.folder)
        said = run.certificate()
        (CERTIFICATE.folder(run.folder, said) / "certificate.jsonl").write_text("{")
        assert refused(run, examples=3, eps=EPS) == (
            f"{run.folder / 'certificate.json'}: not readable as a certificate of overproof; run certify again "
            f"(0 whole lines for {said['data']['examples']} images)"
        )


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"examples": 0}, "examples and timeout must be at least 1, got 0 and 300"),
            ({"timeout": 0}, "examples and timeout must be at least 1, got 10 and 0"),
            ({"gamma": 0.0}, "gamma is a difference of margins, above 0, got 0"),
            ({"eps": "8"}, "eps 8 is not in [0, 1] pixel units; did you mean 8/255?"),
            ({"eps": "0"}, "a length must be positive, got 0"),
        ],
    )
    def test_numbers_that_cannot_be_meant(self, certified, options, said):
        assert refused(certified[0], **options) == said

    def test_more_images_than_are_classified_correctly(self, certified):
        said = refused(certified[0], examples=360)
        assert said.startswith(f"{certified[0].folder}: ")
        assert said.endswith(" of 360 test images are classified correctly, not 360")

    def test_a_teacher_for_other_images(self, certified, squares, finished):
        other = finished(f"data={{kind: npz, path: {squares(side=6)}}}", "training.batch=64")
        assert refused(certified[0], teacher=other.folder, examples=2).startswith(f"{other.folder}: it is for")

    def test_a_folder_that_is_there_is_kept(self, certified, asked):
        folder, _ = asked
        assert refused(certified[0], out=folder, examples=2) == (
            f"{folder}: it is already there; delete it or name another folder"
        )

    def test_another_norm_needs_a_radius_in_linf(self, finished):
        run = finished("threat={norm: l2, eps: 0.5}", "training.epochs=1")
        assert refused(run) == (
            f"{run.folder}: queries are boxes, linf balls, and it was made for l2; say which with --eps"
        )


def test_a_pair_with_a_network_in_memory(finished, tmp_path):
    teacher = finished("seed=1").model()[0]
    report = export(finished(), to="vnnlib", out=tmp_path / "asked", examples=2, eps=EPS, teacher=teacher)
    assert report["pair"]["teacher"] == type(teacher.backbone).__name__ and report["pair"]["queries"] == 4

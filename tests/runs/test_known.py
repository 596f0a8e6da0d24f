import json
import shutil
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file, save_file

from overproof.certification import cascade as certified
from overproof.commands.certify import certify
from overproof.commands.evaluate import evaluate
from overproof.runs.known import CounterExamples, known_counter_examples
from overproof.runs.results import EVALUATION

HOW = {"eps": "0.1", "examples": 60, "device": "cpu"}


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished().folder, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def without_search(monkeypatch):
    """A cascade whose own attacks find nothing: they are not made."""
    run_attacks = certified.run_attacks

    def clean_only(*arguments, state=None, **options):
        return islice(run_attacks(*arguments, state=state, **options), 1 if state is None else 0)

    monkeypatch.setattr(certified, "run_attacks", clean_only)


def folders(run, home):
    return sorted((run / home).iterdir())


def misclassified(run):
    (folder,) = folders(run, "evaluations")
    lines = map(json.loads, (folder / "examples.jsonl").read_text().splitlines())
    return {line["index"] for line in lines if line["broken_by"] is not None}


def falsified(run):
    folder = max(folders(run, "certificates"), key=lambda folder: (folder / "certificate.json").stat().st_mtime_ns)
    lines = map(json.loads, (folder / "certificate.jsonl").read_text().splitlines())
    return {line["index"] for line in lines if line["by"] == "attack" and line["verdict"] == "falsified"}


class TestCertify:
    def test_what_an_evaluation_misclassified_is_falsified_without_a_search(self, run, without_search):
        evaluate(run, attacks="quick", reliability=False, **HOW)
        assert len(misclassified(run)) > 3
        found = certify(run, bound="ibp", **HOW)
        assert falsified(run) == misclassified(run)
        assert found["known_counter_examples"] == len(misclassified(run)) == found["counts"]["falsified"]
        kept = load_file(run / "counterexamples.safetensors")
        assert set(kept["index"].tolist()) == misclassified(run)

    def test_images_outside_the_ball_and_of_other_rows_are_not_believed(self, run, without_search):
        evaluate(run, attacks="fgsm", reliability=False, **HOW)
        found = certify(run, bound="ibp", **HOW | {"eps": "0.001"})
        assert found["known_counter_examples"] > 3 and found["counts"]["falsified"] == 0
        (folder,) = folders(run, "evaluations")
        body = load_file(folder / "adversarial.safetensors")
        save_file(body | {"index": body["index"].roll(1)}, folder / "adversarial.safetensors")
        assert certify(run, bound="crown_ibp", **HOW)["counts"]["falsified"] == 0

    def test_an_earlier_certificate_counts_too(self, run, request):
        certify(run, bound="ibp", **HOW | {"eps": "0.05"})
        before = falsified(run)
        assert before
        request.getfixturevalue("without_search")
        certify(run, bound="ibp", **HOW)
        assert falsified(run) == before

    def test_a_damaged_file_is_a_warning(self, run):
        evaluate(run, attacks="fgsm", reliability=False, **HOW)
        (folder,) = folders(run, "evaluations")
        (folder / "adversarial.safetensors").write_bytes(b"damaged")
        found = certify(run, bound="ibp", **HOW)
        (said,) = [warning for warning in found["warnings"] if "adversarial.safetensors" in warning]
        assert said.startswith("counter-examples found before are not tried: ") and "\n" not in said
        assert found["known_counter_examples"] == 0


class TestKnown:
    def test_each_row_of_a_block_has_its_images(self):
        known = CounterExamples(torch.tensor([7, 3, 7]), torch.arange(3.0).view(3, 1, 1, 1))
        rows, images = known.of(torch.tensor([3, 5, 7]))
        assert list(zip(rows.tolist(), images.flatten().tolist(), strict=True)) == [(0, 1.0), (2, 0.0), (2, 2.0)]
        assert len(known.of(torch.tensor([4]))[0]) == 0

    def test_other_networks_are_left_alone(self, tmp_path):
        folder = tmp_path / EVALUATION.home / "a"
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text('{"model_digest": "a"}')
        save_file({"images": torch.rand(2, 1, 4, 4), "index": torch.arange(2)}, folder / "adversarial.safetensors")
        assert known_counter_examples(tmp_path, "b") == ((), ())
        ((one,), warnings) = known_counter_examples(tmp_path, "a")
        assert (one.images.shape, warnings) == ((2, 1, 4, 4), ())

    @pytest.mark.parametrize(
        "body",
        [
            {"images": torch.rand(2, 1, 4, 4)},
            {"images": torch.rand(2, 1, 4, 4), "index": torch.arange(3)},
            {"images": torch.rand(2, 1, 4, 4), "index": torch.rand(2)},
            {"images": torch.rand(2, 16), "index": torch.arange(2)},
            {"images": torch.ones(2, 1, 4, 4, dtype=torch.uint8), "index": torch.arange(2)},
        ],
    )
    def test_what_is_not_images_with_an_index_is_a_sentence(self, body, tmp_path):
        folder = tmp_path / EVALUATION.home / "a"
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text('{"model_digest": "a"}')
        save_file(body, folder / "adversarial.safetensors")
        known, (said,) = known_counter_examples(tmp_path, "a")
        assert known == () and "adversarial.safetensors" in said


def test_many_images_are_kept_only_where_they_are_asked_for(run, monkeypatch):
    monkeypatch.setattr("overproof.commands.evaluate._MOST_BYTES", 64 * 4)  # a digit
    evaluate(run, attacks="fgsm", reliability=False, **HOW)
    assert not (run / "adversarial.safetensors").exists()
    evaluate(run, attacks="fgsm", reliability=False, save_adversarial=True, overwrite=True, **HOW)
    assert len(load_file(run / "adversarial.safetensors")["images"]) > 1

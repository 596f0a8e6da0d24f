import json
import os

import pytest

from overproof.runs.results import CERTIFICATE, EVALUATION, strongest_certificate, strongest_evaluation

ASKED = {"network": "abc", "seed": 0}


def evaluation(*, steps=10, examples=100, passed=50, high=0.6, own=True, digest="abc", **more):
    attack = {"kind": "pgd", "steps": steps, "restarts": 1}
    return {
        "model_digest": digest,
        "as_trained": own,
        "data": {"examples": examples},
        "attacks": {"pgd": {"trial": {"attack": attack, "targets": 0}}},
        "worst": {"passed": passed, "of": examples, "interval": [0.4, high]},
        **more,
    }


def certificate(**changes):
    result = {
        "model_digest": "abc",
        "as_trained": True,
        "kind": "bounds",
        "data": {"examples": 100},
        "teacher": None,
        "verified": {"passed": 40},
    }
    return {**result, **changes}


def write(folder, result, beside=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(result))
    for name, body in (beside or {}).items():
        (folder / name).write_text(body)


def at_the_root(root):
    return json.loads((root / "evaluation.json").read_text())


class TestPlace:
    def test_another_question_is_another_folder_and_the_same_the_same(self, tmp_path):
        one = EVALUATION.place(tmp_path, ASKED, "quick linf 8/255")
        assert one == EVALUATION.place(tmp_path, dict(reversed(ASKED.items())), "quick linf 8/255")
        assert one.parent == tmp_path / "evaluations"
        assert one.name.startswith("quick-linf-8-255-")
        assert one != EVALUATION.place(tmp_path, {**ASKED, "seed": 1}, "quick linf 8/255")
        assert CERTIFICATE.place(tmp_path, ASKED, "crown").parent == tmp_path / "certificates"

    def test_what_is_finished_is_taken_or_replaced(self, tmp_path):
        assert EVALUATION.finished(tmp_path / "x", overwrite=False) is None
        write(tmp_path / "x", evaluation())
        assert EVALUATION.finished(tmp_path / "x", overwrite=False) == evaluation()
        assert EVALUATION.finished(tmp_path / "x", overwrite=True) is None


class TestPromote:
    def test_the_strongest_is_at_the_root_with_what_belongs_to_it(self, tmp_path):
        write(
            tmp_path / "evaluations" / "a", evaluation(steps=1), {"examples.jsonl": "a", "adversarial.safetensors": "A"}
        )
        EVALUATION.promote(tmp_path, "abc")
        assert at_the_root(tmp_path) == evaluation(steps=1)
        assert (tmp_path / "adversarial.safetensors").read_text() == "A"
        write(tmp_path / "evaluations" / "b", evaluation(steps=9), {"examples.jsonl": "b"})
        EVALUATION.promote(tmp_path, "abc")
        assert at_the_root(tmp_path) == evaluation(steps=9)
        assert (tmp_path / "examples.jsonl").read_text() == "b"
        assert not (tmp_path / "adversarial.safetensors").exists()
        assert [one.folder.name for one in EVALUATION.others(tmp_path, at_the_root(tmp_path))] == ["a"]

    def test_a_weaker_one_changes_nothing(self, tmp_path):
        write(tmp_path / "evaluations" / "a", evaluation(steps=9))
        EVALUATION.promote(tmp_path, "abc")
        write(tmp_path / "evaluations" / "b", evaluation(steps=1, examples=5))
        EVALUATION.promote(tmp_path, "abc")
        assert at_the_root(tmp_path) == evaluation(steps=9)

    def test_what_an_older_version_wrote_is_kept(self, tmp_path):
        before = {**evaluation(steps=1), "old": True}
        write(tmp_path, before, {"examples.jsonl": "old"})
        write(tmp_path / "evaluations" / "b", evaluation(steps=9), {"examples.jsonl": "b"})
        EVALUATION.promote(tmp_path, "abc")
        (other,) = EVALUATION.others(tmp_path, at_the_root(tmp_path))
        assert other.result == before
        assert (other.folder / "examples.jsonl").read_text() == "old"
        EVALUATION.promote(tmp_path, "abc")
        assert len(list(EVALUATION.all(tmp_path))) == 2

    def test_a_damaged_file_at_the_root_is_kept_as_well(self, tmp_path):
        (tmp_path / "evaluation.json").write_text("{")
        write(tmp_path / "evaluations" / "b", evaluation())
        EVALUATION.promote(tmp_path, "abc")
        assert at_the_root(tmp_path) == evaluation()
        assert [file.read_text() for file in tmp_path.glob("evaluations/earlier-*/evaluation.json")] == ["{"]

    def test_results_of_an_earlier_network_are_kept_and_not_shown(self, tmp_path):
        write(tmp_path / "evaluations" / "a", evaluation(steps=99, digest="old"))
        write(tmp_path / "evaluations" / "b", evaluation(steps=1))
        EVALUATION.promote(tmp_path, "abc")
        assert at_the_root(tmp_path)["model_digest"] == "abc"
        assert EVALUATION.others(tmp_path, at_the_root(tmp_path)) == []

    def test_half_a_promotion_leaves_the_files_of_one_result_together(self, tmp_path):
        write(tmp_path / "evaluations" / "a", evaluation(steps=1), {"examples.jsonl": "a"})
        EVALUATION.promote(tmp_path, "abc")
        (tmp_path / "examples.jsonl").write_text("of another result")
        assert EVALUATION.folder(tmp_path, at_the_root(tmp_path)) == tmp_path / "evaluations" / "a"

    def test_without_links_large_files_are_copied(self, tmp_path, monkeypatch):
        def no_links(*_):
            raise OSError

        monkeypatch.setattr(os, "link", no_links)
        write(tmp_path / "evaluations" / "a", evaluation(), {"adversarial.safetensors": "A"})
        EVALUATION.promote(tmp_path, "abc")
        assert (tmp_path / "adversarial.safetensors").read_text() == "A"

    def test_one_that_lacks_what_is_ranked_costs_no_other_its_place(self, tmp_path):
        for name, change in {
            "a": {"worst": {}},
            "b": {"data": None},
            "c": {"attacks": {"x": {"trial": {"targets": "y"}}}},
        }.items():
            write(tmp_path / "evaluations" / name, {**evaluation(steps=99), **change})
        write(tmp_path / "evaluations" / "z", evaluation())
        EVALUATION.promote(tmp_path, "abc")
        assert at_the_root(tmp_path) == evaluation()

    def test_a_figure_that_is_not_a_number_makes_no_copies(self, tmp_path):
        write(tmp_path / "evaluations" / "a", evaluation(odd=float("nan")), {"examples.jsonl": "a"})
        for _ in range(3):
            EVALUATION.promote(tmp_path, "abc")
        assert len(list(EVALUATION.all(tmp_path))) == 1
        assert EVALUATION.folder(tmp_path, at_the_root(tmp_path)).name == "a"

    def test_a_folder_of_something_else_is_no_result(self, tmp_path):
        (tmp_path / "evaluations" / "b").mkdir(parents=True)
        (tmp_path / "evaluations" / "b" / "evaluation.json").write_text("[]")
        write(tmp_path / "evaluations" / "a", evaluation())
        EVALUATION.promote(tmp_path, "abc")
        assert at_the_root(tmp_path) == evaluation()


class TestStrongest:
    @pytest.mark.parametrize(
        ("result", "best"),
        [
            ([evaluation(steps=1), evaluation(steps=9)], 1),
            ([evaluation(examples=200), evaluation(examples=5)], 0),
            # A weak attack on five images that happened to fail on none of them does not hide the rest.
            ([evaluation(steps=9, examples=210, high=0.6), evaluation(steps=1, examples=5, high=0.4)], 0),
            # Neither surpasses the other: the one that says more of what an attacker can do.
            ([evaluation(steps=9, examples=50, high=0.5), evaluation(steps=1, examples=210, high=0.7)], 0),
            ([evaluation(steps=9, examples=5, high=0.9), evaluation(steps=1, examples=210, high=0.7)], 1),
            # The recipe's own threat and data before any other.
            ([evaluation(steps=99, high=0.1, own=False), evaluation(steps=1, high=0.9)], 1),
            ([evaluation(steps=1, own=False), evaluation(steps=9, own=False)], 1),
        ],
    )
    def test_of_evaluations(self, result, best):
        assert strongest_evaluation(result) == best

    @pytest.mark.parametrize(
        "better",
        [
            {"verified": {"passed": 41}},
            {"data": {"examples": 101}, "verified": {"passed": 0}},
            {"teacher": {"name": "t"}, "verified": {"passed": 0}},
        ],
    )
    def test_of_certificates(self, better):
        assert strongest_certificate([certificate(), certificate(**better)]) == 1
        assert strongest_certificate([certificate(**better), certificate()]) == 0
        other = certificate(as_trained=False, **better)
        assert strongest_certificate([other, certificate()]) == 1
        assert strongest_certificate([certificate(kind="smoothing", **better), certificate()]) == 1

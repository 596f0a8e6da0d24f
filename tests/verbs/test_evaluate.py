import json
import shutil
from hashlib import sha256

import numpy as np
import pytest
import torch

from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.run import Run, load
from overproof.verbs.evaluate import evaluate


@pytest.fixture
def run(finished, tmp_path):
    """A finished toy run of its own for every test."""
    shutil.copytree(finished().folder, tmp_path / "run")
    return Run(tmp_path / "run")


def lines(run):
    return [json.loads(line) for line in (run.folder / "examples.jsonl").read_text().splitlines()]


def counts(found):
    """Everything that was found, without times."""
    parts = {"clean": found["clean"], "worst": found["worst"], **found["attacks"]}
    return {name: (part["passed"], part["of"]) for name, part in parts.items()}


def refused(*arguments, **options):
    with pytest.raises(InputError) as caught:
        evaluate(*arguments, **options, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_two_files_agree_with_each_other_and_with_the_network(run):
    found = evaluate(run, device="cpu")
    assert json.loads((run.folder / "evaluation.json").read_text()) == found == run.evaluation()
    examples, test = lines(run), Digits().load("test")
    assert [one["index"] for one in examples] == list(range(360))
    assert [one["label"] for one in examples] == test.labels.tolist()
    network = load(run.folder)
    with torch.no_grad():
        assert [one["prediction"] for one in examples] == network(test.images.float() / 255).argmax(dim=1).tolist()

    right = [one for one in examples if one["prediction"] == one["label"]]
    assert found["clean"]["passed"] == len(right)
    assert found["worst"]["passed"] == sum(one["broken_by"] is None for one in right)
    assert all(one["broken_by"] is None for one in examples if one not in right)
    first, second = found["attacks"].values()
    assert len(right) - sum(one["broken_by"] == "fgsm" for one in right) == first["passed"]
    assert found["worst"]["passed"] <= second["passed"] <= len(right)
    assert (
        len(right) - first["passed"] + sum(one["broken_by"] == "pgd-5" for one in right)
        >= len(right) - second["passed"]
    )
    assert 0 < found["worst"]["passed"] < found["clean"]["passed"]
    for part in (found["clean"], found["worst"], first, second):
        low, high = part["interval"]
        assert part["of"] == 360
        assert part["share"] == part["passed"] / 360
        assert 0 <= low < part["share"] < high <= 1
    assert first["w_robust"] == pytest.approx((found["clean"]["share"] + first["share"]) / 2)


def test_it_says_what_was_measured_on_what(run):
    found = evaluate(run, device="cpu")
    test = Digits().load("test")
    assert found["data"] == {"name": "digits", "split": "test", "examples": 360, "of": 360, "digest": test.digest}
    assert found["threat"] == {"norm": "linf", "eps": "0.1"}
    assert found["model_digest"] == sha256((run.folder / "model.safetensors").read_bytes()).hexdigest()
    assert found["selected_on"] == "held-out part of the training split"
    assert (found["run"], found["method"], found["architecture"], found["parameters"]) == (
        "toy",
        "natural",
        "mlp",
        1210,
    )
    assert found["attacks"]["pgd-5"]["trial"]["attack"]["restarts"] == 2
    assert found["hardware"]
    assert set(found["versions"]) == {"overproof", "torch", "python"}


def test_the_same_seed_finds_the_same(run):
    first, again = evaluate(run.folder, device="cpu"), evaluate(str(run.folder), device="cpu")
    assert counts(first) == counts(again)


def test_a_subset_is_balanced_seeded_and_labelled(run):
    found = evaluate(run, examples=95, seed=1, device="cpu")
    chosen = lines(run)
    labels = np.bincount([one["label"] for one in chosen], minlength=10)
    assert labels.sum() == 95
    assert labels.max() - labels.min() <= 1
    test = Digits().load("test")
    indices = torch.tensor([one["index"] for one in chosen])
    assert [one["label"] for one in chosen] == test.labels[indices].tolist()
    assert found["data"] | {"digest": ""} == {
        "name": "digits",
        "split": "test",
        "examples": 95,
        "of": 360,
        "digest": "",
    }
    assert found["data"]["digest"] == test.at(indices).digest
    evaluate(run, examples=95, seed=2, device="cpu")
    assert [one["index"] for one in lines(run)] != indices.tolist()


def test_the_subsets_verdicts_are_those_of_the_whole(run):
    evaluate(run, attacks=("fgsm",), device="cpu")  # without a random start an example does not depend on its batch
    whole = lines(run)
    evaluate(run, attacks=("fgsm",), examples=50, device="cpu")
    assert all(one == whole[one["index"]] for one in lines(run))


def test_more_than_there_are_and_zero_mean_all(run):
    assert evaluate(run, examples=9999, device="cpu")["data"]["examples"] == 360
    assert evaluate(run, examples=0, device="cpu")["data"]["examples"] == 360
    assert refused(run, examples=-1) == "examples must be 0 (all) or more, got -1"


def test_attacks_are_picked_by_name_in_the_order_asked(run):
    found = evaluate(run, attacks=("pgd-5", "fgsm"), examples=30, device="cpu")
    assert list(found["attacks"]) == ["pgd-5", "fgsm"]
    assert list(evaluate(run, attacks=("pgd-5",), examples=30, device="cpu")["attacks"]) == ["pgd-5"]
    assert refused(run, attacks=("pgd-6",)) == "the recipe has no attack 'pgd-6' (did you mean 'pgd-5'?)"


@pytest.mark.parametrize("eps", ["1/255000", 1e-6])
def test_a_tiny_radius_breaks_nothing(run, eps):
    found = evaluate(run, eps=eps, device="cpu")
    assert found["worst"]["passed"] == found["clean"]["passed"]
    assert found["threat"]["eps"] == str(eps)


def test_a_larger_radius_breaks_more(run):
    robust = [evaluate(run, eps=eps, examples=100, device="cpu")["worst"]["passed"] for eps in ("0.02", "0.1", "0.9")]
    assert robust[0] > robust[1] > robust[2]
    assert robust[2] <= 5


def test_a_step_made_for_another_radius_goes_with_it(toy, run):
    recipe = toy("evaluation={attacks: [{name: a, attack: {step: 0.01}}, {name: b, attack: {eps: 0.05, step: 0.02}}]}")
    from overproof.recipe import dump

    (run.folder / "recipe.yaml").write_text(dump(recipe))
    own = evaluate(run, examples=10, device="cpu")["attacks"]
    assert (own["a"]["trial"]["attack"]["step"], own["a"]["trial"]["attack"]["eps"]) == ("0.01", "0.1")
    assert (own["b"]["trial"]["attack"]["step"], own["b"]["trial"]["attack"]["eps"]) == (None, "0.1")
    other = evaluate(run, examples=10, eps="0.2", norm="l2", device="cpu")["attacks"]
    for name in "ab":
        attack = other[name]["trial"]["attack"]
        assert (attack["norm"], attack["eps"], attack["step"]) == ("l2", "0.2", None)


def test_a_radius_that_cannot_be_meant(run):
    assert refused(run, eps="8") == "eps 8 is not in [0, 1] pixel units; did you mean 8/255?"
    assert refused(run, eps="8/25x") == "cannot read '8/25x' as a length; write it as 8/255 or 0.031"
    assert refused(run, norm="linf", eps="0") == "a length must be positive, got 0"
    assert evaluate(run, norm="l2", eps="2", examples=10, device="cpu")["threat"] == {"norm": "l2", "eps": "2"}


def test_a_refused_evaluation_leaves_the_old_one(run):
    before = evaluate(run, examples=20, device="cpu")
    refused(run, eps="8")
    refused(run, attacks=("nothing",))
    assert run.evaluation() == before


def test_no_run_and_an_unfinished_run(run, tmp_path):
    assert refused(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: not a run folder (it has no recipe.yaml)"
    (run.folder / "model.json").unlink()
    assert refused(run) == f"{run.folder}: no model.json here, so this is not a finished run"


def test_images_of_another_task_are_refused_naming_both(toy, run, squares):
    from overproof.recipe import dump

    file = squares(side=6, classes=3)
    (run.folder / "recipe.yaml").write_text(dump(toy(f"data={{kind: npz, path: {file}}}")))
    assert refused(run) == (f"{run.folder}: the network is for 1x8x8, 10 classes, the test images are 1x6x6, 3 classes")

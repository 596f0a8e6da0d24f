import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from overproof.commands.evaluate import evaluate as with_probes
from overproof.commands.evaluate import iter_evaluate
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.recipe import dump
from overproof.runs.folder import Run, load


@pytest.fixture
def run(finished, tmp_path):
    """A finished toy run of its own for every test."""
    shutil.copytree(finished().folder, tmp_path / "run")
    return Run(tmp_path / "run")


def evaluate(*arguments, **options):
    """Evaluate without the reliability probes, which take their time."""
    return with_probes(*arguments, **{"reliability": False} | options)


def newest(run):
    """Return the folder of the results that were written last."""
    return max((run.folder / "evaluations").glob("*/examples.jsonl"), key=lambda file: file.stat().st_mtime_ns).parent


def lines(run):
    """Return the examples' records of the evaluation before."""
    return [json.loads(line) for line in (newest(run) / "examples.jsonl").read_text().splitlines()]


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
    images = {"name": "digits", "split": "test", "examples": 360, "of": 360, "digest": test.digest, "notes": []}
    assert found["data"] == images
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
    first, again = evaluate(run.folder, device="cpu"), evaluate(str(run.folder), overwrite=True, device="cpu")
    assert counts(first) == counts(again)


def test_a_subset_is_in_proportion_seeded_and_labelled(run):
    found = evaluate(run, examples=95, seed=1, device="cpu")
    chosen = lines(run)
    labels = np.bincount([one["label"] for one in chosen], minlength=10)
    assert labels.sum() == 95
    test = Digits().load("test")
    assert (abs(labels - 95 / 360 * np.bincount(test.labels, minlength=10)) < 2).all()
    indices = torch.tensor([one["index"] for one in chosen])
    assert [one["label"] for one in chosen] == test.labels[indices].tolist()
    assert found["data"] | {"digest": ""} == {
        "name": "digits",
        "split": "test",
        "examples": 95,
        "of": 360,
        "digest": "",
        "notes": [],
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
    file = newest(run) / "evaluation.json"
    written = file.stat().st_mtime_ns
    assert evaluate(run, examples=0, device="cpu") == json.loads(file.read_text())  # asked before: not worked out again
    assert file.stat().st_mtime_ns == written
    assert refused(run, save_adversarial=True).endswith("without adversarial; --overwrite evaluates it again")
    assert refused(run, reliability=True).endswith("without reliability; --overwrite evaluates it again")
    assert refused(run, examples=-1) == "examples must be 0 (all) or more, got -1"


def test_attacks_are_picked_by_name_in_the_order_asked(run):
    found = evaluate(run, attacks=("pgd-5", "fgsm"), examples=30, device="cpu")
    assert list(found["attacks"]) == ["pgd-5", "fgsm"]
    assert list(evaluate(run, attacks="pgd-5", examples=30, device="cpu")["attacks"]) == ["pgd-5"]
    assert refused(run, attacks=("pgd-6",)) == "there is no attack or suite 'pgd-6' (did you mean 'pgd-5'?)"


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
    assert refused(run, eps="-0.1") == "a length must be positive, got -0.1"
    assert evaluate(run, norm="l2", eps="2", examples=10, device="cpu")["threat"] == {"norm": "l2", "eps": "2"}


def test_a_refused_evaluation_leaves_the_old_one(run):
    before = evaluate(run, examples=20, device="cpu")
    refused(run, eps="8")
    refused(run, attacks=("nothing",))
    assert run.evaluation() == before


def test_no_run_and_an_unfinished_run(run, tmp_path):
    assert refused(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: no such run folder"
    (run.folder / "model.json").unlink()
    assert refused(run) == f"{run.folder}: no model.json here, so this is not a finished run"


def test_images_of_another_task_are_refused_naming_both(toy, run, squares):
    file = squares(side=6, classes=3)
    (run.folder / "recipe.yaml").write_text(dump(toy(f"data={{kind: npz, path: {file}}}")))
    assert refused(run) == f"{run.folder}: it is for 1x8x8, 10 classes, the data are 1x6x6, 3 classes"


# --- an eps of 0 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", ["0", "0/255", 0.0, 0])
def test_an_eps_of_0_is_the_clean_accuracy_and_says_so(run, eps):
    found = evaluate(run, attacks=("mtard",), eps=eps, norm="l2", device="cpu")
    assert found["worst"]["passed"] == found["clean"]["passed"] > 0
    assert found["threat"] == {"norm": "l2", "eps": "0"}
    assert (found["attacks"], found["reliability"]) == ({}, None)
    assert found["suite"]["caution"] == (
        "an eps of 0 allows no change, so nothing was attacked and the robust accuracy is the clean one"
    )
    assert all(line["broken_by"] is None and line["norm"] == 0 for line in lines(run))
    assert found["calibration"]["clean"] == found["calibration"]["attacked"]


def test_an_eps_of_0_does_not_hide_a_wrong_name(run):
    assert refused(run, attacks=("pgd-6",), eps=0).startswith("there is no attack or suite 'pgd-6'")


# --- crashes ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import torch
from overproof.evaluation import store
from overproof.commands.evaluate import iter_evaluate

torch.set_num_threads(1)
store._PATIENCE = 0
for number, _ in enumerate(iter_evaluate(sys.argv[1], examples=50, batch=20, teacher=sys.argv[1], device="cpu"), 1):
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def timeless(found):
    """Return a found tree without what no two runs share: how long it took."""
    if isinstance(found, dict):
        return {name: timeless(value) for name, value in found.items() if name != "seconds"}
    return [timeless(value) for value in found] if isinstance(found, list) else found


def test_killed_in_the_middle_and_resumed_it_finds_the_same(run, tmp_path):
    options = {"examples": 50, "batch": 20, "teacher": run.folder}
    whole = evaluate(run, **options, device="cpu")
    examples = (run.folder / "examples.jsonl").read_bytes()
    shutil.rmtree(place := newest(run))
    for name in ("evaluation.json", "examples.jsonl"):
        (run.folder / name).unlink()
    # Four passes a block: clean, fgsm, pgd-5 twice. It dies after the second block's second pass.
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(run.folder), "6"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -9, killed.stderr
    state = place / "evaluation-state"
    assert sorted(file.name for file in state.iterdir()) == [
        "000000.safetensors",
        "000001.safetensors",
        "setting.json",
    ]
    # What else a crash may leave: a half line in the files that are written whole.
    (run.folder / "examples.jsonl").write_bytes(examples[: len(examples) // 2])
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tra')
    assert refused(run, **options) == (
        f"{state}: this was begun and is unfinished; --resume continues it, --overwrite begins again"
    )
    assert "has another batch (20, now 7)" in refused(run, **{**options, "batch": 7}, resume=True)
    evaluate(run, **{**options, "examples": 5}, device="cpu")  # another question waits for nothing
    steps = list(iter_evaluate(run, **options, resume=True, reliability=False, device="cpu"))
    assert [step.done for step in steps] == [7, 8, 9, 10, 11, 12]  # the passes that were done are not done again
    assert timeless(run.evaluation()) == timeless(json.loads(json.dumps(whole)))  # of 50 images, not of 5
    assert (run.folder / "examples.jsonl").read_bytes() == examples
    assert not state.exists()
    assert len(run.metrics()) == 2


def test_killed_before_the_root_has_it_the_same_command_puts_it_there(run, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as at_the_end:
        at_the_end.setattr("overproof.runs.results.Kind.promote", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, examples=20, device="cpu")
    assert run.evaluation() is None
    found = evaluate(run, examples=20, device="cpu")
    assert run.evaluation() == found


def test_a_half_written_block_is_done_again(run):
    whole, events = (
        evaluate(run, examples=40, batch=20, device="cpu"),
        iter_evaluate(run, examples=40, batch=20, reliability=False, overwrite=True),
    )
    for _ in range(5):  # the first block, and the first pass of the second
        next(events)
    events.close()
    (newest(run) / "evaluation.json").unlink()
    file = newest(run) / "evaluation-state" / "000000.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    found = evaluate(run, examples=40, batch=20, resume=True, device="cpu")
    assert timeless(found) == timeless(whole)


def test_progress_is_told_after_every_pass(run):
    steps = list(iter_evaluate(run, examples=50, batch=20, device="cpu"))
    assert [(step.done, step.total) for step in steps] == [(number, 12) for number in range(1, 13)]
    assert [step.attack for step in steps] == 3 * ["clean", "fgsm", "pgd-5", "pgd-5"]
    assert [step.robust.of for step in steps] == 4 * [20] + 4 * [40] + 4 * [50]
    found = run.evaluation()
    assert steps[-1].robust.passed == found["worst"]["passed"]
    assert all(after.robust.passed <= before.robust.passed for before, after in pairwise(steps[:4]))


def test_the_batch_does_not_decide_what_has_no_random_start(run):
    one, other = (evaluate(run, attacks=("fgsm",), batch=size, overwrite=True, device="cpu") for size in (360, 7))
    assert counts(one) == counts(other)
    assert refused(run, batch=0) == "batch must be at least 1, got 0"


# --- suites -----------------------------------------------------------------------------------------------------------


def test_a_suite_by_name(run):
    found = evaluate(run, attacks=("quick",), examples=30, device="cpu")
    assert list(found["attacks"]) == ["apgd-ce-20", "apgd-t-20"]
    assert found["suite"] == {
        "name": "quick",
        "survivors": True,
        "caution": "an upper estimate: the standard suite may break more",
    }
    first, second = found["attacks"].values()
    assert found["worst"]["passed"] == second["passed"] <= first["passed"]
    assert first["claim"] == "correct after apgd-ce-20"
    assert found["reliability"] is None


def test_a_suite_published_with_a_threat_brings_it_along(run):
    options = {"examples": 5, "device": "cpu"}
    assert evaluate(run, attacks=("rrm-l2",), **options)["threat"] == {"norm": "l2", "eps": "1.0"}
    assert evaluate(run, attacks=("rrm-l2",), eps="0.01", **options)["threat"] == {"norm": "linf", "eps": "0.01"}


def test_a_suite_of_a_file(run, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "{name: mine, survivors: true, caution: a toy, attacks: [{name: a, attack: {kind: apgd, steps: 3}, targets: 2},"
        " {name: b, loss: margin, attack: {kind: square, queries: 5, eps: 0.3}}]}"
    )
    found = evaluate(run, attacks=(str(file),), examples=20, device="cpu")
    assert found["suite"] == {"name": "mine", "survivors": True, "caution": "a toy"}
    attacks = {name: part["trial"]["attack"] for name, part in found["attacks"].items()}
    # The figures stand under one threat, so the file cannot have another.
    assert {name: (attack["kind"], attack["eps"]) for name, attack in attacks.items()} == {
        "a": ("apgd", "0.1"),
        "b": ("square", "0.1"),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not readable as YAML ("),
        ("7", ": expected a mapping, got 7"),
        ("{attacks: []}", ": key 'name' is missing"),
        ("{name: x, attacks: []}", ": a suite needs at least one attack"),
        ("{name: x, atacks: []}", ": unknown key 'atacks' (did you mean 'attacks'?)"),
        ("{name: x, attacks: [{name: a, attack: {kind: apdg}}]}", "there is no 'apdg' (did you mean 'apgd'?)"),
        ("{name: x, attacks: [{name: a}, {name: a}]}", ": attacks need different names, got a, a"),
        ("{name: x, attacks: [{name: a, attack: {kind: fab}, surrogate: true}]}", "cannot be searched on a surrogate"),
    ],
)
def test_a_file_that_is_no_suite_is_one_sentence(run, tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    said = refused(run, attacks=(str(file),))
    assert said.startswith(str(file))
    assert words in said


def test_names_that_mean_nothing(run, tmp_path):
    assert refused(run, attacks=("standart",)) == "there is no attack or suite 'standart' (did you mean 'standard'?)"
    assert refused(run, attacks=("fgsm", "sqare")) == "there is no attack or suite 'sqare' (did you mean 'square'?)"
    assert refused(run, attacks=("fgsm", "fgsm")) == "attacks need different names, got fgsm, fgsm"
    assert refused(run, attacks=(str(tmp_path / "no.yaml"),)).endswith("there is no such file")


def test_an_attack_that_the_norm_does_not_have(run):
    assert refused(run, attacks=("hopskipjump",), norm="l1", eps=1) == (
        "hopskipjump is defined for l2 and linf, not for l1"
    )


# --- what else it says ------------------------------------------------------------------------------------------------


def test_broken_images_are_kept_and_confirmed(run):
    found = evaluate(run, examples=60, save_adversarial=True, device="cpu")
    kept = load_file(run.folder / "adversarial.safetensors")
    misclassified = [line for line in lines(run) if line["broken_by"] is not None]
    assert found["adversarial"] == {
        "file": "adversarial.safetensors",
        "images": len(misclassified),
        "confirmed": len(misclassified),
    }
    assert kept["index"].tolist() == [line["index"] for line in misclassified]
    assert kept["labels"].tolist() == [line["label"] for line in misclassified]
    clean = Digits().load("test").images[kept["index"]].float() / 255
    change = (kept["images"] - clean).abs().flatten(1).amax(dim=1)
    assert (change <= 0.1 + 1e-6).all()
    assert torch.allclose(change, torch.tensor([line["norm"] for line in misclassified]))
    assert ((kept["images"] >= 0) & (kept["images"] <= 1)).all()
    assert torch.equal(kept["clean"].float() / 255, clean)
    with torch.no_grad():
        assert (load(run.folder)(kept["images"]).argmax(dim=1) != kept["labels"]).all()
        assert torch.allclose(load(run.folder)(kept["images"]), kept["attacked_logits"], atol=1e-5)
        assert torch.allclose(load(run.folder)(clean), kept["clean_logits"], atol=1e-5)
    assert "teacher_clean_logits" not in kept


def test_a_teacher_answers_on_the_broken_images_too(run, finished):
    other = finished("seed=7").folder
    found = evaluate(run, examples=60, save_adversarial=True, teacher=other, device="cpu")
    kept = load_file(run.folder / "adversarial.safetensors")
    with torch.no_grad():
        assert torch.allclose(load(other)(kept["images"]), kept["teacher_attacked_logits"], atol=1e-5)
        assert torch.allclose(load(other)(kept["clean"].float() / 255), kept["teacher_clean_logits"], atol=1e-5)
    assert found["classes"] == [str(digit) for digit in range(10)]
    assert found["multiply_adds"] == 64 * 16 + 16 * 10
    assert found["attacks"]["fgsm"]["survivors"][0] == [0, found["clean"]["passed"]]
    assert found["attacks"]["fgsm"]["survivors"][-1][1] == found["attacks"]["fgsm"]["passed"]


def test_none_broken_is_an_empty_file(run):
    found = evaluate(run, examples=10, eps="1e-6", save_adversarial=True, device="cpu")
    assert (found["adversarial"]["images"], found["adversarial"]["confirmed"]) == (0, 0)
    assert load_file(run.folder / "adversarial.safetensors")["images"].shape == (0, 1, 8, 8)


def test_calibration_is_that_of_the_clean_and_of_the_worst_points(run):
    found = evaluate(run, device="cpu")["calibration"]
    test = Digits().load("test")
    with torch.no_grad():
        log_p = torch.log_softmax(load(run.folder)(test.images.float() / 255).double(), dim=1)
    assert found["clean"]["nll"] == pytest.approx(-float(log_p.gather(1, test.labels[:, None]).mean()), rel=1e-5)
    assert found["attacked"]["nll"] > found["clean"]["nll"] + 0.1
    assert found["attacked"]["brier"] > found["clean"]["brier"]
    for part in found.values():
        assert sum(one["count"] for one in part["bins"]) == 360


def test_reliability_is_asked_for_and_of_this_network(run):
    found = with_probes(run, device="cpu")["reliability"]
    assert found["result"] in ("pass", "suspect")
    names = [sign["name"] for sign in found["signs"]]
    assert {"large eps"} <= set(names)
    assert "black-box" not in names
    square = with_probes(run, attacks=("square-100",), examples=20, device="cpu")["reliability"]
    assert "only black-box attacks were run; without gradients of the network an attack is weak" in square["sentence"]


def test_a_teacher_is_agreed_with_and_lends_its_gradients(run, finished):
    other = finished("seed=1", "name=other").folder
    words = ("transfer-pgd", "fgsm")
    assert refused(run, attacks=words) == "attack 'transfer-pgd' searches on a teacher; name one with --teacher"
    found = with_probes(run, attacks=words, teacher=other, device="cpu")
    assert found["attacks"]["transfer-pgd"]["passed"] > found["attacks"]["fgsm"]["passed"]
    assert "transfer" in [sign["name"] for sign in found["reliability"]["signs"]]
    x = Digits().load("test").images.float() / 255
    with torch.no_grad():
        same = int((load(run.folder)(x).argmax(dim=1) == load(other)(x).argmax(dim=1)).sum())
    assert found["teacher"]["name"] == str(other)
    assert (found["teacher"]["clean"]["same"]["passed"], found["teacher"]["clean"]["same"]["of"]) == (same, 360)
    assert found["teacher"]["attacked"]["same"]["passed"] < same
    itself = evaluate(run, teacher=run.folder, examples=20, device="cpu")["teacher"]
    assert itself["clean"]["same"]["passed"] == itself["attacked"]["same"]["passed"] == 20
    assert itself["clean"]["gap"] == pytest.approx(0, abs=1e-6)
    assert evaluate(run, examples=20, device="cpu")["teacher"] is None


def test_a_teacher_for_other_images_is_refused(run, toy, squares, tmp_path):
    from overproof.commands.train import train

    other = train(
        toy(f"data={{kind: npz, path: {squares(side=6, classes=3)}}}", "training.epochs=1", "training.batch=12"),
        tmp_path / "other",
        device="cpu",
    ).folder
    assert refused(run, teacher=other) == (f"{other}: it is for 1x6x6, 3 classes, the data are 1x8x8, 10 classes")


def test_another_folder_for_the_results(run, tmp_path):
    evaluate(run, examples=10, out=tmp_path / "deep" / "er", device="cpu")
    names = ["adversarial.safetensors", "evaluation.json", "evaluations", "examples.jsonl"]
    assert sorted(file.name for file in (tmp_path / "deep" / "er").iterdir()) == names
    assert run.evaluation() is None


# --- networks that are not ours ---------------------------------------------------------------------------------------

FOREIGN = """
import torch
from torch import nn


class Means(nn.Module):
    # The nearest class mean, as a linear network.
    def __init__(self, classes, end=None):
        super().__init__()
        means = torch.load("means.pt", weights_only=True)[:classes]
        self.linear = nn.Linear(64, classes)
        self.linear.weight.data, self.linear.bias.data = means, -means.square().sum(dim=1) / 2
        self.end = end or nn.Identity()

    def forward(self, x):
        return self.end(self.linear(x.flatten(1)))


class Undefined(nn.Module):
    def forward(self, z):
        return z.where(torch.arange(len(z))[:, None] % 4 > 0, torch.nan)


def network():
    return Means(10)


def three():
    return Means(3)


def two():
    return Means(2)


def probabilities():
    return Means(10, nn.Softmax(dim=1))


def undefined():
    return Means(10, Undefined())


def blind():
    means = Means(10)
    def answer(x):
        with torch.no_grad():
            return means(x)
    return answer
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """Return the name of a module of foreign networks in the current folder, and forget it afterwards."""
    train = Digits().load("train")
    pixels = train.images.float().flatten(1) / 255
    torch.save(torch.stack([pixels[train.labels == label].mean(dim=0) for label in range(10)]), tmp_path / "means.pt")
    (tmp_path / "foreign_nets.py").write_text(FOREIGN)
    monkeypatch.chdir(tmp_path)
    yield "foreign_nets"
    sys.modules.pop("foreign_nets", None)


def digits_npz(folder, classes, most=10_000, labels=None):
    parts = {}
    for split in ("train", "test"):
        images = Digits().load(split)
        few = (images.labels < classes).nonzero().flatten()[:most]
        parts[f"x_{split}"], parts[f"y_{split}"] = images.images[few, 0].numpy(), images.labels[few].numpy()
    if labels is not None:
        parts["y_test"] = np.full_like(parts["y_test"], labels)
    np.savez(folder / "few.npz", **parts)
    return "few.npz"


def test_a_foreign_network_is_evaluated_in_a_folder_of_its_own(foreign, tmp_path):
    word = f"{foreign}:network"
    found = evaluate(word, data="digits", eps="0.1", examples=60, device="cpu")
    assert (found["run"], found["method"], found["architecture"]) == (word, "foreign", "Means")
    assert found["suite"]["name"] == "quick"
    assert (found["parameters"], found["data"]["name"], found["data"]["of"]) == (650, "digits", 360)
    assert 0 < found["worst"]["passed"] < found["clean"]["passed"]
    folder = tmp_path / "evaluations" / "foreign-nets-network"
    assert json.loads((folder / "evaluation.json").read_text()) == found
    assert len((folder / "examples.jsonl").read_text().splitlines()) == 60


def test_a_foreign_network_needs_images(foreign):
    assert refused(f"{foreign}:network") == (
        f"{foreign}:network: say on which images, with --data digits, --data ylecun/mnist or a path"
    )


def test_two_classes_under_standard(foreign, tmp_path):
    found = evaluate(
        f"{foreign}:two", data=digits_npz(tmp_path, 2), attacks=("standard",), eps="0.6", examples=12, device="cpu"
    )
    attacks = found["attacks"]
    assert list(attacks) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert found["clean"]["passed"] == 12
    # The first attack breaks them all, so the others, 5,000 queries among them, cost nothing.
    assert found["worst"]["passed"] == attacks["apgd-ce"]["passed"] == 0 < attacks["apgd-ce"]["forward"]
    assert [attacks[name]["forward"] for name in ("apgd-t", "fab-t", "square")] == [0, 0, 0]


def test_three_classes(foreign, tmp_path):
    found = evaluate(
        f"{foreign}:three",
        data=digits_npz(tmp_path, 3),
        attacks=("apgd-ce-20", "apgd-t", "fab-t", "square-100"),
        eps="0.2",
        examples=30,
        device="cpu",
    )
    assert 0 < found["worst"]["passed"] < found["clean"]["passed"]
    # Towards either wrong class a linear network errs exactly where it can.
    assert found["attacks"]["apgd-t"]["passed"] == found["attacks"]["fab-t"]["passed"] == found["worst"]["passed"]


def test_two_classes_reach_the_exact_worst_case(foreign, tmp_path, worst_case):
    evaluate(f"{foreign}:two", data=digits_npz(tmp_path, 2), eps="0.25", out="o", device="cpu")
    test = Digits().load("test")
    few = test.labels < 2
    x, y = test.images[few].float() / 255, test.labels[few]
    model = sys.modules[foreign].two()
    slope = model.linear.weight[1] - model.linear.weight[0]
    logits = model(x).detach()
    lead = (logits[:, 1] - logits[:, 0]) * (2 * y - 1)
    away = (-(2 * y - 1))[:, None] * slope.detach()
    left = lead - worst_case("linf", away.reshape(x.shape), x, 0.25)
    told = [json.loads(line) for line in Path("o/examples.jsonl").read_text().splitlines()]
    assert 5 < (left > 0).sum() < len(y) - 5
    assert [line["broken_by"] is None for line in told] == (left > 0).tolist()
    margins = torch.tensor([line["margin"] for line in told])
    assert torch.allclose(margins[left < 0].sign(), -torch.ones(int((left < 0).sum())))


def test_one_example(foreign, tmp_path):
    found = evaluate(f"{foreign}:two", data=digits_npz(tmp_path, 2), examples=1, eps="0.1", device="cpu")
    assert (found["clean"]["of"], found["data"]["examples"]) == (1, 1)
    assert evaluate(f"{foreign}:network", data="digits", examples=10**9, eps=0, device="cpu")["clean"]["of"] == 360


def test_probabilities_are_named(foreign):
    word = f"{foreign}:probabilities"
    assert refused(word, data="digits").startswith(f"{word}: it returns probabilities, on which attacks saturate")


def test_outputs_that_are_no_numbers_are_counted(foreign):
    word = f"{foreign}:undefined"
    assert refused(word, data="digits", examples=100) == f"{word}: the logits of 25 of 100 examples are not finite"


def test_a_network_without_gradients_is_attacked_without_them(foreign):
    word = f"{foreign}:blind"
    assert refused(word, data="digits") == (
        f"apgd-ce-20 needs gradients and {word} gives none; use square, hopskipjump or, from another network, a "
        f"transfer attack such as transfer-mi-fgsm"
    )
    options = {"data": "digits", "examples": 20, "eps": "0.3", "device": "cpu"}
    found = with_probes(word, attacks=("square-100", "hopskipjump"), save_adversarial=True, **options)
    assert found["worst"]["passed"] < found["clean"]["passed"]
    assert found["attacks"]["hopskipjump"]["backward"] == 0
    assert found["adversarial"]["confirmed"] == found["adversarial"]["images"] > 0
    assert found["reliability"]["result"] != "pass"


def test_labels_that_are_missing_or_mean_nothing(foreign, tmp_path):
    word, file = f"{foreign}:two", digits_npz(tmp_path, 2, labels=7)
    assert refused(word, data=file) == "few: label 7 is outside 0..1 (2 classes are named)"
    with np.load(tmp_path / file) as archive:
        parts = {name: archive[name] for name in archive if name != "y_test"}
    np.savez(tmp_path / file, **parts)
    assert refused(word, data=file) == f"{file}: array 'y_test' is missing; it holds x_train, y_train, x_test"


def test_files_in_the_order_of_their_classes_are_no_reason_to_warn(foreign, tmp_path):
    train, test = Digits().load("train"), Digits().load("test")
    order = (test.labels + 2 * (test.labels == 8)).argsort(stable=True)  # its worst class last
    order = order.flip(0)
    np.savez(
        tmp_path / "sorted.npz",
        x_train=train.images[:, 0],
        y_train=train.labels,
        x_test=test.images[order, 0],
        y_test=test.labels[order],
    )
    first = test.labels[order][:256]
    assert len(first.unique()) < 10
    steps = list(iter_evaluate(f"{foreign}:network", data="sorted.npz", eps=0, device="cpu"))
    assert steps[0].warnings == ()

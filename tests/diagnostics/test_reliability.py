import json
import math

import pytest
import torch

from overproof.diagnostics.reliability import Reliability, from_attacks
from overproof.evaluation.check import Check


def check(level="fine", name="steps", **figures):
    return Check(name=name, level=level, finding=f"{name} is {level}.", figures=figures)


def broke(*ranges, of=1000):
    """Return the mask of examples in these half-open ranges."""
    mask = torch.zeros(of, dtype=torch.bool)
    for first, end in ranges:
        mask[first:end] = True
    return mask


def compared(*, of=1000, clean=900, white_box=None, black_box=None, transfer=None):
    found = from_attacks(of=of, clean=clean, white_box=white_box, black_box=black_box, transfer=transfer)
    return {one.name: one for one in found}


# --- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "result"),
    [
        (["fine"], "pass"),
        (["fine", "fine"], "pass"),
        (["fine", "suspect", "fine"], "suspect"),
        (["fail", "suspect", "fine"], "fail"),
        (["suspect", "fail"], "fail"),
    ],
)
def test_the_result_is_the_worst_sign(levels, result):
    assert Reliability(checks=tuple(map(check, levels))).result == result


def test_the_sentence_names_what_is_wrong_and_the_worst_first():
    one = Reliability(checks=(check("suspect", "steps"), check("fine", "noise"), check("fail", "gradients")))
    assert one.sentence() == "The robust accuracy cannot be trusted: gradients is fail; steps is suspect."
    two = Reliability(checks=(check("suspect", "steps"), check()))
    assert two.sentence() == "The robust accuracy is to be doubted: steps is suspect."
    assert Reliability(checks=(check(), check())).sentence().endswith("as far as 2 checks can tell.")
    assert Reliability(checks=(check(),)).sentence().endswith("as far as 1 check can tell.")


def test_plain_is_strict_json_and_holds_everything():
    found = Reliability(checks=(check("fail", change=math.nan, tolerance=1e-5), check()))
    written = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert written["result"] == "fail" and written["sentence"] == found.sentence()
    assert written["signs"][0] == {
        "name": "steps",
        "level": "fail",
        "finding": "steps is fail.",
        "figures": {"change": None, "tolerance": 1e-5},
    }
    assert len(written["signs"]) == 2


def test_no_sign_is_no_verdict():
    with pytest.raises(ValueError, match="without any check"):
        Reliability(checks=())


# --- from the attacks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["black_box", "transfer"])
@pytest.mark.parametrize(("only", "level"), [(0, "fine"), (10, "fine"), (11, "suspect")])
def test_more_than_one_percent_of_all_that_gradients_missed_is_suspect(family, only, level):
    masks = {"white_box": broke((0, 500)), family: broke((400, 500 + only))}
    (found,) = compared(**masks).values()
    assert found.level == level
    assert found.figures == {"of": 1000, "only": only, "total": 100 + only, "white_box": 500}
    assert f"broke {only} of 1000 examples that white-box attacks did not" in found.finding


def test_the_percentage_is_of_all_examples_not_of_the_correct_ones():
    white, black = broke((0, 100), of=900), broke((100, 110), of=900)
    assert compared(white_box=white, black_box=black)["black-box"].level == "fine"
    assert compared(of=900, white_box=white, black_box=black)["black-box"].level == "suspect"


@pytest.mark.parametrize(("total", "level"), [(5, "fine"), (6, "suspect")])
def test_more_in_total_than_gradients_is_suspect_however_few(total, level):
    found = compared(white_box=broke((0, 5)), transfer=broke((3, 3 + total)))["transfer"]
    assert found.level == level
    assert ("6 in total against 5" in found.finding) == (level == "suspect")


def test_each_family_is_judged_on_its_own():
    found = compared(white_box=broke((0, 300)), black_box=broke((0, 200)), transfer=broke((290, 330)))
    assert {name: one.level for name, one in found.items()} == {"black-box": "fine", "transfer": "suspect"}


def test_without_gradients_there_is_nothing_to_compare_with():
    found = compared(black_box=broke((0, 300)), transfer=broke((0, 10)))
    assert list(found) == ["white-box"] and found["white-box"].level == "suspect"
    assert "only black-box and transfer attacks were run" in found["white-box"].finding
    assert compared(white_box=broke((0, 300))) == {}
    assert compared() == {}


def test_nothing_correct_breaks_nothing():
    none = torch.zeros(0, dtype=torch.bool)
    assert compared(clean=0, white_box=none, black_box=none)["black-box"].level == "fine"


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"clean": 1001}, "do not fit 1001 correct of 1000"),
        ({"clean": -1}, "do not fit -1 correct"),
        ({"white_box": broke(of=800)}, r"lengths \[800\] do not fit 900 correct of 1000"),
        ({"white_box": broke(of=900), "black_box": broke(of=1000)}, r"lengths \[900, 1000\]"),
        ({"white_box": broke((0, 901))}, "white-box attacks broke 901 examples, but only 900 were correct"),
    ],
)
def test_masks_that_do_not_fit_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        compared(**numbers)

import pytest

from overproof.report.overfitting import overfitting


def metrics(*found, **more):
    return [
        {"epoch": i, "validation": None if robust is None else {"epoch": i, "clean": 0.9, "robust": robust, **more}}
        for i, robust in enumerate(found, start=1)
    ]


def test_best_against_last():
    assert overfitting(metrics(0.3, 0.5, None, 0.42)) == (
        "best epoch 2: 50.0 % robust on held-out images; last epoch 4: 42.0 %; robust overfitting costs 8.0 points"
    )
    assert overfitting(metrics(0.3, 0.5, 0.495)) == (
        "best epoch 2: 50.0 % robust on held-out images; last epoch 3: 49.5 %; no robust overfitting to speak of"
    )
    assert overfitting(metrics(0.5, 0.5)).startswith("best epoch 1: ")
    assert overfitting(metrics(None)) == overfitting([]) == "no epoch was validated"


def test_a_loss_stands_with_its_interval():
    # Wilson: 0.56 of 50 is [0.4231, 0.6884], 0.50 of 50 is [0.3664, 0.6336].
    assert overfitting(metrics(0.56, 0.5, examples=50)).endswith(
        "on 50 held-out images; last epoch 2: 50.0 %; robust overfitting costs 6.0 points [-13.1, 24.5], which so few "
        "images cannot tell from noise"
    )
    assert overfitting(metrics(0.56, 0.5, examples=5000)).endswith("costs 6.0 points [4.0, 7.9]")


def test_an_epoch_of_one_answer_is_not_the_best_one():
    records = metrics(0.5, 0.4)
    records[0]["validation"]["constant"] = True
    assert overfitting(records).startswith("best epoch 2: 40.0 %")
    records[1]["validation"]["constant"] = True
    assert overfitting(records).endswith("; the selected network answers one class for nearly all images")


@pytest.mark.parametrize("robust", [0.0, 1.0])
def test_ends(robust):
    assert overfitting(metrics(robust, examples=10)).endswith("no robust overfitting to speak of")

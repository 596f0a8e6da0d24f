import torch

from overproof.evaluation.state import join_blocks, move_state

FIRST = {"verdict": torch.tensor([1, 2]), "passes": torch.tensor(2), "stage_seconds": torch.tensor([1.0, 0.5])}
SECOND = {"verdict": torch.tensor([0]), "passes": torch.tensor(3), "stage_seconds": torch.tensor([2.0, 0.25])}


def test_joining_keeps_the_order_and_adds_sums():
    found = join_blocks(iter([FIRST, SECOND]))
    assert found["verdict"].tolist() == [1, 2, 0]
    assert (int(found["passes"]), found["stage_seconds"].tolist()) == (5, [3.0, 0.75])


def test_values_of_examples_move_to_the_device_and_sums_stay():
    found = move_state(FIRST, torch.device("meta"))
    assert {name: value.device.type for name, value in found.items()} == {
        "verdict": "meta",
        "passes": "cpu",
        "stage_seconds": "cpu",
    }

import pytest
import torch
from torch import nn

from overproof.errors import InputError
from overproof.models.asking import check_weights_exist, try_batches

IMAGE = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, change=lambda rows, x: rows):
        super().__init__()
        self.linear, self.change = nn.Linear(16, 3), change

    def forward(self, x):
        return self.change(self.linear(x.flatten(1)), x)


def refused(change):
    with pytest.raises(InputError) as caught:
        try_batches(Net(change), IMAGE, where="net")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_asked_for_two_images_for_one_and_for_an_odd_number():
    sizes = []

    def noted(rows, x):
        sizes.append(len(x))
        assert not torch.is_grad_enabled()
        x.zero_()  # its own copy
        return rows

    assert try_batches(Net(noted), IMAGE, where="net").shape == (2, 3)
    assert sizes == [2, 1, 3] and IMAGE.any()


def _even(rows, x):
    if len(x) % 2:
        raise ValueError("odd")
    return rows


def _doubled(rows, x):
    torch.set_default_dtype(torch.float64)
    return rows


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows, x: rows.squeeze(), "net: given images [1, 1, 4, 4] it returned [3]; expected one row of logits"),
        (_even, "net: given images [1, 1, 4, 4] it raised ValueError: odd"),
        (lambda rows, x: rows[:2], "net: given images [3, 1, 4, 4] it returned [2, 3]"),
        (lambda rows, x: rows[:, : 1 + len(x)], "net: it returns 2 or 3 logits, by the batch's size"),
        (lambda rows, x: {"logits": rows}, "net: it returned an object of type dict; return the logits as one tensor"),
        (lambda rows, x: None, "net: it returned None"),
        (lambda rows, x: rows.argmax(1, keepdim=True), "net: it returned torch.int64 numbers; return floating-point"),
        (_doubled, "net: when it is asked it changes torch's default type; leave that out of it"),
    ],
)
def test_what_an_evaluation_could_not_ask_is_one_sentence(change, sentence):
    assert refused(change).startswith(sentence)
    assert torch.get_default_dtype() == torch.float32


def test_memory_that_runs_out_is_no_fault_of_the_network():
    def full(rows, x):
        raise MemoryError

    with pytest.raises(MemoryError):
        try_batches(Net(full), IMAGE, where="net")


def test_weights_that_are_not_there():
    check_weights_exist(Net(), where="net")
    with pytest.raises(InputError, match=r"^net: 1.weight has no size yet \(a lazy layer\); call the network once"):
        check_weights_exist(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), where="net")
    with pytest.raises(InputError, match=r"^net: weight has no numbers \(it is on torch's meta device\)"):
        check_weights_exist(nn.Linear(2, 2, device="meta"), where="net")

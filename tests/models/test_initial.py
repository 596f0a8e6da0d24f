import subprocess
import sys

import pytest
import torch
from torch import nn

from overproof.errors import InputError
from overproof.methods.rrm import RRM
from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.convnet import ConvNet
from overproof.models.initial import name_in_order, take_over
from overproof.models.weights import build
from overproof.signature import Signature

SIGNATURE = Signature(channels=3, height=6, width=6, classes=4)


def made(seed=0, classes=4):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5), nn.Linear(5, classes)
    )


def named(prefix, network):
    return {prefix + name: value for name, value in network.state_dict().items()}


def equal(one, other, names=None):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[name], other[name]) for name in names or one)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.model.", "net.encoder."])
def test_names_may_begin_with_customary_words(prefix):
    network, other = made(0), made(1)
    other[1].running_mean += 3
    other[1].num_batches_tracked += 7
    taken = take_over(network, named(prefix, other), where="init: x")
    assert equal(network, other)
    assert (len(taken.used), taken.made, taken.left) == (11, (), ())
    assert str(taken) == "11 of 11 tensors taken over"


def test_so_may_those_of_the_student():
    network, other = made(0), made(1)
    wrapped = nn.ModuleDict({"network": network})
    assert take_over(wrapped, named("module.", other), where="init: x").made == ()
    assert equal(network, other)


def test_a_head_for_other_classes_begins_anew_and_that_is_said():
    network, head = made(0), made(0)[5]
    other = made(1, classes=7)
    taken = take_over(network, named("", other), where="init: x")
    assert taken.made == ("5.weight", "5.bias")
    assert equal(network, other, taken.used)
    assert equal(network[5], head)
    assert str(taken) == "9 of 11 tensors taken over; newly made: 5.weight, 5.bias"


def test_what_has_no_place_is_named():
    weights = {**named("backbone.", made(1)), "backbone.neck.weight": torch.ones(2), "mean": torch.zeros(1)}
    taken = take_over(made(0), weights, where="init: x")
    assert taken.left == ("backbone.neck.weight", "mean")
    assert str(taken) == "11 of 11 tensors taken over; left out: backbone.neck.weight, mean"


def test_long_lists_are_cut():
    weights = named("", made(1)) | {f"more.{number}": torch.ones(1) for number in range(9)}
    taken = take_over(made(0), weights, where="init: x")
    assert str(taken).endswith("; left out: more.0, more.1, more.2, more.3 and 5 more")


def test_half_precision_is_taken_and_other_kinds_of_numbers_are_not():
    network = made(0)
    half = {name: value.half() if value.is_floating_point() else value for name, value in named("", made(1)).items()}
    taken = take_over(network, half | {"4.weight": torch.ones(5, 32, dtype=torch.int64)}, where="init: x")
    assert taken.made == ("4.weight",)
    assert torch.equal(network[0].weight, made(1)[0].weight.half().float())


def test_the_weights_are_copied():
    network, other = made(0), made(1)
    take_over(network, named("", other), where="init: x")
    with torch.no_grad():
        network[0].weight.add_(1)
    assert equal(other, made(1))


def test_an_adapted_student_begins_with_its_bases_weights():
    base = ConvNet(channels=(4,), hidden=(6,))
    student, other = build(FeatureAdapter(base=base, features=8), SIGNATURE), build(base, SIGNATURE)
    taken = take_over(student.backbone, named("", other.backbone), where="init: x")
    assert {name.partition(".")[0] for name in taken.made} == {"adapter", "linear"}
    assert equal(student.backbone.base, other.backbone, [name.removeprefix("base.") for name in taken.used])
    assert RRM().adapt_student(
        base, {"robust": build(ConvNet(channels=(4,), hidden=(8,)), SIGNATURE)}
    ) == FeatureAdapter(base=base, features=8)


@pytest.mark.parametrize(
    "weights",
    [{}, {"conv.weight": torch.ones(3)}, {"1.weight": torch.ones(2)}, {"0.weight": torch.ones(2, 3, 5, 5)}],
    ids=["nothing", "other names", "a vector alone", "another shape"],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_changed(weights):
    network = made(0)
    with pytest.raises(InputError, match=r"^init: x: none of its weights fits the student; it holds .*the student 0"):
        take_over(network, weights, where="init: x")
    assert equal(network, made(0))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_changed(value):
    network, other = made(0), made(1)
    with torch.no_grad():
        other[4].bias[2] = value
    with pytest.raises(InputError, match=r"^init: x: module\.4\.bias has values that are not finite$"):
        take_over(network, named("module.", other), where="init: x")
    assert equal(network, made(0))


def test_every_process_takes_the_same_of_two_that_fit():
    """The order of a set of texts is another one in every process."""
    code = (
        "import torch; from torch import nn; from overproof.models.initial import take_over; "
        "one = nn.Linear(1, 1); names = ('', 'module.', 'net.', 'student.', 'model.'); "
        "take_over(one, {f'{n}{w}': torch.full((1,) * d, float(i)) for i, n in enumerate(names) "
        "for w, d in (('weight', 2), ('bias', 1))}, where='x'); print(one.bias.item())"
    )
    for seed in "123":
        found = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert found.stdout == "0.0\n"


class TestOrder:
    """Weights whose names say nothing: an ONNX file's."""

    @staticmethod
    def plain(classes=4):
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5), nn.Linear(5, classes))

    @staticmethod
    def layers(network):
        """The tensors of a network by the numbers of its layers."""
        return {f"layer_{name}": value.clone() for name, value in network.state_dict().items()}

    def test_the_same_layers_are_the_same_network(self):
        network, other = made(0), made(1)
        other[1].running_mean += 3
        found = name_in_order(network, self.layers(other), where="init: x")
        taken = take_over(network, found, where="init: x")
        assert taken.made == ("1.num_batches_tracked",) and equal(network, other, taken.used)

    def test_a_batchnorm_that_an_export_folded_is_its_bias(self):
        class Normed(nn.Sequential):
            def __init__(self):
                super().__init__(
                    nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
                )

        network, folded = (
            Normed().double(),
            nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)),
        )
        folded.double()
        take_over(network, name_in_order(network, self.layers(folded), where="init: x"), where="init: x")
        x = torch.rand(3, 3, 6, 6, dtype=torch.float64)
        # The fresh deviation is sqrt(1 + 1e-5), half of which is what the convolution's part is off by.
        torch.testing.assert_close(network.eval()(x), folded(x), rtol=1e-4, atol=1e-5)

    def test_a_matrix_may_be_called_anything(self):
        class Placed(nn.Module):
            def __init__(self):
                super().__init__()
                self.place = nn.Parameter(torch.randn(1, 4, 5))
                self.head = nn.Linear(5, 3)

        network, other = Placed(), Placed()
        taken = take_over(network, name_in_order(network, self.layers(other), where="init: x"), where="init: x")
        assert taken.made == () and equal(network, other)

    def test_a_head_for_other_classes_is_left(self):
        network, other = self.plain(), self.plain(classes=7)
        head = {name: value.clone() for name, value in network[4].state_dict().items()}
        found = name_in_order(network, self.layers(other), where="init: x")
        taken = take_over(network, found, where="init: x")
        assert taken.made == ("4.weight", "4.bias")
        assert all(torch.equal(network[4].state_dict()[name], value) for name, value in head.items())

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            (
                nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 6), nn.Linear(6, 4)),
                "number 2 is 6x32, the student's 5x32",
            ),
            (
                nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 5)),
                "number 3 is missing, the student's 4x5",
            ),
            (
                nn.Sequential(nn.Conv2d(3, 2, 3), nn.Linear(32, 5), nn.Linear(5, 4), nn.Linear(4, 4)),
                "number 4 is 4x4, the student's missing",
            ),
            (nn.BatchNorm2d(3), "number 1 is missing, the student's 2x3x3x3"),
        ],
    )
    def test_other_layers_are_refused_with_the_first_that_differs(self, other, said):
        with pytest.raises(InputError) as caught:
            name_in_order(self.plain(), self.layers(other), where="init: x")
        assert str(caught.value) == (
            f"init: x: its weight matrices, in their order, are not the student's: {said}; name the network that it "
            "came from"
        )

from dataclasses import FrozenInstanceError

import pytest

from overproof.signature import Signature

MNIST = Signature(channels=1, height=28, width=20, classes=10)


def test_it_reads_as_a_size_and_a_number_of_classes():
    assert str(MNIST) == "1x28x20, 10 classes"


def test_it_is_a_value():
    assert Signature(channels=1, height=28, width=20, classes=10) == MNIST
    assert Signature(channels=1, height=28, width=20, classes=11) != MNIST
    assert eval(repr(MNIST)) == MNIST
    with pytest.raises(FrozenInstanceError):
        MNIST.classes = 3

import pytest
import torch

from overproof.methods.awp import AWP
from overproof.methods.catalogue import methods
from overproof.methods.divergence import IKL
from overproof.methods.kd import KD
from overproof.methods.mart import MART
from overproof.methods.natural import Natural
from overproof.methods.rslad import RSLAD
from overproof.training.soft_labels import needs_no_labels, takes_soft_labels

READ_CLASSES = {
    "adaiad",
    "crown_ibp",
    "dgad",
    "faithful",
    "iad",
    "ibp",
    "mart",
    "mtl_ibp",
    "saad",
    "sabr",
    "staps",
    "taps",
}
"""Methods that gather, bound or compare the label's logit: no share of two classes is defined for them."""


def test_every_method_says_whether_it_takes_shares_of_classes():
    assert {kind for kind, method in methods().items() if not takes_soft_labels(method())} == READ_CLASSES


def test_methods_that_need_no_label_are_found():
    found = {kind for kind, method in methods().items() if needs_no_labels(method())}
    assert found == {"adaad", "fare", "fast_ard", "igdm", "rslad", "saad_weight"}
    assert needs_no_labels(KD(alpha=1.0)) and not needs_no_labels(KD())
    assert not needs_no_labels(RSLAD(divergence=IKL()))  # whose class means are by label


@pytest.mark.parametrize(("base", "takes"), [(Natural(label_smoothing=0.1), True), (MART(), False)])
def test_a_wrapper_is_what_it_wraps(base, takes):
    assert takes_soft_labels(AWP(base=base)) == takes_soft_labels(base) == takes


def test_it_draws_nothing():
    state = torch.get_rng_state()
    takes_soft_labels(Natural(label_smoothing=0.37))
    assert torch.equal(torch.get_rng_state(), state)

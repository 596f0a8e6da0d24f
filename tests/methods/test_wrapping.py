import pytest

from overproof.methods.adaad import AdaAD
from overproof.methods.awp import AWP
from overproof.methods.b_mtard import BMTARD
from overproof.methods.iad import IAD
from overproof.methods.igdm import IGDM
from overproof.methods.peeraid import PeerAiD
from overproof.methods.wrapping import WrappingMethod

from .by_hand import step_of


@pytest.mark.parametrize(
    "method",
    [AWP(base=PeerAiD()), AWP(base=BMTARD()), IGDM(base=AdaAD()), IGDM(base=IAD())],
    ids=lambda method: f"{method.kind}-{method.base.kind}",
)
def test_what_is_not_changed_is_the_bases(method):
    base = method.base
    assert isinstance(method, WrappingMethod)
    for name in ("roles", "auxiliary_models", "updates", "bounds_teachers"):
        assert getattr(method, name) == getattr(base, name)
    like = step_of(method)
    assert method.initial_state(like).keys() == base.initial_state(like).keys()

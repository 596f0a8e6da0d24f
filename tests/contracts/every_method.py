"""What holds for every method, at its defaults and at each of its presets: the contract that users run on theirs."""

import pytest

from overproof import recipe
from overproof.attacks.ball import Radius, Threat
from overproof.attacks.pgd import PGD
from overproof.methods.awp import AWP
from overproof.methods.catalogue import methods
from overproof.methods.divergence import KL
from overproof.methods.fare import FARE
from overproof.methods.method import Method
from overproof.methods.natural import Natural
from overproof.testing import MethodContract
from overproof.testing.methods import run

CASES = [pytest.param((cls, None), id=kind) for kind, cls in methods().items()]
CASES += [
    pytest.param((cls, preset), id=f"{kind}-{preset}") for kind, cls in methods().items() for preset in cls.presets
]
NAMES = {"KL": KL, "PGD": PGD, "Radius": Radius, "Threat": Threat, **{cls.__name__: cls for cls in methods().values()}}


class TestEveryMethod(MethodContract):
    @pytest.fixture(params=CASES)
    def method(self, request):
        cls, preset = request.param
        return cls() if preset is None else recipe.build_value(cls, {"kind": cls.kind, "preset": preset})

    def untrained(self, method):
        heads = ("student.backbone.7.weight", "student.backbone.7.bias")
        return heads if isinstance(method, FARE) and not method.label_weight else ()

    def test_its_repr_rebuilds_it(self, method):
        assert eval(repr(method), dict(NAMES)) == method

    def test_a_recipe_of_its_own_class_rebuilds_it(self, method):
        assert recipe.build_value(type(method), recipe.plain(method)) == method


@pytest.mark.parametrize("cls", [pytest.param(cls, id=kind) for kind, cls in methods().items()])
def test_a_recipe_needs_to_say_its_kind_only(cls):
    assert recipe.build_value(Method, {"kind": cls.kind}) == cls()


def test_under_autocast_a_method_that_moves_weights_is_answered_by_the_moved_ones(make_step):
    # Autocast keeps low-precision copies of weights it has seen, which know nothing of AWP's displacement.
    found = {}
    for gamma in (0.0, 0.2):
        for autocast in (False, True):
            method = AWP(base=Natural(), gamma=gamma)
            step = make_step(method)
            step.student.eval()
            seen, _ = run(method, step, autocast=autocast)
            found[gamma, autocast] = float(seen[0]["label"])
    assert found[0.2, False] > 1.05 * found[0.0, False]
    assert found[0.2, True] == pytest.approx(found[0.2, False], rel=0.02)

import pytest

from overproof.methods.representations import as_wide_as
from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build
from overproof.signature import Signature

SIGNATURE = Signature(channels=1, height=4, width=4, classes=3)


@pytest.mark.parametrize("width", [5, 9])
def test_an_adapter_comes_where_widths_differ(width):
    teacher = build(MLP(hidden=(9,)), SIGNATURE)
    found = as_wide_as(MLP(hidden=(width,)), teacher)
    assert found == (MLP(hidden=(9,)) if width == 9 else FeatureAdapter(base=MLP(hidden=(5,)), features=9))
    assert build(found, SIGNATURE).head.in_features == 9

"""Networks of timm's families: followed, and bounded soundly."""

import pytest

pytest.importorskip("timm")

from benchmarks.families import smallest, tried

SMALL = (
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_nfnet",
    "test_resnet",
    "test_vit",
    "test_vit_relpos",
    "test_coatnet",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "edgenext_xx_small",
    "ghostnet_050",
    "lcnet_035",
    "levit_128s",
    "mobilenetv3_small_050",
    "rexnet_100",
    "skresnet18",
    "starnet_s050",
)
"""Of many families, those that are fast; ``python -m benchmarks.families`` tries all."""


@pytest.mark.parametrize("name", SMALL)
def test_it_is_bounded_and_its_bounds_hold(name):
    row = tried(name)
    assert "refused" not in row and row["held"] and row["finite"]


def test_a_family_without_bounds_is_refused_in_a_sentence():
    row = tried("sequencer2d_s")
    assert row["refused"] == "stages.0.blocks.0.rnn_tokens.rnn_v: no bounds for LSTM"


def test_the_smallest_network_of_a_family_is_taken():
    name, count = smallest("edgenext")
    assert name == "edgenext_xx_small" and 1e6 < count < 2e6

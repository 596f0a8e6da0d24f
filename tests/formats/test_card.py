import json

import pytest
import yaml
from huggingface_hub import ModelCard
from tests.formats.measured import measured_run

from overproof.formats.card import model_card


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Return what a card is made of, from a run that was measured."""
    run = measured_run(tmp_path_factory.mktemp("runs") / "toy")
    read = {name: json.loads((run / f"{name}.json").read_text()) for name in ("model", "evaluation", "certificate")}
    return {
        "config": {**read["model"], "license": "apache-2.0"},
        "recipe": (run / "recipe.yaml").read_text(),
        "evaluation": read["evaluation"],
        "certificate": read["certificate"],
    }


@pytest.fixture
def card(facts):
    def make(**changes):
        known = {**facts, **changes}
        return model_card(known.pop("config"), **known)

    return make


def test_every_figure_of_the_evidence_is_in_the_table(card, facts):
    text, found = card(), facts["evaluation"]
    for name, one in {"clean": found["clean"], **found["attacks"], "worst": found["worst"]}.items():
        low, high = one["interval"]
        row = f"| {name} | {100 * one['share']:.1f} [{100 * low:.1f}, {100 * high:.1f}] | {one['of']} |"
        assert row in text.splitlines()
    proven = facts["certificate"]["verified"]
    assert f"within linf eps 1/255 on {100 * proven['share']:.1f} [" in text
    assert "digits, 50 of 360 test images" in text
    assert f"{found['calibration']['clean']['ece']:.3f} on clean images" in text
    assert found["reliability"]["sentence"] in text


def test_the_header_is_what_the_hub_reads(card, facts):
    header = ModelCard(card()).data.to_dict()
    assert header["library_name"] == "overproof"
    assert header["license"] == "apache-2.0"
    assert header["pipeline_tag"] == "image-classification"
    (result,) = header["model-index"][0]["results"]
    values = [metric["value"] for metric in result["metrics"]]
    assert values == [facts["evaluation"]["clean"]["share"], facts["evaluation"]["worst"]["share"]]


def test_a_data_set_of_the_hub_is_linked(card, facts):
    recipe = yaml.safe_dump({**yaml.safe_load(facts["recipe"]), "data": {"kind": "hub", "id": "ylecun/mnist"}})
    header = ModelCard(card(recipe=recipe)).data
    assert header.datasets == ["ylecun/mnist"]
    assert header.eval_results[0].dataset_type == "ylecun/mnist"
    assert ModelCard(card()).data.datasets is None


def test_the_recipe_and_both_digests_are_in_it(card, facts):
    text = card()
    assert facts["recipe"].strip() in text
    assert f"`{facts['config']['digest']}`" in text
    assert f"`{facts['config']['recipe_digest']}`" in text
    assert "The recipe, as run" not in card(recipe=None)


def test_what_is_not_known_is_said(card, facts):
    text = card(evaluation=None, certificate=None)
    assert "Nothing was measured" in text and "Nothing is proved about it." in text
    assert "model-index" not in text
    assert "Nothing is proved about it." not in card()
    assert "upper estimates for linf changes of at most 1/255" in card()
    taught = card(config={**facts["config"], "teachers": {"robust": "cd"}})
    assert "SHA-256 of the robust teacher's weights: `cd`" in taught
    stranger = {**facts["config"], "license": "unknown", "imported": {"file": "x.pt", "sha256": "ab"}}
    text = card(config=stranger, evaluation={**facts["evaluation"], "selected_on": "unknown"})
    assert "licence: not stated by its publisher" in text
    assert "imported from: `x.pt` (SHA-256 `ab`)" in text
    assert "How its weights were selected is unknown" in text


def test_smoothing_is_not_the_networks_own_certificate(card, facts):
    text = card(certificate={**facts["certificate"], "kind": "smoothing"})
    assert "Proven of the network smoothed with noise, not of itself: correct" in text

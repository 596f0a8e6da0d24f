import pytest
import torch
from torch import nn

from overproof.errors import InputError
from overproof.models.classifier import Classifier
from overproof.runs.folder import Run
from overproof.runs.loaded import Known, LoadedModel, Origin, Preprocessing, check_classes, digest_of
from overproof.signature import Signature

DIGITS = Signature(channels=1, height=8, width=8, classes=10)


def known(**said):
    return Known(name="net", origin=Origin(kind="module", source="nets:make?width=4"), **said)


def model():
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), DIGITS, mean=(0.5,), std=(0.25,))


def test_what_a_network_says_of_itself_is_read_off_it_and_what_was_said_stays():
    network = model()
    found = LoadedModel.of(network, known(), DIGITS)
    assert (found.known.parameters, found.known.architecture, found.digest) == (650, "Sequential", digest_of(network))
    assert found.known.preprocessing == Preprocessing(mean=(0.5,), std=(0.25,))
    assert found.file is None
    said = known(parameters=3, architecture="mlp", digest="d")
    assert LoadedModel.of(network, said, DIGITS).known.facts() == {
        "run": "net",
        "method": "foreign",
        "architecture": "mlp",
        "recipe_seed": None,
        "model_digest": "d",
        "selected_on": "unknown",
        "parameters": 3,
    }


def test_a_network_for_other_images_is_refused():
    with pytest.raises(InputError, match=r"^nets:make\?width=4: it is for 1x8x8, 10 classes, the data are 3x8x8, 2 c"):
        LoadedModel.of(model(), known(), Signature(channels=3, height=8, width=8, classes=2))


def test_results_go_into_a_users_own_run_and_nowhere_else_by_themselves(tmp_path):
    run = Run(tmp_path)
    assert Origin(kind="run", source="runs/a", run=run).folder("evaluations") == tmp_path
    for origin in (
        Origin(kind="hub", source="org/a", run=Run(tmp_path, own=False)),
        Origin(kind="run", source="org/a", run=run, checkpoint="last"),
        Origin(kind="module", source="org/a"),
    ):
        assert origin.folder("exports").as_posix() == "exports/org-a"


def test_unknown_classes_cannot_be_checked_and_others_are_named():
    found = LoadedModel.of(model(), known(), DIGITS)
    found.check_classes(("a", "b"))
    check_classes(("a", "b"), ("a", "b"), where="x")
    with pytest.raises(InputError, match=r"^x was trained on other classes: its 1 is 'b', here it is None; so$"):
        check_classes(("a", "b"), ("a",), where="x", advice="; so")

"""The page for users of other libraries: our code on it runs from the top to the end, and does what it says."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
LIBRARIES = ["torchattacks", "foolbox", "AutoAttack", "RobustBench", "auto_LiRPA", "torchdistill"]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Return what our blocks define, all run in one namespace in an empty folder."""
    folder, found = tmp_path_factory.mktemp("page"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
            exec(block, found)
        assert list(folder.iterdir()) == []
    return found


def test_every_library_has_their_code_and_ours_after_it():
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections] == LIBRARIES
    for section in sections:
        assert re.findall(r"^```(\w+)", section, flags=re.MULTILINE) in (["py", "python"], ["yaml", "python"])


def test_images_are_inside_the_ball(names):
    x, x_adv = names["x"], names["x_adv"]
    assert (names["x_target"] - x).abs().max() <= 8 / 255 + 1e-6
    assert (x_adv - x).abs().max() <= 2 / 255 + 1e-6 and x_adv.amin() >= 0 and x_adv.amax() <= 1
    assert torch.linalg.vector_norm((names["x_boundary"] - x).flatten(1), dim=1).max() <= 0.5 + 1e-5


def test_figures_agree(names):
    assert names["clean"] == names["result"].clean_accuracy == 1
    assert names["robust"] == names["result"].robust_accuracy < 1
    assert len(names["still_right"]) == 16 * names["robust"]
    assert (names["lower"] <= names["upper"]).all()
    assert 0 < names["proved"].certified_accuracy <= 1


def test_the_student_has_learnt_and_the_teacher_has_not(names):
    assert all(weight.grad is not None for weight in names["student"].parameters())
    assert all(weight.grad is None for weight in names["teacher"].parameters())

"""What other packages bring goes through the commands as ours does: trained, resumed, swept, attacked, compared."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.test_building import OWN, POINTS

from overproof.commands.compare import compare
from overproof.commands.evaluate import evaluate
from overproof.commands.sweep import Sweep, is_done, read_sweep
from overproof.commands.train import train, training
from overproof.errors import InputError
from overproof.recipe import read
from overproof.runs.folder import Run
from overproof.unloaded import UnloadedMethod, UnloadedSource

RECIPE = {
    "name": "own",
    "data": "own_m:Data",
    "threat": {"eps": "0.1"},
    "augment": {"kind": "own_m:Dark", "by": 1, "crop": 1},
    "student": {"kind": "own_m:Net", "width": 16},
    "method": "own_m:Mine",
    "training": {"epochs": 2, "batch": 256, "optimiser": {"kind": "adamw", "lr": 0.01}, "precision": "fp32"},
    "selection": {"examples": 20, "trial": {"name": "own", "attack": "own_m:Search"}},
    "evaluation": {"examples": 30, "attacks": [{"name": "own", "attack": {"kind": "own_m:Search", "tries": 7}}]},
}


@pytest.fixture
def recipe(lay, monkeypatch):
    """Return the file of a recipe, with the module that it names beside it; the current folder is another one."""
    monkeypatch.chdir(lay("here"))
    file = lay("beside", own_m=OWN) / "own.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    return file


def forget():
    sys.modules.pop("own_m", None)


def test_a_run_is_resumed_to_the_bit(recipe, monkeypatch):
    whole = train(recipe, "whole", device="cpu")
    monkeypatch.setattr("overproof.training.pace.LOOK_SECONDS", 0)
    events = training(read(recipe), Path("part"), device="cpu", beside=recipe.parent)
    while next(events).progress.epoch < 1:
        pass
    events.close()
    forget()
    resumed = train(recipe, "part", device="cpu", resume=True)
    for name in ("model", "last"):
        one, other = (load_file(run.folder / f"{name}.safetensors") for run in (whole, resumed))
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert whole.recipe().digest == resumed.recipe().digest == read(recipe).digest


def test_resuming_without_the_method_says_where_it_was_looked_for(recipe):
    list(training(read(recipe), Path("run"), device="cpu", beside=recipe.parent))
    forget()
    (recipe.parent / "own_m.py").unlink()
    with pytest.raises(InputError) as found:
        train(recipe, "run", device="cpu", resume=True)
    assert "own_m:Data: a file may only name code that lies beside it or in the current folder" in str(found.value)
    assert f"(there is no 'own_m' in {recipe.parent}, {Path.cwd()})" in str(found.value)


def test_a_finished_run_needs_no_method(recipe, lay, monkeypatch, tmp_path):
    source = recipe.read_text()
    tree = {**yaml.safe_load(source), "data": "digits", "student": "mlp", "evaluation": {"examples": 30}}
    recipe.write_text(yaml.safe_dump(tree))
    run = train(recipe, "run", device="cpu")
    forget()
    (recipe.parent / "own_m.py").unlink()
    assert isinstance(run.recipe().method, UnloadedMethod)
    found = evaluate("run", device="cpu", reliability=False)
    assert found["method"] == "own_m:Mine" and "own_m" not in sys.modules
    assert len(compare(["run"])) == 1


@pytest.mark.filterwarnings("ignore:.*has changed since this network was trained:UserWarning")
def test_attacks_and_data_of_a_run_are_found_where_they_were_and_missed_before_the_work(recipe, lay):
    train(recipe, "run", device="cpu")
    forget()
    found = evaluate("run", device="cpu", reliability=False)
    assert list(found["attacks"]) == ["own"] and found["attacks"]["own"]["trial"]["attack"]["tries"] == 7
    forget()
    code = recipe.parent / "own_m.py"
    code.write_text(code.read_text().replace("Search", "Sought").replace("class Data", "class Dat"))
    with pytest.raises(InputError, match=r"recipe\.yaml\.data\.kind: own_m:Data: own_m.py has no 'Data' \(did you"):
        evaluate("run", device="cpu")
    with pytest.raises(InputError, match=r"recipe\.yaml\.evaluation\.attacks\.0\.attack\.kind: own_m:Search: own_m.py"):
        evaluate("run", device="cpu", data="digits")


def test_a_sweep_may_name_what_lies_beside_it(recipe, tmp_path):
    folder = tmp_path / "sweeps"
    folder.mkdir()
    shutil.move(recipe.parent / "own_m.py", folder / "own_m.py")
    recipe.write_text(yaml.safe_dump({"name": "x", "data": "digits", "student": "mlp", "method": "natural"}))
    file = folder / "sweep.yaml"
    axes = {"method": ["natural", "own_m:Mine"], "seed": [0, 1]}
    file.write_text(yaml.safe_dump({"base": str(recipe), "axes": axes}))
    found = read_sweep(file)
    assert isinstance(found, Sweep)
    assert [cell.recipe.method.kind for cell in found.cells] == ["natural", "natural", "mine", "mine"]
    assert found.cells[2].name == "method=own_m-Mine,seed=0"
    forget()
    (folder / "own_m.py").unlink()
    with pytest.raises(InputError, match=r"cell method=own_m-Mine,seed=0: .* a file may only name code"):
        read_sweep(file)


def test_names_of_an_installed_package_work_alike(install, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    install("own", POINTS, own_m=OWN)
    names = {
        **RECIPE,
        "data": "own-digits",
        "augment": {"kind": "dark", "by": 1, "crop": 1},
        "student": {"kind": "net", "width": 16},
        "method": "mine",
        "selection": {"examples": 20, "trial": {"name": "own", "attack": "search"}},
        "evaluation": {"examples": 30, "attacks": [{"name": "own", "attack": {"kind": "search", "tries": 7}}]},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(names))
    run = train(tmp_path / "own.yaml", "run", device="cpu")
    forget()
    assert evaluate("run", device="cpu", reliability=False)["method"] == "mine"
    assert run.description()["architecture"]["factory"] == "own_m:Net"
    assert isinstance(run.recipe().method, UnloadedMethod)


def test_what_came_from_the_hub_imports_nothing(recipe, monkeypatch):
    run = train(recipe, "run", device="cpu")
    forget()
    stranger = Run(run.folder.absolute(), own=False)
    monkeypatch.chdir(recipe.parent)
    with pytest.raises(InputError, match="'own_m:Data' is code that is not part of overproof"):
        stranger.recipe(imports=True).data.open("test")
    assert "own_m" not in sys.modules
    assert stranger.recipe(imports=True, trust_code=True).data.open("test").name == "digits"


def test_what_is_only_read_imports_nothing(recipe):
    run = train(recipe, "run", device="cpu")
    evaluate("run", device="cpu", reliability=False)
    forget()
    assert isinstance(run.recipe().data, UnloadedSource) and len(compare(["run"])) == 1
    assert "own_m" not in sys.modules


def test_a_cell_of_a_sweep_that_is_finished_is_known_without_its_code(recipe):
    found = train(recipe, "run", device="cpu")
    assert is_done(found, read(recipe)) and not is_done(found, read(recipe, ["training.epochs=3"]))

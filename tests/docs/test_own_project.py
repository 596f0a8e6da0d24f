"""The example of a package of one's own: installed, used by the command line, tested, and shown on its page."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own-project"
PAGE = ROOT / "docs" / "own.md"
NAMES = {
    "methods": ["one_target"],
    "attacks": ["corners", "bare-hands"],
    "models": ["tiny"],
    "datasets": ["bars"],
    "augmentations": ["noise"],
}
SMALL = ("--device", "cpu", "--set", "training.epochs=2")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder into which the package is installed, as pip does it; nothing is downloaded."""
    pytest.importorskip("setuptools", minversion="70.1", reason="older ones cannot build a wheel alone")
    source, target = tmp_path_factory.mktemp("source") / "own-project", tmp_path_factory.mktemp("target")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True, timeout=200)
    return target


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with the recipes, where the commands are given."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(EXAMPLE / "recipes", folder / "recipes")
    return folder


@pytest.fixture(scope="module")
def overproof(installed, place):
    """Return a function that gives a command beside the recipes, in a process that has the package."""

    def run(*words, package=True, fails=False):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        env["PYTHONPATH"] = str(installed) if package else ""
        command = [sys.executable, "-m", "overproof", *words]
        found = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=250)
        assert (found.returncode != 0) == fails, found.stdout + found.stderr
        return found.stderr if fails else found.stdout

    return run


@pytest.fixture(scope="module")
def student(overproof, place):
    """Return the run folder of the student, which its teacher has taught for two epochs."""
    overproof("train", "recipes/teacher.yaml", *SMALL)
    overproof("train", "recipes/student.yaml", *SMALL, "--keep-checkpoint")
    return place / "runs" / "own-student"


def test_what_it_brings_is_listed(overproof):
    for what, names in NAMES.items():
        lines = overproof("list", what).splitlines()
        for name in names:
            (line,) = [line for line in lines if line.startswith(f"{name} ")]
            assert "of the package own-project" in line.lower()


def test_its_keys_are_those_of_the_recipe(overproof, student):
    recipe = yaml.safe_load((student / "recipe.yaml").read_text())
    assert recipe["method"]["kind"] == "one_target" and recipe["method"]["alpha"] == 0.7
    assert recipe["data"] == {"kind": "bars", "images": 300, "size": 8, "noise": 0.25}
    assert (recipe["augment"]["kind"], recipe["augment"]["strength"]) == ("noise", 20)
    assert recipe["evaluation"]["attacks"][0]["attack"]["kind"] == "corners"
    said = overproof("train", "recipes/student.yaml", *SMALL, "--out", "runs/other", "--dry-run")
    assert "dry run: all of this was read and fits" in said and not (student.parent / "other").exists()


def test_a_run_goes_on_and_another_recipe_is_refused(overproof, student):
    shutil.copytree(student, student.parent / "longer")
    words = ("train", "recipes/student.yaml", "--device", "cpu", "--resume", "--out", "runs/longer")
    words += ("--set", "training.epochs=3")
    said = overproof(*words, "--set", "method.alpha=0.1", fails=True)
    assert "the recipe is not the one this run was started with" in said and "method.alpha: 0.7 -> 0.1" in said
    assert "epoch 3/3" in overproof(*words)


def test_it_is_attacked_certified_exported_and_compared(overproof, student):
    overproof("evaluate", "runs/own-student", "--device", "cpu", "--no-reliability")
    found = json.loads((student / "evaluation.json").read_text())
    assert list(found["attacks"]) == ["corners", "pgd-10"] and found["method"] == "one_target"
    options = {"kind": "corners", "norm": "linf", "eps": "0.1", "queries": 30}
    assert found["attacks"]["corners"]["trial"]["attack"] == options
    for suite in ("recipes/suite.yaml", "bare-hands", "own_project.attacks:bare_hands"):
        words = ("evaluate", "runs/own-student", "--device", "cpu", "--no-reliability", "--attacks", suite)
        assert "corners" in overproof(*words)
    assert "certified accuracy" in overproof("certify", "runs/own-student", "--device", "cpu", "--examples", "9")
    overproof("export", "runs/own-student", "--to", "onnx")
    assert (student / "model.onnx").is_file()
    page = (student / "report.html").read_text()
    assert "one_target" in page and "corners" in page
    assert "one_target" in overproof("compare", "runs/own-student", package=False)


def test_without_the_package_a_command_says_what_is_missing(overproof, student):
    said = overproof("train", "recipes/student.yaml", "--resume", package=False, fails=True)
    assert "there is no 'bars'" in said and "no installed package brings one of this name" in said
    said = overproof("evaluate", "runs/own-student", "--device", "cpu", package=False, fails=True)
    assert "own_project" in said or "'bars'" in said


def test_its_own_tests_pass(installed, tmp_path):
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(installed)}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    found = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=250)
    assert found.returncode == 0, found.stdout
    assert int(re.search(r"(\d+) passed", found.stdout)[1]) > 40


def test_its_code_is_small():
    code = [line for file in EXAMPLE.glob("src/**/*.py") for line in file.read_text().splitlines() if line.strip()]
    assert len(code) < 250


def test_the_code_of_the_page_is_that_of_the_example():
    blocks = re.findall(r"<!-- (\S+) -->\n```\w*\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 8
    for name, text in blocks:
        body = (EXAMPLE / name).read_text()
        for part in text.split("\n...\n"):
            assert part.strip() in body, f"{name}: {part}"
    assert {Path(name).suffix for name, _ in blocks} == {".py", ".yaml", ".toml"}

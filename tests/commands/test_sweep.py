import json
import sys
import time
from datetime import date
from functools import partial

import numpy as np
import pytest
import torch
import yaml

from overproof.commands import sweep as sweep_module
from overproof.commands.compare import compare
from overproof.commands.evaluate import evaluate
from overproof.commands.sweep import fitting_jobs, is_done, read_sweep, sweeping
from overproof.commands.train import train
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.recipe import Recipe
from overproof.runs.folder import Run


@pytest.fixture
def grid(tmp_path):
    """Return a function: a grid file beside its base recipe."""
    images = Digits().load("train")
    arrays = {"x_train": images.images[:300, 0].numpy(), "y_train": images.labels[:300].numpy()}
    np.savez(tmp_path / "digits.npz", **arrays, x_test=arrays["x_train"], y_test=arrays["y_train"])
    base = {
        "name": "base",
        "data": {"kind": "npz", "path": str(tmp_path / "digits.npz")},
        "threat": {"eps": "0.05"},
        "student": {"kind": "mlp", "hidden": [8]},
        "method": {"kind": "natural"},
        "training": {"epochs": 2, "batch": 100, "precision": "fp32"},
        "selection": {"examples": 20, "trial": {"name": "pgd-1", "attack": {"steps": 1}}},
        "evaluation": {"attacks": [{"name": "fgsm", "attack": {"steps": 1}}], "examples": 50},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))

    def make(axes=None, **keys):
        axes = {"seed": [0, 1], "training.optimiser.lr": [0.1, 0.2]} if axes is None else axes
        file = tmp_path / "grid.yaml"
        file.write_text(yaml.safe_dump({"base": "base.yaml", "axes": axes} | keys, sort_keys=False))
        return file

    return make


class TestReading:
    def test_every_combination_is_a_cell_with_its_values(self, grid):
        sweep = read_sweep(grid(), ["training.epochs=5"])
        assert sweep.name == "grid"
        assert str(sweep.folder) == "runs/grid"
        assert [cell.name for cell in sweep.cells] == [
            "seed=0,lr=0.1",
            "seed=0,lr=0.2",
            "seed=1,lr=0.1",
            "seed=1,lr=0.2",
        ]
        found = [(cell.recipe.seed, cell.recipe.training.optimiser.lr) for cell in sweep.cells]
        assert found == [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]
        assert all(cell.recipe.training.epochs == 5 for cell in sweep.cells)
        assert [cell.recipe.name for cell in sweep.cells] == [f"grid/{cell.name}" for cell in sweep.cells]

    def test_values_may_be_texts_and_trees(self, grid):
        axes = {
            "threat.eps": ["8/255", "4/255"],
            "method": [{"kind": "pgd_at", "inner": {"steps": 2}}],
            "training.averaging": [None],
            "selection.trial.attack.eps": ["1/255"],
        }
        first, second = read_sweep(grid(axes, name="mine")).cells
        words = "threat.eps=8-255,method=kind-pgd_at-inner-steps-2,averaging=null,selection.trial.attack.eps=1-255"
        assert first.name == words
        assert first.recipe.method.inner.steps == 2
        assert (str(first.recipe.threat.eps), str(second.recipe.threat.eps)) == ("8/255", "4/255")
        assert second.recipe.name.startswith("mine/")

    def test_the_base_may_be_a_shipped_recipe(self, grid):
        (cell,) = read_sweep(grid({"seed": [7]}, base="digits/natural")).cells
        assert cell.recipe.seed == 7

    def test_a_recipe_is_no_sweep(self, grid, tmp_path):
        grid()
        found = read_sweep(tmp_path / "base.yaml", ["seed=3"])
        assert isinstance(found, Recipe)
        assert found.seed == 3

    def test_a_name_stays_below_the_current_folder(self, grid):
        with pytest.raises(InputError, match=r"grid.yaml.name: a name is a folder below the current one"):
            read_sweep(grid(name="../../evil"))

    def test_a_small_file_does_not_make_endless_cells(self, grid):
        axes = {f"training.optimiser.{key}": list(range(100)) for key in ("lr", "momentum", "weight_decay")}
        with pytest.raises(InputError, match="1,000,000 cells are more than the 10,000 of one sweep"):
            read_sweep(grid(axes))

    @pytest.mark.parametrize(
        ("axes", "keys", "sentence"),
        [
            ([], {}, "axes map paths to lists of values"),
            ({}, {}, "axes map paths to lists of values"),
            ({"seed": 3}, {}, "axes.seed: expected a list of values, got 3"),
            ({"seed": []}, {}, "axes.seed: expected a list of values"),
            ({"name": ["a"]}, {}, "axes.name: cells are named after their values"),
            ({"sed": [1]}, {}, "cell sed=1: .*unknown key 'sed' .did you mean 'seed'"),
            ({"seed": [1, "x"]}, {}, "cell seed=x: .*seed: cannot use 'x'"),
            ({"seed": [1, 1]}, {}, "two cells are called seed=1"),
            ({"threat.eps": ["1/5", "1-5"]}, {}, "cell eps=1-5: .*cannot read '1-5'"),
            (None, {"base": 3}, "base names the recipe to start from"),
            (None, {"base": "digits/naturl"}, "no recipe file 'digits/naturl'.*digits/natural"),
            (None, {"jobs": 2}, "unknown key 'jobs' of a sweep"),
            (
                {"training.epochs": [date(2020, 1, 1)]},
                {},
                r"cell epochs=2020-01-01: training.epochs: cannot use datetime",
            ),
        ],
    )
    def test_bad_grids_are_one_sentence_before_anything_is_trained(self, grid, axes, keys, sentence):
        with pytest.raises(InputError, match=sentence):
            read_sweep(grid(axes, **keys))

    @pytest.mark.parametrize("number", [-1, 4, 100])
    def test_there_are_so_many_cells(self, grid, number):
        sweep = read_sweep(grid())
        assert sweep.cell(3) is sweep.cells[3]
        with pytest.raises(InputError, match=f"there is no cell {number}; its 4 are numbered from 0"):
            sweep.cell(number)


ROWS = {
    "student": {"recipe": "taught.yaml", "teachers": {"robust": "teacher"}, "set": {"training.epochs": 1}},
    "teacher": {"recipe": "base.yaml", "seeds": [0]},
}


class TestRows:
    @pytest.fixture
    def rows(self, grid, tmp_path):
        """Return a function: a sweep of rows beside the recipes of its students and its teacher."""
        grid()
        (tmp_path / "taught.yaml").write_text("base: base.yaml\nmethod: {kind: kd}\nteachers: {robust: nowhere}\n")

        def make(runs=ROWS, **keys):
            file = tmp_path / "rows.yaml"
            file.write_text(yaml.safe_dump({"runs": runs, "seeds": [0, 1]} | keys, sort_keys=False))
            return file

        return make

    def test_every_row_at_every_seed_is_a_cell_and_teachers_come_first(self, rows, tmp_path):
        sweep = read_sweep(rows(), ["student.hidden=[3]"])
        assert [cell.name for cell in sweep.cells] == ["teacher,seed=0", "student,seed=0", "student,seed=1"]
        teacher, student, other = (cell.recipe for cell in sweep.cells)
        assert (teacher.name, student.name) == ("rows/teacher,seed=0", "rows/student,seed=0")
        assert [one.seed for one in (teacher, student, other)] == [0, 0, 1]
        assert [one.training.epochs for one in (teacher, student)] == [2, 1]
        assert {one.student.hidden for one in (teacher, student, other)} == {(3,)}
        assert student.teachers == other.teachers == {"robust": "runs/rows/teacher,seed=0"}
        assert sweep.cells[1].recipe_in(tmp_path).teachers == {"robust": str(tmp_path / "teacher,seed=0")}
        assert sweep.cells[0].recipe_in(tmp_path) == teacher

    def test_a_teacher_of_all_seeds_teaches_the_student_of_its_own(self, rows):
        cells = read_sweep(rows({**ROWS, "teacher": {"recipe": "base.yaml"}})).cells
        assert {cell.name: dict(cell.teachers) for cell in cells if cell.teachers} == {
            "student,seed=0": {"robust": "teacher,seed=0"},
            "student,seed=1": {"robust": "teacher,seed=1"},
        }

    def test_the_seed_is_0_where_nobody_says(self, rows):
        assert [cell.recipe.seed for cell in read_sweep(rows(seeds=None)).cells] == [0, 0]

    @pytest.mark.parametrize(
        ("changes", "keys", "sentence"),
        [
            ({}, {"axes": {"seed": [1]}}, "unknown key 'axes' of a sweep of runs"),
            ({}, {"seeds": [1, 1]}, "a seed is there twice"),
            ({}, {"seeds": 3}, "seeds: expected a list of whole numbers, got 3"),
            ({}, {"name": "../x"}, "rows.yaml.name: "),
            ({"student": 3}, {}, "runs.student: expected a mapping, got 3"),
            ({"student": {}}, {}, "runs.student: key 'recipe' is missing"),
            ({"student": ROWS["student"] | {"seed": 3}}, {}, "unknown key 'seed' .did you mean 'seeds'"),
            ({"student": ROWS["student"] | {"set": {"seed": 3}}}, {}, "runs.student.set.seed: cells are named"),
            (
                {"student": ROWS["student"] | {"set": {"training.epoch": 3}}},
                {},
                "runs.student: .*did you mean 'epochs'",
            ),
            ({"student": ROWS["student"] | {"set": {"seeed": date(2020, 1, 1)}}}, {}, "seeed: cannot use datetime"),
            ({"student": ROWS["student"] | {"teachers": {"robust": "techer"}}}, {}, "did you mean 'teacher'"),
            ({"student": ROWS["student"] | {"teachers": {"robust": ["teacher"]}}}, {}, "there is no run"),
            (
                {"student": ROWS["student"] | {"teachers": {"robust": "student"}}},
                {},
                "runs.student is taught by itself",
            ),
            ({"student": ROWS["student"] | {"recipe": "digits/atd"}}, {}, "runs.student.recipe: no recipe file"),
            ({"teacher": ROWS["teacher"] | {"seeds": [3, 4]}}, {}, "runs.teacher has no seed 0 to teach runs.student"),
            ({"a/b": ROWS["teacher"]}, {}, "runs: 'a/b' is no folder's name"),
            ({"..": ROWS["teacher"]}, {}, "runs: '..' is no folder's name"),
            ({"teacher": {"recipe": "base.yaml", "seeds": list(range(10_001))}}, {}, "10,003 cells are more than"),
        ],
    )
    def test_bad_rows_are_one_sentence(self, rows, changes, keys, sentence):
        with pytest.raises(InputError, match=sentence) as caught:
            read_sweep(rows({**ROWS, **changes}, **keys))
        assert "rows.yaml" in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("runs", [{}, [], None, 3])
    def test_no_rows(self, rows, runs):
        with pytest.raises(InputError, match="runs: expected "):
            read_sweep(rows(runs))

    def test_a_student_is_trained_after_its_teacher_and_left_out_without_it(self, rows, tmp_path):
        sweep, out = read_sweep(rows(seeds=[0])), tmp_path / "out"
        ended = list(sweeping(sweep, out, jobs=2, device="cpu"))
        assert [(one.cell.name, one.problem) for one in ended] == [("teacher,seed=0", ""), ("student,seed=0", "")]
        assert ended[1].run.recipe().teachers == {"robust": str(out / "teacher,seed=0")}
        before = (ended[1].run.folder / "last.json").stat().st_mtime_ns
        assert len(list(sweeping(sweep, out, resume=True, device="cpu"))) == 2
        assert (ended[1].run.folder / "last.json").stat().st_mtime_ns == before

        bad = read_sweep(
            rows({**ROWS, "teacher": ROWS["teacher"] | {"set": {"training.optimiser.lr": 1e30}}}, seeds=[0])
        )
        events = sweeping(bad, tmp_path / "bad", jobs=2, device="cpu")
        assert "not finite" in next(events).problem
        assert next(events).problem == "left out, because teacher,seed=0 has failed"
        with pytest.raises(InputError, match=r"2 of 2 cells failed"):
            next(events)


def test_a_worker_pool_trains_all_keeps_what_is_finished_and_says_what_failed(grid, tmp_path):
    sweep, out, ended = read_sweep(grid({"training.optimiser.lr": [0.1, 1e30]})), tmp_path / "out", []
    events = sweeping(sweep, out, jobs=2, device="cpu")
    ended = {one.number: one for one in (next(events), next(events))}
    with pytest.raises(InputError, match=r"1 of 2 cells failed \(lr=1e.30\); --resume tries them again"):
        next(events)
    assert ended[0].problem == ""
    assert ended[1].problem.startswith("overproof: ")
    assert "not finite" in ended[1].problem
    assert [is_done(ended[n].run, ended[n].cell.recipe) for n in (0, 1)] == [True, False]

    # The grid, mended: the finished cell stays, the new one is trained, and both meet in one table.
    before = (out / "lr=0.1" / "last.json").stat().st_mtime_ns
    mended = read_sweep(grid({"training.optimiser.lr": [0.1, 0.2]}))
    assert [one.problem for one in sweeping(mended, out, resume=True, device="cpu")] == ["", ""]
    assert (out / "lr=0.1" / "last.json").stat().st_mtime_ns == before
    folders = [out / cell.name for cell in mended.cells]
    for folder in folders:
        evaluate(folder, device="cpu", reliability=False)
    (table,) = compare(folders)
    assert sorted(row.name for row in table.rows) == ["grid/lr=0.1", "grid/lr=0.2"]


class TestPool:
    """With a stand-in for the command."""

    @pytest.fixture
    def fused_form(self, monkeypatch, tmp_path):
        """Let a script run instead of ``overproof``; it writes down when it began and ended, and its words."""
        script = tmp_path / "stand_in.py"
        log = tmp_path / "log"
        log.mkdir()

        def make(body):
            script.write_text(
                "import json, os, sys, time\n"
                "begin, words = time.monotonic(), sys.argv[1:]\n"
                f"{body}\n"
                f"with open(os.path.join({str(log)!r}, words[words.index('--cell') + 1]), 'w') as file:\n"
                "    json.dump([begin, time.monotonic(), words, os.environ['OMP_NUM_THREADS']], file)\n"
            )
            real = partial(sweep_module.run_steps, program=(sys.executable, str(script)))
            monkeypatch.setattr(sweep_module, "run_steps", real)

            def is_written(run, recipe):
                names = [cell.name for cell in read_sweep(tmp_path / "grid.yaml").cells]
                return (log / str(names.index(run.folder.name))).is_file()

            monkeypatch.setattr(sweep_module, "is_done", is_written)
            return lambda: {int(file.name): json.loads(file.read_text()) for file in log.iterdir()}

        return make

    @pytest.mark.parametrize("jobs", [1, 3])
    def test_never_more_than_so_many_at_a_time(self, grid, tmp_path, fused_form, monkeypatch, jobs):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(sweep_module, "cores", lambda: 6)
        written = fused_form("time.sleep(0.2)")
        sweep = read_sweep(grid())
        ended = list(sweeping(sweep, tmp_path / "out", jobs=jobs, sets=["training.epochs=1"], device="cpu"))
        assert sorted(one.number for one in ended) == [0, 1, 2, 3]
        found = written()
        for begin, _, words, threads in found.values():
            assert sum(other[0] <= begin < other[1] for other in found.values()) <= jobs
            assert words[0] == "train"
            assert words[-2:] == ["--set", "training.epochs=1"]
            assert threads == str(6 // jobs)

    def test_small_networks_share_the_cores_where_nobody_says(self, grid, tmp_path, fused_form, monkeypatch):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(sweep_module, "cores", lambda: 2)
        written = fused_form("time.sleep(0.2)")
        list(sweeping(read_sweep(grid()), tmp_path / "out", device="cpu"))
        assert [threads for *_, threads in written().values()] == ["1"] * 4

    def test_a_caller_that_stops_stops_the_cells(self, grid, tmp_path, fused_form):
        written = fused_form("if '0' in words: sys.exit()\ntime.sleep(60)")
        events, began = sweeping(read_sweep(grid()), tmp_path / "out", jobs=2, device="cpu"), time.monotonic()
        assert next(events).number == 0
        events.close()
        assert time.monotonic() - began < 30
        assert written() == {}

    def test_a_cell_that_says_nothing_has_its_exit_status(self, grid, tmp_path, fused_form):
        fused_form("os.kill(os.getpid(), 9)")
        events = sweeping(read_sweep(grid({"seed": [0]})), tmp_path / "out", device="cpu")
        assert next(events).problem == "exit status -9"
        with pytest.raises(InputError, match="1 of 1 cells failed"):
            next(events)

    def test_when_the_time_is_up_what_runs_is_stopped_and_no_further_cell_begins(self, grid, tmp_path, fused_form):
        written = fused_form("time.sleep(0 if '0' in words else 60)")
        sweep, began = read_sweep(grid()), time.monotonic()
        ended = list(sweeping(sweep, tmp_path / "out", jobs=1, device="cpu", deadline=time.monotonic() + 5))
        assert [(one.number, one.problem) for one in ended] == [(0, "")]
        assert time.monotonic() - began < 30
        assert set(written()) == {0}

    def test_workers_share_several_gpus(self, monkeypatch):
        monkeypatch.setattr(sweep_module.torch.cuda, "device_count", lambda: 2)
        assert [sweep_module._place("auto", slot) for slot in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
        assert sweep_module._place("cpu", 1) == "cpu"
        monkeypatch.setattr(sweep_module.torch.cuda, "device_count", lambda: 1)
        assert sweep_module._place("auto", 1) == "auto"


class TestFittingJobs:
    """How many cells are trained at a time where nobody says."""

    @pytest.fixture(autouse=True)
    def _machine(self, monkeypatch):
        monkeypatch.setattr(sweep_module, "cores", lambda: 3)

    def test_one_per_core_but_no_more_than_cells(self, grid):
        assert fitting_jobs(read_sweep(grid()), "cpu") == 3
        assert fitting_jobs(read_sweep(grid({"seed": [0, 1]})), "cpu") == 2

    def test_one_where_a_single_cell_would_gain_from_threads(self, grid, monkeypatch):
        sweep = read_sweep(grid({"training.batch": [10, 100], "seed": [0, 1]}))
        monkeypatch.setattr(sweep_module, "ONE_CORE", 50 * (64 * 8 + 8 * 10))  # the base's network, 50 images
        assert fitting_jobs(sweep, "cpu") == 1
        monkeypatch.setattr(sweep_module, "ONE_CORE", 100 * (64 * 8 + 8 * 10))
        assert fitting_jobs(sweep, "cpu") == 3

    def test_data_that_cannot_be_read_are_the_cells_to_tell(self, grid, tmp_path):
        sweep = read_sweep(grid())
        (tmp_path / "digits.npz").unlink()
        assert fitting_jobs(sweep, "cpu") == 1

    def test_one_per_gpu(self, grid, monkeypatch):
        monkeypatch.setattr(sweep_module, "pick_device", lambda wish: torch.device("cuda"))
        monkeypatch.setattr(sweep_module.torch.cuda, "device_count", lambda: 2)
        assert fitting_jobs(read_sweep(grid())) == 2
        assert fitting_jobs(read_sweep(grid()), "cuda:1") == 1


class TestBadInput:
    def test_folders_in_the_way(self, grid, tmp_path):
        sweep = read_sweep(grid())
        (tmp_path / "out" / sweep.cells[2].name).mkdir(parents=True)
        with pytest.raises(InputError, match=r"lr=0\.1: exists already; continue the sweep with --resume"):
            next(sweeping(sweep, tmp_path / "out"))

    def test_no_workers(self, grid, tmp_path):
        with pytest.raises(InputError, match="--jobs must be at least 1, got 0"):
            next(sweeping(read_sweep(grid()), tmp_path, jobs=0))

    def test_a_launcher_around_a_sweep(self, grid, tmp_path, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match="to train one cell with several, name it with --cell"):
            next(sweeping(read_sweep(grid()), tmp_path))

    def test_a_run_is_finished_when_its_last_epoch_is_written_and_the_recipe_is_this_one(self, toy, tmp_path):
        recipe, run = toy(), train(toy(), tmp_path / "run", device="cpu")
        assert is_done(run, recipe)
        assert not is_done(run, toy("training.epochs=3"))
        assert not is_done(run, toy("seed=9"))
        assert not is_done(Run(run.folder / "elsewhere"), recipe)

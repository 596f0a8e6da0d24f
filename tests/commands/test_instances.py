import csv
import json
import os
import time

import pytest
import torch
from tests.commands.small_queries import NET, query
from tests.models.external.onnx_files import LAST, chain, file, head

from overproof.commands import instances as module
from overproof.commands.instances import ASKED, COLUMNS, RESULTS, iter_decide, read_instances
from overproof.errors import InputError
from overproof.formats.vnnlib import instances, margin_gap, pair_of_files

UNSAT, SAT = query("(assert (>= Y_0 3.5))"), query("")


def write(folder, **files):
    """Write files by paths in which ``__`` is a slash and ``_`` before an ending is a point."""
    for name, body in files.items():
        place = folder / (name.replace("__", "/").replace("_onnx", ".onnx").replace("_vnnlib", ".vnnlib"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(body if isinstance(body, bytes) else body.encode())


@pytest.fixture
def three(tmp_path):
    """A benchmark as VNN-COMP lays it out: one of each answer that needs no search, and one that is no query."""
    write(tmp_path, onnx__a_onnx=NET, vnnlib__u_vnnlib=UNSAT, vnnlib__s_vnnlib=SAT, vnnlib__bad_vnnlib="(assert")
    names = ["u", "s", "bad"]
    rows = [("onnx/a.onnx", f"vnnlib/{name}.vnnlib", 30) for name in names]
    (tmp_path / "instances.csv").write_text(instances(rows))
    return tmp_path / "instances.csv"


def results(out):
    with (out / RESULTS).open(newline="") as table:
        head, *rows = csv.reader(table)
    assert tuple(head) == COLUMNS
    return {row[1]: row[3] for row in rows}


class TestReading:
    def test_the_competitions_form(self, three):
        first, *_ = read_instances(three)
        assert (first.line, first.seconds, first.witness) == (1, 30.0, "a_u")
        assert first.cells == ("onnx/a.onnx", "vnnlib/u.vnnlib", "30")
        assert first.networks == {"": three.parent / "onnx/a.onnx"} and first.query == three.parent / "vnnlib/u.vnnlib"

    def test_a_header_and_files_in_folders_beside(self, tmp_path):
        write(tmp_path, onnx__a_onnx=NET, queries__one__q_vnnlib=UNSAT, queries__two__q_vnnlib=SAT)
        (tmp_path / "queries/two/q.vnnlib").rename(tmp_path / "queries/two/q.vnnlib.gz")
        table = tmp_path / "queries/instances.csv"
        table.write_text("benchmark,network,query,timeout_s\none,a.onnx,q.vnnlib,300\n\ntwo,a.onnx,q.vnnlib,1.5\n")
        one, two = read_instances(table)
        assert one.query == tmp_path / "queries/one/q.vnnlib" and two.query == tmp_path / "queries/two/q.vnnlib.gz"
        assert one.networks[""].resolve() == tmp_path / "onnx/a.onnx"
        assert (one.witness, two.witness) == ("a_q", "a_q-2") and two.seconds == 1.5

    def test_two_networks_in_one_cell(self, tmp_path):
        write(tmp_path, onnx__t_onnx=NET, onnx__s_onnx=NET, vnnlib__q_vnnlib=UNSAT)
        cell = pair_of_files("onnx/t.onnx", "onnx/s.onnx")
        (tmp_path / "i.csv").write_text(instances([(cell, "vnnlib/q.vnnlib", 5)]))
        (read,) = read_instances(tmp_path / "i.csv")
        assert read.networks == {"teacher": tmp_path / "onnx/t.onnx", "student": tmp_path / "onnx/s.onnx"}
        assert read.cells[0] == "[('teacher','onnx/t.onnx'),('student','onnx/s.onnx')]"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("onnx/a.onnx,vnnlib/u.vnnlib\n", r"line 1: expected a network, a query and seconds, got 'onnx/a"),
            ("onnx/a.onnx,vnnlib/u.vnnlib,5,6\n", r"line 1: expected a network"),
            ("onnx/a.onnx,vnnlib/u.vnnlib,5\nonnx/a.onnx,vnnlib/u.vnnlib,soon\n", r"line 2: 'soon' are no seconds"),
            ("onnx/a.onnx,vnnlib/u.vnnlib,-5\n", r"line 1: '-5' are no seconds above 0$"),
            ("onnx/a.onnx,vnnlib/u.vnnlib,nan\n", r"line 1: 'nan' are no seconds above 0$"),
            ("", r"it has no instances$"),
            ("network,query,timeout\n", r"it has no instances$"),
            (
                "onnx/a.onnx,vnnlib/none.vnnlib,5\nb.onnx,c.vnnlib,5\n",
                r"there is no .*/none\.vnnlib, and 2 more$",
            ),
            ("[('t','x'),('s')],vnnlib/u.vnnlib,5\n", r"line 1: expected a network"),
            ("\"[('t','x'),('s','y')]\",vnnlib/u.vnnlib,5\n", r"there is no .*x, and 1 more$"),
            ("a" * 200_000 + ",b,5\n", r"not readable as a table of instances"),
        ],
    )
    def test_what_is_wrong_with_a_file(self, three, text, said):
        three.write_text(text)
        with pytest.raises(InputError, match=rf"instances\.csv: {said}"):
            list(iter_decide(three, three.parent / "out"))
        assert not (three.parent / "out").exists()


class TestDeciding:
    def test_every_instance_has_a_line_and_errors_are_told(self, three):
        out = three.parent / "out"
        ended = list(iter_decide(three, out, jobs=2))
        assert results(out) == {"vnnlib/u.vnnlib": "unsat", "vnnlib/s.vnnlib": "sat", "vnnlib/bad.vnnlib": "error"}
        assert sorted(each.done for each in ended) == [1, 2, 3] and {each.total for each in ended} == {3}
        (bad,) = [each for each in ended if each.result == "error"]
        assert "a parenthesis is never closed" in bad.notes[0]
        assert (out / "a_s.counterexample").read_text().startswith("((X_0 ")
        facts = json.loads((out / ASKED).read_text())
        assert facts["seconds"] is None and facts["jobs"] == 2 and facts["hardware"]

    def test_existing_results_are_kept_unless_it_is_said_what_to_do(self, three):
        out = three.parent / "out"
        list(iter_decide(three, out))
        before = (out / RESULTS).read_text()
        with pytest.raises(InputError, match=r"exists already; --resume continues it, --overwrite begins again$"):
            list(iter_decide(three, out))
        again = list(iter_decide(three, out, resume=True))
        assert [each.result for each in again] == ["error"]  # which is tried again; the others are kept
        assert (out / RESULTS).read_text().splitlines()[:3] == before.splitlines()[:3]
        assert len(list(iter_decide(three, out, overwrite=True))) == 3

    def test_it_resumes_behind_half_a_line(self, three):
        out = three.parent / "out"
        events = iter_decide(three, out)
        next(events)
        events.close()
        with (out / RESULTS).open("a") as table:
            table.write("onnx/a.onnx,vnnlib/s.vnn")
        assert [each.done for each in iter_decide(three, out, resume=True)] == [2, 3]
        assert len(results(out)) == 3

    def test_another_question_is_not_resumed(self, three):
        out = three.parent / "out"
        list(iter_decide(three, out))
        with pytest.raises(InputError, match=r"results are of another --seconds; choose another --out"):
            list(iter_decide(three, out, resume=True, seconds=5.0))
        with pytest.raises(InputError, match=r"results are of another --seed"):
            list(iter_decide(three, out, resume=True, seed=1))
        with pytest.raises(InputError, match=r"results are of another --precision"):
            list(iter_decide(three, out, resume=True, precision="float32"))
        three.write_text(three.read_text() * 2)
        with pytest.raises(InputError, match=r"results are of other instances"):
            list(iter_decide(three, out, resume=True))
        with pytest.raises(InputError, match=r"give one of them$"):
            list(iter_decide(three, out, resume=True, overwrite=True))

    def test_what_is_no_table_of_results(self, three):
        out = three.parent / "out"
        list(iter_decide(three, out))
        good = (out / RESULTS).read_text()
        for bad in (good.replace("unsat", "unsat,1"), good.replace("network", "net"), good.replace("u.vnn", "v.vnn")):
            (out / RESULTS).write_text(bad)
            with pytest.raises(InputError, match=r"results\.csv: (it is no table|its results are of other)"):
                list(iter_decide(three, out, resume=True))

    def test_an_instance_twice_is_decided_twice(self, three):
        three.write_text(three.read_text().splitlines()[0] + "\n" + three.read_text().splitlines()[0] + "\n")
        out = three.parent / "out"
        events = iter_decide(three, out)
        next(events)
        events.close()
        assert len(list(iter_decide(three, out, resume=True))) == 1

    def test_pairs(self, tmp_path):
        x = torch.tensor([[[0.2, 0.5], [0.95, 0.3]]])
        net = file(chain(*LAST), head(4, 3), sizes=(1, 2, 2), classes=3)
        write(tmp_path, onnx__t_onnx=net, onnx__s_onnx=net, vnnlib__q_vnnlib=margin_gap(x, 0, 3, 0.1, 0.5))
        row = (pair_of_files("onnx/t.onnx", "onnx/s.onnx"), "vnnlib/q.vnnlib", 30)
        (tmp_path / "instances.csv").write_text(instances([row]))
        (ended,) = iter_decide(tmp_path / "instances.csv", tmp_path / "out")
        assert ended.result == "unsat"

    def test_options(self, three):
        with pytest.raises(InputError, match=r"^--jobs must be at least 1, got 0$"):
            list(iter_decide(three, three.parent / "out", jobs=0))
        with pytest.raises(InputError, match=r"^seconds must be above 0"):
            list(iter_decide(three, three.parent / "out", seconds=-1.0))


@pytest.fixture
def worked(tmp_path, monkeypatch):
    """Return a function: what becomes of three instances where the work is these lines; ``name`` is a's, b's or c's."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))

    def run(*lines, **options):
        body = "\n    ".join(
            ["name = words['witness'][-1]", *lines, "return dict(result='unsat', seconds=1.0, notes=[])"]
        )
        (tmp_path / "worked.py").write_text(f"import os, time\n\ndef work(**words):\n    {body}\n")
        monkeypatch.setattr(module, "_WORK", "worked:work")
        write(tmp_path, n_onnx=NET, a_vnnlib=UNSAT, b_vnnlib=UNSAT, c_vnnlib=UNSAT)
        rows = [("n.onnx", f"{name}.vnnlib", seconds) for name, seconds in (("a", 500), ("b", 20), ("c", 300))]
        (tmp_path / "instances.csv").write_text(instances(rows))
        ended = list(iter_decide(tmp_path / "instances.csv", tmp_path / "out", **options))
        return {each.instance.query.stem: (each.result, *each.notes) for each in ended}

    return run


class TestProcesses:
    def test_a_process_that_is_killed_is_one_error(self, worked):
        found = worked("if name == 'a': os.kill(os.getpid(), 9)", jobs=1)
        assert found["b"] == found["c"] == ("unsat",)
        assert found["a"][0] == "error" and "ended with exit status -9" in found["a"][1]

    def test_what_takes_far_too_long_is_ended(self, worked, monkeypatch):
        monkeypatch.setattr(module, "_GRACE", -19.5)  # so that half a second is left to b
        started = time.monotonic()
        found = worked("if name == 'b': time.sleep(300)", jobs=2)
        assert found["b"][0] == "error" and "its process was ended" in found["b"][1]
        assert time.monotonic() - started < 250

    def test_the_time_is_the_instances_own_or_less(self, worked):
        lines = "return dict(result=str(words['seconds']), seconds=1.0, notes=[])"
        assert worked(lines) == {"a": ("500.0",), "b": ("20.0",), "c": ("300.0",)}
        assert worked(lines, seconds=25.0, overwrite=True) == {"a": ("25.0",), "b": ("20.0",), "c": ("25.0",)}

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_at_most_so_many_at_a_time(self, worked, tmp_path, jobs):
        worked(f"open(r'{tmp_path}/' + name + '.begun', 'w').close(); time.sleep(0.2)",
               f"left = [each for each in 'abc' if os.path.exists(r'{tmp_path}/' + each + '.begun')]",
               f"ended = [each for each in 'abc' if os.path.exists(r'{tmp_path}/' + each + '.ended')]",
               f"assert len(left) - len(ended) <= {jobs}",
               f"open(r'{tmp_path}/' + name + '.ended', 'w').close()", jobs=jobs)  # fmt: skip
        assert results(tmp_path / "out") == {f"{name}.vnnlib": "unsat" for name in "abc"}

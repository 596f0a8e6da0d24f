"""What a verifier prints: the decision on the last line, whatever happens."""

import json

import pytest
from tests.commands.small_queries import IDENTITY, NET, query
from tests.models.external.onnx_files import chain, file

from overproof.commands.instances import RESULTS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(NET)
    (tmp_path / "unsat.vnnlib").write_text(query("(assert (>= Y_0 3.5))"))
    (tmp_path / "sat.vnnlib").write_text(query(""))
    (tmp_path / "strict.vnnlib").write_text(query("(assert (> Y_0 3.5))"))
    (tmp_path / "instances.csv").write_text("net.onnx,unsat.vnnlib,60\nnet.onnx,sat.vnnlib,60\n")
    return tmp_path


class TestQuery:
    def test_unsat(self, folder, run_cli):
        code, out, err = run_cli("certify", "net.onnx", "--query", "unsat.vnnlib", "--seconds", "60")
        first, last = out.splitlines()
        assert (code, err, last) == (0, "", "unsat") and first.startswith("net.onnx; unsat.vnnlib; cases 1; ")

    def test_in_float64(self, folder, run_cli):
        words = ["net.onnx", "--query", "unsat.vnnlib", "--precision", "float64"]
        code, out, err = run_cli("certify", *words)
        assert (code, err, out.splitlines()[-1]) == (0, "", "unsat")

    def test_sat_with_its_witness(self, folder, run_cli):
        code, out, err = run_cli("certify", "net.onnx", "--query", "sat.vnnlib", "--out", "found", "--seed", "3")
        assert (code, err, out.splitlines()[-1]) == (0, "", "sat")
        place = folder / "found" / "net_sat.counterexample"
        assert out.splitlines()[-2] == "counter-example, confirmed by onnxruntime: found/net_sat.counterexample"
        assert place.read_text().startswith("((X_0 ") and place.read_text().endswith("))\n")

    def test_what_cannot_be_bounded_is_told_and_unknown(self, folder, run_cli):
        body = file(chain(("Sin", (), {}), ("Gemm", ("w", "b"), {})), IDENTITY, sizes=(2,), classes=2)
        (folder / "sin.onnx").write_bytes(body)
        code, out, err = run_cli("certify", "sin.onnx", "--query", "unsat.vnnlib", "--seconds", "0.5")
        assert (code, out.splitlines()[-1]) == (0, "unknown")
        assert err.startswith("sin.onnx: operator Sin (node 'Sin_x0') has no form in torch") and err.count("\n") == 1

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["net.onnx", "--query", "strict.vnnlib"], "strict.vnnlib: the query's ['>', 'Y_0', '3.5'] is strict"),
            (["net.onnx", "--query", "none.vnnlib"], "none.vnnlib: there is no such file"),
            (["none.onnx", "--query", "unsat.vnnlib"], "none.onnx: there is no such file"),
            (["unsat.vnnlib", "--query", "unsat.vnnlib"], "unsat.vnnlib: not readable as an ONNX file"),
            (["net.onnx", "net.onnx", "--query", "unsat.vnnlib"], "about one network, and 2 are given"),
            (["net.onnx", "--query", "unsat.vnnlib", "--seconds", "0"], "seconds must be above 0, got 0"),
            (
                ["net.onnx", "--query", "unsat.vnnlib", "--eps", "0.1"],
                "--eps has no meaning with --query; leave it out",
            ),
            (["net.onnx", "--query", "unsat.vnnlib", "--resume"], "--resume has no meaning with --query"),
            (["--query", "unsat.vnnlib"], "say which ONNX file the query is about"),
        ],
    )
    def test_bad_input_is_one_sentence_and_error_on_the_last_line(self, folder, run_cli, words, said):
        code, out, err = run_cli("certify", *words)
        assert (code, out) == (2, "error\n")
        assert err.startswith("overproof: ") and said in err and err.count("\n") == 1

    def test_an_error_of_ours_is_error_too(self, folder, run_cli, monkeypatch, capsys):
        from overproof.commands import decide

        def fails(*_, **__):
            raise ZeroDivisionError

        monkeypatch.setattr(decide, "verify", fails)
        with pytest.raises(ZeroDivisionError):
            run_cli("certify", "net.onnx", "--query", "unsat.vnnlib")
        assert capsys.readouterr().out == "error\n"

    def test_memory_that_ran_out_is_error(self, folder, run_cli, monkeypatch):
        from overproof.commands import decide

        def fails(*_, **__):
            raise MemoryError

        monkeypatch.setattr(decide, "verify", fails)
        code, out, err = run_cli("certify", "net.onnx", "--query", "unsat.vnnlib")
        assert (code, out) == (2, "error\n") and err.startswith("overproof: this needs more memory")


class TestInstances:
    def test_a_line_each_and_a_table(self, folder, run_cli):
        code, out, err = run_cli("certify", "--instances", "instances.csv", "--jobs", "2", "--seconds", "50")
        assert (code, err) == (0, "")
        assert json.loads((folder / "results.json").read_text())["precision"] == "float64"
        lines = out.splitlines()
        assert len(lines) == 3 and lines[0].startswith("1/2 net.onnx, ") and lines[1].startswith("2/2 net.onnx, ")
        assert lines[2].startswith("sat 1, unsat 1, unknown 0, error 0; ") and lines[2].endswith("; results.csv")
        assert (folder / RESULTS).read_text().startswith("network,query,timeout,result,seconds\nnet.onnx,")
        code, out, err = run_cli("certify", "--instances", "instances.csv", "--seconds", "50")
        assert (code, out) == (2, "") and err.endswith("--resume continues it, --overwrite begins again\n")
        code, out, err = run_cli("certify", "--instances", "instances.csv", "--seconds", "50", "--resume")
        assert (code, out) == (0, "sat 0, unsat 0, unknown 0, error 0; 0.0 s; results.csv\n")

    def test_an_error_is_told(self, folder, run_cli):
        (folder / "instances.csv").write_text("net.onnx,strict.vnnlib,60\n")
        code, out, err = run_cli("certify", "--instances", "instances.csv", "--out", "o")
        assert code == 0 and "1/1 net.onnx, strict.vnnlib: error, " in out
        assert err.startswith("strict.vnnlib: strict.vnnlib: the query's") and err.count("\n") == 1

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["net.onnx"], "net.onnx has no meaning with --instances; leave it out"),
            (["--query", "sat.vnnlib"], "--query has no meaning with --instances; leave it out"),
            (["--teacher", "net.onnx"], "--teacher has no meaning with --instances; leave it out"),
            (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        ],
    )
    def test_bad_input_is_one_sentence(self, folder, refused, words, said):
        assert refused("certify", *words, "--instances", "instances.csv") == said


def test_without_a_query_its_words_are_refused(folder, run_cli):
    for words, said in (
        ([], "Missing argument 'RUN'."),
        (["net.onnx", "other.onnx"], "'other.onnx' is for --query and --instances."),
        (["net.onnx", "--jobs", "2"], "--jobs is for --query and --instances."),
    ):
        code, out, err = run_cli("certify", *words)
        assert (code, out) == (2, "") and said in err

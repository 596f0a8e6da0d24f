class TestCompare:
    def test_the_happy_path(self, run_cli, finished, tmp_path):
        run_cli("evaluate", finished, "--examples", "20", "--device", "cpu")
        out_file = tmp_path / "report.html"
        code, out, err = run_cli("compare", finished, "--out", out_file)
        assert (code, err) == (0, "")
        assert "20 of 360 test images" in out
        assert out.endswith(f"report: {out_file}\n")
        assert "<!doctype html>" in out_file.read_text()[:20]

    def test_an_unevaluated_run_is_one_line(self, refused, finished):
        (finished / "evaluation.json").unlink(missing_ok=True)
        assert refused("compare", finished) == f"{finished}: not evaluated yet; run: overproof evaluate {finished}"


def test_a_table_keeps_its_intervals_off_a_terminal(run_cli, finished):
    run_cli("evaluate", finished, "--examples", "20", "--device", "cpu")
    _, out, _ = run_cli("compare", finished)
    assert all("…" not in line for line in out.splitlines())
    assert out.count("[") >= 4

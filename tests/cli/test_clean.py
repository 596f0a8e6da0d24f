import shutil


def test_it_says_what_was_removed_and_what_would_be(run_cli, toy_run, tmp_path):
    one, two = (shutil.copytree(toy_run, tmp_path / name) for name in ("one", "two"))
    size = sum(file.stat().st_size for file in (one / "checkpoint").iterdir())
    code, out, err = run_cli("clean", one, two, "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{one}: {size:,} bytes in 2 files would be removed",
        f"{two}: {size:,} bytes in 2 files would be removed",
        f"together: {2 * size:,} bytes would be removed",
    ]
    assert run_cli("clean", one)[:2] == (0, f"{one}: {size:,} bytes in 2 files removed\n")
    assert not (one / "checkpoint").exists()
    assert (two / "checkpoint").is_dir()


def test_what_is_unfinished_is_named_and_removed_on_demand(run_cli, toy_run, tmp_path):
    run = shutil.copytree(toy_run, tmp_path / "run")
    (run / "last.json").unlink()
    assert "the training is not finished: " in (out := run_cli("clean", run)[1])
    assert out.endswith(" bytes are kept (--unfinished removes them)\n")
    assert run_cli("clean", run, "--unfinished")[1].count("\n") == 1
    assert not (run / "checkpoint").exists()


def test_no_run_is_one_sentence(refused, tmp_path):
    assert refused("clean", tmp_path) == f"{tmp_path}: not a run folder (it has no recipe, network or results)"

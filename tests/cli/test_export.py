import json
import shutil

import pytest
import torch

import overproof
from overproof.cli.export import _pace


@pytest.fixture
def run(toy_run, tmp_path):
    return shutil.copytree(toy_run, tmp_path / "run")


class TestExport:
    def test_onnx(self, run_cli, run):
        code, out, err = run_cli("export", run, "--to", "onnx", "--licence", "MIT", "--opset", "19")
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0] == f"{run} -> {run / 'model.onnx'}"
        size = (run / "model.onnx").stat().st_size
        assert lines[1].startswith(f"{size:,} bytes, sha256 ")
        assert lines[2] == "run from the file, beside the network itself:"
        assert [line.partition(" logits within ")[0] for line in lines[3:]] == [
            "   1 image: ",
            "   7 images:",
            "  64 images:",
        ]
        assert [line.rpartition(", ")[2] for line in lines[3:]] == [
            "same class 1 of 1",
            "same class 7 of 7",
            "same class 64 of 64",
        ]
        assert json.loads((run / "model.onnx.json").read_text())["opset"] == 19

    def test_int8_says_what_it_cost(self, run_cli, run):
        words = ("--to", "int8", "--calibration", "percentile", "--examples", "64", "--out", run / "small.onnx")
        code, out, err = run_cli("export", run, *words)
        assert (code, err) == (0, "")
        found = json.loads((run / "small.onnx.json").read_text())
        clean, robust = found["cost"]["clean"], found["cost"]["robust"]
        assert "calibrated by percentile on 64 training images" in out
        assert f"clean: correct in float {clean['float']}, in INT8 {clean['int8']}; lost " in out
        assert f"under transfer-pgd-20 and square-200: correct in float {robust['float']}, in INT8 " in out
        float_bytes = found["float"]["bytes"]
        assert f"{found['bytes']:,} bytes, {float_bytes / found['bytes']:.1f} times smaller than in float; " in out
        assert "one image on one thread here:\n  float: median " in out and "\n  INT8:  median " in out
        assert out.splitlines()[-1] == _pace(found["float"]["latency"]["median"], found["latency"]["median"])

    @pytest.mark.parametrize(
        ("before", "after", "said"),
        [
            (
                0.05,
                0.07,
                "INT8 is 1.4 times slower here: take it for its size, or measure it where it will run",
            ),
            (0.09, 0.03, "INT8 is 3.0 times faster here"),
            (0.050, 0.053, "INT8 is as fast as float here"),
        ],
    )
    def test_int8_that_is_slower_is_called_slower(self, before, after, said):
        assert _pace(before, after) == said

    def test_torch(self, run_cli, run):
        code, out, err = run_cli("export", run, "--to", "torch")
        assert (code, err) == (0, "")
        assert "same class 64 of 64" in out

    def test_queries_about_a_pair_and_every_option_reaches_them(self, run_cli, run, toy_run):
        words = ["--examples", "3", "--teacher", toy_run, "--eps", "0.02", "--gamma", "0.5", "--timeout", "9"]
        code, out, err = run_cli("export", run, "--to", "vnnlib", *words, "--seed", "4", "--data", "digits")
        assert (code, err) == (0, "")
        assert "within linf 0.02 of each of 3 test images:" in out
        assert "robust/, 3 queries in VNN-LIB 1.0: is another class possible?\n    known already: yes (sat) " in out
        assert "pair/, 6 queries in VNN-LIB 2.0: can it and " in out
        assert f"can it and {toy_run} disagree about the class, or their margins by 0.5?" in " ".join(out.split())
        assert (run / "vnnlib" / "robust" / "instances.csv").read_text().count(",9\n") == 3

    def test_bad_input_is_one_line(self, refused, run):
        assert refused("export", run, "--to", "onix") == "there is no format 'onix' (did you mean 'onnx'?)"
        assert refused("export", run, "--to", "torch", "--opset", "18") == (
            "export to torch has no use for 'opset'; it takes no options"
        )
        assert refused("export", run, "--to", "onnx", "--opset", "9") == (
            "opset 9 is too low: networks are translated to opset 18 or later"
        )
        assert not list(run.glob("*.onnx"))


class TestEvaluateAFile:
    def test_it_stands_beside_the_run_it_came_from(self, run_cli, run, tmp_path):
        assert run_cli("export", run, "--to", "onnx")[0] == 0
        words = ("--attacks", "transfer-mi-fgsm", "--examples", "20", "--no-reliability", "--out", tmp_path / "out")
        code, out, err = run_cli("evaluate", run / "model.onnx", *words, "--teacher", run, "--original", run)
        assert (code, err) == (0, "")
        assert "one image on one thread: median " in out
        assert f"original {run}: " in out and f"teacher {run}: " in out
        assert ", 1.0 times as many" in out
        assert f"beside {run}, the network it came from, example by example" in out
        assert "original, transfer-mi-fgsm: robust " in out


def test_a_repository_of_the_hub_can_be_loaded_and_is_never_overwritten(run_cli, refused, toy_run, tmp_path):
    out = tmp_path / "repository"
    code, text, err = run_cli("export", toy_run, "--to", "hub", "--out", out, "--licence", "mit")
    assert (code, err) == (0, "")
    assert text.splitlines() == [
        f"{toy_run} -> {out}",
        f"files: {', '.join(sorted(file.name for file in out.iterdir()))}",
    ]
    assert {"README.md", "config.json", "model.safetensors", "recipe.yaml"} <= {file.name for file in out.iterdir()}
    loaded, trained = overproof.load(out).state_dict(), overproof.load(toy_run).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in trained.items())
    assert refused("export", toy_run, "--to", "hub", "--out", out).startswith(f"{out}: exists already")


def test_pushing_without_a_token_keeps_what_was_written(refused, toy_run, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    out = tmp_path / "repository"
    said = refused("export", toy_run, "--to", "hub", "--out", out, "--push", "org/name")
    assert said.startswith("org/name: pushing needs a token")
    assert (out / "README.md").is_file()

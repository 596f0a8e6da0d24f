import json
import sys


class TestEvaluate:
    def test_the_happy_path(self, run_cli, toy_run):
        code, out, err = run_cli(
            "evaluate", toy_run, "--attacks", "pgd-2, fgsm", "--eps", "0.05", "--examples", "60", "--device", "cpu"
        )
        assert (code, err) == (0, "")
        found = json.loads((toy_run / "evaluation.json").read_text())
        assert list(found["attacks"]) == ["pgd-2", "fgsm"]
        assert found["threat"]["eps"] == "0.05"
        assert found["data"]["examples"] == 60
        assert "linf eps 0.05" in out
        low, high = found["worst"]["interval"]
        assert f"{100 * found['worst']['share']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in out
        assert "toy" in out

    def test_norm_and_seed_are_passed_on(self, run_cli, toy_run):
        code, _, _ = run_cli("evaluate", toy_run, "--norm", "l2", "--eps", "1", "--examples", "20", "--seed", "3")
        assert code == 0
        found = json.loads((toy_run / "evaluation.json").read_text())
        assert (found["threat"], found["seed"]) == ({"norm": "l2", "eps": "1"}, 3)

    def test_bad_input_is_one_line(self, refused, toy_run, tmp_path):
        assert refused("evaluate", toy_run, "--attacks", "pgd-3") == (
            "there is no attack or suite 'pgd-3' (did you mean 'pgd-2'?)"
        )
        assert refused("evaluate", toy_run, "--eps", "8") == ("eps 8 is not in [0, 1] pixel units; did you mean 8/255?")
        assert refused("evaluate", toy_run, "--examples", "-1") == "examples must be 0 (all) or more, got -1"
        assert refused("evaluate", tmp_path) == f"{tmp_path}: not a run folder (it has no recipe.yaml)"

    def test_every_option_reaches_the_evaluation(self, run_cli, toy_run, tmp_path):
        out = tmp_path / "out"
        words = ["--attacks", "quick", "--teacher", toy_run, "--batch", "7", "--precision", "fp32", "--data", "digits"]
        code, said, err = run_cli(
            "evaluate", toy_run, *words, "--examples", "20", "--no-reliability", "--save-adversarial", "--out", out
        )
        assert (code, err) == (0, "")
        found = json.loads((out / "evaluation.json").read_text())
        assert (found["suite"]["name"], found["teacher"]["name"], found["batch"]) == ("quick", str(toy_run), 7)
        assert (found["search_precision"], found["reliability"]) == ("fp32", None)
        assert (out / "adversarial.safetensors").is_file()
        assert "quick: an upper estimate: the standard suite may break more." in said
        assert "robust accuracy can" not in said

    def test_progress_is_a_line_per_attack_and_the_verdict_comes_last(self, run_cli, toy_run):
        code, out, _ = run_cli("evaluate", toy_run, "--examples", "20", "--attacks", "fgsm", "--device", "cpu")
        assert code == 0
        *known, first, second = out[: out.index("\n", out.index("pass 2/2"))].splitlines()
        assert known[0] == f"{toy_run}: reading network and images"
        assert known[3] == "attacks: chosen, linf eps 0.1; 2 passes, 500 images each"
        *_, last, report = out.splitlines()
        assert first.startswith("pass 1/2, clean: robust ")
        assert second.startswith("pass 2/2, fgsm: robust ")
        assert last == json.loads((toy_run / "evaluation.json").read_text())["reliability"]["sentence"]
        assert report == f"report: {toy_run / 'report.html'}"
        assert "<h1>toy</h1>" in (toy_run / "report.html").read_text()

    def test_interrupted_it_says_how_to_go_on_and_does(self, run_cli, refused, toy_run, tmp_path, monkeypatch):
        from overproof.evaluation import store

        words = ("evaluate", toy_run, "--examples", "20", "--no-reliability", "--out", tmp_path, "--device", "cpu")
        shown, save = [], store.Store.save

        def stop(self, number, state, *, whole):
            save(self, number, state, whole=whole)
            shown.append(number)
            if len(shown) == 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(store.Store, "save", stop)
        code, _, err = run_cli(*words)
        assert (code, err) == (130, "stopped; finished blocks are kept, continue with --resume\n")
        assert refused(*words).endswith(
            "this was begun and is unfinished; --resume continues it, --overwrite begins again"
        )
        code, _, err = run_cli(*words, "--resume")
        assert (code, err) == (0, "")
        names = ["adversarial.safetensors", "evaluation.json", "evaluations", "examples.jsonl", "report.html"]
        assert sorted(file.name for file in tmp_path.iterdir()) == names
        assert not list(tmp_path.glob("**/evaluation-state"))

    def test_an_eps_of_0_is_said_in_words(self, run_cli, toy_run):
        code, out, _ = run_cli("evaluate", toy_run, "--eps", "0", "--examples", "20", "--device", "cpu")
        assert code == 0
        assert "nothing was attacked and the robust accuracy is the clean one.\n" in out
        assert "linf eps 0;" in out

    def test_a_network_of_ones_own(self, run_cli, refused, tmp_path, monkeypatch):
        (tmp_path / "cli_net.py").write_text(
            "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        )
        monkeypatch.chdir(tmp_path)
        assert refused("evaluate", "cli_net:make").startswith("cli_net:make: say on which images, with --data digits")
        code, out, err = run_cli("evaluate", "cli_net:make", "--data", "digits", "--examples", "30", "--device", "cpu")
        sys.modules.pop("cli_net")
        assert code == 0
        assert "cli_net:make" in out
        assert "no better than always answering" in err or "none of 30" in err
        code, out, _ = run_cli("compare", "evaluations/cli-net-make")
        assert code == 0
        assert "foreign" in out

    def test_an_unknown_norm_is_a_usage_error(self, run_cli, toy_run):
        code, _, err = run_cli("evaluate", toy_run, "--norm", "l7")
        assert code == 2
        assert "'l7' is not one of" in err

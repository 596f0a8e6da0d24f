from overproof.commands import quickstart as quickstart_verb


class TestQuickstart:
    def test_the_happy_path(self, run_cli, in_turn, tmp_path, monkeypatch):
        made = quickstart_verb._recipe

        def tiny(name, *edits):
            steps = ["method.inner.steps=1"] if name in ("teacher", "at", "ard") else []
            few = ["training.epochs=1", "selection.trial.attack.steps=1", "evaluation.examples=10"]
            return made(name, *edits, *steps, *few, "evaluation.attacks=[{name: fgsm, attack: {steps: 1}}]")

        monkeypatch.setattr(quickstart_verb, "_recipe", tiny)
        monkeypatch.setattr(quickstart_verb, "SEEDS", (0,))
        monkeypatch.setattr(quickstart_verb, "PROVED", 10)
        code, out, err = run_cli("quickstart", "--out", tmp_path)
        assert (code, err) == (0, "")
        assert out.startswith("teacher: adversarial training of a larger network\n")
        assert "\nstudent: natural, seed 0\n" in out
        assert "clean, %" in out
        assert "(mean of 1 seeds; the spread of the seeds is larger than that)" in out
        assert "Proved for the faithful student within linf 0.1: " in out
        assert out.endswith(f"report: {tmp_path / 'report.html'}\n")

    def test_ctrl_c_is_one_line_and_130(self, run_cli, tmp_path, monkeypatch):
        def interrupted(_):
            yield "teacher"
            raise KeyboardInterrupt

        monkeypatch.setattr(quickstart_verb, "quickstart_steps", interrupted)
        code, out, err = run_cli("quickstart", "--out", tmp_path)
        assert (code, out) == (130, "teacher\n")
        assert err == "stopped; finished runs are kept, and the same command continues\n"

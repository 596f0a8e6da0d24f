import json
from functools import partial


class TestCertify:
    WORDS = ("--eps", "0.01", "--examples", "20", "--bound", "crown", "--device", "cpu")

    def test_the_happy_path(self, run_cli, toy_run):
        code, out, err = run_cli("certify", toy_run, *self.WORDS)
        assert (code, err) == (0, "")
        found = json.loads((toy_run / "certificate.json").read_text())
        low, high = found["verified"]["interval"]
        assert (
            f"certified accuracy: {100 * found['verified']['share']:.1f} [{100 * low:.1f}, {100 * high:.1f}] %" in out
        )
        assert f"verified {found['counts']['verified']}, falsified {found['counts']['falsified']}, wrong " in out
        first, *known = out.splitlines()
        assert first == f"{toy_run}: reading network and images"
        assert known[1] == "network: mlp, 1,210 parameters"
        assert known[2] == "certify: linf eps 0.01; bounds up to crown, 1 s an image, 100 together"
        assert any(line.startswith("example 20/20, done: ") for line in known)
        assert "linf eps 0.01" in out
        assert "crown_ibp" in out

    def test_beside_a_teacher_every_option_reaches_it(self, run_cli, toy_run, tmp_path, monkeypatch):
        from overproof.certification import pair as faithful

        # How hard the search is, is tested with the search.
        monkeypatch.setattr(faithful, "attack_pair", partial(faithful.attack_pair, steps=3, restarts=1))
        words = ["--teacher", toy_run, "--gamma", "0.3", "--seconds", "0.5", "--seed", "4", "--batch", "7"]
        more = ["--norm", "l2", "--data", "digits", "--out", tmp_path / "out"]
        code, out, err = run_cli("certify", toy_run, *self.WORDS, *words, *more)
        assert (code, err) == (0, "")
        found = json.loads((tmp_path / "out" / "certificate.json").read_text())
        assert (found["budget"], found["seed"], found["batch"], found["threat"]["norm"]) == (0.5, 4, 7, "l2")
        assert "same class and a gap of at most 0.3" in out
        assert f"beside {toy_run}, on " in out

    def test_smoothing(self, run_cli, toy_run, tmp_path):
        words = ["--norm", "l2", "--smoothing", "0.25", "--samples", "100", "--out", tmp_path]
        code, out, err = run_cli("certify", toy_run, *self.WORDS, *words)
        assert (code, err) == (0, "")
        assert "of the smoothed network" in out
        assert json.loads((tmp_path / "certificate.json").read_text())["smoothing"]["samples"] == 100

    def test_bad_input_is_one_line(self, refused, run_cli, toy_run):
        assert refused("certify", toy_run, "--eps", "8") == ("eps 8 is not in [0, 1] pixel units; did you mean 8/255?")
        assert refused("certify", toy_run, "--norm", "l1") == "certificates are for linf and l2, not for l1"
        assert refused("certify", toy_run, "--gamma", "0.1").endswith("say which with --teacher RUN")
        code, _, err = run_cli("certify", toy_run, "--bound", "best")
        assert code == 2
        assert "'best' is not one of" in err

    def test_interrupted_it_says_how_to_go_on_and_does(self, run_cli, refused, toy_run, tmp_path, monkeypatch):
        from overproof.evaluation import store

        words = ("certify", toy_run, *self.WORDS, "--batch", "10", "--out", tmp_path)
        shown, save = [], store.Store.save

        def stop(self, number, state, *, whole):
            save(self, number, state, whole=whole)
            shown.append(number)
            if number == 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(store.Store, "save", stop)
        code, _, err = run_cli(*words)
        assert (code, err) == (130, "stopped; finished examples are kept, continue with --resume\n")
        assert refused(*words).endswith("--resume continues it, --overwrite begins again")
        monkeypatch.setattr(store.Store, "save", save)
        code, _, err = run_cli(*words, "--resume")
        assert (code, err) == (0, "")
        assert not list(tmp_path.glob("**/certificate-state"))

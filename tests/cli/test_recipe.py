import pytest
import yaml

from overproof.recipe import read
from overproof.shipped import find_recipe


class TestShow:
    def test_the_whole_is_printed_with_what_it_has_of_its_base(self, run_cli):
        code, out, err = run_cli("recipe", "show", "digits/ard")
        assert (code, err) == (0, "")
        assert out.startswith("# Part of the quickstart, which prints what it attains.\nname: digits-ard\n")
        assert {"data", "student", "training", "method"} < set(yaml.safe_load(out))
        assert "evaluation" not in yaml.safe_load(out)

    def test_a_file_without_a_base_is_printed_as_it_is_written(self, run_cli):
        assert run_cli("recipe", "show", "mnist/base")[1] == find_recipe("mnist/base").read_text()

    @pytest.mark.parametrize("words", [["--full"], ["--set", "training.epochs=3"]])
    def test_in_full_it_is_the_recipe_that_would_be_run(self, run_cli, words, tmp_path):
        code, out, _ = run_cli("recipe", "show", "digits/at", *words)
        assert code == 0
        (tmp_path / "r.yaml").write_text(out)
        assert read(tmp_path / "r.yaml") == read(find_recipe("digits/at"), words[1:])
        assert "selection" in yaml.safe_load(out)

    def test_bad_input_is_one_line(self, refused):
        assert "the nearest: digits/at" in refused("recipe", "show", "digits/att")
        assert "unknown key" in refused("recipe", "show", "digits/at", "--set", "training.epoch=3")


class TestCopy:
    def test_a_copy_is_trained_where_it_lies(self, run_cli, refused, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, out, err = run_cli("recipe", "copy", "digits/at")
        assert (code, out, err) == (0, "at.yaml: train it with: overproof train at.yaml\n", "")
        assert "base" not in yaml.safe_load((tmp_path / "at.yaml").read_text())
        assert read(tmp_path / "at.yaml").digest == read(find_recipe("digits/at")).digest
        assert refused("recipe", "copy", "digits/at") == "at.yaml: it is already there; name another file"
        assert run_cli("recipe", "copy", "at.yaml", "deep/er/mine.yaml")[0] == 0
        assert (tmp_path / "deep" / "er" / "mine.yaml").is_file()
        (tmp_path / "folder").mkdir()
        assert run_cli("recipe", "copy", "digits/at", "folder")[1].startswith("folder/at.yaml: ")
        assert refused("recipe", "copy", "nothing/such").startswith("no recipe file 'nothing/such'")

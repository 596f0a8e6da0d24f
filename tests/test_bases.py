import os

import pytest
import yaml

from overproof.bases import complete, parse_whole, read_whole
from overproof.commands.sweep import read_sweep
from overproof.errors import InputError
from overproof.recipe import parse, read, whole_text
from overproof.runs.folder import Run
from overproof.shipped import find_recipe

BELOW = {
    "name": "below",
    "data": "digits",
    "threat": {"norm": "linf", "eps": "0.2"},
    "student": {"kind": "mlp", "hidden": [8, 4]},
    "method": {"kind": "pgd_at", "inner": {"steps": 3, "ramp": 0.5}},
    "training": {"epochs": 5, "optimiser": {"kind": "sgd", "lr": 0.1, "momentum": 0.5}},
}


@pytest.fixture
def folder(tmp_path):
    """Return a function: write files of plain values or text into a folder; the folder itself where none is given."""
    place = tmp_path / "own"
    place.mkdir()

    def write(**files):
        for name, content in files.items():
            file = place / f"{name.replace('__', '/')}.yaml"
            file.parent.mkdir(exist_ok=True)
            file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return place

    write(below=BELOW)
    return write


def refused(file, *sets):
    with pytest.raises(InputError) as caught:
        read(file, sets)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


class TestMerging:
    def test_mappings_are_merged_key_by_key_and_all_else_replaces(self, folder):
        own = {"base": "below.yaml", "name": "own", "student": {"hidden": [2]}, "training": {"optimiser": {"lr": 0.3}}}
        place = folder(own=own)
        found = read(place / "own.yaml")
        assert (found.name, found.student.hidden, found.training.epochs) == ("own", (2,), 5)
        assert (found.training.optimiser.lr, found.training.optimiser.momentum) == (0.3, 0.5)
        assert found.threat == read(place / "below.yaml").threat

    def test_another_kind_replaces_a_mapping_whole(self, folder):
        own = {"base": "below.yaml", "method": {"kind": "trades"}, "training": {"optimiser": {"kind": "adamw"}}}
        tree = read_whole(folder(own=own) / "own.yaml").tree
        assert tree["method"] == {"kind": "trades"}
        assert tree["training"] == {"epochs": 5, "optimiser": {"kind": "adamw"}}

    def test_the_same_kind_keeps_the_rest(self, folder):
        own = {"base": "below.yaml", "method": {"kind": "pgd_at", "inner": {"steps": 7}}}
        tree = read_whole(folder(own=own) / "own.yaml").tree
        assert tree["method"] == {"kind": "pgd_at", "inner": {"steps": 7, "ramp": 0.5}}

    def test_a_bare_word_and_nothing_replace_too(self, folder):
        own = {"base": "below.yaml", "student": "resnet18", "training": {"optimiser": None}}
        tree = read_whole(folder(own=own) / "own.yaml").tree
        assert tree["student"] == "resnet18"
        assert tree["training"] == {"epochs": 5, "optimiser": None}

    def test_a_base_may_have_a_base_in_a_folder_below_and_that_one_again(self, folder):
        place = folder(
            own={"base": "deep/middle.yaml", "seed": 3},
            deep__middle={"base": "../below.yaml", "seed": 2, "training": {"epochs": 7}},
        )
        whole = read_whole(place / "own.yaml")
        assert (whole.tree["seed"], whole.tree["training"]["epochs"], whole.tree["name"]) == (3, 7, "below")
        assert whole.where == f"{place / 'own.yaml'} (with bases deep/middle.yaml, ../below.yaml)"

    def test_a_shipped_recipe_or_base_is_found_by_its_name(self, folder):
        place = folder(own={"base": "mnist/ard", "name": "own", "training": {"epochs": 2}})
        found, shipped = read(place / "own.yaml"), read(find_recipe("mnist/ard"))
        assert (found.method, found.student, found.training.epochs) == (shipped.method, shipped.student, 2)
        assert found == read(find_recipe("mnist/ard"), ["name=own", "training.epochs=2"])

    def test_a_file_beside_it_comes_before_a_shipped_one(self, folder):
        place = folder(own={"base": "mnist/ard.yaml"}, mnist__ard=BELOW)
        assert read(place / "own.yaml").name == "below"

    def test_edits_come_after_merging(self, folder):
        place = folder(own={"base": "below.yaml", "training": {"epochs": 7}})
        found = read(place / "own.yaml", ["training.epochs=9", "student.hidden=[3]", "training.optimiser.lr=0.7"])
        assert (found.training.epochs, found.student.hidden) == (9, (3,))
        assert (found.training.optimiser.lr, found.training.optimiser.momentum) == (0.7, 0.5)

    def test_the_recipe_is_that_of_a_whole_file(self, folder):
        place = folder(own={"base": "below.yaml", "training": {"epochs": 7}})
        (place / "whole.yaml").write_text(whole_text(place / "own.yaml"))
        assert list(yaml.safe_load((place / "whole.yaml").read_text())) == list(BELOW)
        assert read(place / "whole.yaml").digest == read(place / "own.yaml").digest

    def test_a_whole_file_is_shown_as_it_is_written(self, folder):
        text = "# mine\nname: a # b\n"
        assert whole_text(folder(own=text) / "own.yaml") == text

    def test_text_without_a_file_has_shipped_bases_alone(self, folder, monkeypatch):
        monkeypatch.chdir(folder())
        assert parse("base: digits/at\nseed: 4").seed == 4
        with pytest.raises(InputError, match=r"^recipe: its base below\.yaml is neither .* nor a shipped recipe$"):
            parse_whole("base: below.yaml", "recipe")

    def test_a_sweep_may_start_from_a_recipe_with_a_base(self, folder):
        place = folder(
            own={"base": "below.yaml", "seed": 8}, grid={"base": "own.yaml", "axes": {"training.epochs": [1]}}
        )
        (cell,) = read_sweep(place / "grid.yaml").cells
        assert (cell.recipe.seed, cell.recipe.training.epochs, cell.recipe.student.hidden) == (8, 1, (8, 4))
        assert read_sweep(place / "own.yaml") == read(place / "own.yaml")


class TestRefusals:
    def test_a_circle(self, folder):
        place = folder(own={"base": "other.yaml"}, other={"base": "own.yaml"})
        found = refused(place / "own.yaml")
        assert (
            found == f"{place / 'other.yaml'}: its base own.yaml is in turn based on {place / 'other.yaml'}, a circle"
        )
        folder(own={"base": "own.yaml"})
        assert refused(place / "own.yaml").endswith("a circle")
        folder(own={"base": "linked.yaml"})
        (place / "linked.yaml").symlink_to(place / "own.yaml")
        assert refused(place / "own.yaml").endswith("a circle")

    def test_too_many(self, folder):
        place = folder(**{f"r{number}": {"base": f"r{number + 1}.yaml"} for number in range(11)}, r11=BELOW)
        assert refused(place / "r0.yaml").endswith(
            "r10.yaml: its base r11.yaml is one too many: a recipe has at most 10"
        )
        assert read(place / "r1.yaml").name == "below"

    @pytest.mark.parametrize("word", ["nothing.yaml", "below", "mnist/at-last", "a" * 5000, "deep/"])
    def test_a_missing_one(self, folder, word):
        place = folder(own={"base": word})
        (place / "deep").mkdir()
        found = refused(place / "own.yaml")
        assert found.startswith(f"{place / 'own.yaml'}: its base {word[:50]}")
        assert "is neither a recipe file beside it nor a shipped recipe" in found
        assert ("(the nearest shipped one: mnist/at)" in found) is (word == "mnist/at-last")
        assert len(found) < 600

    @pytest.mark.parametrize(
        "word", ["../outside.yaml", "{folder}/outside.yaml", "deep/../../outside.yaml", "link.yaml"]
    )
    def test_one_outside_is_not_even_looked_for(self, folder, tmp_path, word):
        word = word.format(folder=tmp_path)
        place = folder(own={"base": word}, deep__other=BELOW)
        (place / "link.yaml").symlink_to(tmp_path / "outside.yaml")
        for exists in (False, True):
            if exists:
                (tmp_path / "outside.yaml").write_text(yaml.safe_dump(BELOW))
            found = refused(place / "own.yaml")
            assert found.startswith(f"{place / 'own.yaml'}: its base {word} lies outside of {place}; ")

    def test_one_outside_of_a_base_in_a_folder_below(self, folder, tmp_path):
        (tmp_path / "outside.yaml").write_text(yaml.safe_dump(BELOW))
        place = folder(own={"base": "deep/middle.yaml"}, deep__middle={"base": "../../outside.yaml"})
        assert "middle.yaml: its base ../../outside.yaml lies outside of " in refused(place / "own.yaml")

    @pytest.mark.parametrize("word", ["/etc/passwd", "/dev/stdin", "~/x.yaml", "../../../../etc/hosts", "a\0b"])
    def test_other_files_of_the_machine_are_not_read(self, folder, word):
        found = refused(folder(own={"base": word}) / "own.yaml")
        assert "lies outside of" in found or "is neither a recipe file" in found

    @pytest.mark.parametrize("content", ["- 1\n", "word\n", "", "3\n"])
    def test_one_that_is_no_mapping(self, folder, content):
        place = folder(own={"base": "below.yaml"}, below=content)
        found = refused(place / "own.yaml")
        assert found.startswith(f"{place / 'own.yaml'}: its base below.yaml is no mapping of keys to values: ")
        assert str(place / "below.yaml") in found

    @pytest.mark.parametrize("content", ["a: [", "a: 1\na: 2\n", f"a: {'[' * 60}{']' * 60}\n"])
    def test_one_that_cannot_be_read(self, folder, content):
        place = folder(own={"base": "below.yaml"}, below=content)
        found = refused(place / "own.yaml")
        assert found.startswith(f"{place / 'own.yaml'}: its base below.yaml cannot be used: {place / 'below.yaml'}: ")

    def test_a_pipe_is_not_waited_for(self, folder):
        place = folder(own={"base": "pipe.yaml"})
        os.mkfifo(place / "pipe.yaml")
        assert "its base pipe.yaml is neither a recipe file beside it" in refused(place / "own.yaml")

    @pytest.mark.parametrize("value", [3, None, ["below.yaml"], {"file": "below.yaml"}, "", True])
    def test_a_name_that_is_no_text(self, folder, value):
        place = folder(own={"base": value})
        found = refused(place / "own.yaml")
        assert found.startswith(
            f"{place / 'own.yaml'}: base: expected the name of a recipe file beside this one or of a "
        )

    def test_a_key_of_a_wrong_type_names_both_files(self, folder):
        place = folder(own={"base": "below.yaml", "training": 5})
        both = f"{place / 'own.yaml'} (with base below.yaml)"
        assert refused(place / "own.yaml") == f"{both}.training: expected a mapping, got 5"
        folder(own={"base": "below.yaml"}, below=BELOW | {"training": {"epochs": "many"}})
        assert refused(place / "own.yaml").startswith(f"{both}.training.epochs: cannot use 'many'")
        folder(own={"base": "below.yaml", "epoch": 3})
        assert refused(place / "own.yaml").startswith(f"{both}: unknown key 'epoch'")

    def test_only_a_file_names_a_base(self, folder, tmp_path):
        place = folder(own={"base": "below.yaml"})
        sentence = "base: only the file of a recipe names one, not --set, an axis of a sweep or the recipe of a run"
        assert refused(place / "below.yaml", "base=mnist/ard").endswith(sentence)
        folder(grid={"base": "own.yaml", "axes": {"base": ["mnist/ard"]}})
        with pytest.raises(InputError, match=sentence):
            read_sweep(place / "grid.yaml")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "recipe.yaml").write_text("base: mnist/ard\n")
        with pytest.raises(InputError, match=sentence):
            Run(tmp_path / "run").recipe()


def test_what_is_no_mapping_has_no_base():
    assert complete([1], "x").tree == [1]


def test_code_of_a_base_must_lie_beside_the_recipe(folder):
    place = folder(own={"base": "deep/middle.yaml"}, deep__middle=BELOW | {"student": "mine_not_there:make"})
    (place / "deep" / "mine_not_there.py").write_text("def make(num_classes, in_channels): ...\n")
    assert "mine_not_there:make: a file may only name code that lies beside it" in refused(place / "own.yaml")
    (place / "mine_not_there.py").write_text("def make(num_classes, in_channels): ...\n")
    assert read(place / "own.yaml").student.factory == "mine_not_there:make"

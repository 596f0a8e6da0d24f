from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from overproof.attacks.ball import Radius, Threat
from overproof.attacks.base import BaseAttack
from overproof.attacks.pgd import PGD
from overproof.attacks.square import Square
from overproof.attacks.suites import AttackSpec
from overproof.data.augment import Augment
from overproof.data.encoded import Form
from overproof.data.sources import Digits, Folder, Hub, Npz, Parquet
from overproof.errors import InputError
from overproof.methods.ard import ARD
from overproof.methods.catalogue import methods
from overproof.methods.method import Method
from overproof.methods.natural import Natural
from overproof.models.architectures.convnet import ConvNet
from overproof.models.architectures.mlp import MLP
from overproof.models.architectures.resnet import ResNet
from overproof.recipe import (
    EvaluationSettings,
    Recipe,
    Selection,
    build_value,
    data_source,
    differences,
    dump,
    identity,
    parse,
    plain,
    read,
)
from overproof.shipped import find_recipe, recipe_names
from overproof.training.averaging import EMA, SWA
from overproof.training.optimisation import SGD, AdamW, Constant, Cosine, Multistep, Training, Triangular

BASE = """
name: toy
data: {kind: digits}
student: {kind: mlp}
method: {kind: natural}
"""


def recipe(text="", *sets, base=BASE):
    """Parse the base with keys of ``text`` laid over it."""
    return parse(yaml.safe_dump(yaml.safe_load(base) | (yaml.safe_load(text) or {})), sets)


def refused(text="", *sets):
    with pytest.raises(InputError) as caught:
        recipe(text, *sets)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


class TestRoundTrip:
    @pytest.mark.parametrize("name", recipe_names())
    def test_every_shipped_recipe(self, name):
        found = read(find_recipe(name))
        text = dump(found)
        again = parse(text)
        assert again == found
        assert dump(again) == text
        assert again.digest == found.digest

    @pytest.mark.parametrize("kind", methods())
    def test_every_method_with_its_defaults_and_its_presets(self, kind):
        for preset in (None, *methods()[kind].presets):
            text = {"kind": kind} | ({"preset": preset} if preset else {})
            roles = build_value(Method, text).roles  # those of a wrapper depend on what it wraps
            found = recipe(yaml.safe_dump({"method": text, "teachers": {role: f"runs/{role}" for role in roles}}))
            assert parse(dump(found)) == found

    lengths = st.sampled_from(["8/255", "4/255", "0.031", "0.3", "1e-2", 0.25]).map(Radius)
    attacks = st.builds(
        PGD,
        norm=st.sampled_from(["linf", "l2", "l1"]),
        eps=lengths,
        step=st.none() | lengths,
        steps=st.integers(1, 50),
        restarts=st.integers(1, 3),
        start=st.sampled_from(["uniform", "normal", "none"]),
    )
    shares = st.floats(0.01, 0.99)
    recipes = st.builds(
        Recipe,
        name=st.text(
            st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters="/\\"), max_size=12
        ).map("n{}".format),
        seed=st.integers(0, 2**40),
        data=st.sampled_from(
            [Digits(), Hub(id="a/b", label="x"), Parquet(path="p: q"), Folder(path="#f"), Npz(path="yes")]
        ),
        augment=st.builds(Augment, crop=st.integers(0, 4), flip=st.booleans(), cutout=st.integers(0, 8)),
        student=st.sampled_from([MLP(hidden=()), ConvNet(stride=(1, 2)), ResNet(depth=20, width=0.5)]),
        teachers=st.just({"robust": "runs/null"}),
        method=st.builds(ARD, alpha=shares, temperature=st.floats(0.1, 50), inner=attacks),
        training=st.builds(
            Training,
            epochs=st.integers(1, 300),
            optimiser=st.builds(SGD, lr=shares, nesterov=st.booleans())
            | st.builds(AdamW, betas=st.tuples(shares, shares)),
            schedule=st.just(Constant())
            | st.builds(Cosine, floor=shares)
            | st.builds(Triangular, peak=shares)
            | st.builds(Multistep, milestones=st.lists(shares, max_size=3).map(tuple)),
            averaging=st.none() | st.builds(EMA, decay=shares) | st.builds(SWA, start=shares),
            precision=st.sampled_from(["auto", "fp32", "bf16"]),
        ),
        selection=st.builds(Selection, fraction=shares, every=st.integers(1, 9)),
        evaluation=st.builds(
            EvaluationSettings,
            attacks=st.lists(
                st.builds(AttackSpec, name=st.sampled_from("ab"), attack=attacks),
                min_size=1,
                unique_by=lambda t: t.name,
            )
            .map(tuple)
            .filter(bool),
        ),
    )

    @given(recipes)
    @settings(max_examples=60, deadline=None)
    def test_any_recipe(self, found):
        again = parse(dump(found))
        assert again == found
        assert differences(found, again) == []
        assert again.method.inner.eps.text == found.method.inner.eps.text

    def test_the_dump_says_everything(self):
        tree = yaml.safe_load(dump(recipe()))
        assert tree["training"]["optimiser"] == {
            "kind": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "nesterov": False,
        }
        assert tree["evaluation"]["attacks"][1]["attack"]["restarts"] == 3
        assert list(tree) == [part.name for part in fields(Recipe)]  # in the order a reader expects

    def test_a_recipe_is_a_frozen_value(self):
        with pytest.raises(FrozenInstanceError):
            recipe().seed = 3
        assert recipe().digest != recipe("seed: 1").digest


class TestEps:
    @pytest.mark.parametrize(
        ("written", "value", "kept"),
        [
            ("8/255", 8 / 255, "8/255"),
            ("0.031", 0.031, "0.031"),
            ("'0.0310'", 0.031, "0.0310"),
            ("8 / 255", 8 / 255, "8/255"),
            ("1", 1.0, "1"),
        ],
    )
    def test_is_kept_as_written(self, written, value, kept):
        found = recipe(f"threat: {{eps: {written}}}")
        assert found.threat.eps == value
        assert str(found.threat.eps) == kept
        assert str(parse(dump(found)).threat.eps) == kept

    @pytest.mark.parametrize(
        ("written", "sentence"),
        [
            ("8", "recipe.threat: eps 8 is not in [0, 1] pixel units; did you mean 8/255?"),
            ("eight", "recipe.threat.eps: cannot read 'eight' as a length; write it as 8/255 or 0.031"),
            ("8/0", "recipe.threat.eps: cannot read '8/0' as a length; write it as 8/255 or 0.031"),
            ("0", "recipe.threat.eps: a length must be positive, got 0"),
            ("-8/255", "recipe.threat.eps: a length must be positive, got -8/255"),
            (".inf", "recipe.threat.eps: cannot read 'inf' as a length; write it as 8/255 or 0.031"),
            ("null", "recipe.threat.eps: cannot read 'None' as a length; write it as 8/255 or 0.031"),
        ],
    )
    def test_what_cannot_be_meant(self, written, sentence):
        assert refused(f"threat: {{eps: {written}}}") == sentence

    def test_l2_may_be_larger_than_one(self):
        assert recipe("threat: {norm: l2, eps: 2}").threat.eps == 2


class TestThreat:
    def test_attacks_inherit_what_they_do_not_say(self):
        found = recipe("threat: {norm: l2, eps: 0.5}\nmethod: {kind: pgd_at, inner: {steps: 3}}")
        everywhere = [found.method.inner, found.selection.trial.attack, *(t.attack for t in found.evaluation.attacks)]
        assert [(one.norm, str(one.eps)) for one in everywhere] == [("l2", "0.5")] * 4
        assert found.method.inner.steps == 3

    def test_an_attack_may_say_otherwise(self):
        found = recipe(
            "threat: {eps: 4/255}\n"
            "method: {kind: pgd_at, inner: {eps: 6/255}}\n"
            "evaluation: {attacks: [{name: a}, {name: b, attack: {norm: l2, eps: 1}}]}"
        )
        assert str(found.method.inner.eps) == "6/255"
        assert found.method.inner.norm == "linf"
        first, second = (trial.attack for trial in found.evaluation.attacks)
        assert (first.norm, str(first.eps)) == ("linf", "4/255")
        assert (second.norm, str(second.eps)) == ("l2", "1")

    @pytest.mark.parametrize("kind", ["pgd", "apgd", "fab", "square", "hopskipjump"])
    def test_every_kind_of_attack_inherits_it(self, kind):
        found = recipe(
            f"threat: {{norm: l2, eps: 0.5}}\nevaluation: {{attacks: [{{name: a, attack: {{kind: {kind}}}}}, "
            f"{{name: b, attack: {{kind: {kind}, eps: 0.7}}}}]}}"
        )
        first, second = (trial.attack for trial in found.evaluation.attacks)
        assert (first.kind, first.norm, str(first.eps)) == (kind, "l2", "0.5")
        assert (second.kind, second.norm, str(second.eps)) == (kind, "l2", "0.7")
        assert parse(dump(found)) == found

    def test_an_attack_keeps_the_defaults_of_its_own_kind_alone(self):
        found = recipe("evaluation: {attacks: [{name: a, attack: {kind: square, queries: 9}, loss: margin}]}")
        assert found.evaluation.attacks[0].attack == Square(queries=9)
        said = refused("evaluation: {attacks: [{name: a, attack: {kind: square, steps: 9}}]}")
        assert "unknown key 'steps'" in said
        assert "there is no 'sqare' (did you mean 'square'?)" in refused(
            "evaluation: {attacks: [{name: a, attack: {kind: sqare}}]}"
        )

    @pytest.mark.parametrize("kind", ["rslad", "adaad", "mtard"])
    @pytest.mark.parametrize("wrapper", ["igdm", "saad_weight"])
    def test_the_preset_of_a_wrapped_method_counts(self, kind, wrapper):
        """Of one that is the wrapper's default too, which would hide it."""
        teachers = "{robust: r, clean: c}" if kind == "mtard" else "{robust: r}"
        inner = f"{{kind: {kind}, preset: paper}}"
        found = recipe(f"method: {{kind: {wrapper}, base: {inner}}}\nteachers: {teachers}").method.base
        assert found == recipe(f"method: {inner}\nteachers: {teachers}").method
        assert found != methods()[kind]()

    def test_presets_inherit_it_too(self):
        found = recipe("threat: {eps: 4/255}\nmethod: {kind: ard, preset: paper}\nteachers: {robust: r}")
        assert str(found.method.inner.eps) == "4/255"


class TestKindsAndDefaults:
    def test_what_is_not_said_keeps_the_default_key_by_key(self):
        found = recipe("selection: {trial: {attack: {restarts: 2}}}")
        assert found.selection.trial.name == "pgd-10"
        assert (found.selection.trial.attack.steps, found.selection.trial.attack.restarts) == (10, 2)
        assert recipe("training: {optimiser: {lr: 0.3}}").training.optimiser == SGD(lr=0.3)

    def test_another_kind_replaces_and_does_not_merge(self):
        found = recipe("training: {optimiser: {kind: adamw}, schedule: {kind: triangular}}")
        assert found.training.optimiser == AdamW()
        assert found.training.schedule == Triangular()
        assert refused("training: {optimiser: {kind: adamw, momentum: 0.9}}") == (
            "recipe.training.optimiser: unknown key 'momentum' (one of: betas, kind, lr, weight_decay)"
        )

    def test_nothing_is_a_choice_where_it_is_one(self):
        assert recipe("training: {averaging: null}").training.averaging is None
        assert recipe("training: {averaging: {kind: ema}}").training.averaging == EMA()
        assert recipe("training: {averaging: {kind: swa, start: 0.25}}").training.averaging == SWA(start=0.25)
        assert refused("training: {averaging: {decay: 0.9}}") == (
            "recipe.training.averaging: say which kind (one of: ema, swa)"
        )

    def test_a_list_replaces_the_default_list(self):
        found = recipe("evaluation: {attacks: [{name: only, loss: margin}]}")
        assert [(trial.name, trial.loss) for trial in found.evaluation.attacks] == [("only", "margin")]

    def test_a_student_may_be_a_name_of_the_field(self):
        assert recipe("student: resnet18").student == ResNet(depth=18)
        assert refused("student: resnet19") == (
            "recipe.student: there is no network named 'resnet19'; the nearest name is 'resnet18'"
        )


class TestPresets:
    def test_a_preset_lays_its_settings_down(self):
        found = recipe("method: {kind: ard, preset: paper}\nteachers: {robust: r}").method
        assert (found.kl_scale, found.clean_forward, found.inner.mode) == ("class", "always", "train")
        assert found.inner.clip_start is False

    def test_what_is_written_beside_it_wins(self):
        found = recipe(
            "method: {kind: ard, preset: paper, temperature: 5, inner: {steps: 3}}\nteachers: {robust: r}"
        ).method
        assert (found.temperature, found.inner.steps, found.inner.mode) == (5, 3, "train")

    def test_a_misspelt_preset(self):
        assert refused("method: {kind: ard, preset: papr}\nteachers: {robust: r}") == (
            "recipe.method: 'ard' has no preset 'papr' (did you mean 'paper'?)"
        )
        assert refused("method: {kind: natural, preset: papr}") == "recipe.method: 'natural' has no preset 'papr'"
        assert refused("method: {kind: ard, preset: [paper]}").startswith(
            "recipe.method: 'ard' has no preset ['paper']"
        )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("trainign: {}", "recipe: unknown key 'trainign' (did you mean 'training'?)"),
        ("training: {epoch: 3}", "recipe.training: unknown key 'epoch' (did you mean 'epochs'?)"),
        (
            "training: {schedule: {kind: cosin}}",
            "recipe.training.schedule.kind: there is no 'cosin' (did you mean 'cosine'?)",
        ),
        ("method: {kind: natura}", "recipe.method.kind: there is no 'natura' (did you mean 'natural'?)"),
        ("method: {kind: [ard]}", "recipe.method.kind: there is no ['ard'] (did you mean 'ard'?)"),
        ("method: naturla", "recipe.method.kind: there is no 'naturla' (did you mean 'natural'?)"),
        ("normalise: natural", "recipe.normalise.of: cannot use 'natural' (did you mean 'data'?)"),
        ("data: {kind: digit}", "recipe.data.kind: there is no 'digit' (did you mean 'digits'?)"),
        ("data: {}", "recipe.data: say which kind (one of: digits, hub, parquet, folder, npz)"),
        ("data: {kind: hub}", "recipe.data: key 'id' is missing"),
        ("student: {kind: vg}", "recipe.student.kind: there is no 'vg' (did you mean 'vgg'?)"),
        ("student: [1]", "recipe.student: expected a mapping, got [1]"),
        ("threat: {norm: linfty}", "recipe.threat.norm: cannot use 'linfty' (did you mean 'linf'?)"),
        ("training: {precision: fp64}", "recipe.training.precision: cannot use 'fp64' (did you mean 'fp32'?)"),
        (
            "training: {epochs: many}",
            "recipe.training.epochs: cannot use 'many': expected a valid integer, unable to parse",
        ),
        (
            "training: {epochs: 1.5}",
            "recipe.training.epochs: cannot use 1.5: expected a valid integer, got a number with",
        ),
        ("training: {epochs: yes}", "recipe.training.epochs: cannot use True: expected a number"),
        ("training: {epochs: 0}", "recipe.training: epochs and batch must be at least 1, got 0 and 128"),
        ("training: {optimiser: {lr: .nan}}", "recipe.training.optimiser.lr: cannot use nan: expected a finite number"),
        (
            "training: {optimiser: {lr: -1}}",
            "recipe.training.optimiser: lr and weight_decay cannot be negative, got -1.0",
        ),
        ("training:", "recipe.training: expected a mapping, got None"),
        ("name: 5", "recipe.name: cannot use 5: expected a valid string"),
        ("augment: {flip: 3}", "recipe.augment.flip: cannot use 3: expected a valid boolean"),
        ("augment: {crop: -1}", "recipe.augment: crop and cutout are pixels and cannot be negative, got -1 and 0"),
        ("augment: {bank: -1}", "recipe.augment: bank is a number of draws (0: a new one in every epoch), got -1"),
        ("loading: {workers: -1}", "recipe.loading: workers is a number of processes, got -1"),
        ("loading: {mode: stream}", "recipe.loading.mode: cannot use 'stream' (did you mean 'streamed'?)"),
        (
            "data: {kind: folder, path: x, form: {channels: 2}}",
            "recipe.data.form.channels: cannot use 2 (one of: 0, 1, 3)",
        ),
        ("student: {kind: mlp, hidden: 5}", "recipe.student.hidden: expected a list, got 5"),
        ("student: {kind: mlp, hidden: [5, x]}", "recipe.student.hidden.1: cannot use 'x': expected a valid integer"),
        (
            "training: {optimiser: {kind: adamw, betas: [0.9]}}",
            "recipe.training.optimiser.betas: expected a list, got [0.9]",
        ),
        ("selection: {fraction: 1}", "recipe.selection: fraction is the held-out share of the training part, between"),
        ("selection: {every: 0}", "recipe.selection: examples and every must be at least 1, got 1000 and 0"),
        ("evaluation: {batch: 0}", "recipe.evaluation: examples must be 0 (all) or more and batch at least 1, got 0"),
        ("evaluation: {attacks: [{}]}", "recipe.evaluation.attacks.0: key 'name' is missing"),
        (
            "evaluation: {attacks: [{name: a}, {name: a}]}",
            "recipe.evaluation: attacks need different names, got a, a",
        ),
        (
            "selection: {trial: {attack: {ramp: 0.5}}}",
            "recipe.selection.trial: attack 'pgd-10': ramps and mode belong to training, an evaluation has neither",
        ),
        ("teachers: 5", "recipe.teachers: cannot use 5: expected a valid dictionary"),
        ("1: 2", "recipe: unknown key 1 (one of: augment, data, "),
    ],
)
def test_wrong_keys_and_values_get_one_sentence(text, sentence):
    found = refused(text)
    assert found.startswith(sentence)
    if sentence.endswith((")", "?")):
        assert found == sentence


class TestTeachers:
    def test_a_missing_role(self):
        assert refused("method: {kind: ard}") == (
            "recipe: method 'ard' needs a teacher in the role 'robust'; add it to teachers"
        )

    def test_an_extra_role(self):
        assert refused("teachers: {robust: runs/t}") == (
            "recipe: method 'natural' has no teacher, but teachers names 'robust'"
        )
        assert refused("method: {kind: ard}\nteachers: {robust: runs/t, clean: runs/c}") == (
            "recipe: method 'ard' has only robust, but teachers names 'clean'"
        )


class TestTeacherCache:
    TEACHER = "method: {kind: ard}\nteachers: {robust: runs/t}\ntraining: {teacher_cache: true}\n"

    def test_draws_without_end_cannot_be_kept(self):
        assert refused(self.TEACHER + "augment: {flip: true}") == (
            "recipe: training.teacher_cache keeps one answer per image and draw, and this augmentation draws without "
            "end; set augment.bank to a number of draws, or training.teacher_cache to false"
        )

    @pytest.mark.parametrize("augment", ["{flip: true, bank: 3}", "{}"])
    def test_a_bank_or_nothing_to_draw_can(self, augment):
        assert recipe(self.TEACHER + f"augment: {augment}").training.teacher_cache


class TestText:
    def test_no_yaml_no_mapping_no_code(self, tmp_path):
        for text, part in (
            ("a: [", "recipe: not readable as YAML (while parsing"),
            ("!!python/object/apply:os.getcwd []", "recipe: not readable as YAML (could not determine a constructor"),
            ("- a", "recipe: a recipe is a mapping with the keys name, seed, data"),
            ("", "recipe: a recipe is a mapping with the keys name, seed, data"),
        ):
            with pytest.raises(InputError) as caught:
                parse(text)
            assert str(caught.value).startswith(part)
            assert "\n" not in str(caught.value)

    def test_a_file_is_named(self, tmp_path):
        file = tmp_path / "r.yaml"
        file.write_text(BASE + "trainign: {}")
        with pytest.raises(InputError) as caught:
            read(file)
        assert str(caught.value) == f"{file}: unknown key 'trainign' (did you mean 'training'?)"

    @pytest.mark.parametrize(
        ("prepare", "reason"),
        [
            (lambda file: None, "there is no such file"),
            (lambda file: file.mkdir(), "cannot be read (it is a folder)"),
            (lambda file: file.write_bytes(b"\xff\xfe"), "not UTF-8 text"),
        ],
        ids=["missing", "folder", "bytes"],
    )
    def test_a_file_that_cannot_be_read(self, tmp_path, prepare, reason):
        file = tmp_path / "r.yaml"
        prepare(file)
        with pytest.raises(InputError) as caught:
            read(file)
        assert str(caught.value) == f"{file}: {reason}"

    def test_a_missing_key_is_named(self):
        with pytest.raises(InputError, match="recipe: key 'name' is missing"):
            parse("data: {kind: digits}")


class TestSet:
    def test_edits_any_depth_in_order_with_yaml_values(self):
        found = recipe(
            "",
            "training.epochs=3",
            "training.optimiser.lr=0.5",
            "student.hidden=[4, 5]",
            "threat.eps=4/255",
            "name=a=b",
            "seed=1",
            "seed=2",
            "augment.flip=true",
            "student.kind=mlp",
        )
        assert found.training.epochs == 3
        assert found.training.optimiser == SGD(lr=0.5)
        assert found.student == MLP(hidden=(4, 5))
        assert str(found.evaluation.attacks[0].attack.eps) == "4/255"
        assert (found.name, found.seed, found.augment.flip) == ("a=b", 2, True)

    def test_it_edits_the_text_before_validation(self):
        assert recipe("seed: nonsense", "seed=4").seed == 4
        assert recipe("", "method={kind: ard}", "teachers.robust=runs/t").method == ARD()

    @pytest.mark.parametrize(
        ("edit", "sentence"),
        [
            ("training.epochs", "--set training.epochs: write path=value, for example training.epochs=10"),
            ("=3", "--set =3: write path=value, for example training.epochs=10"),
            ("training.=3", "--set training.=3: write path=value, for example training.epochs=10"),
            ("name.x=3", "--set name.x=3: 'name' is a value and has no keys of its own"),
            (
                "student.hidden=[4",
                (
                    '--set student.hidden=[4: not readable as YAML (while parsing a flow sequence in "<unicode string>"'
                    ", line 1, column 1: [4 ^ expected ',' or ']', but got '<stream end>' in \"<unicode string>\", "
                    "line 1, column 3: [4 ^)"
                ),
            ),
            ("training.epoch=4", "recipe.training: unknown key 'epoch' (did you mean 'epochs'?)"),
            ("trainings.epochs=4", "recipe: unknown key 'trainings' (did you mean 'training'?)"),
            ("threat.eps=8", "recipe.threat: eps 8 is not in [0, 1] pixel units; did you mean 8/255?"),
        ],
    )
    def test_what_cannot_be_meant(self, edit, sentence):
        assert refused("", edit) == sentence


class TestDifferences:
    def test_are_listed_by_path(self):
        before = recipe("training: {averaging: {kind: ema, decay: 0.9}}")
        after = recipe("seed: 3\nthreat: {eps: 4/255}\ndata: {kind: hub, id: a/b}")
        found = differences(before, after)
        assert "seed: 0 -> 3" in found
        assert "threat.eps: 8/255 -> 4/255" in found
        assert "data.kind: digits -> hub" in found
        assert "data.id: absent -> a/b" in found
        assert "training.averaging.decay: 0.9 -> absent" in found
        assert "training.averaging: absent -> None" in found

    def test_of_equal_recipes_there_are_none(self):
        assert differences(recipe(), recipe()) == []

    @given(st.integers(1, 50), st.integers(1, 50))
    def test_only_what_differs(self, one, other):
        before = recipe()
        found = differences(
            replace(before, training=Training(epochs=one)), replace(before, training=Training(epochs=other))
        )
        assert found == ([] if one == other else [f"training.epochs: {one} -> {other}"])


def test_build_and_plain_work_on_any_node():
    attack = PGD(steps=3, eps=Radius("2/255"), step=Radius("1/255"))
    assert build_value(PGD, plain(attack)) == attack
    assert plain(attack)["eps"] == "2/255"
    assert plain(Natural()) == {"kind": "natural", "label_smoothing": 0.0}


def test_an_evaluation_without_attacks_is_refused():
    with pytest.raises(ValueError, match="at least one attack"):
        EvaluationSettings(attacks=())


class TestDataSource:
    def test_a_word_says_which_images(self, tmp_path):
        (tmp_path / "classes" / "train" / "a").mkdir(parents=True)
        (tmp_path / "tables" / "data").mkdir(parents=True)
        (tmp_path / "tables" / "data" / "test-0.parquet").write_bytes(b"")
        assert data_source("digits") == Digits()
        assert data_source(f"{tmp_path}/any.npz") == Npz(path=f"{tmp_path}/any.npz")
        assert data_source(str(tmp_path / "tables")) == Parquet(path=str(tmp_path / "tables"))
        assert data_source(str(tmp_path / "classes")) == Folder(path=str(tmp_path / "classes"))
        assert data_source("ylecun/mnist") == Hub(id="ylecun/mnist")

    def test_yaml_is_what_a_recipe_says(self):
        for word in ("{kind: folder, path: x, form: {size: 32}}", "kind: folder\npath: x\nform: {size: 32}"):
            assert data_source(word) == Folder(path="x", form=Form(size=32))
        assert data_source("{kind: hub, id: mnist, config: small}") == Hub(id="mnist", config="small")

    @pytest.mark.parametrize(
        ("word", "said"),
        [
            ("{kind: folder, pth: x}", "unknown key 'pth'"),
            ("{kind: foldr, path: x}", "there is no 'foldr'"),
            ("{path: x}", "there is no None|say which kind"),
            ("{kind: [1], path: x}", "there is no"),
            ("{kind: hub, id: ../x}", "is no id of the hub"),
            ("{kind: folder", "not readable as YAML"),
            ("kind: folder, path: x", "not readable as YAML"),
            ("", "is empty"),
        ],
    )
    def test_what_cannot_be_meant_is_one_sentence(self, word, said):
        with pytest.raises(InputError, match=said) as caught:
            data_source(word)
        assert "\n" not in str(caught.value)

    def test_what_the_word_leaves_open_is_as_in_the_source_that_it_replaces(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "x" / "train").mkdir(parents=True)
        before = Parquet(path="y", label="fine", form=Form(size=32, channels=1), on_error="skip")
        assert data_source("x", before) == Folder(path="x", form=before.form, on_error="skip")
        assert data_source("org/x", before) == Hub(id="org/x", label="fine", form=before.form, on_error="skip")
        assert data_source("{kind: folder, path: x, form: {size: 8}}", before) == Folder(
            path="x", form=Form(size=8, channels=1), on_error="skip"
        )
        assert data_source("a.npz", before) == Npz(path="a.npz")
        assert data_source("digits", before) == Digits()
        assert data_source("x", Digits()) == data_source("x") == Folder(path="x")

    def test_a_folder_named_digits_does_not_hide_the_digits(self, tmp_path, monkeypatch):
        (tmp_path / "digits").mkdir()
        monkeypatch.chdir(tmp_path)
        assert data_source("digits") == Digits()


class TestBareNames:
    """A node with a ``kind`` takes its bare name for the kind with all defaults."""

    @pytest.mark.parametrize(
        ("text", "long"),
        [
            ("method: natural", "method: {kind: natural}"),
            ("student: mlp", "student: {kind: mlp}"),
            ("data: digits", "data: {kind: digits}"),
            ("data: ylecun/mnist", "data: {kind: hub, id: ylecun/mnist}"),
            ("data: some/file.npz", "data: {kind: npz, path: some/file.npz}"),
            ("training: {optimiser: adamw}", "training: {optimiser: {kind: adamw}}"),
            ("training: {schedule: constant}", "training: {schedule: {kind: constant}}"),
            ("training: {averaging: ema}", "training: {averaging: {kind: ema}}"),
            (
                "evaluation: {attacks: [{name: a, attack: apgd}]}",
                "evaluation: {attacks: [{name: a, attack: {kind: apgd}}]}",
            ),
        ],
    )
    def test_they_mean_the_same(self, text, long):
        assert recipe(text) == recipe(long)


class TestIdentity:
    def test_keys_that_came_later_count_where_they_are_not_at_their_default(self):
        recipe = parse("name: x\ndata: digits\nstudent: {kind: mlp, hidden: [8]}\nmethod: natural\n")
        for word in ("init", "freeze", "learning_rates", "balance", "mixup", "ratio", "on_error"):
            assert word in dump(recipe) or word == "on_error"
            assert word not in identity(recipe)
        for edit in ("init=pretrained", "training.freeze=['0.*']", "augment.mixup=0.2", "normalise=data"):
            other = parse(dump(recipe), [edit])
            assert other.digest != recipe.digest
        assert parse(identity(recipe)) == recipe

    def test_so_do_those_of_a_method_and_of_what_it_wraps(self):
        text = (
            "name: x\ndata: digits\nstudent: {kind: mlp, hidden: [8]}\nteachers: {robust: r}\n"
            "method: {kind: awp, base: {kind: igdm, base: {kind: adaad}}}\n"
        )
        recipe = parse(text)
        for word in ("attacked_forward", "search_target"):
            assert word in dump(recipe) and word not in identity(recipe)
        for edit in ("method.base.attacked_forward=again", "method.base.base.search_target=clean"):
            assert parse(text, [edit]).digest != recipe.digest
        assert parse(identity(recipe)) == recipe


def threats_in(value):
    """Yield the threats and the attacks in a value, at any depth."""
    if isinstance(value, Threat | BaseAttack):
        yield value
    elif is_dataclass(value):
        for part in fields(value):
            yield from threats_in(getattr(value, part.name))
    elif isinstance(value, tuple):
        for part in value:
            yield from threats_in(part)


@pytest.mark.parametrize("kind", methods())
def test_all_that_a_method_searches_or_bounds_is_within_the_recipe_s_threat(kind):
    roles = build_value(Method, {"kind": kind}).roles
    teachers = {role: f"runs/{role}" for role in roles}
    found = recipe(yaml.safe_dump({"threat": {"norm": "l2", "eps": "0.3"}, "method": kind, "teachers": teachers}))
    inside = list(threats_in(found.method))
    assert all((one.norm, str(one.eps)) == ("l2", "0.3") for one in inside)
    assert inside or kind in {"natural", "kd", "rrm"}

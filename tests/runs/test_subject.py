import sys

import huggingface_hub.constants
import pytest
from tests.formats.fake_hub import FakeHub, serving

from overproof.attacks.apgd import APGD
from overproof.attacks.ball import Radius, Threat
from overproof.attacks.hopskipjump import HopSkipJump
from overproof.attacks.pgd import PGD
from overproof.attacks.suites import SUITES, AttackSpec
from overproof.data.sources import Digits
from overproof.errors import InputError
from overproof.formats.hub import write_repository
from overproof.runs.loaded import digest_of
from overproof.runs.subject import EvaluationTask, choose_suite, evaluation_task
from overproof.signature import Signature

DIGITS = Signature(channels=1, height=8, width=8, classes=10)


@pytest.fixture
def run(finished):
    return finished()


@pytest.fixture
def somebody():
    """Return a function: an examinee with these trials, under linf 0.1."""

    def make(*trials):
        return EvaluationTask(
            name="somebody",
            folder=None,
            model=None,
            images=None,
            threat=Threat(eps=Radius("0.1")),
            trials=trials,
            facts={},
        )

    return make


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return the name of a module in the current folder with a network for digits; it is forgotten afterwards."""
    (tmp_path / "examinee_net.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "examinee_net"
    sys.modules.pop("examinee_net", None)


def refused(function, *arguments):
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestWho:
    def test_a_run_by_folder_text_or_value_brings_its_recipe_along(self, run):
        recipe = run.recipe()
        for word in (run, run.folder, str(run.folder)):
            found = evaluation_task(word, None)
            assert (found.name, found.folder) == (str(run.folder), run.folder)
            assert (found.threat, found.trials) == (recipe.threat, recipe.evaluation.attacks)
            assert (found.examples, found.batch) == (0, 500)
            assert found.images.digest == Digits().load("test").digest
            assert found.facts["model_digest"] == run.description()["digest"]
            assert found.facts["selected_on"] == "held-out part of the training split"

    def test_other_images_for_a_run(self, run, squares):
        file = squares()
        assert evaluation_task(run, str(file)).images.name == file.stem
        assert refused(evaluation_task, run, str(squares(side=6))) == (
            f"{run.folder}: it is for 1x8x8, 10 classes, the data are 1x6x6, 10 classes"
        )

    def test_a_foreign_network_has_a_folder_for_what_is_found(self, module):
        found = evaluation_task(f"{module}:make", "digits")
        assert str(found.folder) == "evaluations/examinee-net-make"
        assert (found.name, found.trials, found.threat) == (f"{module}:make", (), Threat())
        assert found.facts["architecture"] == "Sequential"
        assert found.facts["model_digest"] == digest_of(found.model)
        assert not found.model.training
        assert refused(evaluation_task, f"{module}:make", None).startswith(
            f"{module}:make: say on which images, with --data "
        )

    def test_a_repository_of_the_hub_is_a_run_whose_results_lie_elsewhere(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        hub = FakeHub()
        hub.holds("org/toy", write_repository(run.folder, tmp_path / "repository"))
        with serving(hub) as address:
            monkeypatch.setenv("HF_ENDPOINT", address)
            found = evaluation_task("org/toy", None)
        assert (found.folder.as_posix(), found.name) == ("evaluations/org-toy", "org/toy")
        assert found.facts == evaluation_task(run, None).facts
        assert found.threat == run.recipe().threat
        # A repository on disk is a folder like any other.
        assert evaluation_task(tmp_path / "repository", None).folder == tmp_path / "repository"

    def test_no_run(self, tmp_path):
        assert refused(evaluation_task, tmp_path, None) == f"{tmp_path}: not a run folder (it has no recipe.yaml)"


class TestSuite:
    OWN = AttackSpec(name="own", attack=PGD(eps=Radius("0.1"), step=Radius("0.01")))

    def test_no_words_mean_the_recipes_attacks_or_quick(self, somebody):
        threat, suite = choose_suite(somebody(self.OWN), (), None, None)
        assert (suite.name, suite.survivors, suite.attacks) == ("recipe", False, (self.OWN,))
        assert threat == Threat(eps=Radius("0.1"))
        assert choose_suite(somebody(), (), None, None)[1] == SUITES["quick"](threat)

    @pytest.mark.parametrize("name", SUITES)
    def test_a_suites_name(self, somebody, name):
        threat, suite = choose_suite(somebody(self.OWN), (name,), "l2", "0.5")
        assert threat == Threat(norm="l2", eps=Radius("0.5"))
        assert suite == SUITES[name](threat)

    @pytest.mark.parametrize(
        ("norm", "eps", "expected"),
        [(None, None, ("l2", "1.0")), ("l2", None, ("l2", "0.1")), (None, "0.2", ("linf", "0.2"))],
    )
    def test_its_own_threat_unless_another_is_said(self, somebody, norm, eps, expected):
        threat, _ = choose_suite(somebody(), ("rrm-l2",), norm, eps)
        assert (threat.norm, str(threat.eps)) == expected

    def test_names_of_attacks_in_the_order_asked(self, somebody):
        threat, suite = choose_suite(somebody(self.OWN), ("square", "own", "apgd-ce-20"), None, "0.2")
        assert (suite.name, suite.survivors) == ("chosen", False)
        assert [trial.name for trial in suite.attacks] == ["square", "own", "apgd-ce-20"]
        assert {str(trial.attack.eps) for trial in suite.attacks} == {"0.2"}
        assert suite.attacks[1].attack.step is None
        assert suite.attacks[2].attack == APGD(eps=threat.eps, steps=20)

    def test_the_recipes_attack_goes_before_a_suites_of_the_same_name(self, somebody):
        own = AttackSpec(name="square", attack=PGD(eps=Radius("0.1"), steps=3))
        assert choose_suite(somebody(own), ("square",), None, None)[1].attacks == (own,)

    def test_the_attack_that_is_recommended_without_gradients_can_be_asked_for(self, somebody):
        _, suite = choose_suite(somebody(), ("hopskipjump",), "l2", 1)
        assert suite.attacks[0].attack == HopSkipJump(norm="l2", eps=Radius("1"))

    @pytest.mark.parametrize(
        ("words", "norm", "eps", "said"),
        [
            (("own", "own"), None, None, "attacks need different names, got own, own"),
            (("hopskipjump",), "l1", 1, "hopskipjump is defined for l2 and linf, not for l1"),
            (("own",), None, "8", "eps 8 is not in [0, 1] pixel units; did you mean 8/255?"),
            (("own",), None, "eight", "cannot read 'eight' as a length; write it as 8/255 or 0.031"),
            (("own",), None, "-0.1", "a length must be positive, got -0.1"),
            (("own",), None, "nan", "cannot read 'nan' as a length; write it as 8/255 or 0.031"),
            (("own",), None, "0/0", "cannot read '0/0' as a length; write it as 8/255 or 0.031"),
            (("owm",), None, 0, "there is no attack or suite 'owm' (did you mean 'own'?)"),
            (
                ("quick", "own"),
                None,
                None,
                "'quick' is a suite and is named alone; beside others, name its attacks "
                f"({', '.join(trial.name for trial in SUITES['quick'](Threat()).attacks)})",
            ),
        ],
    )
    def test_bad_words_are_one_sentence(self, somebody, words, norm, eps, said):
        assert refused(choose_suite, somebody(self.OWN), words, norm, eps) == said

    @pytest.mark.parametrize("eps", [0, 0.0, -0.0, "0", "0.0", "0/255", " 0 "])
    def test_an_eps_of_0_leaves_no_threat_and_no_attack(self, somebody, eps):
        threat, suite = choose_suite(somebody(self.OWN), ("standard",), None, eps)
        assert threat is None
        assert (suite.name, suite.attacks) == ("standard", ())
        assert suite.caution.startswith("an eps of 0 allows no change")

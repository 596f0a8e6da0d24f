from dataclasses import replace

import pytest

from overproof.attacks.apgd import APGD
from overproof.attacks.ball import Radius, Threat
from overproof.attacks.fab import FAB
from overproof.attacks.hopskipjump import HopSkipJump
from overproof.attacks.pgd import PGD
from overproof.attacks.square import Square
from overproof.attacks.suites import ALONE, OWN_THREATS, SUITES, AttackSpec, Suite, mtard, quick, rrm, shipped, standard

LINF = Threat()
L2 = Threat(norm="l2", eps=Radius("0.5"))
L1 = Threat(norm="l1", eps=Radius("12"))


def named(suite):
    return {trial.name: trial for trial in suite.attacks}


class TestPasses:
    @pytest.mark.parametrize(("classes", "ranks"), [(2, [1]), (3, [1, 2]), (4, [1, 2, 3]), (10, [*range(1, 10)])])
    def test_targets_are_as_many_as_there_are_wrong_classes(self, classes, ranks):
        trial = AttackSpec(name="t", attack=APGD(), loss="dlr", targets=9)
        assert [rank for _, rank in trial.passes(classes)] == ranks

    def test_without_targets_there_is_one_pass_towards_none(self):
        for attack in (PGD(), APGD(), FAB(), Square(), HopSkipJump()):
            assert list(AttackSpec(name="t", attack=attack).passes(10)) == [(attack, 0)]

    @pytest.mark.parametrize("kind", [PGD, APGD])
    def test_every_restart_is_a_pass_of_its_own_per_target(self, kind):
        trial = AttackSpec(name="t", attack=kind(restarts=3, steps=7), targets=2)
        assert list(trial.passes(10)) == [(kind(restarts=1, steps=7), rank) for rank in (1, 1, 1, 2, 2, 2)]


class TestTrial:
    @pytest.mark.parametrize(
        ("trial", "family"),
        [
            (AttackSpec(name="t", attack=PGD()), "white_box"),
            (AttackSpec(name="t", attack=APGD()), "white_box"),
            (AttackSpec(name="t", attack=FAB()), "white_box"),
            (AttackSpec(name="t", attack=Square()), "black_box"),
            (AttackSpec(name="t", attack=HopSkipJump()), "black_box"),
            (AttackSpec(name="t", attack=PGD(), surrogate=True), "transfer"),
            (AttackSpec(name="t", attack=Square(), surrogate=True), "transfer"),
        ],
        ids=lambda value: value if isinstance(value, str) else value.attack.kind,
    )
    def test_families(self, trial, family):
        assert trial.family == family

    def test_under_its_own_threat_it_is_itself(self):
        trial = AttackSpec(name="t", attack=PGD(step=Radius("0.01")))
        assert trial.under(LINF) is trial

    @pytest.mark.parametrize("attack", [PGD(), APGD(steps=7), FAB(bias=0.2), Square(queries=9), HopSkipJump(queries=9)])
    def test_another_threat_changes_norm_and_eps_alone(self, attack):
        trial = AttackSpec(name="t", attack=attack, loss="dlr", targets=3)
        assert trial.under(L2) == replace(trial, attack=replace(attack, norm="l2", eps=Radius("0.5")))

    @pytest.mark.parametrize("threat", [L2, Threat(eps=Radius("4/255"))])
    def test_a_step_made_for_another_radius_is_dropped(self, threat):
        found = AttackSpec(name="t", attack=PGD(step=Radius("0.01"), steps=7)).under(threat).attack
        assert (found.step, found.steps, found.norm, found.eps) == (None, 7, threat.norm, threat.eps)

    def test_an_attack_that_is_not_defined_for_a_norm_says_so(self):
        with pytest.raises(ValueError, match=r"^hopskipjump is defined for l2 and linf, not for l1$"):
            AttackSpec(name="t", attack=HopSkipJump()).under(L1)

    @pytest.mark.parametrize(
        "attack", [PGD(ramp=0.5), PGD(steps_ramp=0.5), PGD(mode="train")], ids=["ramp", "steps", "mode"]
    )
    def test_options_that_belong_to_training_are_refused(self, attack):
        with pytest.raises(ValueError, match=r"^attack 'x': ramps and mode belong to training, an evaluation has neit"):
            AttackSpec(name="x", attack=attack)

    def test_targets_are_a_number(self):
        with pytest.raises(ValueError, match=r"^attack 'x': targets must be 0 \(none\) or more, got -1$"):
            AttackSpec(name="x", targets=-1)

    @pytest.mark.parametrize("attack", [FAB(), HopSkipJump()])
    def test_what_follows_the_networks_own_boundary_cannot_be_searched_elsewhere(self, attack):
        with pytest.raises(ValueError, match=rf"^attack 'x': {attack.kind} follows the network's own boundary and "):
            AttackSpec(name="x", attack=attack, surrogate=True)


class TestSuites:
    @pytest.mark.parametrize("name", SUITES)
    @pytest.mark.parametrize("threat", [LINF, L2, L1, Threat(eps=Radius("0.3"))], ids=lambda threat: threat.norm)
    def test_every_attack_of_every_suite_is_in_the_threat_model(self, name, threat):
        suite = SUITES[name](threat)
        assert {(trial.attack.norm, trial.attack.eps) for trial in suite.attacks} == {(threat.norm, threat.eps)}
        assert suite.under(threat) == suite

    def test_standard_is_the_references_definition(self):
        suite = standard(LINF)
        assert suite.survivors
        assert suite.caution == ""
        assert suite.attacks == (
            AttackSpec(name="apgd-ce", attack=APGD(steps=100, restarts=1), loss="cross_entropy"),
            AttackSpec(name="apgd-t", attack=APGD(steps=100, restarts=1), loss="dlr", targets=9),
            AttackSpec(name="fab-t", attack=FAB(steps=100), loss="margin", targets=9),
            AttackSpec(name="square", attack=Square(queries=5000, p_init=0.8), loss="margin"),
        )
        assert [sum(1 for _ in trial.passes(10)) for trial in suite.attacks] == [1, 9, 9, 1]
        assert [sum(1 for _ in trial.passes(3)) for trial in suite.attacks] == [1, 2, 2, 1]
        assert [sum(1 for _ in trial.passes(2)) for trial in suite.attacks] == [1, 1, 1, 1]
        assert named(standard(L2))["apgd-t"].targets == 9

    def test_under_l1_it_is_that_of_the_l1_paper(self):
        found = named(standard(L1))
        assert (found["apgd-ce"].attack.restarts, found["apgd-t"].targets) == (5, 5)
        assert [sum(1 for _ in trial.passes(10)) for trial in found.values()] == [5, 5, 9, 1]

    def test_quick_is_a_fraction_of_it_and_says_what_it_is(self):
        suite = quick(LINF)
        assert suite.survivors
        assert suite.caution == "an upper estimate: the standard suite may break more"
        steps = sum(search.steps for trial in suite.attacks for search, _ in trial.passes(10))
        standards = (search for trial in standard(LINF).attacks for search, _ in trial.passes(10))
        assert steps * 20 < sum(getattr(search, "steps", 5000) for search in standards)

    def test_mtard_has_the_published_parameters(self):
        suite, eight = mtard(LINF), Radius("8/255")
        assert not suite.survivors
        two, small = Radius("2/255"), Radius("0.003")
        assert named(suite) == {
            "fgsm": AttackSpec(name="fgsm", attack=PGD(steps=1, step=eight, start="none")),
            "pgd-sat": AttackSpec(name="pgd-sat", attack=PGD(steps=20, step=two)),
            "pgd-trades": AttackSpec(name="pgd-trades", attack=PGD(steps=20, step=small)),
            "cw": AttackSpec(name="cw", attack=PGD(steps=30, step=two, start="none"), loss="margin"),
            "transfer-pgd": AttackSpec(name="transfer-pgd", attack=PGD(steps=20, step=small), surrogate=True),
            "transfer-cw": AttackSpec(
                name="transfer-cw", attack=PGD(steps=30, step=two, start="none"), loss="margin", surrogate=True
            ),
            "square-100": AttackSpec(name="square-100", attack=Square(queries=100), loss="margin"),
        }
        assert [trial.attack.start for trial in suite.attacks if isinstance(trial.attack, PGD)].count("uniform") == 3
        assert str(named(suite)["pgd-trades"].attack.step) == "0.003"

    @pytest.mark.parametrize("threat", [Threat(eps=Radius("4/255")), L2], ids=lambda threat: threat.norm)
    def test_its_steps_grow_with_eps(self, threat):
        share = float(threat.eps) / (8 / 255)
        found = named(mtard(threat))
        assert found["fgsm"].attack.step == threat.eps
        assert found["pgd-sat"].attack.step == pytest.approx(share * 2 / 255)
        assert found["cw"].attack.step == pytest.approx(share * 2 / 255)
        assert found["pgd-trades"].attack.step == pytest.approx(share * 0.003)

    def test_rrm_is_fifty_steps_and_ten_restarts(self):
        assert rrm(LINF).attacks == (AttackSpec(name="apgd-ce-50x10", attack=APGD(steps=50, restarts=10)),)
        assert sum(1 for _ in rrm(LINF).attacks[0].passes(10)) == 10

    def test_rrm_l2_is_the_same_in_the_published_ball(self):
        threat = OWN_THREATS["rrm-l2"]
        assert (threat.norm, float(threat.eps)) == ("l2", 1.0)
        (trial,) = SUITES["rrm-l2"](threat).attacks
        assert trial.attack == APGD(norm="l2", eps=Radius("1.0"), steps=50, restarts=10)
        assert set(OWN_THREATS) <= set(SUITES)

    def test_a_name_means_one_attack_in_all_suites(self):
        trials = [trial for suite in SUITES.values() for trial in suite(LINF).attacks] + list(ALONE)
        assert len({trial.name for trial in trials}) == len(set(map(repr, trials)))

    def test_names_in_a_suite_differ(self):
        with pytest.raises(ValueError, match=r"^attacks need different names, got a, b, a$"):
            Suite(name="s", attacks=(AttackSpec(name="a"), AttackSpec(name="b"), AttackSpec(name="a", targets=1)))


class TestShipped:
    @pytest.mark.parametrize("threat", [LINF, L2])
    def test_no_attack_needs_gradients_of_the_file_itself(self, threat):
        suite = shipped(threat)
        assert [trial.family for trial in suite.attacks] == ["transfer", "transfer", "black_box", "black_box"]
        assert {(trial.attack.norm, trial.attack.eps) for trial in suite.attacks} == {(threat.norm, threat.eps)}
        assert not suite.survivors  # files are compared attack by attack

    def test_under_l1_there_is_no_walk_along_the_boundary(self):
        assert [trial.attack.kind for trial in shipped(L1).attacks] == ["pgd", "pgd", "square"]

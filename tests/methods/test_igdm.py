import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.adaad import AdaAD
from overproof.methods.adaiad import AdaIAD
from overproof.methods.ard import ARD
from overproof.methods.b_mtard import BMTARD
from overproof.methods.fast_ard import FastARD
from overproof.methods.iad import IAD
from overproof.methods.igdm import IGDM
from overproof.methods.kd import KD
from overproof.methods.mtard import MTARD
from overproof.methods.pgd_at import PGDAT
from overproof.methods.rrm import RRM
from overproof.methods.rslad import RSLAD
from overproof.methods.saad import SAAD
from overproof.methods.trades import TRADES

from .by_hand import ADV, X, counting, descend, equal, kl, noted, only, step_of, tell

SHORT = PGD(steps=2, start="normal")
BASES = [
    AdaAD(inner=SHORT),
    AdaAD(alpha=0.5, inner=SHORT),
    ARD(alpha=0.7, inner=SHORT),
    RSLAD(inner=SHORT),
    IAD(alpha=0.9, inner=SHORT),
    IAD(idle_forwards="official", inner=SHORT),
    AdaIAD(inner=SHORT),
    MTARD(inner=SHORT),
    BMTARD(inner=SHORT),
    SAAD(inner=SHORT),
]
every_base = pytest.mark.parametrize("base", BASES, ids=lambda base: base.kind)


def by_hand(step, weight):
    student, teacher, mirrored = step.student, step.teachers["robust"], 2 * X - ADV
    slopes = kl(teacher(ADV) - teacher(mirrored), student(ADV) - student(mirrored))
    return weight * slopes.mean()


@every_base
@pytest.mark.parametrize(("weight", "progress"), [(1.0, 1.0), (10.0, 0.25), (3.0, 0.0)])
def test_the_term_is_the_formula_and_the_bases_terms_are_untouched(base, weight, progress, monkeypatch):
    tell(monkeypatch)
    method = IGDM(base=base, weight=weight)
    step = step_of(method, progress=progress)
    hand = only(base.losses(step_of(base, progress=progress, student=step.student, teachers=step.teachers)))
    hand["gradient"] = hand.get("gradient", 0) + by_hand(step, weight * progress)
    equal(only(method.losses(step)), hand, step.student)


@every_base
def test_weight_zero_is_the_base_to_the_bit(base):
    ends = []
    for method in (base, IGDM(base=base, weight=0.0)):
        torch.manual_seed(0)
        step, found = step_of(method), []
        for _ in range(2):
            descend(noted(method.losses(step), found), step.student)
        ends.append((found, list(step.student.parameters()), step.state))
    (found, weights, state), (other, others, memory) = ends
    assert found == other
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    assert all(torch.equal(value, memory[name]) for name, value in state.items())


@every_base
def test_the_search_is_the_bases_own(base):
    """With the weight at work the base still searches as it would alone: the same draws, the same steps."""
    found = []
    for method in (base, IGDM(base=base)):
        torch.manual_seed(0)
        found.append(next(method.losses(step_of(method))))
    for name, term in found[0].items():
        if name != "gradient":
            assert torch.equal(term, found[1][name])


@pytest.mark.parametrize(
    ("base", "students", "teachers"),
    [
        (AdaAD(inner=SHORT), 1, 1),
        (AdaAD(alpha=0.5, inner=SHORT), 1, 1),
        (AdaIAD(inner=SHORT), 1, 1),
        (IAD(inner=SHORT), 1, 1),
        (MTARD(inner=SHORT), 1, 1),
        (BMTARD(inner=SHORT), 1, 1),
        (SAAD(inner=SHORT), 1, 1),
        (ARD(inner=SHORT), 1, 2),
        (RSLAD(inner=SHORT), 1, 2),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_answers_at_the_found_image_are_used_again(base, students, teachers):
    asked = []
    for method in (base, IGDM(base=base)):
        step = step_of(method)
        counts = counting(step.student), counting(step.teachers["robust"])
        only(method.losses(step))
        asked.append([len(count) for count in counts])
    assert [with_ - without for without, with_ in zip(*asked, strict=True)] == [students, teachers]


def test_the_mirrored_image_is_not_clipped(monkeypatch):
    tell(monkeypatch)
    step = step_of(IGDM())
    asked = counting(step.student)
    only(IGDM().losses(step))
    assert torch.equal(asked[-1], X - (ADV - X)) and (asked[-1].min() < 0 or asked[-1].max() > 1)


def test_the_official_code_asks_the_student_four_times_and_for_the_attacked_image_twice(monkeypatch):
    tell(monkeypatch)
    method = IGDM(base=AdaAD(clean_forward="always", inner=SHORT), attacked_forward="again")
    step = step_of(method, progress=0.5)
    asked = counting(step.student)
    terms = only(method.losses(step))
    opposite = X - (ADV - X)
    assert [
        next(k for k, v in {"x": X, "adv": ADV, "opposite": opposite}.items() if torch.equal(v, x)) for x in asked
    ] == [
        "x",
        "adv",
        "opposite",
        "adv",
    ]
    once = IGDM(base=AdaAD(inner=SHORT))
    shared = only(once.losses(step_of(once, progress=0.5)))
    assert terms.keys() == shared.keys()  # without BatchNorm's batch statistics between them the values are the same
    for name, term in terms.items():
        torch.testing.assert_close(term, shared[name])


def test_the_base_gives_roles_updates_and_memory():
    method = IGDM(base=MTARD())
    assert method.roles == ("robust", "clean") and method.updates == 1
    assert list(method.initial_state(step_of(MTARD()))) == ["weights", "initial", "relative"]


def test_modes_come_back(make_step, modes):
    step = make_step(IGDM())
    step.student.backbone[1].eval()
    before = modes(step.student)
    only(IGDM(base=AdaAD(inner=SHORT)).losses(step))
    assert modes(step.student) == before


@pytest.mark.parametrize("base", [TRADES(), PGDAT(), KD(), RRM(), FastARD(), IGDM()], ids=lambda base: base.kind)
def test_a_base_without_a_search_or_without_a_robust_teacher_is_refused(base):
    with pytest.raises(
        ValueError, match=f"^igdm needs a base with a search and a robust teacher; '{base.kind}' is not one$"
    ):
        IGDM(base=base)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"^weight cannot be negative, got -1.0$"):
        IGDM(weight=-1.0)

import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.adaad import AdaAD
from overproof.methods.adaiad import AdaIAD
from overproof.methods.ard import ARD
from overproof.methods.awp import AWP
from overproof.methods.b_mtard import BMTARD
from overproof.methods.catalogue import methods
from overproof.methods.iad import IAD
from overproof.methods.igdm import IGDM
from overproof.methods.kd import KD
from overproof.methods.mtard import MTARD
from overproof.methods.peeraid import PeerAiD
from overproof.methods.rslad import RSLAD
from overproof.methods.saad import SAAD
from overproof.methods.saad_weight import SAADWeight
from overproof.methods.trades import TRADES

from .by_hand import ADV, X, Y, ce, counting, entropy, equal, kl, only, step_of, tell

SHORT = PGD(steps=2, start="normal")
BASES = [
    ARD(alpha=0.7, inner=SHORT),
    RSLAD(inner=SHORT),
    AdaAD(alpha=0.5, inner=SHORT),
    IAD(alpha=0.9, inner=SHORT),
    AdaIAD(inner=SHORT),
    MTARD(inner=SHORT),
    BMTARD(inner=SHORT),
]


def weight_by_hand(teacher, scale, from_least):
    """Return the weights ``[N]`` at the images that the search is told."""
    unsure = entropy(teacher(ADV))
    return scale * (unsure - unsure.min() if from_least else unsure)


@pytest.mark.parametrize(("scale", "from_least"), [(1.0, False), (5.0, True)])
def test_the_terms_of_ard_rslad_and_adaad_are_the_formula(scale, from_least, monkeypatch):
    tell(monkeypatch)
    options = {"scale": scale, "from_least": from_least}
    for base, hand_of in (
        (
            ARD(alpha=0.7, temperature=3.0),
            lambda s, t, w: {"distil": 0.7 * 9 * (w * kl(t(X), s(ADV), 3.0)).mean(), "label": 0.3 * ce(s(X), Y).mean()},
        ),
        (
            RSLAD(alpha=0.8),
            lambda s, t, w: {"adv": 0.8 * (w * kl(t(X), s(ADV))).mean(), "clean": 0.2 * (w * kl(t(X), s(X))).mean()},
        ),
        (
            AdaAD(alpha=0.8),
            lambda s, t, w: {"adv": 0.8 * (w * kl(t(ADV), s(ADV))).mean(), "clean": 0.2 * (w * kl(t(X), s(X))).mean()},
        ),
    ):
        method = SAADWeight(base=base, **options)
        step = step_of(method)
        student, teacher = step.student, step.teachers["robust"]
        hand = hand_of(student, teacher, weight_by_hand(teacher, scale, from_least))
        equal(only(method.losses(step)), hand, student)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.kind)
def test_the_teacher_is_asked_about_the_attacked_image_once_and_its_weight_has_no_gradient(base, monkeypatch):
    tell(monkeypatch)
    step = step_of(SAADWeight(base=base))
    asked = counting(step.teachers["robust"])
    only(SAADWeight(base=base).losses(step))
    assert sum(torch.equal(x, ADV) for x in asked) == 1


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.kind)
def test_a_teacher_that_is_equally_unsure_of_all_changes_nothing_but_the_scale(base, monkeypatch):
    """With a uniform teacher every weight is log 4, so that its terms are the base's times log 4."""
    tell(monkeypatch)
    step = step_of(base)
    for value in step.teachers["robust"].parameters():
        value.zero_()
    plain = only(base.losses(step_of(base, student=step.student, teachers=step.teachers)))
    weighed = only(SAADWeight(base=base).losses(step))
    name = {"ard": "distil", "iad": "teacher", "adaiad": "teacher"}.get(base.kind, "adv")
    torch.testing.assert_close(weighed[name], torch.tensor(4.0).double().log() * plain[name])


def test_awp_may_be_around_it(monkeypatch):
    tell(monkeypatch)
    method = AWP(base=SAADWeight(base=RSLAD(inner=SHORT)), gamma=0.01)
    assert set(only(method.losses(step_of(method)))) == {"adv", "clean"}


def test_every_weighable_method_can_be_weighed():
    """What says that it is weighable takes ``Step.mean`` of at least one term: a weight of zero takes it away."""
    weighable = {kind for kind, cls in methods().items() if cls.weighable}
    assert {base.kind for base in BASES} <= weighable
    for kind in weighable:
        method = methods()[kind]()
        step = step_of(method)
        terms = only(method.losses(step_of(method)))
        zero = only(method.losses(type(step)(**{**vars(step), "weights": lambda: torch.zeros(5).double()})))
        assert any(terms[name].item() and not zero[name].item() for name in terms), kind


@pytest.mark.parametrize(
    "base", [KD(), TRADES(), SAAD(), PeerAiD(), IGDM(), AWP(), SAADWeight()], ids=lambda base: base.kind
)
def test_a_base_that_cannot_be_weighed_is_refused(base):
    with pytest.raises(ValueError, match=rf"^saad_weight needs a base that searches .*; '{base.kind}' is not one$"):
        SAADWeight(base=base)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match=f"^scale must be positive, got {scale}$"):
        SAADWeight(scale=scale)

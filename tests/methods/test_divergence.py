from itertools import product

import pytest
import torch

from overproof.functional import kl
from overproof.methods.adaad import AdaAD
from overproof.methods.adaiad import AdaIAD
from overproof.methods.ard import ARD
from overproof.methods.b_mtard import BMTARD
from overproof.methods.divergence import GKL, IKL, KL
from overproof.methods.fast_ard import FastARD
from overproof.methods.iad import IAD
from overproof.methods.kd import KD
from overproof.methods.mtard import MTARD
from overproof.methods.peeraid import PeerAiD
from overproof.methods.rslad import RSLAD
from overproof.methods.saad import SAAD

from .by_hand import ADV, X, Y, counting, equal, only, prob, step_of, tell
from .by_hand import kl as by_hand_kl

METHODS = [AdaAD, AdaIAD, ARD, BMTARD, FastARD, IAD, KD, MTARD, PeerAiD, RSLAD, SAAD]
DECOUPLED = [IKL(distance=3.0, soft_label=0.5), GKL(distance=2.0, power=0.4), GKL(prior_temperature=4.0, power=1.0)]


def slow(divergence, student, teacher, temperature=1.0, y=Y):
    """Return the formula as the papers write it, pair by pair, on a first batch."""
    n, classes = teacher.shape
    predictions = prob(teacher, divergence.prior_temperature)
    means = {c: torch.stack([predictions[i] for i in range(n) if y[i] == c]).mean(dim=0) for c in set(y.tolist())}
    power = getattr(divergence, "power", 1.0)
    distances, totals = [], []
    for i in range(n):
        s = means[int(y[i])] ** power
        pairs = [
            s[j] * s[k] * ((teacher[i, j] - teacher[i, k]) - (student[i, j] - student[i, k])) ** 2 / temperature**2
            for j, k in product(range(classes), repeat=2)
        ]
        distances.append(sum(pairs) / 4)
        totals.append(sum(s[j] * s[k] for j, k in product(range(classes), repeat=2)))
    distance = torch.stack(distances)
    if isinstance(divergence, GKL):
        distance = distance / torch.stack(totals).mean()
    return divergence.distance * distance + divergence.soft_label * by_hand_kl(teacher, student, temperature)


def logits(seed):
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("divergence", DECOUPLED, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_it_is_the_papers_sum_over_pairs(divergence, temperature):
    step = step_of(KD())
    found = divergence.on(step)(logits(1), logits(2), temperature)
    torch.testing.assert_close(found, slow(divergence, logits(1), logits(2), temperature))


def test_kl_is_kl():
    assert KL().on(step_of(KD())) is kl


@pytest.mark.parametrize("divergence", DECOUPLED, ids=str)
def test_it_is_zero_exactly_where_the_answers_agree_up_to_a_constant(divergence):
    between = divergence.on(step_of(KD()))
    torch.testing.assert_close(between(logits(1) + 3.0, logits(1)), torch.zeros(5).double(), atol=1e-12, rtol=0)
    assert (between(logits(3), logits(1)) > 0).all()


def test_with_the_examples_own_weight_the_gradients_of_distance_and_kl_agree_near_the_target():
    """The theorem behind the name: to second order, KL is the distance weighed by the prediction itself."""
    target = logits(1)[:1]
    near = (target + 1e-4 * logits(2)[:1]).requires_grad_()
    step = step_of(KD(), x=X[:1], y=Y[:1])
    distance = IKL(distance=1.0, soft_label=0.0, prior_temperature=1.0).on(step)(near, target)
    (own,) = torch.autograd.grad(distance.sum(), near)
    (of_kl,) = torch.autograd.grad(kl(near, target).sum(), near)
    torch.testing.assert_close(own, of_kl, rtol=1e-3, atol=1e-12)


def test_class_means_are_an_average_over_batches_and_a_class_that_was_not_seen_is_uniform():
    step = step_of(KD(), x=X[:2], y=torch.tensor([0, 0]))
    between = IKL(prior_temperature=1.0).on(step)
    first, second = logits(1)[:2], logits(2)[:2]
    between(first, first)
    between(second, second)
    sums = step.state["class_sums_robust"]
    expected = (0.999 * prob(first).sum(dim=0) + prob(second).sum(dim=0)) / (2 * 1.999)
    torch.testing.assert_close(sums[0, :4] / sums[0, 4], expected)
    assert not sums[1:].any()


@pytest.mark.parametrize("method", METHODS, ids=lambda cls: cls().kind)
def test_every_distillation_method_takes_it_and_kl_is_its_default(method, monkeypatch):
    tell(monkeypatch)
    assert method().divergence == KL()
    changed = method(divergence=IKL(distance=20.0))
    terms = only(changed.losses(step_of(changed))) if method is not FastARD else next(changed.losses(step_of(changed)))
    plain = next(method().losses(step_of(method())))
    assert terms.keys() == plain.keys()
    assert any(terms[name].item() > plain[name].item() + 1e-6 for name in terms)


def test_the_terms_of_rslad_are_the_formula(monkeypatch):
    tell(monkeypatch)
    divergence = IKL(distance=3.0, soft_label=0.5)
    method = RSLAD(alpha=0.8, divergence=divergence)
    step = step_of(method)
    student, target = step.student, step.teachers["robust"](X)
    hand = {
        "adv": 0.8 * slow(divergence, student(ADV), target).mean(),
        "clean": 0.2 * slow(divergence, student(X), target).mean(),
    }
    equal(only(method.losses(step)), hand, student)


def test_two_teachers_have_class_means_of_their_own(monkeypatch):
    tell(monkeypatch)
    method = MTARD(divergence=GKL())
    step = step_of(method)
    only(method.losses(step))
    assert {"class_sums_robust", "class_sums_clean"} <= step.state.keys()
    assert not torch.equal(step.state["class_sums_robust"], step.state["class_sums_clean"])


def test_nobody_is_asked_more_often():
    asked = []
    for divergence in (KL(), IKL(), GKL()):
        step = step_of(ARD())
        counts = counting(step.student), counting(step.teachers["robust"])
        only(ARD(divergence=divergence).losses(step))
        asked.append([len(count) for count in counts])
    assert asked[0] == asked[1] == asked[2]


@pytest.mark.parametrize("method", [RSLAD, MTARD, BMTARD], ids=lambda cls: cls().kind)
def test_the_constant_of_kl_is_refused_with_another(method):
    sentence = "^log_eps is a constant in the logarithm of kl, which ikl does not have; set it to 0$"
    with pytest.raises(ValueError, match=sentence):
        method(divergence=IKL(), log_eps=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"distance": -1.0}, "distance is a weight and cannot be negative, got -1.0"),
        ({"soft_label": -0.5}, "soft_label is a weight and cannot be negative, got -0.5"),
        ({"prior_temperature": 0.0}, "prior_temperature must be positive, got 0.0"),
    ],
)
@pytest.mark.parametrize("divergence", [IKL, GKL], ids=lambda cls: cls().kind)
def test_bad_options_are_refused(divergence, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        divergence(**options)


def test_a_negative_power_is_refused():
    with pytest.raises(ValueError, match=r"^power is a weight and cannot be negative, got -0.2$"):
        GKL(power=-0.2)

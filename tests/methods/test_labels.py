import math

import pytest
import torch

from overproof.methods.catalogue import methods
from overproof.methods.labels import check_label_smoothing

from .by_hand import X, Y, prob, step_of, tell

SMOOTHED = {
    "adaiad": ({"alpha": 0.6}, "label"),
    "ard": ({"alpha": 0.6}, "label"),
    "fast_ard": ({"alpha": 0.6}, "label"),
    "fast_at": ({}, "adv"),
    "fare": ({"label_weight": 0.5}, "label"),
    "free_at": ({}, "adv"),
    "hat": ({}, "label"),
    "iad": ({"alpha": 0.6}, "label"),
    "kd": ({"alpha": 0.6}, "label"),
    "lbgat": ({}, "label"),
    "mart": ({}, "boosted"),
    "n_fgsm": ({}, "adv"),
    "natural": ({}, "label"),
    "peeraid": ({"label": 0.5}, "label"),
    "pgd_at": ({}, "adv"),
    "rrm": ({}, "label"),
    "trades": ({}, "label"),
}
"""Methods with labels: options under which they count, and the term that they are in."""


def first(method, step):
    return next(method.losses(step))


def test_every_method_with_the_option_is_here():
    assert {kind for kind, cls in methods().items() if hasattr(cls(), "label_smoothing")} == set(SMOOTHED)


@pytest.mark.parametrize("kind", SMOOTHED)
def test_smoothing_mixes_the_labels_loss_with_that_of_the_uniform_distribution(kind, monkeypatch):
    """The loss is linear in the share, and the other terms do not change."""
    tell(monkeypatch)
    options, name = SMOOTHED[kind]
    terms = []
    step = step_of(methods()[kind](**options))
    for share in (0.0, 0.1, 0.3):
        torch.manual_seed(0)
        again = type(step)(**{**vars(step), "state": methods()[kind]().initial_state(step)})
        terms.append(first(methods()[kind](**options, label_smoothing=share), again))
    none, some, more = terms
    for other in none:
        if other != name:
            assert torch.equal(none[other], some[other])
    assert not torch.equal(none[name], some[name])
    torch.testing.assert_close(more[name] - none[name], 3 * (some[name] - none[name]))


def test_of_trades_it_is_the_formula():
    method = methods()["trades"](label_smoothing=0.1)
    step = step_of(method)
    log_p = torch.log(prob(step.student(X)))
    hand = -(0.9 * log_p[torch.arange(5), Y] + 0.1 * log_p.mean(dim=1)).mean()
    torch.testing.assert_close(first(method, step)["label"], hand)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, math.nan])
def test_a_share_that_is_none_is_refused(share):
    sentence = rf"^label_smoothing is the share that the uniform distribution takes, in \[0, 1\), got {share}$"
    with pytest.raises(ValueError, match=sentence):
        check_label_smoothing(share)
    for kind in SMOOTHED:
        with pytest.raises(ValueError, match=sentence):
            methods()[kind](label_smoothing=share)

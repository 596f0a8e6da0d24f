import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.own_answer import search_from_own_answer
from overproof.methods.trades import TRADES

from .by_hand import ADV, X, counting, kl, maximises, step_of, tell


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_it_maximises_away_from_the_clean_answer_which_is_asked_for_once(mode, monkeypatch):
    told = tell(monkeypatch)
    step = step_of(TRADES(), progress=0.25)
    asked = counting(step.student)
    inner = PGD(start="normal", ramp=0.5, mode=mode)
    assert search_from_own_answer(step, inner) is told.adv is ADV
    assert len(asked) == 1 and torch.equal(asked[0], X)
    assert told.searches == [inner.at(0.25)]
    around = step.student(X).detach()
    maximises(told, lambda x: kl(around, step.student(x)))

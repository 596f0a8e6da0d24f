import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from overproof.methods.b_mtard import BMTARD
from overproof.methods.control import balance, check_drops, decayed, temper
from overproof.methods.mtard import MTARD

counts = st.sampled_from([1, 2, 5])
rates = st.floats(0, 1)
powers = st.floats(0.1, 3)


def vector(low, high):
    """Return a strategy of vectors ``[n]``."""
    numbers = st.floats(low, high)
    return counts.flatmap(lambda n: st.lists(numbers, min_size=n, max_size=n)).map(
        lambda values: torch.tensor(values, dtype=torch.float64)
    )


def together(*bounds):
    """Return a strategy of as many vectors of one length."""

    def of(n):
        parts = [st.lists(st.floats(low, high), min_size=n, max_size=n) for low, high in bounds]
        return st.tuples(*(part.map(lambda values: torch.tensor(values, dtype=torch.float64)) for part in parts))

    return counts.flatmap(of)


def as_weights(values):
    return values / values.sum()


@given(together((1e-3, 1e3), (1e-3, 1e3), (0.01, 1)), st.floats(0, 3), powers)
def test_weights_are_shares(vectors, rate, power):
    losses, initial, weights = vectors
    after = balance(losses, initial, as_weights(weights), rate, power)
    assert (after >= 0).all() and float(after.sum()) == pytest.approx(1)


@given(vector(0.01, 1), vector(1e-3, 1e3), st.floats(1e-3, 1e3), rates, powers)
def test_equal_relative_losses_move_towards_equal_weights(weights, initial, shrunk, rate, power):
    assume(len(weights) == len(initial))
    weights, n = as_weights(weights), len(weights)
    after = balance(shrunk * initial, initial, weights, rate, power)
    torch.testing.assert_close(after - 1 / n, (1 - rate) * (weights - 1 / n), rtol=1e-6, atol=1e-9)
    even = torch.full((n,), 1 / n, dtype=torch.float64)
    torch.testing.assert_close(balance(shrunk * initial, initial, even, rate, power), even)


@given(together((1e-3, 1e3), (1e-3, 1e3)), st.floats(1e-3, 1), powers)
def test_the_slower_loss_gains_weight(vectors, rate, power):
    losses, initial = vectors
    n = len(losses)
    slow = (losses / initial).argmax()
    assume(n == 1 or (losses / initial).topk(2).values.diff().abs() > 1e-3)
    after = balance(losses, initial, torch.full((n,), 1 / n, dtype=torch.float64), rate, power)
    assert after[slow] == after.max()
    assert (after[slow] > 1 / n) or n == 1 or power * rate < 0.05


@given(together((1e-3, 1e3), (1e-3, 1e3), (0.01, 1)), rates, powers)
def test_one_step_by_hand(vectors, rate, power):
    losses, initial, weights = vectors
    weights = as_weights(weights)
    relative = [(float(now) / float(then)) ** power for now, then in zip(losses, initial, strict=True)]
    shares = [value / sum(relative) for value in relative]
    wanted = [rate * share + (1 - rate) * float(w) for share, w in zip(shares, weights, strict=True)]
    assert balance(losses, initial, weights, rate, power).tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    # A rate may be a tensor as well.
    tensor = torch.tensor(rate, dtype=torch.float64)
    assert balance(losses, initial, weights, tensor, power).tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@given(together((1e-3, 1e3), (1e-3, 1e3), (0.01, 1)), powers)
def test_rate_zero_changes_nothing_and_rate_one_forgets(vectors, power):
    losses, initial, weights = vectors
    weights = as_weights(weights)
    torch.testing.assert_close(balance(losses, initial, weights, 0.0, power), weights, rtol=1e-12, atol=0)
    share = as_weights((losses / initial) ** power)
    torch.testing.assert_close(balance(losses, initial, weights, 1.0, power), share)


@given(together((1e-2, 1e2), (1e-2, 1e2), (0.01, 1)), rates, powers, st.randoms(use_true_random=False))
def test_the_balance_does_not_depend_on_the_order(vectors, rate, power, random):
    order = list(range(len(vectors[0])))
    random.shuffle(order)
    losses, initial, weights = vectors
    after = balance(losses, initial, as_weights(weights), rate, power)
    shuffled = balance(losses[order], initial[order], as_weights(weights)[order], rate, power)
    torch.testing.assert_close(shuffled, after[order], rtol=1e-9, atol=1e-12)


@given(together((0, 3), (0.5, 10)), st.floats(0, 20), st.floats(0.1, 1), st.floats(1, 10))
def test_temperatures_stay_in_bounds(vectors, rate, low, high):
    entropies, temperatures = vectors
    after = temper(entropies, temperatures.clamp(low, high), rate, low, high)
    assert (after >= low).all() and (after <= high).all()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
@given(st.floats(0, 7), st.floats(0, 5))
def test_equal_entropies_do_not_move(n, entropy, rate):
    temperatures = torch.linspace(1, 10, n, dtype=torch.float64)
    entropies = torch.full((n,), entropy, dtype=torch.float64)
    assert torch.equal(temper(entropies, temperatures, rate), temperatures)
    assert torch.equal(temper(entropies.float(), temperatures.float(), rate), temperatures.float())


@given(st.floats(0.01, 3), st.floats(0.01, 3), st.floats(1, 10), st.floats(1, 10), st.floats(0, 1))
def test_two_teachers_follow_the_sign_rule_of_the_paper(first, second, one, other, rate):
    def sign(value):
        return (value > 0) - (value < 0)

    ratio = first / second
    assume(ratio != 1 or first == second)
    wanted = [
        min(max(one - rate * sign(ratio - 1), 1), 10),
        min(max(other - rate * sign(1 - ratio), 1), 10),
    ]
    entropies, temperatures = (torch.tensor(pair, dtype=torch.float64) for pair in ((first, second), (one, other)))
    assert temper(entropies, temperatures, rate).tolist() == pytest.approx(wanted)


@given(together((0, 3), (1, 10)), st.floats(0, 1), st.randoms(use_true_random=False))
def test_tempering_does_not_depend_on_the_order(vectors, rate, random):
    entropies, temperatures = vectors
    off = (entropies - entropies.mean()).abs()
    assume((off > 1e-9).all() or bool((entropies == entropies[0]).all()))
    order = list(range(len(entropies)))
    random.shuffle(order)
    after = temper(entropies, temperatures, rate)
    assert torch.equal(temper(entropies[order], temperatures[order], rate), after[order])


@given(together((0, 3), (1, 10)))
def test_rate_zero_keeps_the_temperatures(vectors):
    entropies, temperatures = vectors
    assert torch.equal(temper(entropies, temperatures, 0.0), temperatures)


def test_the_unsure_teacher_is_sharpened_and_the_sure_one_softened():
    after = temper(torch.tensor([2.0, 0.1, 0.3]), torch.tensor([5.0, 5.0, 5.0]), 0.5)
    assert after.tolist() == [4.5, 5.5, 5.5]


@pytest.mark.parametrize(
    ("progress", "wanted"), [(0.0, 0.8), (0.49, 0.8), (0.5, 0.08), (0.7, 0.08), (0.75, 0.008), (1.0, 0.008)]
)
def test_a_rate_falls_with_every_drop(progress, wanted):
    assert decayed(0.8, progress, (0.5, 0.75)) == pytest.approx(wanted)


@given(rates, st.floats(0, 1), st.lists(st.floats(0, 1), max_size=4), st.floats(0.01, 1))
def test_a_decayed_rate_by_hand(rate, progress, drops, gamma):
    wanted = rate
    for drop in drops:
        if progress >= drop:
            wanted *= gamma
    assert decayed(rate, progress, tuple(drops), gamma) == pytest.approx(wanted)
    assert decayed(rate, progress, ()) == rate


@pytest.mark.parametrize("losses", [(0.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("initial", [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_losses_of_zero_keep_the_weights_finite(losses, initial):
    after = balance(torch.tensor(losses), torch.tensor(initial), torch.tensor([0.5, 0.5]), 0.1, 1.0)
    assert after.isfinite().all()
    assert after.sum() == pytest.approx(1)


@pytest.mark.parametrize("rate", [0.1, 1.0])
@pytest.mark.parametrize("initial", [(0.0, 0.0), (1.0, 1.0)])
def test_losses_that_are_all_zero_have_equal_shares(initial, rate):
    weights = torch.tensor([0.9, 0.1], dtype=torch.float64)
    after = balance(torch.zeros(2, dtype=torch.float64), torch.tensor(initial).double(), weights, rate, 1.0)
    torch.testing.assert_close(after, (1 - rate) * weights + rate / 2)


@pytest.mark.parametrize("kind", [MTARD, BMTARD])
def test_rate_drops_are_shares_and_not_epochs(kind):
    with pytest.raises(ValueError, match="shares of the run"):
        kind(rate_drops=(215.0,))


@pytest.mark.parametrize("drop", [0.0, -0.5, 1.001])
def test_a_rate_drop_is_within_the_run(drop):
    with pytest.raises(ValueError, match=rf"^rate_drops are shares of the run, in \(0, 1\], got {drop:g};"):
        check_drops((0.5, drop))


def test_the_end_of_the_run_may_be_a_drop():
    check_drops((1e-9, 1.0))

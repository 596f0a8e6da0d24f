import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from overproof.statistics import Z_95, Proportion, Spread, difference_interval

counts = st.integers(0, 5000).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of)))


def evidence(passed, of, seconds=0.0):
    return Proportion(claim="correct", passed=passed, of=of, seconds=seconds)


@given(counts.filter(lambda pair: pair[1] > 0))
def test_the_interval_is_wilsons(pair):
    passed, of = pair
    z, share = Z_95, passed / of
    centre = (share + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    assert evidence(passed, of).interval == pytest.approx((centre - half, centre + half), abs=1e-12)


@given(counts)
def test_the_interval_lies_in_0_to_1_and_holds_the_share(pair):
    found = evidence(*pair)
    low, high = found.interval
    assert 0 <= low <= high <= 1
    assert not found.of or low <= found.share <= high


def test_the_interval_closes_exactly_at_its_ends():
    assert evidence(0, 20).interval[0] == 0.0
    assert evidence(20, 20).interval[1] == 1.0
    assert evidence(0, 20).interval[1] > 0.1
    assert evidence(20, 20).interval[0] < 0.9


def test_the_quantile_is_that_of_the_normal_distribution():
    assert pytest.approx(norm.ppf(0.975), abs=1e-12) == Z_95


def test_without_examples_nothing_is_known():
    assert math.isnan(evidence(0, 0).share)
    assert evidence(0, 0).interval == (0.0, 1.0)
    assert evidence(0, 0).plain()["share"] is None


@given(counts, counts, counts)
def test_evidence_from_shards_adds_up(one, two, three):
    a, b, c = (evidence(*pair, seconds=2.0) for pair in (one, two, three))
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + evidence(0, 0) == a
    total = a + b + c
    assert (total.passed, total.of, total.seconds) == (one[0] + two[0] + three[0], one[1] + two[1] + three[1], 6.0)
    assert total.claim == "correct"


def test_evidence_for_another_claim_is_refused():
    other = Proportion(claim="certified", passed=1, of=2)
    with pytest.raises(ValueError, match=r"^evidence for 'correct' and for 'certified' cannot be added$"):
        evidence(1, 2) + other


@pytest.mark.parametrize(("passed", "of"), [(-1, 5), (6, 5), (1, 0), (0, -1)])
def test_what_is_no_count_is_refused(passed, of):
    with pytest.raises(ValueError, match=f"^correct: {passed} of {of} is no count$"):
        evidence(passed, of)


def test_it_says_per_cent_with_its_interval():
    assert str(evidence(30, 40)) == "75.0 [59.8, 85.8]"


def test_plain_is_json_and_complete():
    found = evidence(3, 4, seconds=1.23456)
    plain = json.loads(json.dumps(found.plain()))
    assert plain == {
        "claim": "correct",
        "passed": 3,
        "of": 4,
        "share": 0.75,
        "interval": list(found.interval),
        "seconds": 1.235,
    }


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_a_spread_is_the_student_interval(values):
    n, mean = len(values), sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    found = Spread.of(values)
    assert (found.mean, found.seeds) == (pytest.approx(mean), n)
    if deviation > 1e-6:
        low, high = t.interval(0.95, n - 1, loc=mean, scale=deviation / math.sqrt(n))
        assert found.half_width == pytest.approx((high - low) / 2, rel=1e-6)


def test_one_seed_says_nothing_about_the_spread():
    assert Spread.of([0.5]) == Spread(mean=0.5, half_width=math.inf, seeds=1)
    assert str(Spread.of([0.5])) == "50.0"
    assert str(Spread.of([0.5, 0.5])) == "50.0 ± 0.0"


@pytest.mark.parametrize(
    ("before", "after", "interval"),
    # Newcombe (1998), table II, method 10.
    [
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
        ((0, 10), (0, 10), (-0.2775, 0.2775)),
        ((10, 10), (0, 10), (0.6075, 1.0000)),
    ],
)
def test_the_interval_of_a_difference_is_newcombes(before, after, interval):
    pair = (Proportion(claim="", passed=passed, of=of) for passed, of in (before, after))
    assert difference_interval(*pair) == pytest.approx(interval, abs=6e-5)

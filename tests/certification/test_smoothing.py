import json
import math
from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom
from torch import nn

from overproof.certification.smoothing import Smoothed, Smoothing, clopper_pearson, smooth
from overproof.errors import InputError

PHI = NormalDist()
QUICK = Smoothing(sigma=0.25, selection=20, samples=200, alpha=0.05, batch=64)


class Linear(nn.Module):
    """Two classes, ``z_1 - z_0 = w . x + b`` with ``w`` of length ``slope``: everything about it is known."""

    def __init__(self, slope=3.0, margin=0.6, pixels=16):
        super().__init__()
        direction = torch.arange(1.0, pixels + 1) * torch.tensor([1.0, -1.0]).repeat(pixels // 2)
        self.weight = slope * direction / direction.norm()
        self.bias = margin - (self.weight * 0.5).sum()  # the margin of a grey image

    def forward(self, x):
        score = x.flatten(1) @ self.weight + self.bias
        return torch.stack([torch.zeros_like(score), score], dim=1)


class Always(nn.Module):
    """The same logits whatever the image."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


class Watched(Always):
    """Remembers the images it was shown."""

    def __init__(self, *logits):
        super().__init__(*logits)
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return super().forward(x)


def grey(count):
    return torch.full((count, 1, 4, 4), 0.5), torch.ones(count, dtype=torch.int64)


def found(votes, *, label=1, selected=1, smoothing=QUICK):
    votes = torch.as_tensor(votes)
    labels, chosen = (torch.full_like(votes, value) for value in (label, selected))
    rows = {"index": torch.arange(len(votes)), "label": labels, "selected": chosen, "votes": votes}
    return Smoothed(smoothing=smoothing, state=rows | {"seconds": torch.tensor([1.0])})


# --- Clopper-Pearson --------------------------------------------------------------------------------------------------


def tail(passed, of, p):
    """Return P(Binomial(of, p) >= passed), term by term."""
    return math.fsum(math.comb(of, i) * p**i * (1 - p) ** (of - i) for i in range(passed, of + 1))


def bound_by_bisection(passed, of, alpha):
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(passed, of, middle) < alpha else (low, middle)
    return low


@given(st.integers(1, 60), st.data(), st.floats(1e-4, 0.6))
def test_the_bound_is_where_the_binomial_tail_is_alpha(of, data, alpha):
    passed = data.draw(st.integers(0, of))
    (lower,) = clopper_pearson(torch.tensor([passed]), of, alpha).tolist()
    assert lower == pytest.approx(bound_by_bisection(passed, of, alpha) if passed else 0.0, abs=1e-10)
    assert passed == 0 or tail(passed, of, lower) == pytest.approx(alpha, rel=1e-7)


def test_the_bound_is_the_beta_quantile():
    of, alpha = 100_000, 0.001
    passed = torch.tensor([1, 17, 50_000, 73_456, 99_000, 99_999, 100_000])
    # The other tail of the mirrored distribution: 1 - p is Beta(of - passed + 1, passed).
    mirrored = [1 - beta.isf(alpha, of - int(count) + 1, int(count)) for count in passed]
    lower = clopper_pearson(passed, of, alpha)
    assert lower.dtype == torch.float64
    assert lower.tolist() == pytest.approx(mirrored, abs=1e-12)
    assert binom.sf(passed.numpy() - 1, of, lower.numpy()).tolist() == pytest.approx([alpha] * 7, rel=1e-6)


def test_the_bound_at_both_ends_has_a_closed_form():
    assert clopper_pearson(torch.tensor([0, 50]), 50, 0.01).tolist() == [0.0, pytest.approx(0.01 ** (1 / 50))]


@pytest.mark.parametrize("p", [0.03, 0.4, 0.75, 0.99])
def test_the_bound_exceeds_the_truth_no_more_often_than_promised(p):
    for of, alpha in ((20, 0.05), (100, 0.001), (1000, 0.1)):
        counts = torch.arange(of + 1)
        too_high = clopper_pearson(counts, of, alpha) > p
        # Exact: the probabilities of all counts whose bound is wrong.
        assert binom.pmf(counts[too_high].numpy(), of, p).sum() <= alpha


# --- the largest radius -----------------------------------------------------------------------------------------------


def test_the_largest_radius_of_the_paper_is_nearly_four_sigma():
    # Section 3.2.2 of the paper: 100,000 samples at alpha 0.001, all in one class.
    largest = Smoothing(sigma=1.0, samples=100_000, alpha=0.001).largest
    assert largest == pytest.approx(3.8115, abs=1e-3)
    assert largest == pytest.approx(PHI.inv_cdf(0.001 ** (1 / 100_000)), abs=1e-9)
    assert Smoothing(sigma=0.25, samples=100_000, alpha=0.001).largest == pytest.approx(0.25 * largest)


@pytest.mark.parametrize("samples", [10, 100, 1000])
def test_the_largest_radius_is_that_of_full_agreement(samples):
    smoothing = replace(QUICK, samples=samples)
    assert found(range(samples + 1), smoothing=smoothing).radius.max() == smoothing.largest
    assert smooth(Always(0.0, 1.0), *grey(1), smoothing).radius.tolist() == [smoothing.largest]


def test_too_few_samples_certify_nothing_at_all():
    # 0.001 ** (1 / 9) < 1 / 2 < 0.001 ** (1 / 10).
    nothing, something = (Smoothing(sigma=1.0, samples=samples, alpha=0.001) for samples in (9, 10))
    assert nothing.largest == 0.0 < something.largest
    assert nothing.needed(0.0) == 10
    with pytest.raises(InputError, match=r"9 samples .* no l2 radius above 0 .* eps 0 needs at least 10 samples"):
        smooth(Always(0.0, 1.0), *grey(1), nothing)


@given(st.floats(0, 4.5), st.floats(0.1, 2), st.floats(1e-5, 0.3))
def test_the_samples_needed_are_enough_and_no_fewer_are(ratio, sigma, alpha):
    eps = ratio * sigma
    smoothing = Smoothing(sigma=sigma, alpha=alpha)
    fewest = smoothing.needed(eps)
    assert replace(smoothing, samples=fewest).largest > eps
    assert fewest == 1 or replace(smoothing, samples=fewest - 1).largest <= eps


def test_a_radius_out_of_reach_is_one_sentence_with_the_way_out():
    smoothing = Smoothing(sigma=0.25, samples=1000, alpha=0.001)
    fewest = smoothing.needed(0.75)
    assert fewest == math.floor(math.log(0.001) / math.log(PHI.cdf(3))) + 1
    sentence = (
        f"1,000 samples at alpha 0.001 and sigma 0.25 certify no l2 radius above {smoothing.largest:.4g} even where "
        f"all of them agree; eps 0.75 needs at least {fewest:,} samples or a larger sigma"
    )
    result = found([1000], smoothing=smoothing)
    for asked in (smoothing.check, result.outcomes, result.evidence, result.at):
        with pytest.raises(InputError) as refused:
            asked(0.75)
        assert str(refused.value) == sentence
    replace(smoothing, samples=fewest).check(0.75)
    smoothing.check(smoothing.largest - 1e-9)
    with pytest.raises(InputError):
        smoothing.check(smoothing.largest)


def test_no_number_of_samples_reaches_a_hundred_sigma():
    smoothing = Smoothing(sigma=0.25)
    assert smoothing.needed(25.0) is None
    with pytest.raises(InputError, match=r"eps 25 needs a larger sigma$"):
        smoothing.check(25.0)


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf])
def test_an_eps_that_is_no_radius(eps):
    with pytest.raises(InputError, match="eps is an l2 radius in pixel space, 0 or more and finite, got"):
        QUICK.check(eps)


# --- truth by geometry: on a linear model the smoothed classifier is known --------------------------------------------


@pytest.mark.parametrize("margin", [0.15, 0.6, -0.9])
def test_the_votes_come_with_the_probability_that_is_known(margin):
    samples = 40_000
    p = PHI.cdf(abs(margin) / (0.25 * 3.0))
    result = smooth(Linear(margin=margin), *grey(1), replace(QUICK, samples=samples, batch=2000))
    assert result.state["selected"].tolist() == [int(margin > 0)]
    assert int(result.state["votes"]) / samples == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / samples))


def test_the_radius_stays_below_the_distance_to_the_boundary_as_often_as_promised():
    repetitions, samples, alpha = 800, 60, 0.2
    smoothing = replace(QUICK, samples=samples, alpha=alpha)
    result = smooth(Linear(margin=0.6), *grey(repetitions), smoothing, seed=5)
    truth = 0.6 / 3.0
    too_far = int((result.radius > truth).sum())
    # What the draws should give exactly: all counts whose bound lies above Phi(truth / sigma).
    p, counts = PHI.cdf(truth / 0.25), torch.arange(samples + 1)
    expected = binom.pmf(counts[clopper_pearson(counts, samples, alpha) > p].numpy(), samples, p).sum()
    assert 0.1 < expected <= alpha
    assert too_far <= alpha * repetitions
    assert too_far / repetitions == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / repetitions))


def test_the_radius_comes_nearer_to_the_distance_with_more_samples():
    truth, gaps = 0.6 / 3.0, []
    for samples in (100, 1000, 10_000, 100_000):
        radius = smooth(Linear(margin=0.6), *grey(1), replace(QUICK, samples=samples, alpha=0.001, batch=5000)).radius
        gaps.append(truth - float(radius))
    assert all(later < earlier / 1.5 for earlier, later in pairwise(gaps))
    assert 0 < gaps[-1] < 0.02 * truth


def test_the_noise_leaves_the_unit_box():
    # White pixels: clipped noise could only darken them, and the score would never rise.
    model = Watched(0.0, 1.0)
    smooth(model, torch.ones(1, 1, 4, 4), torch.ones(1), replace(QUICK, sigma=0.5, samples=2000))
    noise = (torch.cat(model.seen) - 1).double()
    assert float(noise.mean()) == pytest.approx(0, abs=4 * 0.5 / math.sqrt(noise.numel()))
    assert float(noise.std()) == pytest.approx(0.5, rel=4 / math.sqrt(2 * noise.numel()))
    assert float((noise.abs() > 1).double().mean()) == pytest.approx(2 * PHI.cdf(-2), rel=0.1)


# --- abstentions and verdicts -----------------------------------------------------------------------------------------


def test_it_abstains_on_the_boundary():
    result = smooth(Linear(margin=0.0), *grey(40), replace(QUICK, alpha=0.001))
    assert (result.state["votes"] - 100).abs().max() < 40
    assert result.outcomes(0.0) == ["abstained"] * 40
    assert result.prediction.tolist() == [-1] * 40
    assert [line["prediction"] for line in result.at(0.0)] == [None] * 40


@pytest.mark.parametrize("logits", [(0.0, 0.0), (1.0, 0.0, 1.0)])
def test_a_tie_is_a_vote_for_no_class(logits):
    result = smooth(Always(*logits), grey(2)[0], torch.zeros(2, dtype=torch.int64), QUICK)
    assert result.state["votes"].tolist() == [0, 0]
    assert (result.lower.tolist(), result.outcomes(0.0)) == ([0.0, 0.0], ["abstained"] * 2)


def test_the_outcomes_by_hand():
    votes = torch.tensor([200, 150, 150, 104, 104, 200])
    result = found(votes)
    result.state["label"] = torch.tensor([1, 1, 0, 1, 0, 0])
    radius = 0.25 * PHI.inv_cdf(beta.ppf(0.05, 150, 51))
    assert result.radius.tolist() == pytest.approx([QUICK.largest, radius, radius, 0, 0, QUICK.largest], abs=1e-12)
    low = ["certified", "certified", "wrong", "abstained", "abstained", "wrong"]
    assert result.outcomes(0.0) == result.outcomes(radius - 1e-9) == low
    # The theorem speaks of distances below the radius, so the radius itself is not certified.
    assert result.outcomes(float(result.radius[1])) == ["certified", "too_small", *low[2:]]
    assert [result.evidence(eps).passed for eps in (0.0, 0.12, 0.13)] == [2, 2, 1]
    assert result.evidence(0.0).of == 6


def test_the_evidence_says_what_was_asked_and_adds_up():
    first, second = found([200, 190]).evidence(0.2), found([200]).evidence(0.2)
    assert first.claim == "certified within l2 0.2 by smoothing with sigma 0.25, alpha 0.05 each"
    assert ((first + second).passed, (first + second).of, (first + second).seconds) == (3, 3, 2.0)


def test_the_lines_are_plain():
    result = smooth(Linear(margin=0.6), grey(2)[0], torch.tensor([1, 0]), QUICK, indices=[7, 3])
    lines = result.at(0.01)
    assert json.loads(json.dumps(lines)) == lines
    assert [(line["index"], line["label"], line["verdict"]) for line in lines] == [(7, 1, "certified"), (3, 0, "wrong")]
    assert lines[0] == {
        "index": 7,
        "label": 1,
        "prediction": 1,
        "votes": int(result.state["votes"][0]),
        "lower": pytest.approx(beta.ppf(0.05, int(result.state["votes"][0]), 201 - int(result.state["votes"][0]))),
        "radius": pytest.approx(0.25 * PHI.inv_cdf(lines[0]["lower"])),
        "verdict": "certified",
    }


# --- monotonicity -----------------------------------------------------------------------------------------------------


@given(st.integers(20, 400), st.floats(0.001, 0.2))
def test_the_radius_grows_with_the_votes(samples, alpha):
    radius = found(range(samples + 1), smoothing=replace(QUICK, samples=samples, alpha=alpha)).radius
    steps = radius.diff()
    assert (steps >= 0).all()
    assert (steps[radius[1:] > 0] > 0).all()


@given(st.integers(5, 10), st.integers(1, 40), st.integers(2, 20), st.floats(0.001, 0.3))
def test_the_radius_grows_with_the_samples_and_with_alpha(votes, scale, factor, alpha):
    def radius(samples, alpha):
        count = votes * samples // 10
        return float(found([count], smoothing=replace(QUICK, samples=samples, alpha=alpha)).radius)

    fewer = radius(10 * scale, alpha)
    assert radius(10 * scale * factor, alpha) >= fewer
    assert radius(10 * scale, 1.5 * alpha) >= fewer
    if fewer > 0:
        assert radius(10 * scale * factor, alpha) > fewer
        assert radius(10 * scale, 1.5 * alpha) > fewer


# --- the draws --------------------------------------------------------------------------------------------------------


def counts(result):
    return list(
        zip(
            result.state["index"].tolist(),
            result.state["selected"].tolist(),
            result.state["votes"].tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 5, 7), (1, 8, 8)], ids=str)
def test_the_noise_is_the_same_in_every_batch(shape):
    # A generator fills tensors in blocks of 16, so that sizes which are no multiple of it tell a difference.
    expected = None
    for batch in (1, 3, 7, 50, 1000):
        model = Watched(0.0, 1.0)
        smooth(model, torch.full((1, *shape), 0.5), torch.ones(1), replace(QUICK, samples=101, batch=batch))
        noisy = torch.cat(model.seen)
        assert len(noisy) == QUICK.selection + 101
        expected = noisy if expected is None else expected
        assert torch.equal(noisy, expected)
        assert max(map(len, model.seen)) == min(batch, 101)


def test_the_batch_changes_no_verdict(tiny_classifier, tiny_batch):
    expected = None
    for batch in (1, 7, 64, 1000):
        result = counts(smooth(tiny_classifier(), *tiny_batch, replace(QUICK, batch=batch)))
        expected = expected or result
        assert result == expected
    assert len({votes for *_, votes in expected}) > 1


def test_shards_find_what_one_process_does(tiny_classifier, tiny_batch):
    x, y = tiny_batch
    whole = smooth(tiny_classifier(), x, y, QUICK, seed=3)
    parts = []
    for rank in range(4):
        mine = range(rank, len(x), 4)
        parts.append(smooth(tiny_classifier(), x[rank::4], y[rank::4], QUICK, seed=3, indices=mine))
    assert sorted(row for part in parts for row in counts(part)) == counts(whole)
    added = sum((part.evidence(0.1) for part in parts[1:]), parts[0].evidence(0.1))
    assert (added.passed, added.of) == (whole.evidence(0.1).passed, 6)
    # Places may come as a tensor too, and are told by their value.
    again = smooth(tiny_classifier(), x[[4, 1]], y[[4, 1]], QUICK, seed=3, indices=torch.tensor([4, 1]))
    assert counts(again) == [counts(whole)[4], counts(whole)[1]]


def test_a_shard_without_examples():
    result = smooth(Linear(), *grey(0), QUICK)
    assert (result.at(0.0), result.evidence(0.0).of) == ([], 0)


def test_the_noise_follows_the_seed_and_the_example_alone():
    model = Linear(margin=0.2)
    torch.manual_seed(1)
    one = smooth(model, *grey(6), QUICK, seed=1)
    before = torch.manual_seed(2).get_state()
    assert counts(smooth(model, *grey(6), QUICK, seed=1)) == counts(one)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(one.state["votes"].tolist())) > 1
    assert one.state["votes"].tolist() != smooth(model, *grey(6), QUICK, seed=2).state["votes"].tolist()


def test_the_samples_are_not_the_draws_that_chose_the_class():
    # On the boundary the chosen class would have more than half of the votes if they were the same draws.
    smoothing = replace(QUICK, selection=200, samples=200, batch=200)
    votes = smooth(Linear(margin=0.0), *grey(200), smoothing).state["votes"].double()
    assert float(votes.mean()) == pytest.approx(100, abs=4 * math.sqrt(50 / 200))
    longer = smooth(Linear(margin=0.3), *grey(20), replace(smoothing, selection=1))
    assert int((longer.state["selected"] == 0).sum()) > 0


# --- what it leaves alone, and what it refuses ------------------------------------------------------------------------


def test_the_model_is_in_eval_mode_and_given_back_as_found(tiny_classifier, tiny_batch, modes):
    model = tiny_classifier()
    model.backbone[1].eval()
    before, weights = modes(model), {name: value.clone() for name, value in model.state_dict().items()}
    during = []
    model.register_forward_pre_hook(lambda *_: during.append((any(modes(model).values()), torch.is_grad_enabled())))
    smooth(model, *tiny_batch, QUICK)
    assert set(during) == {(False, False)}
    assert modes(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_refused(bad, modes):
    model = Always(0.0, bad).train()
    with pytest.raises(InputError, match=r"^the network's outputs are not finite \(NaN or infinite\) under the noise$"):
        smooth(model, *grey(1), QUICK)
    assert modes(model) == {"": True}


@pytest.mark.parametrize("labels", [None, torch.ones(2), torch.ones(3, 1), torch.tensor([0, 1, -1])], ids=str)
def test_missing_labels_are_refused(labels):
    with pytest.raises(InputError, match="a certificate needs the label of each image, 0 or more, for all of the 3"):
        smooth(Linear(), grey(3)[0], labels, QUICK)


def test_a_label_that_the_network_does_not_know_is_refused():
    with pytest.raises(InputError, match=r"label 2 is outside 0\.\.1, the network's classes"):
        smooth(Linear(), grey(2)[0], torch.tensor([0, 2]), QUICK)


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(2, 4, 4),
        torch.ones(2, 1, 4, 4).byte(),
        2 * torch.ones(2, 1, 4, 4),
        torch.full((2, 1, 4, 4), math.nan),
    ],
    ids=["three", "bytes", "two", "nan"],
)
def test_images_that_are_none_are_refused(images):
    with pytest.raises(InputError, match=r"expected float images \[N, C, H, W\] in \[0, 1\]"):
        smooth(Linear(), images, torch.ones(2), QUICK)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"sigma": 0.0}, "sigma is the standard deviation of the noise, positive and finite, got 0.0"),
        ({"sigma": -1.0}, "sigma is the standard deviation of the noise, positive and finite, got -1.0"),
        ({"sigma": math.nan}, "sigma is the standard deviation of the noise, positive and finite, got nan"),
        ({"sigma": math.inf}, "sigma is the standard deviation of the noise, positive and finite, got inf"),
        ({"samples": 0}, "samples is a number of noisy images, at least 1, got 0"),
        ({"selection": 0}, "selection is a number of noisy images, at least 1, got 0"),
        ({"batch": -5}, "batch is a number of noisy images, at least 1, got -5"),
        ({"alpha": 0.0}, r"alpha is the probability of a wrong certificate, in \(0, 1\), got 0.0"),
        ({"alpha": 1.0}, r"alpha is the probability of a wrong certificate, in \(0, 1\), got 1.0"),
        ({"alpha": math.nan}, r"alpha is the probability of a wrong certificate, in \(0, 1\), got nan"),
    ],
    ids=str,
)
def test_fields_are_checked(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Smoothing(**({"sigma": 0.25} | fields))


def test_the_defaults_are_those_of_the_paper_but_for_fewer_samples():
    assert Smoothing(sigma=0.25) == Smoothing(sigma=0.25, selection=100, samples=10_000, alpha=0.001, batch=500)


@pytest.mark.parametrize(
    ("option", "within", "beyond"),
    [
        ("sigma", (1e-9, 1e9), (0.0, -1.0, math.inf, math.nan)),
        ("alpha", (1e-9, 1 - 1e-9), (0.0, 1.0)),
        ("selection", (1,), (0,)),
        ("samples", (1,), (0,)),
        ("batch", (1,), (0,)),
    ],
)
def test_an_option_may_be_at_its_ends_and_not_beyond(option, within, beyond):
    for value in within:
        assert getattr(Smoothing(**{"sigma": 0.5, option: value}), option) == value
    for value in beyond:
        with pytest.raises(ValueError, match=option):
            Smoothing(**{"sigma": 0.5, option: value})

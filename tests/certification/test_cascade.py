from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from tests.ticking import ticking
from torch import nn

from overproof.attacks.ball import Radius, Threat
from overproof.attacks.suites import quick
from overproof.bounds.afford import NotAffordedError
from overproof.bounds.crown import bound
from overproof.bounds.region import Bounds, Region
from overproof.bounds.spec import margins
from overproof.certification import cascade as certified
from overproof.certification.cascade import (
    ERROR,
    FALSIFIED,
    NO_MEMORY,
    NO_NUMBER,
    REACHES,
    STAGES,
    UNKNOWN,
    UNSOUND,
    VERIFIED,
    Plan,
    Proposal,
    certify_block,
    not_afforded,
    slack,
    trace_classifier,
)
from overproof.data.images import Batch
from overproof.errors import InputError
from overproof.evaluation.attacked import prepare_subject
from overproof.functional import margin
from overproof.models.classifier import Classifier
from overproof.signature import Signature

TASK = Signature(channels=1, height=4, width=4, classes=3)


@pytest.fixture(autouse=True)
def _no_speed_decides(monkeypatch):
    ticking(monkeypatch, "bounds", "evaluation", "certification")


def small(seed=0):
    """Return a network whose three classes are about as likely, and whose margins are mostly proved at 0.01."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 16),
            nn.ReLU(),
            nn.Linear(16, 16),
            nn.ReLU(),
            nn.Linear(16, 3),
        )
        with torch.no_grad():
            for module in layers:
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.weight *= 3
                    module.bias.zero_()
            layers[-1].bias -= layers(torch.rand(500, 1, 4, 4)).mean(dim=0)
    return Classifier(layers, TASK).eval()


def images(model, count=40, seed=1):
    """Return images with the network's own predictions as labels, but one."""
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 3
    return Batch(x, y)


def plan(eps, reach="split", norm="linf", seconds=0.3, **others):
    return Plan(threat=Threat(norm=norm, eps=Radius(eps)), reach=reach, seconds=seconds, **others)


def certify(model, block, how, **options):
    proposal = Proposal(prepare_subject(model), trace_classifier(model, where="net"))
    *_, state = certify_block(proposal, block, how, seed=0, number=0, **options)
    return state


def by(state, verdict):
    """Count verdicts by stage."""
    stages = state["stage"][state["verdict"] == verdict].tolist()
    return {name: stages.count(number) for number, name in enumerate(STAGES) if number in stages}


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "eps"), [("linf", "0.01"), ("linf", "0.03"), ("l2", "0.03"), ("l2", "0.08")])
def test_every_verdict_is_true_and_the_two_are_never_mixed(norm, eps):
    model = small()
    block = images(model)
    state = certify(model, block, plan(eps, norm=norm))
    verdict = state["verdict"]
    assert set(verdict.tolist()) <= {UNKNOWN, VERIFIED, FALSIFIED}
    assert (verdict == VERIFIED).sum() > 3
    with torch.no_grad():
        misclassified = verdict == FALSIFIED
        assert (model(state["image"][misclassified]).argmax(dim=1) != block.y[misclassified]).all()
        delta = (state["image"] - block.x).flatten(1)
        size = delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)
        assert (size <= float(Radius(eps)) * (1 + 1e-5)).all()
        # No point of the region, sampled here, breaks a verified example, or has a smaller margin than was proved.
        for seed in range(200):
            noise = torch.rand(block.x.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
            noise = noise.sign() if norm == "linf" and seed % 2 else noise
            if norm == "l2":
                noise = noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            found = margin(model((block.x + float(Radius(eps)) * noise).clamp(0, 1)), block.y)
            assert (found[verdict == VERIFIED] > 0).all()
            assert (found >= state["lower"] - 1e-5).all()
    assert (state["margin"] >= state["lower"] - 1e-5).all()


def test_a_misclassified_example_is_falsified_by_the_clean_image():
    model = small()
    block = images(model)
    state = certify(model, block, plan("0.01"))
    assert (state["verdict"][0], state["stage"][0]) == (FALSIFIED, STAGES.index("clean"))
    assert torch.equal(state["image"][0], block.x[0])
    assert state["lower"][0] == -torch.inf


def test_a_linear_network_is_decided_exactly(worst_case):
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), replace(TASK, classes=2)).eval()
    x = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    model.backbone[1].bias.data.zero_()
    with torch.no_grad():
        logits = model(x)
        y = logits.argmax(dim=1)
        slope = model.backbone[1].weight[1] - model.backbone[1].weight[0]
        away = ((1 - 2 * y)[:, None] * slope).view_as(x)
        left = margin(logits, y) - worst_case("linf", away, x, 0.3)
    state = certify(model, Batch(x, y), plan("0.3"))
    assert 5 < (left > 0).sum() < 55
    assert left.abs().min() > 1e-4
    assert torch.equal(state["verdict"] == VERIFIED, left > 0)
    assert torch.equal(state["verdict"] == FALSIFIED, left < 0)
    assert by(state, VERIFIED) == {"ibp": int((left > 0).sum())}


def test_further_stages_decide_more_and_each_works_on_what_is_open():
    model = small()
    block = images(model, 80)
    for eps, rising in (("0.005", (0, 1, 2)), ("0.02", (1, 2, 4))):
        # Each gets the time it needs, so that the clock decides nothing.
        proved = [certify(model, block, plan(eps, reach, seconds=30.0))["verdict"] == VERIFIED for reach in REACHES]
        counts = [int(each.sum()) for each in proved]
        assert counts == sorted(counts)
        assert len({counts[number] for number in rising}) == 3, counts
        for before, after in pairwise(proved):
            assert not (before & ~after).any()
        whole = certify(model, block, plan(eps, seconds=30.0))
        firsts = by(whole, VERIFIED)
        for number, reach in enumerate(REACHES):
            assert sum(firsts.get(name, 0) for name in REACHES[: number + 1]) == counts[number]
            assert (whole["stage"][proved[number]] <= STAGES.index(reach)).all()


def test_where_the_time_ends_an_example_is_unknown():
    model = small()
    block = images(model, 80)
    short = certify(model, block, plan("0.03", seconds=1e-9))
    enough = certify(model, block, plan("0.03"))
    assert (short["verdict"] == UNKNOWN).sum() > (enough["verdict"] == UNKNOWN).sum()
    assert not ((enough["verdict"] == UNKNOWN) & (short["verdict"] != UNKNOWN)).any()
    # Intervals are always asked, and what was not is told.
    unknown = short["verdict"] == UNKNOWN
    assert (short["stage"][unknown] == STAGES.index("ibp")).all()
    skipped = [STAGES.index(name) for name in ("attack", "crown_ibp", "crown", "alpha", "split")]
    assert (short["unafforded"][unknown] == sum(1 << number for number in skipped)).all()


def test_what_there_was_no_time_for_is_a_sentence():
    state = {"unafforded": torch.tensor([0b10, 0b110, 0]), "cost": torch.zeros(3)}
    assert not_afforded(("clean", "attack", "ibp"), state, 0.5) == [
        "the whole attack was not afforded within 0.5 s an example for 2 of 3",
        "ibp was not afforded within 0.5 s an example for 1 of 3",
    ]
    assert not_afforded(("clean",), {"cost": torch.zeros(3)}, 0.5) == []  # of an older version


def test_a_means_that_was_given_up_is_not_tried_with_as_little_again(monkeypatch):
    model, tried = small(), []
    block = images(model, 80)

    def dear(graph, region, means):
        if getattr(means, "method", means) == "crown":
            tried.append(len(region))
            raise NotAffordedError
        return honest(graph, region, means)

    honest = certified.intermediate
    monkeypatch.setattr(certified, "intermediate", dear)
    monkeypatch.setattr(certified, "batch_size", lambda graph: 20)
    state = certify(model, block, plan("0.02", "crown", seconds=60.0))
    assert len(tried) == 1
    crown = 1 << STAGES.index("crown")
    assert (state["unafforded"][state["verdict"] == UNKNOWN] == crown).all()
    assert (state["verdict"] == VERIFIED).any()


def test_what_was_attained_by_an_attack_cannot_be_proved_impossible(monkeypatch):
    model = small()
    block = images(model)
    honest = certified.final

    def boastful(*arguments):
        found = honest(*arguments)
        return Bounds(found.lower + 100, found.upper)

    monkeypatch.setattr(certified, "final", boastful)
    state = certify(model, block, plan("0.02"))
    robust = state["stage"] > STAGES.index("attack")
    assert robust.sum() > 5
    assert (state["verdict"][robust] == ERROR).all()
    assert (state["problem"][robust] == UNSOUND).all()


def test_bounds_that_are_no_numbers_are_an_error_of_the_example_alone(monkeypatch):
    model = small()
    block = images(model)
    before = certify(model, block, plan("0.02"))
    honest = certified.final

    def spoilt(graph, region, layers, spec, means):
        found = honest(graph, region, layers, spec, means)
        hit = (region.box.lower == Region.around(block.x[5:6], 0.02).box.lower).flatten(1).all(dim=1)
        return Bounds(torch.where(hit[:, None], torch.nan, found.lower), found.upper)

    monkeypatch.setattr(certified, "final", spoilt)
    state = certify(model, block, plan("0.02"))
    assert (state["verdict"][5], state["problem"][5]) == (ERROR, NO_NUMBER)
    others = torch.arange(len(block.y)) != 5
    assert torch.equal(state["verdict"][others], before["verdict"][others])


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "scale"), list(product(range(3), (1.0, 1e3))))
def test_what_is_verified_in_float32_holds_in_float64(seed, scale):
    model = small(seed)
    model.backbone[7].weight.data *= scale
    model.backbone[7].bias.data *= scale
    block = images(model, 60)
    graph = trace_classifier(model, where="net")
    spec = margins(block.y, 3)
    for eps in (0.005, 0.02, 0.1):
        region = Region.around(block.x, eps)
        exact = Region(Bounds(*(side.double() for side in region.box)))
        for method in ("ibp", "crown_ibp", "crown"):
            with torch.no_grad():
                single, double = bound(graph, region, spec, method), bound(graph.to(torch.float64), exact, spec, method)
                tolerance = slack(certified.intermediate(graph, region, "ibp"))
            error = (single.lower.double() - double.lower).abs().amax(dim=1)
            assert (error < tolerance).all(), (method, float((error / tolerance).max()))
            assert (double.lower[single.lower > tolerance[:, None]] > 0).all()


def test_the_slack_is_sixteen_units_of_the_largest_bound_of_each_example():
    layers = [
        Bounds(torch.tensor([[-3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 2.0], [0.5, 1.0]])),
        Bounds(torch.tensor([[-1.0], [2.0]]), torch.tensor([[0.0], [8.0]])),
    ]
    assert slack(layers).tolist() == [16 * 2**-23 * 3, 16 * 2**-23 * 8]
    assert slack([Bounds(*(side.double() for side in each)) for each in layers])[0] == 16 * 2**-52 * 3


def test_a_split_asks_for_twice_the_slack_and_within_the_time_that_is_left(monkeypatch):
    # Twice, for the betas of the signs are one more sum.
    asked, slacks = [], []
    honest, judged = certified.bound_least, certified._Cascade._split

    def least(*words, enough, budget, rounding):
        asked.append((enough, budget.seconds))
        return honest(*words, enough=enough, budget=budget, rounding=rounding)

    def split(self, part):
        slacks.append((2 * float(part.slack), self._left(part.rows)))
        return judged(self, part)

    monkeypatch.setattr(certified, "bound_least", least)
    monkeypatch.setattr(certified._Cascade, "_split", split)
    model = small()
    certify(model, images(model), plan("0.05", seconds=0.5))
    left = dict(slacks)
    assert asked and {enough for enough, _ in asked} <= set(left)  # there may be no time for a split
    # What tighter layers took is not there for the split.
    assert all(enough > 0 and seconds <= max(left.values()) <= 0.5 for enough, seconds in asked)


def test_a_bound_within_the_slack_verifies_nothing(monkeypatch):
    model = small()
    block = images(model)
    monkeypatch.setattr(certified, "_UNITS", 1e9)
    state = certify(model, block, plan("0.01", "crown"))
    assert not (state["verdict"] == VERIFIED).any()


# --- memory, resuming -------------------------------------------------------------------------------------------------


def hungry(monkeypatch, fits, image):
    """Let bounds of the layers fit for so many examples at once, and CROWN's for one ``image`` never."""
    honest = certified.intermediate

    def intermediate(graph, region, means):
        far = (region.box.centre - image).flatten(1).abs().amax(dim=1)
        if len(region) > fits or (getattr(means, "method", means) == "crown" and (far < 0.02).any()):
            raise torch.OutOfMemoryError("no memory")
        return honest(graph, region, means)

    monkeypatch.setattr(certified, "intermediate", intermediate)


def test_examples_that_do_not_fit_together_are_certified_in_parts(monkeypatch):
    model = small()
    block = images(model)
    plenty = certify(model, block, plan("0.02", "crown", seconds=60.0))
    row = int((plenty["stage"] == STAGES.index("crown")).nonzero()[0])
    hungry(monkeypatch, 5, block.x[row])
    scarce = certify(model, block, plan("0.02", "crown", seconds=60.0))
    others = torch.arange(len(block.y)) != row
    assert torch.equal(plenty["verdict"][others], scarce["verdict"][others])
    assert (scarce["verdict"][row], scarce["problem"][row]) == (ERROR, NO_MEMORY)


def test_a_split_that_does_not_fit_is_an_error(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(certified, "bound_least", full)
    model = small()
    state = certify(model, images(model, 80), plan("0.03"))
    assert (state["verdict"] == ERROR).sum() > 0
    assert (state["problem"][state["verdict"] == ERROR] == NO_MEMORY).all()
    assert not (state["verdict"] == UNKNOWN).any()


def test_no_memory_for_the_attack_is_one_sentence():
    class Full(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError("no memory")

    model = small()
    proposal = Proposal(replace(prepare_subject(model), judge=Full()), trace_classifier(model, where="net"))
    with pytest.raises(InputError, match="no memory to attack a single example"):
        list(certify_block(proposal, images(model), plan("0.03"), seed=0, number=0))


def test_a_course_that_was_left_goes_on_and_decides_the_same():
    model = small()
    block = images(model, 60)
    # Each gets the time it needs, so that the clock decides nothing.
    proposal, how = Proposal(prepare_subject(model), trace_classifier(model, where="net")), plan("0.02", seconds=30.0)
    whole = certify(model, block, how)
    steps = sum(1 for _ in certify_block(proposal, block, how, seed=0, number=0))
    assert steps > 4
    for stop in range(1, steps):
        events = certify_block(proposal, block, how, seed=0, number=0)
        for _ in range(stop):
            left = next(events)
        left = {name: value.clone() for name, value in left.items()}
        *_, found = certify_block(proposal, block, how, seed=0, number=0, state=left)
        for name in ("verdict", "stage", "image"):
            assert torch.equal(found[name], whole[name]), (stop, name)


def test_time_is_told_by_example_and_by_stage():
    model = small()
    state = certify(model, images(model, 60), plan("0.03"))
    assert (state["cost"] > 0).all()
    assert float(state["cost"].sum()) == pytest.approx(float(state["stage_seconds"].sum()), rel=1e-3)
    assert state["cost"][0] < state["cost"][state["stage"] > 1].min()


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_are_no_numbers_are_named():
    model = small()
    model.backbone[3].weight.data[1, 2] = torch.nan
    assert refused(lambda: trace_classifier(model, where="runs/a")) == (
        "runs/a: 1 of the 1024 numbers in backbone.3.weight are not finite (NaN or infinite)"
    )


def test_an_operator_without_bounds_is_named():
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Hardshrink(), nn.Linear(4, 3)), TASK).eval()
    assert refused(lambda: trace_classifier(model, where="runs/a")).startswith("runs/a: 2: no bounds for Hardshrink")


def test_batch_norm_in_train_mode_is_refused(tiny_classifier):
    sentence = refused(lambda: trace_classifier(tiny_classifier(), where="runs/a"))
    assert sentence.startswith("runs/a: 1: this BatchNorm is in train mode")
    trace_classifier(tiny_classifier().eval(), where="runs/a")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"reach": "deeppoly"}, "there is no bound 'deeppoly'"),
        ({"seconds": 0.0}, "seconds, the time of an example, must be positive, got 0"),
        ({"seconds": float("nan")}, "must be positive, got nan"),
        ({"threat": Threat(norm="l1", eps=Radius("1"))}, "certificates are for linf and l2, not for l1"),
    ],
)
def test_a_plan_that_means_nothing(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Plan(**options)


def test_the_defaults_of_a_plan_and_its_attack():
    assert Plan() == Plan(threat=Threat(norm="linf", eps=Radius("8/255")), reach="split", seconds=1.0)
    margins, *others = Plan().suite.attacks
    assert (margins.loss, margins.attack.steps, margins.attack.momentum) == ("margin", 20, 0.75)
    assert tuple(others) == quick(Threat()).attacks and Plan().suite.survivors


# --- float64 ----------------------------------------------------------------------------------------------------------


def test_in_float64_a_margin_counts_where_it_exceeds_what_rounding_can_do():
    model = small().requires_grad_(False)
    graph = trace_classifier(model, where="it").to(torch.float64)
    region = Region.around(images(model).x.double(), 0.02)
    layers = certified.intermediate(graph, region, certified.BoundOptions(rounding=True))
    tolerance, rounding = certified.proving_slack(graph, region, layers)
    assert tolerance.shape == (len(region),) and 0 < float(tolerance.max()) < 1e-9
    assert float(tolerance.max()) == 2 * rounding.last
    single = graph.to(torch.float32), region.to(dtype=torch.float32)
    layers = certified.intermediate(*single, "crown")
    assert torch.equal(certified.proving_slack(*single, layers)[0], slack(layers))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_both_precisions_prove_alike(norm):
    model = small()
    batch = images(model)
    found = {
        p: certify(model, batch, plan("0.03", seconds=30.0, norm=norm, precision=p)) for p in ("float32", "float64")
    }
    for name in ("verdict", "prediction"):
        assert torch.equal(found["float32"][name], found["float64"][name])
    assert (found["float32"]["verdict"] == VERIFIED).any()
    tolerance = 1e-4 * (1 + found["float64"]["lower"].abs().clamp(max=1e6))
    stages = found["float32"]["stage"] <= STAGES.index("crown")
    difference = (found["float32"]["lower"] - found["float64"]["lower"]).abs()
    assert (difference <= tolerance)[stages & found["float64"]["lower"].isfinite()].all()

"""``certify(model, x, y)``: a verdict per image of any module whose layers bounds can follow."""

import pytest
import torch
from torch import nn

from overproof.attacks.pgd import PGD
from overproof.certification.on_tensors import certify
from overproof.errors import InputError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@pytest.fixture
def x():
    return torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def labels(model, x):
    with torch.no_grad():
        y = model.eval()(x).argmax(dim=1)
    model.train()
    y[0] = (y[0] + 1) % 3
    return y


@pytest.mark.parametrize("norm", ["linf", "L2"])
def test_what_is_verified_no_attack_changes(norm, x, modes):
    model = network()
    y = labels(model, x)
    was = modes(model)
    eps = {"linf": 0.02, "L2": 0.1}[norm]
    result = certify(model, x, y, eps=eps, norm=norm, seconds=5.0)
    assert modes(model) == was
    assert result.verdicts[0] == "falsified" and not result.correct[0]
    assert {"verified", "falsified"} <= set(result.verdicts)
    assert result.verified.tolist() == [verdict == "verified" for verdict in result.verdicts]
    assert result.certified_accuracy == int(result.verified.sum()) / 12 and result.clean_accuracy == 11 / 12
    assert (result.lower[result.verified] > 0).all()
    found = PGD(eps=eps, norm=norm, steps=40, restarts=3)(model, x, y, loss="margin")
    with torch.no_grad():
        right = model.eval()(found).argmax(dim=1) == y
    assert right[result.verified].all()
    assert [record["verdict"] for record in result.records()] == result.verdicts


def test_dearer_bounds_verify_no_less(x):
    model = network()
    y = labels(model, x)
    counts = [certify(model, x, y, eps=0.03, bound=bound).verified for bound in ("ibp", "crown", "split")]
    assert (counts[0] <= counts[1]).all() and (counts[1] <= counts[2]).all()


def test_tables(x):
    model = network()
    result = certify(model, x, labels(model, x), eps="1/255", bound="crown")
    text = result.table().splitlines()
    assert text[0] == "bound crown, linf 1/255, 12 images"
    assert [line.split()[0] for line in text[3:7]] == ["correct", "verified", "falsified", "unknown"]
    assert "verified" in result._repr_html_() and "certified accuracy" in repr(result)


def test_the_generator_is_given_back(x):
    model = network()
    y = labels(model, x)
    torch.manual_seed(5)
    certify(model, x, y, eps=0.02)
    after = torch.rand(2)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(2), after)


def test_bad_input_is_one_sentence(x):
    model = network()
    y = labels(model, x)
    odd = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Hardshrink(), nn.Linear(8, 3))
    for words, options, sentence in (
        ((odd, x, y), {}, "Hardshrink"),
        ((lambda p: p, x, y), {}, "need an nn.Module"),
        ((network().half(), x.half(), y), {}, r"use model.float\(\)"),
        ((model, x, y + 3), {}, r"outside 0\.\.2"),
        ((model, x * 2, y), {}, r"lie in \[0, 1\]"),
        ((model, x, y), {"norm": "l1"}, "linf and l2"),
        ((model, x, y), {"bound": "crwn"}, "there is no bound 'crwn'"),
        ((model, x, y), {"seconds": 0}, "must be positive"),
        ((model, x, y), {"eps": "-1"}, "must be positive"),
        ((model, x, y), {"batch": 0}, "batch must be at least 1"),
    ):
        with pytest.raises(InputError, match=sentence) as found:
            certify(*words, **{"eps": "1/255", **options})
        assert "\n" not in str(found.value)


def test_a_network_of_float64_is_bounded_in_float64(x):
    model = network()
    y = labels(model, x)
    single = certify(model, x, y, eps="0.02", precision="float64", seconds=5.0)
    wide = model.double()
    double = certify(wide, x, y, eps="0.02", seconds=5.0)
    assert double.certificates.plan.precision == "float64"
    assert torch.equal(single.verified, double.verified)
    assert all(weight.dtype == torch.float64 for weight in wide.parameters())

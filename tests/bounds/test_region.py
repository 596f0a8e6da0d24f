import pytest
import torch

from overproof.bounds.region import Bounds, Region

from .networks import normal, points, uniform


def test_a_ball_is_cut_to_the_pixels_that_exist():
    x = torch.tensor([0.0, 0.05, 0.5, 1.0]).view(1, 1, 2, 2)
    region = Region.around(x, 0.1)
    assert region.centre is None and region.eps == 0
    torch.testing.assert_close(region.box.lower.flatten(), torch.tensor([0.0, 0.0, 0.4, 0.9]))
    torch.testing.assert_close(region.box.upper.flatten(), torch.tensor([0.1, 0.15, 0.6, 1.0]))


def test_an_l2_ball_keeps_its_centre_and_the_box_around_it():
    x = uniform(3, 2, 4, 4)
    region = Region.around(x, 0.3, "l2")
    assert region.centre is x
    assert region.eps == 0.3
    assert torch.equal(region.box.lower, Region.around(x, 0.3).box.lower)
    assert torch.equal(region.box.upper, Region.around(x, 0.3).box.upper)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_parts_and_precisions(norm):
    x = uniform(5, 1, 2, 3)
    region = Region.around(x, 0.2, norm)
    assert len(region) == 5
    part, whole = region.at(torch.tensor([3, 1])), Region.around(x[[3, 1]], 0.2, norm)
    assert torch.equal(part.box.lower, whole.box.lower) and torch.equal(part.box.upper, whole.box.upper)
    assert part.eps == whole.eps
    single = region.to(dtype=torch.float32)
    assert single.box.lower.dtype == single.box.upper.dtype == torch.float32
    if norm == "l2":
        assert torch.equal(part.centre, whole.centre)
        assert single.centre.dtype == torch.float32
    else:
        assert part.centre is single.centre is None


def test_bounds_know_their_middle_and_half_their_width():
    bounds = Bounds(torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 2.0]))
    assert bounds.centre.tolist() == [1, 2]
    assert bounds.radius.tolist() == [2, 0]
    assert bounds.at(torch.tensor([1])).upper.tolist() == [2]


def test_the_better_of_two_bounds_holds_what_both_hold():
    value = normal(1000)
    first, second = (Bounds(value - uniform(1000, seed=s), value + uniform(1000, seed=s + 9)) for s in (1, 2))
    both = first.within(second)
    assert ((both.lower <= value) & (value <= both.upper)).all()
    for one in (first, second):
        assert ((both.lower >= one.lower) & (both.upper <= one.upper)).all()


def test_bounds_that_rounding_put_in_the_wrong_order_hold_both():
    found = Bounds(torch.tensor([1.0 + 1e-7]), torch.tensor([2.0])).within(
        Bounds(torch.tensor([0.0]), torch.tensor([1.0]))
    )
    assert found.lower <= found.upper
    assert found.lower.item() == 1 and found.upper.item() == 1.0 + torch.finfo().eps


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_points_that_other_tests_use_are_in_the_region_and_at_its_edge(norm):
    region = Region.around(uniform(4, 1, 3, 3), 0.3, norm)
    found = points(region, 500)
    assert ((found >= region.box.lower - 1e-12) & (found <= region.box.upper + 1e-12)).all()
    if norm == "l2":
        size = (found - region.centre).flatten(2).norm(dim=2)
        assert size.max() <= 0.3 + 1e-12
        assert (size > 0.29).double().mean() > 0.02
    else:
        assert (found == region.box.upper).double().mean() > 0.1

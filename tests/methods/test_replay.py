import pytest
import torch

from overproof.attacks.ball import Radius, Threat, ball
from overproof.methods.free_at import FreeAT
from overproof.methods.replay import check_replays, move_perturbation, no_perturbation, perturbation

from .by_hand import ADV, X, Y, draw, images, step_of

THREATS = [
    Threat(eps=Radius("0.1")),
    Threat(norm="l2", eps=Radius("0.4")),
    Threat(norm="l1", eps=Radius("1")),
]


def test_the_memory_starts_at_zero():
    state = no_perturbation(step_of(FreeAT()))
    assert list(state) == ["delta"] and state["delta"].dtype == X.dtype
    assert torch.equal(state["delta"], torch.zeros_like(X))


def test_rows_are_a_leaf_of_their_own():
    step = step_of(FreeAT(), x=X[:3], y=Y[:3], state={"delta": ADV - X})
    rows = perturbation(step)
    assert rows.is_leaf and rows.requires_grad and torch.equal(rows, (ADV - X)[:3])
    with torch.no_grad():
        rows += 1
    assert torch.equal(step.state["delta"], ADV - X)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_a_move_by_hand(n):
    eps = 0.1
    delta = 2 * eps * (torch.rand(X.shape, generator=draw(2), dtype=torch.float64) - 0.5)
    slope = torch.randn(X[:n].shape, generator=draw(3), dtype=torch.float64)
    step = step_of(FreeAT(), x=X[:n], y=Y[:n], state={"delta": delta.clone()})
    rows = perturbation(step)
    move_perturbation(step, rows, slope, Threat(eps=Radius("0.1")))
    moved = torch.clamp(delta[:n] + eps * torch.sign(slope), -eps, eps)
    wanted = torch.clamp(X[:n] + moved, 0, 1) - X[:n]
    torch.testing.assert_close(step.state["delta"][:n], wanted)
    assert torch.equal(step.state["delta"][n:], delta[n:])  # a smaller batch leaves the other rows as they were


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_it_stays_in_the_ball_and_in_the_image(threat):
    state = no_perturbation(step_of(FreeAT()))
    for seed in range(20):  # what is left by one batch meets the images of the next
        step = step_of(FreeAT(), x=images(seed=seed), state=state)
        slope = torch.randn(X.shape, generator=draw(seed), dtype=torch.float64)
        move_perturbation(step, perturbation(step), slope, threat)
        assert (ball(threat.norm, threat.eps).size(state["delta"]) <= threat.eps + 1e-9).all()
        inside = step.x + state["delta"]
        assert (inside >= -1e-12).all() and (inside <= 1 + 1e-12).all()
        assert state["delta"].abs().amax() > 0 and not state["delta"].requires_grad


@pytest.mark.parametrize("replays", [0, -1])
def test_no_replay_is_refused(replays):
    with pytest.raises(ValueError, match=f"^replays must be at least 1, got {replays}$"):
        check_replays(replays)

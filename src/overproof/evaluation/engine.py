"""The engine of every evaluation: blocks of examples, each taken through a suite, one resumable pass at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from overproof.attacks.ball import ball
from overproof.attacks.base import BaseAttack
from overproof.attacks.objectives import Cost, Logits, Misclassification, ranked_target
from overproof.attacks.suites import AttackSpec, Suite
from overproof.data.draws import seed_at
from overproof.data.images import Batch
from overproof.errors import InputError
from overproof.evaluation.state import ExampleState
from overproof.functional import margin
from overproof.memory import within_memory

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Subject:
    """A network under attack: ``judge`` decides in full precision, ``search`` gives the logits that are searched on.

    An example is put before the judge when its searched margin is at most ``slack`` of its largest logit. ``surrogate``
    is what transfer attacks search on. At most ``chunk`` examples are in one pass.
    """

    judge: nn.Module
    search: Logits
    slack: float = 0.0
    surrogate: nn.Module | None = None
    chunk: int = 1024


def run_attacks(
    subject: Subject,
    block: Batch,
    suite: Suite,
    *,
    seed: int,
    number: int,
    state: ExampleState | None = None,
) -> Iterator[ExampleState]:
    """Take block ``number`` through the suite and yield its state after every pass, the same dict each time.

    Draws depend on ``(seed, trial, pass, number)`` alone: the passes may be done in another process, or go on from
    ``state`` that an earlier one left. Raises ``InputError`` for logits that are not finite, and for a transfer attack
    without a surrogate.
    """
    for trial in suite.attacks:
        if trial.surrogate and subject.surrogate is None:
            raise InputError(f"attack {trial.name!r} searches on a teacher, and there is none")
    if state is None:
        begun, subject = _within_memory(subject, partial(_begin, block=block, suite=suite))
        yield begun
        state = begun
    classes = state["clean_logits"].shape[1]
    done = 0
    for column, trial in enumerate(suite.attacks):
        for search, rank in trial.passes(classes):
            done += 1
            if done <= state["passes"]:
                continue
            started = monotonic()
            rows = _attacked_rows(state, suite, column).nonzero().flatten()
            if len(rows):
                task = _Pass(trial, search, rank, column, rows, seed_at(seed, "evaluate", trial.name, done, number))
                _, subject = _within_memory(subject, partial(_attack, block=block, state=state, task=task))
            state["seconds"][column + 1] += monotonic() - started
            state["passes"] += 1
            yield state


def count_passes(suite: Suite, classes: int) -> int:
    """Return how many times ``run_attacks`` yields for a block of fresh examples."""
    return 1 + sum(1 for trial in suite.attacks for _ in trial.passes(classes))


def _begin(subject: Subject, *, block: Batch, suite: Suite) -> ExampleState:
    started = monotonic()
    logits = _judge_logits(subject, block.x)
    _check_finite(logits, "clean images")
    size, trials, device = len(block.y), len(suite.attacks), block.y.device
    state = {
        "label": block.y,
        "prediction": logits.argmax(dim=1),
        "clean_logits": logits,
        "attacked_logits": logits.clone(),
        "survived": torch.ones(size, trials, dtype=torch.bool, device=device),
        "margin": margin(logits, block.y),
        "norm": torch.zeros(size, device=device),
        "image": block.x.clone(),
        "forward": torch.zeros(size, trials, dtype=torch.int64, device=device),
        "backward": torch.zeros(size, trials, dtype=torch.int64, device=device),
        "seconds": torch.zeros(trials + 1, dtype=torch.float64),
        "passes": torch.zeros((), dtype=torch.int64),
    }
    state["seconds"][0] = monotonic() - started
    return state


def _attacked_rows(state: ExampleState, suite: Suite, column: int) -> Tensor:
    """Return which examples a trial is run on, bool ``[B]``."""
    correct = state["prediction"] == state["label"]
    before = state["survived"][:, : column + 1] if suite.survivors else state["survived"][:, column : column + 1]
    return correct & before.all(dim=1)


class _Pass(NamedTuple):
    """One search over the rows of a block: trial, search, rank of the target class (0: none), column, rows, seed."""

    trial: AttackSpec
    search: BaseAttack
    rank: int
    column: int
    rows: Tensor
    seed: int


def _attack(subject: Subject, *, block: Batch, state: ExampleState, task: _Pass) -> None:
    """Make one pass and write down what came of it."""
    trial, search, rank, column, rows, seed = task
    torch.manual_seed(seed)
    x, y = block.x[rows], block.y[rows]
    target = ranked_target(state["clean_logits"][rows], y, rank) if rank else None
    cost = Cost(len(rows), y.device)
    goal = Misclassification(
        search=subject.surrogate if trial.surrogate and subject.surrogate is not None else subject.search,
        judge=None if trial.surrogate else subject.judge,
        y=y,
        index=torch.arange(len(rows), device=y.device),
        cost=cost,
        loss=trial.loss,
        target=target,
        slack=subject.slack,
        chunk=subject.chunk,
    )
    x_adv = _images(search(subject.judge, x, goal), x, trial)
    state["forward"][rows, column] += cost.forward
    state["backward"][rows, column] += cost.backward
    _judge(subject, state, trial, column, rows, x, x_adv)


def try_images(subject: Subject, block: Batch, state: ExampleState, suite: Suite, rows: Tensor, images: Tensor) -> None:
    """Put images ``[R, C, H, W]`` that were found before to the first trial's account, in place.

    ``rows`` int64 ``[R]`` are the examples that they are for. An image outside the trial's ball or of another size
    changes nothing, nor does one that the network classifies correctly.
    """
    if images.shape[1:] != block.x.shape[1:]:
        return
    robust = _attacked_rows(state, suite, 0)[rows].nonzero().flatten()
    at, candidates = rows[robust], images[robust.to(images.device)]
    if len(at):
        state["forward"][at, 0] += 1
        trial, x = suite.attacks[0], block.x[at]
        _within_memory(subject, lambda smaller: _judge(smaller, state, trial, 0, at, x, candidates.to(x)))


def _judge(
    subject: Subject, state: ExampleState, trial: AttackSpec, column: int, rows: Tensor, x: Tensor, x_adv: Tensor
) -> None:
    """Write down what the network says of images that were found for rows of a block, whose clean images are ``x``.

    Whatever the search believed, an example is misclassified when the judge says so of an image in the ball and in
    [0, 1].
    """
    y = state["label"][rows]
    size = ball(trial.attack.norm, trial.attack.eps).size(x_adv - x)
    inside = (size <= _longest(trial, x)) & ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(dim=1)
    logits = _judge_logits(subject, x_adv)
    _check_finite(logits[inside], f"images of attack {trial.name!r}")
    state["survived"][rows, column] = ~(inside & (logits.argmax(dim=1) != y))
    reached = margin(logits, y)
    worse = inside & (reached < state["margin"][rows])
    for name, value in {"margin": reached, "norm": size, "attacked_logits": logits, "image": x_adv}.items():
        state[name][rows[worse]] = value[worse]


def _images(returned: object, x: Tensor, trial: AttackSpec) -> Tensor:
    """Return what an attack found; raise ``InputError`` unless they are images like ``x``, in number, size and type."""
    if not isinstance(returned, Tensor):
        raise InputError(f"attack {trial.name!r} returned an object of type {type(returned).__name__}, not images")
    if returned.shape != x.shape or returned.dtype != x.dtype:
        raise InputError(
            f"attack {trial.name!r} was given images {list(x.shape)} ({x.dtype}) and returned {list(returned.shape)} "
            f"({returned.dtype})"
        )
    return returned.detach().to(x.device)


def _within_memory(subject: Subject, work: Callable[[Subject], T]) -> tuple[T, Subject]:
    """Do the work in chunks that fit: where a device runs out of memory, again with half as many examples a pass."""
    result, chunk = within_memory(lambda chunk: work(replace(subject, chunk=chunk)), subject.chunk)
    return result, replace(subject, chunk=chunk)


def _longest(trial: AttackSpec, x: Tensor) -> float:
    """Return eps and what rounding ``x + delta`` to float32 may add: half a unit in the last place of each pixel."""
    pixels = x[0].numel()
    rounding = {"linf": 1.0, "l2": pixels**0.5, "l1": float(pixels)}[trial.attack.norm] * 2**-24
    return float(trial.attack.eps) * (1 + 1e-6) + float(rounding)


def _check_finite(logits: Tensor, what: str) -> None:
    bad = ~logits.isfinite().all(dim=1)
    if bad.any():
        raise InputError(
            f"the network's outputs are not finite (NaN or infinite) on {int(bad.sum())} of {len(bad)} {what}"
        )


def _judge_logits(subject: Subject, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([subject.judge(part) for part in torch.split(x, subject.chunk)])

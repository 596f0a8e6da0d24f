"""Certified accuracy: each example goes through ever dearer stages until one of them gives a verdict.

First an attack, whose success is a counter-example; then interval bounds, CROWN with their bounds of the layers, CROWN,
alpha-CROWN and splitting, each on what those before it left open, a batch at a time. An example is verified where all
margins between its label and the other classes are proved positive over the whole region.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf, prod
from time import monotonic
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from overproof.attacks.ball import Threat
from overproof.attacks.pgd import PGD
from overproof.attacks.suites import AttackSpec, Suite, quick
from overproof.bounds.activations import ReLU
from overproof.bounds.afford import NotAffordedError
from overproof.bounds.crown import BoundOptions, Method, bound_by_crown, final, intermediate, spec_rows
from overproof.bounds.graph import Graph, Layers
from overproof.bounds.region import Region
from overproof.bounds.rounding import Rounding, prove_rounding
from overproof.bounds.slopes import AlphaOptimizer
from overproof.bounds.spec import margins
from overproof.bounds.split import Budget, bound_least
from overproof.bounds.trace import trace
from overproof.data.images import Batch
from overproof.errors import InputError
from overproof.evaluation.engine import Subject, run_attacks, try_images
from overproof.evaluation.state import ExampleState
from overproof.memory import piecewise, ran_out
from overproof.models.classifier import Classifier

Reach = Literal["ibp", "crown_ibp", "crown", "alpha", "split"]
"""How far the cascade goes."""
REACHES: tuple[Reach, ...] = ("ibp", "crown_ibp", "crown", "alpha", "split")
STAGES = ("clean", "attack", *REACHES)
"""What may decide an example, in order."""
BoundPrecision = Literal["float32", "float64"]
"""Of the numbers that bounds are computed in."""
Verdict = Literal["unknown", "verified", "falsified", "error"]
VERDICTS: tuple[Verdict, ...] = ("unknown", "verified", "falsified", "error")
UNKNOWN, VERIFIED, FALSIFIED, ERROR = range(4)
PROBLEMS = (
    None,
    "not even this one example fits into memory",
    "the bounds are not numbers",
    "an attack attained what was proved to be impossible, so the bound or its rounding slack is wrong",
)
NO_MEMORY, NO_NUMBER, UNSOUND = range(1, 4)

_UNITS = 16  # rounding slack, in units of the last place of the largest bound
_ROWS = 200_000  # linear functions that CROWN makes of one layer at once
_GROUP = 16  # examples whose slopes are optimised together: enough to keep a CPU busy
_ATTACK = 0.25  # of an example's time is at most the attack's
_MOST = 0.7  # of the time that is left is given to one stage, so that something can follow it
_MORE = 1.25  # times what was given is what something takes that was given up
_WITH_GRADIENT = 3  # passes that one with its gradient takes as long as
_LEAST_STEPS = 3  # of the attack, however little time there is
_ALPHA_PASSES = 4  # backward passes: of the first choice, of a step with its gradient, of the last
_ROOT = 8  # the same of the whole region, for a search
TIGHT = AlphaOptimizer(steps=5, rate=0.5)
"""How slopes are optimised for the layers' own bounds, before a search: most is gained by the first steps."""
TIGHTEN = 6  # times what CROWN's bounds of the layers take
_TIGHTER = 0.3  # of the time that is left is at most that of tighter layers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Against what to certify, how far to go, and how many ``seconds`` an example may take, attack and all.

    What would take longer is not begun, or given up. Some steps cannot be cut, so an example may take twice as long.
    Bounds are computed in ``precision``. In float64 they count where they exceed what rounding may have done to them.
    """

    threat: Threat = Threat()  # noqa: RUF009 - a frozen value
    reach: Reach = "split"
    seconds: float = 1.0
    precision: BoundPrecision = "float32"

    def __post_init__(self) -> None:
        if self.precision not in get_args(BoundPrecision):
            raise ValueError(f"precision is float32 or float64, got {self.precision!r}")
        if self.threat.norm == "l1":
            raise ValueError("certificates are for linf and l2, not for l1")
        if self.reach not in REACHES:
            raise ValueError(f"there is no bound {self.reach!r} (one of: {', '.join(REACHES)})")
        if not self.seconds > 0:
            raise ValueError(f"seconds, the time of an example, must be positive, got {self.seconds:g}")

    @property
    def last(self) -> int:
        """The number of the last stage."""
        return STAGES.index(self.reach)

    @property
    def suite(self) -> Suite:
        """What looks for counter-examples: PGD on the margin, whose gradient never dies out, then ``quick``."""
        margins = AttackSpec(name="pgd-margin", attack=PGD(steps=20, momentum=0.75), loss="margin")
        return replace(quick(self.threat), name="falsify", attacks=(margins, *quick(self.threat).attacks)).under(
            self.threat
        )


@dataclass(frozen=True, eq=False)
class Proposal:
    """A network and what is examined of it: itself under attack, and its graph.

    ``costs`` are the seconds per example that stages took, by their names, or would have taken at least.
    """

    subject: Subject
    graph: Graph
    costs: dict[str, float] = field(default_factory=dict)


def trace_classifier(model: Classifier, *, where: str) -> Graph:
    """Return the graph of a network in eval mode; ``where`` names it in every sentence.

    Raises ``InputError`` for weights that are no numbers, naming the layer, for operators without bounds and for
    BatchNorm in train mode.
    """
    check_finite_weights(model, where=where)
    task = model.signature
    try:
        with torch.no_grad():
            return trace(model, (task.channels, task.height, task.width)).graph()
    except InputError as problem:
        raise InputError(f"{where}: {problem}") from problem


def check_finite_weights(model: nn.Module, *, where: str) -> None:
    """Raise ``InputError`` naming the first weights or statistics that are not finite numbers."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            bad = int((~value.isfinite()).sum())
            raise InputError(
                f"{where}: {bad} of the {value.numel()} numbers in {name} are not finite (NaN or infinite)"
            )


def slack(layers: Layers, dtype: torch.dtype | None = None) -> Tensor:
    """Return by how much a bound must exceed 0 to count, ``[N]``, from interval bounds of every layer.

    ``dtype`` is what the bound is computed in (default: that of the layers).

    It is ``16 * eps(dtype)`` times the largest magnitude among the example's bounds of any layer. A bound is a chain of
    sums of such magnitudes, and each operation errs by half a unit in the last place; 16 covers the growth of rounding
    over the layers, whose errors have no common sign. (A margin of safety that is tested, not a theorem.)
    """
    most = torch.stack([torch.maximum(-b.lower, b.upper).flatten(1).amax(dim=1) for b in layers]).amax(dim=0)
    return _UNITS * torch.finfo(dtype or most.dtype).eps * most


def proving_slack(graph: Graph, region: Region, layers: Layers) -> tuple[Tensor, Rounding | None]:
    """Return by how much bounds of margins must exceed 0 to count, ``[N]``, and what rounding does to betas.

    In float64 that is a theorem, where every operator is covered (``bounds.rounding``): twice the error of the logits
    that a margin is the difference of. Else it is ``slack``.
    """
    rounding = prove_rounding(graph, region, layers)
    if rounding is not None and rounding.last is not None:
        return layers[0].lower.new_full((len(region),), 2 * rounding.last), rounding
    return slack(layers), None


def certify_block(
    proposal: Proposal,
    block: Batch,
    plan: Plan,
    *,
    seed: int,
    number: int,
    state: ExampleState | None = None,
    known: Sequence[tuple[Tensor, Tensor]] = (),
) -> Iterator[ExampleState]:
    """Take block ``number`` through the cascade and yield its state after every step, the same dict each time.

    To the state of ``run_attacks`` it adds, per example: ``verdict`` and ``stage`` (who decided, or tried last),
    int64 ``[B]``; ``lower`` ``[B]``, the best proven bound of the smallest margin, -inf without one; ``cost`` float64
    ``[B]``, seconds; ``problem``, int64 ``[B]``, of an error; ``unafforded`` int64 ``[B]``, in whose bit n stands
    whether there was no time for stage n, or for all of it. ``stage_seconds`` float64 are sums. Draws depend on
    ``(seed, number)`` alone; it goes on from ``state`` that an earlier one left. Examples that do not fit into
    memory are certified in smaller batches, and are an error where not even one fits. ``known`` are images to try
    before anything is searched: int64 ``[R]`` rows of the block, and ``[R, C, H, W]``. Raises ``InputError`` where none
    can even be attacked, and for outputs that are not finite.
    """
    try:
        if state is None:
            state = next(run_attacks(proposal.subject, block, plan.suite, seed=seed, number=number))
            for rows, images in known:
                try_images(proposal.subject, block, state, plan.suite, rows, images)
            state = _update_verdicts(state)
            yield state
        suite = _affordable(plan, state, partial(_time_pass, proposal.subject, block))
        for attacked in run_attacks(proposal.subject, block, suite, seed=seed, number=number, state=state):
            state = _update_verdicts(attacked)
            yield state
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
        if not ran_out(problem):
            raise
        raise InputError("there is no memory to attack a single example with; choose another device") from problem
    graph = proposal.graph.to(torch.float64) if plan.precision == "float64" else proposal.graph
    yield from _Cascade(graph, block, plan, state, proposal.costs).run()
    yield state


def not_afforded(names: Sequence[str], state: ExampleState, seconds: float) -> list[str]:
    """Return a sentence for each stage that there was no time for; ``names`` are in the order of the state's bits."""
    bits = state.get("unafforded")
    counts = [] if bits is None else [(name, int((bits >> place & 1).sum())) for place, name in enumerate(names)]
    whole = {"attack": "the whole attack"}
    return [
        f"{whole.get(name, name)} was not afforded within {seconds:g} s an example for {count} of {len(state['cost'])}"
        for name, count in counts
        if count
    ]


def _time_pass(subject: Subject, block: Batch) -> float:
    """Return the seconds of a pass over the block, in pieces as the attack takes them."""
    started = monotonic()
    with torch.no_grad():
        for part in torch.split(block.x, subject.chunk):
            float(subject.judge(part).sum())  # waits for the device
    return monotonic() - started


def _affordable(plan: Plan, state: ExampleState, timed: Callable[[], float]) -> Suite:
    """Return the attack that there is time for, as the clean pass tells: the plan's, or one of fewer steps.

    ``timed`` is asked for the time of another pass where it would be one of fewer: the first pass is a slow one.
    """
    first, *_ = plan.suite.attacks
    attack = first.attack
    assert isinstance(attack, PGD)
    state.setdefault("unafforded", torch.zeros_like(state["label"]))  # that of an older version has none
    given, fits = _ATTACK * plan.seconds * len(state["label"]), 0
    needed = sum(_gradients(trial, state["clean_logits"].shape[1]) for trial in plan.suite.attacks)
    for again in (False, True):
        seconds = timed() if again else float(state["seconds"][0])
        fits = int(given / (_WITH_GRADIENT * max(seconds, 1e-9)))  # passes
        if fits >= needed:
            return plan.suite
    state["unafforded"] |= (state["prediction"] == state["label"]).long() << STAGES.index("attack")
    shorter = replace(attack, steps=min(attack.steps, max(_LEAST_STEPS, fits - 1)))
    return replace(plan.suite, attacks=(replace(first, attack=shorter),))


def _gradients(trial: AttackSpec, classes: int) -> int:
    """Return how many passes with a gradient a trial makes of an image that withstands it."""
    steps = getattr(trial.attack, "steps", 0)
    return sum(int(steps) + 1 for _ in trial.passes(classes))


def _update_verdicts(state: ExampleState) -> ExampleState:
    """Bring the verdicts up to date with the attack's state, in place."""
    if "verdict" not in state:
        like = state["label"]
        state |= {
            "verdict": torch.full_like(like, UNKNOWN),
            "stage": torch.zeros_like(like),
            "lower": torch.full_like(state["margin"], -torch.inf),
            "cost": torch.zeros(len(like), dtype=torch.float64, device=like.device),
            "problem": torch.zeros_like(like),
            "unafforded": torch.zeros_like(like),
            "stage_seconds": torch.zeros(len(STAGES), dtype=torch.float64),
        }
    right = state["prediction"] == state["label"]
    misclassified = right & ~state["survived"].all(dim=1)
    undecided = state["verdict"] == UNKNOWN
    state["verdict"][undecided & (misclassified | ~right)] = FALSIFIED
    state["stage"][undecided & right & (state["stage"] == 0)] = STAGES.index("attack")
    # The attack takes the block as one, so its time is shared by all of it.
    spent = state["seconds"]
    state["stage_seconds"][:2] = torch.stack([spent[0], spent[1:].sum()])
    fresh = state["stage"] <= STAGES.index("attack")
    state["cost"] = torch.where(fresh, float(spent.sum()) / len(right), state["cost"])
    return state


@dataclass(frozen=True, eq=False)
class _Part:
    """Some examples of a block on their way: ``best`` ``[n, K - 1]`` are their proven margins so far."""

    rows: Tensor
    region: Region
    spec: Tensor
    layers: Layers
    best: Tensor
    slack: Tensor

    def at(self, keep: Tensor) -> "_Part":
        """Return the part of the examples at ``keep``."""
        layers = [bounds.at(keep) for bounds in self.layers]
        return _Part(self.rows[keep], self.region.at(keep), self.spec[keep], layers, self.best[keep], self.slack[keep])

    def hardest(self) -> tuple[Tensor, Tensor]:
        """Return the specs ``[n, S, K]`` that are not proved everywhere, and their places ``[n, S]``."""
        count = int((self.best <= self.slack[:, None]).sum(dim=1).max())
        place = self.best.argsort(dim=1)[:, :count]
        return self.spec.gather(1, place[:, :, None].expand(-1, -1, self.spec.shape[2])), place


@dataclass(frozen=True, eq=False)
class _Cascade:
    """The bounds' part of the way, on one block."""

    graph: Graph
    block: Batch
    plan: Plan
    state: ExampleState
    costs: dict[str, float]

    def run(self) -> Iterator[ExampleState]:
        """Yield after every part of the block, and after every example that is split."""
        open_ = (self.state["verdict"] == UNKNOWN) & (self.state["stage"] < self.plan.last)
        size = batch_size(self.graph)
        for rows in torch.split(open_.nonzero().flatten(), size):
            left: list[_Part] = []
            with torch.no_grad():
                self._fail(piecewise(partial(self._bounded, left=left), rows, size), NO_MEMORY)
            yield self.state
            for part in left:
                for one in torch.split(torch.arange(len(part.rows), device=rows.device), 1):
                    with torch.no_grad():
                        self._split(part.at(one))
                    yield self.state

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.plan.precision == "float64" else self.block.x.dtype

    def _bound_options(self, method: Method, **given: Any) -> BoundOptions:
        """Return how to bound the layers; in float64 these are widened by what rounding may have done."""
        return BoundOptions(method=method, rounding=self._dtype == torch.float64, **given)

    def _left(self, rows: Tensor) -> float:
        """Return the seconds that are left for the examples at ``rows`` together."""
        return float((self.plan.seconds - self.state["cost"][rows]).clamp(min=0).sum())

    def _bounded(self, rows: Tensor, left: list[_Part]) -> None:
        """Bound the examples at ``rows``; add to ``left`` what is to be split."""
        rows = rows[self.state["verdict"][rows] == UNKNOWN]
        started, last = monotonic(), self.plan.last
        threat = self.plan.threat
        assert threat.norm != "l1"
        region = Region.around(self.block.x[rows].to(self._dtype), float(threat.eps), threat.norm)
        spec = margins(self.block.y[rows], self.graph.classes).to(region.box.lower)
        layers = intermediate(self.graph, region, self._bound_options("ibp"))
        best = final(self.graph, region, layers, spec, BoundOptions(method="ibp")).lower
        needed, _ = proving_slack(self.graph, region, layers)
        part = self._judged("ibp", _Part(rows, region, spec, layers, best, needed), started)
        afforded = False
        if len(part.rows) and last >= STAGES.index("crown_ibp"):
            part, afforded = self._tried("crown_ibp", part, lambda part, until: self._by_rows(part, "crown_ibp", until))
        if len(part.rows) and last >= STAGES.index("crown"):
            part, _ = self._tried("crown", part, self._refined)
        if len(part.rows) and last >= STAGES.index("alpha"):
            groups = [part.at(group) for group in torch.split(torch.arange(len(part.rows), device=rows.device), _GROUP)]
            for group in groups:
                if afforded:
                    group, _ = self._tried("alpha", group, self._optimised)
                else:
                    self._not_afforded("alpha", group.rows)
                if len(group.rows) and last >= STAGES.index("split") and splits(self.graph):
                    left.append(group)

    def _tried(self, stage: Reach, part: _Part, bound: Callable[[_Part, float], _Part]) -> tuple[_Part, bool]:
        """Bound the part within the time that is left; return what is open, and whether there was time."""
        started, rows = monotonic(), part.rows
        given = _MOST * self._left(rows)
        if given <= 0 or self.costs.get(stage, 0.0) * len(rows) > given:
            self._not_afforded(stage, rows)
            return part, False
        try:
            bounded = bound(part, started + given)
        except NotAffordedError:
            # It takes more than it was given: the next examples need not try it with as little again.
            self.costs[stage] = max(self.costs.get(stage, 0.0), _MORE * given / len(rows))
            self._spent(stage, rows, started)
            self._not_afforded(stage, rows)
            return part, False
        if stage != "alpha":  # which takes what it is given
            took = (monotonic() - started) / len(rows)
            self.costs[stage] = min(self.costs.get(stage, took), took)
        return self._judged(stage, bounded, started), True

    def _not_afforded(self, stage: Reach, rows: Tensor) -> None:
        self.state["unafforded"][rows] |= 1 << STAGES.index(stage)

    def _spent(self, stage: Reach, rows: Tensor, started: float) -> None:
        spent = monotonic() - started
        self.state["cost"][rows] += spent / len(rows)
        self.state["stage_seconds"][STAGES.index(stage)] += spent

    def _refined(self, part: _Part, until: float) -> _Part:
        """Return the part with bounds of the layers by rows, and margins by these."""
        layers = intermediate(self.graph, part.region, self._bound_options("crown", until=until))
        return self._by_rows(replace(part, layers=layers), "crown", until)

    def _optimised(self, part: _Part, until: float) -> _Part:
        """Return the part with margins by optimised slopes; a backward pass takes as long as that of CROWN-IBP."""
        if monotonic() + _ALPHA_PASSES * self.costs["crown_ibp"] * len(part.rows) > until:
            raise NotAffordedError
        return self._by_rows(part, "alpha", until)

    def _by_rows(self, part: _Part, method: Method, until: float) -> _Part:
        """Return the part with margins by rows over the image, of those that are not proved yet."""
        options = BoundOptions(method=method, until=until)
        spec, place = part.hardest()
        rows = {len(self.graph.nodes) - 1: spec_rows(spec)}
        low = bound_by_crown(self.graph, rows, part.layers, part.region, options).view(place.shape)
        return replace(part, best=part.best.scatter(1, place, torch.maximum(part.best.gather(1, place), low)))

    def _judged(self, stage: Reach, part: _Part, started: float) -> _Part:
        """Write down what a stage proved of the part; return what is still open."""
        state, rows = self.state, part.rows
        smallest = part.best.amin(dim=1)
        state["lower"][rows] = torch.maximum(state["lower"][rows], smallest.to(state["lower"]))
        state["verdict"][rows[smallest > part.slack]] = VERIFIED
        state["stage"][rows] = STAGES.index(stage)
        self._spent(stage, rows, started)
        self._fail(rows[part.best.isnan().any(dim=1)], NO_NUMBER)
        # An attack attained this margin, computed in float32: no bound can prove more.
        tolerance = torch.maximum(part.slack, slack(part.layers, torch.float32))
        self._fail(rows[smallest > state["margin"][rows] + tolerance], UNSOUND)
        return part.at((state["verdict"][rows] == UNKNOWN).nonzero().flatten())

    def _split(self, part: _Part) -> None:
        """Split one example, in the time that is left for it."""
        started, seconds = monotonic(), self._left(part.rows)
        if _ROOT * self.costs.get("crown_ibp", 0.0) > seconds or seconds <= 0:
            self._not_afforded("split", part.rows)
            return
        part = self._tighter(part, started + _TIGHTER * seconds)
        spec, place = part.hardest()
        known = part.best.gather(1, place)
        needed, rounding = proving_slack(self.graph, part.region, part.layers)
        # Twice where nothing is known of the betas of the signs, which are one more sum.
        enough = float(needed) if rounding else 2 * float(part.slack)
        try:
            proof = bound_least(
                self.graph,
                part.region,
                part.layers,
                spec[0],
                known[0],
                enough=enough,
                budget=Budget(seconds=seconds - (monotonic() - started)),
                rounding=rounding,
            )
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as problem:
            if not ran_out(problem):
                raise
            self._fail(part.rows, NO_MEMORY)
            return
        proven = known.clamp(min=-proof.worst)
        best = part.best.scatter(1, place, proven)
        self._judged("split", replace(part, best=best), started)

    def _tighter(self, part: _Part, until: float) -> _Part:
        """Return the part with tighter bounds of the layers, where there is time for them."""
        if TIGHTEN * self.costs.get("crown", inf) > until - monotonic():
            return part
        options = self._bound_options("alpha", optimizer=TIGHT, until=until)
        try:
            return replace(part, layers=intermediate(self.graph, part.region, options, known=part.layers))
        except NotAffordedError:
            return part

    def _fail(self, rows: Tensor, problem: int) -> None:
        self.state["verdict"][rows] = ERROR
        self.state["problem"][rows] = problem


def batch_size(graph: Graph) -> int:
    """Return how many examples CROWN bounds at once."""
    return max(1, _ROWS // (2 * max(prod(node.shape) for node in graph.nodes)))


def splits(graph: Graph) -> bool:
    """Tell whether there is a sign to split on."""
    return any(isinstance(node.operator, ReLU) for node in graph.nodes)

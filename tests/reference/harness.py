"""Runs a method on the inputs of a stored case and compares all it does with the numbers of the authors' code.

``methods/README.md`` says what a case holds. The start of an attack is the only draw; it is replaced by the stored one.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from overproof.attacks.ball import Linf
from overproof.attacks.objectives import Score
from overproof.attacks.pgd import PGD
from overproof.data.images import Batch
from overproof.methods.method import Method, Step, Terms
from overproof.models.architectures.architecture import Backbone
from overproof.models.classifier import Classifier
from overproof.signature import Signature

FOLDER = Path(__file__).parent / "methods"

Form = Literal["official", "batchmean", "hinton"]
"""The official loss, or the same with a KL summed over classes, or the textbook distillation loss (KD only)."""

TEACHERS = {"robust": "teacher", "clean": "teacher_nat"}
"""Our roles, and the names of the networks in the files."""

TERMS = {
    "natural": {"ce": "label"},
    "pgd_at": {"ce_adv": "adv"},
    "kd": {"kl": "distil", "ce_tempered": "label", "ce_plain": "label"},
    "ard": {"kl": "distil", "ce_clean": "label"},
    "trades": {"ce_clean": "label", "kl_robust": "robust"},
    "rslad": {"kl_adv": "adv", "kl_nat": "clean"},
    "iad": {"kl_teacher": "teacher", "kl_self_weighted": "self", "ce_clean": "label"},
    "adaad": {"kl_adv": "adv", "kl_nat": "clean"},
    "adaiad": {"kl_teacher": "teacher", "kl_self_weighted": "self", "ce_clean": "label"},
    "igdm": {"kl_adv": "adv", "igdm": "gradient"},
    "rrm": {"ce": "label", "feature": "features"},
    "mtard": {"kl_adv": "adv", "kl_nat": "clean"},
    "b_mtard": {"kl_adv": "adv", "kl_nat": "clean"},
}
"""The files' names of the terms, and ours."""


class TinyNet(Backbone):
    """The network of every case: two convolutions, with or without BatchNorm, and a linear layer."""

    def __init__(self, channels: int, first: int, second: int, features: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, bias=not batch_norm)
        self.bn1 = nn.BatchNorm2d(first) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1, bias=not batch_norm)
        self.bn2 = nn.BatchNorm2d(second) if batch_norm else nn.Identity()
        self.fc = nn.Linear(features, 10)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def embed(self, x: Tensor) -> Tensor:
        hidden = self.bn1(self.conv1(x)).relu()
        return self.bn2(self.conv2(hidden)).relu().flatten(1)


@dataclass(frozen=True)
class Case:
    """One stored case: its description and its tensors, by the names of the README."""

    name: str
    spec: dict[str, Any]
    tensors: dict[str, Tensor]

    def network(self, name: str, dtype: torch.dtype) -> Classifier:
        """Return a network in its initial state: the student in train mode, a teacher frozen and in eval mode."""
        shape = self.spec["network"][name]
        channels, height, width = shape["input"]
        body = TinyNet(
            channels,
            shape["conv1_channels"],
            shape["conv2_channels"],
            shape["features"],
            batch_norm=shape["batch_norm"],
        )
        stored = self.under(f"{name}/")
        counters = {key for key in body.state_dict() if key.endswith("num_batches_tracked")}
        missing, unexpected = body.load_state_dict(stored, strict=False)
        assert not unexpected and set(missing) <= counters, (missing, unexpected)
        scales = self.spec.get("input_normalisation") or {}
        signature = Signature(channels=channels, height=height, width=width, classes=self.spec["classes"])
        network = Classifier(body, signature, **scales).to(dtype)
        for key, values in scales.items():  # in full precision, as the float64 reference has them
            getattr(network, key).copy_(torch.tensor(values, dtype=dtype).reshape(1, -1, 1, 1))
        return network.train() if name == "student" else network.eval().requires_grad_(False)

    def teachers(self, method: Method, dtype: torch.dtype) -> dict[str, Classifier]:
        """Return the teachers this method listens to, by role."""
        return {role: self.network(TEACHERS[role], dtype) for role in method.roles}

    def batches(self, dtype: torch.dtype) -> list[Batch]:
        """Return the mini-batches in order."""
        images = sorted(self.under("inputs/x_"))
        return [
            Batch(self.tensors[f"inputs/x_{index}"].to(dtype), self.tensors[f"inputs/y_{index}"]) for index in images
        ]

    def noise(self, dtype: torch.dtype) -> list[Tensor]:
        """Return the stored start of the attack on every mini-batch; nothing where there is no random start."""
        return [value.to(dtype) for _, value in sorted(self.under("inputs/noise_").items())]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin so, by the rest of their names."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def tolerance(self, dtype: torch.dtype) -> tuple[float, float]:
        """Return the relative and the absolute tolerance that the case allows in this precision."""
        allowed = self.spec["tolerance"]["float64" if dtype == torch.float64 else "float32_advisory"]
        return allowed["rtol"], allowed["atol"]


@cache
def load(name: str) -> Case:
    """Return a stored case."""
    path = FOLDER / f"{name}.json"
    return Case(name, json.loads(path.read_text()), load_file(path.with_suffix(".safetensors")))


class Search(NamedTuple):
    """One attack: where it ended, and the objective ``[calls, N]`` at every point it looked at."""

    end: Tensor
    scores: Tensor


@dataclass
class Watch:
    """What an attack and a student did: every search, and the input of every train-mode forward outside of one."""

    searches: list[Search] = field(default_factory=list)
    forwards: list[Tensor] = field(default_factory=list)

    def order(self, x: Tensor, end: Tensor | None, student: Classifier) -> list[str]:
        """Return the forwards that moved BatchNorm outside of the attack, as the files write them."""
        named = {"x": x} if end is None else {"x": x, "x'": end, "x-d": 2 * x - end}
        known = {name: student.normalised(at) for name, at in named.items()}
        seen = []
        for inputs in self.forwards:
            near = (name for name, at in known.items() if torch.allclose(at, inputs, rtol=0, atol=1e-6))
            seen.append(next(near, "something else"))
        return seen


@contextmanager
def watched(student: Classifier, noise: Sequence[Tensor]) -> Iterator[Watch]:
    """Hand the stored draws to every attack in turn, and write down what attack and student do."""
    watch, draws, searching = Watch(), iter(noise), False
    search = PGD.search

    def draw(x: Tensor) -> Tensor:
        value = next(draws, None)
        assert value is not None, "the method draws more often than the official code"
        assert value.shape == x.shape and value.dtype == x.dtype
        return value

    def attack(self: PGD, model: nn.Module, x: Tensor, objective: Score) -> Tensor:
        nonlocal searching
        scores: list[Tensor] = []

        def listening(point: Tensor) -> Tensor:
            score = objective(point)
            scores.append(score.detach())
            return score

        searching = True
        end = search(self, model, x, listening)
        searching = False
        watch.searches.append(Search(end, torch.stack(scores)))
        return end

    def forward(module: nn.Module, args: tuple[Tensor]) -> None:
        if module.training and not searching:
            watch.forwards.append(args[0].detach().clone())

    handle = student.get_submodule("backbone.conv1").register_forward_pre_hook(forward)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("overproof.attacks.pgd.torch.randn_like", draw)
            patch.setattr(Linf, "uniform", lambda self, x: draw(x))
            patch.setattr(PGD, "search", attack)
            yield watch
    finally:
        handle.remove()
    assert next(draws, None) is None, "the method draws less often than the official code"


class Differences:
    """Everything that is not as stored, so that one failure tells the whole story."""

    def __init__(self, tolerance: tuple[float, float]) -> None:
        self.tolerance = tolerance
        self.found: list[str] = []
        self.compared = 0

    def numbers(
        self, what: str, ours: Tensor | None, official: Tensor, tolerance: tuple[float, float] | None = None
    ) -> None:
        """Compare two tensors of one precision, entry by entry."""
        self.compared += 1
        if ours is None:
            self.found.append(f"{what}: missing")
            return
        rtol, atol = tolerance or self.tolerance
        try:
            torch.testing.assert_close(ours.detach(), official, rtol=rtol, atol=atol)
        except AssertionError as problem:
            self.found.append(f"{what}: {' '.join(str(problem).split())}")

    def parts(self, what: str, ours: dict[str, Tensor], official: dict[str, Tensor]) -> None:
        """Compare tensors by name, for example the gradient of every parameter."""
        for name, value in official.items():
            self.numbers(f"{what} {name}", ours.get(name), value)

    def equal(self, what: str, ours: object, official: object) -> None:
        """Compare two plain values."""
        self.compared += 1
        if ours != official:
            self.found.append(f"{what}: {ours} instead of {official}")

    def none(self, at_least: int) -> None:
        """Fail with all differences, or where suspiciously little was compared."""
        assert not self.found, f"{len(self.found)} differences\n" + "\n".join(self.found)
        assert self.compared >= at_least, f"only {self.compared} comparisons"


def gradients(value: Tensor, student: Classifier) -> dict[str, Tensor]:
    """Return the gradient of a scalar with respect to every parameter; the graph stays."""
    names, parameters = zip(*student.backbone.named_parameters(), strict=True)
    if not value.requires_grad:
        return {}
    return dict(
        zip(
            names,
            torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True),
            strict=True,
        )
    )


def total(terms: Terms) -> Tensor:
    """Return what the training loop descends."""
    return torch.stack(list(terms.values())).sum()


def run_case(
    case: Case,
    method: Method,
    *,
    dtype: torch.dtype = torch.float64,
    form: Form = "official",
    progress: float = 0.0,
    batch_norm: bool = True,
) -> None:
    """Take one step of a method and compare the attack, every term, every gradient and the BatchNorm buffers.

    ``batch_norm=False`` leaves out the order of the forwards and the buffers they moved.
    """
    differences = Differences(case.tolerance(dtype))
    student, (batch,) = case.network("student", dtype), case.batches(dtype)
    state = method.initial_state(batch)
    with watched(student, case.noise(dtype)) as watch:
        losses = method.losses(
            Step(
                x=batch.x,
                y=batch.y,
                student=student,
                teachers=case.teachers(method, dtype),
                state=state,
                progress=progress,
            )
        )
        terms = next(losses)
        after = {name: buffer.clone() for name, buffer in student.backbone.named_buffers()}
        _compare_terms(differences, case, method, terms, student, dtype, form)
        student.zero_grad()
        total(terms).backward()
        assert next(losses, None) is None
    assert method.updates == 1
    end = _compare_attack(differences, case, watch, dtype)
    if batch_norm and after:
        # IGDM writes its adversarial batch as x+d.
        official = ["x'" if part["student"] == "x+d" else part["student"] for part in case.spec["outer_forwards"]]
        differences.equal("outer forwards", watch.order(batch.x, end, student), official)
        differences.parts("buffer", after, case.under(f"{_precision(dtype)}/student_after/"))
    differences.none(at_least=len(list(student.parameters())) + 2)


def _precision(dtype: torch.dtype) -> str:
    return "f64" if dtype == torch.float64 else "f32"


def _compare_attack(differences: Differences, case: Case, watch: Watch, dtype: torch.dtype) -> Tensor | None:
    attack, stored = case.spec["attack"], case.under(f"{_precision(dtype)}/")
    differences.equal("number of attacks", len(watch.searches), 0 if attack is None else 1)
    if attack is None or not watch.searches:
        return None
    search = watch.searches[0]
    differences.numbers("x_adv", search.end, stored["x_adv"])
    differences.equal("attack steps", len(search.scores), attack["steps"])
    if "attack/loss_per_step" in stored:
        scores = search.scores.mean(1) if attack["objective"].startswith("mean") else search.scores.sum(1)
        differences.numbers("attack objective", scores, stored["attack/loss_per_step"])
    return search.end


def _compare_terms(
    differences: Differences,
    case: Case,
    method: Method,
    terms: Terms,
    student: Classifier,
    dtype: torch.dtype,
    form: Form,
) -> None:
    stored = case.under(f"{_precision(dtype)}/")
    suffix = "" if form == "official" else f"_{form}"
    names = TERMS[method.kind]
    # Where the official KL already is a sum over classes, there is one set of weights.
    weights = {
        name.removesuffix("_batchmean"): (f"loss/{name}", weight)
        for name, weight in case.spec[f"weights{suffix}"].items()
    }
    expected = {names[name] for name, (_, weight) in weights.items() if weight}
    idle = {names[name] for name, (_, weight) in weights.items() if not weight and name in names}
    differences.equal("terms", set(terms) - idle, expected)
    for name, (stored_as, weight) in weights.items():
        if names.get(name) not in terms:
            continue
        term = terms[names[name]]
        differences.numbers(f"weight times {name}", term, weight * stored[stored_as])
        gradient = {key: weight * value for key, value in case.under(f"{_precision(dtype)}/grad_term/{name}/").items()}
        if form == "official" and weight and gradient:
            differences.parts(f"gradient of {name}:", gradients(term, student), gradient)
    differences.numbers("total", total(terms), stored[f"loss/total{suffix}"])
    whole = "grad_term/total_hinton/" if form == "hinton" else f"grad_total{suffix}/"
    official = case.under(f"{_precision(dtype)}/{whole}")
    if dtype == torch.float64:
        assert official, "the case has no such gradient"
    differences.parts("gradient:", gradients(total(terms), student), official)


def run_trajectory(case: Case, method: Method, *, form: Literal["official", "batchmean"] = "official") -> None:
    """Train for all steps of an MTARD or B-MTARD case with plain SGD; compare every step and the final student."""
    dtype = torch.float64
    differences = Differences(case.tolerance(dtype))
    group = "f64/" if form == "official" else "f64/batchmean/"
    official = case.under(f"{group}trajectory/")
    steps = len(official["total"])
    student, batches, noise = case.network("student", dtype), case.batches(dtype), case.noise(dtype)
    teachers = case.teachers(method, dtype)
    settings = case.spec["optimiser"]
    descent = torch.optim.SGD(
        student.parameters(),
        lr=settings["lr"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    )
    state = method.initial_state(batches[0])
    ours: dict[str, list[Tensor]] = {}
    with watched(student, [noise[t % len(noise)] for t in range(steps)]) as watch:
        for t in range(steps):
            x, y = batches[t % len(batches)]
            # All steps lie before the first drop of a rate.
            losses = method.losses(Step(x=x, y=y, student=student, teachers=teachers, state=state, progress=0.0))
            terms = next(losses)
            if t == 0:
                _compare_first(differences, case, terms, student, watch.searches[0].end, form)
            descent.zero_grad()
            total(terms).backward()
            descent.step()
            assert next(losses, None) is None
            end = watch.searches[-1].end
            entry = {
                "adv": terms["adv"].detach(),
                "clean": terms["clean"].detach(),
                "total": total(terms).detach(),
                "w_adv": state["weights"][0].clone(),
                "w_nat": state["weights"][1].clone(),
                "relative_adv": state["relative"][0].clone(),
                "relative_nat": state["relative"][1].clone(),
                "x_adv_sum": end.sum(),
            }
            if "temperatures" in state:
                entry |= {
                    "tau_adv": state["temperatures"][0].clone(),
                    "tau_nat": state["temperatures"][1].clone(),
                    "entropy_adv": -state["entropies"][0] / 10,
                    "entropy_nat": -state["entropies"][1] / 10,
                }
            for name, value in entry.items():
                ours.setdefault(name, []).append(value)
    for stored, name in (("adv", "adv"), ("nat", "clean")):
        loss = official.pop(f"loss_{stored}")
        official[name] = official[f"w_{stored}"] * loss
        official[f"relative_{stored}"] = loss / loss[0]
    for name, values in official.items():
        # The official entropies contain log(p + 1e-5): at most 1e-5 off after the mean over classes.
        loose = (0.0, 1e-5) if name.startswith("entropy") else None
        differences.numbers(name, torch.stack(ours[name]) if name in ours else None, values, loose)
    first = torch.stack([official[name][0] / 0.5 for name in ("adv", "clean")])
    differences.numbers("initial", state["initial"], first)
    differences.parts("final", student.backbone.state_dict(), case.under(f"{group}student_final/"))
    differences.none(at_least=30)


def _compare_first(
    differences: Differences, case: Case, terms: Terms, student: Classifier, end: Tensor, form: Form
) -> None:
    suffix = "" if form == "official" else f"_{form}"
    differences.numbers("step 1: x_adv", end, case.tensors["f64/step1/x_adv"])
    differences.numbers("step 1: total", total(terms), case.tensors[f"f64/step1/loss/total{suffix}"])
    for name, ours in (("kl_adv", "adv"), ("kl_nat", "clean")):
        weight = 0.5  # both relative losses are 1 at the first step
        differences.numbers(f"step 1: {name}", terms[ours], weight * case.tensors[f"f64/step1/loss/{name}{suffix}"])
        if form == "official":
            gradient = case.under(f"f64/step1/grad_term/{name}/")
            differences.parts(
                f"step 1: gradient of {name}:",
                gradients(terms[ours], student),
                {key: weight * value for key, value in gradient.items()},
            )
    differences.parts(
        "step 1: gradient:", gradients(total(terms), student), case.under(f"f64/step1/grad_total{suffix}/")
    )
    buffers = dict(student.backbone.named_buffers())
    differences.parts("step 1: buffer", buffers, case.under("f64/step1/student_after/"))


def run_replays(case: Case, method: Method) -> None:
    """Train for all epochs of the free adversarial training case; compare loss and delta of every replay."""
    dtype = torch.float64
    differences = Differences(case.tolerance(dtype))
    official = case.under("f64/trajectory/")
    student, batches = case.network("student", dtype), case.batches(dtype)
    epochs, replays = case.spec["schedule"]["epochs"], case.spec["schedule"]["replays"]
    differences.equal("updates", method.updates, replays)
    descent = torch.optim.SGD(
        student.parameters(), lr=0.0, momentum=0.9, weight_decay=case.spec["optimiser"]["weight_decay"]
    )
    state = method.initial_state(batches[0])
    losses_seen, deltas = [], []
    with watched(student, []) as watch:
        for visit in range(epochs * len(batches)):
            x, y = batches[visit % len(batches)]
            progress = visit / (epochs * len(batches) - 1)
            losses = method.losses(Step(x=x, y=y, student=student, teachers={}, state=state, progress=progress))
            for replay in range(replays):
                terms = next(losses)
                if replay:
                    deltas.append(state["delta"].detach().clone())
                t = len(losses_seen)
                if t == 0:
                    differences.parts(
                        "step 1: gradient:", gradients(total(terms), student), case.under("f64/step1/grad_total/")
                    )
                descent.zero_grad()
                total(terms).backward()
                for part in descent.param_groups:
                    part["lr"], part["momentum"] = float(official["lr"][t]), float(official["momentum"][t])
                descent.step()
                losses_seen.append(total(terms).detach())
            assert next(losses, None) is None
            deltas.append(state["delta"].detach().clone())
    differences.equal("forwards in train mode", len(watch.forwards), len(official["loss"]))
    differences.numbers("loss", torch.stack(losses_seen), official["loss"])
    differences.numbers("delta", torch.stack(deltas), official["delta"])
    differences.parts("final", student.backbone.state_dict(), case.under("f64/student_final/"))
    differences.none(at_least=20)

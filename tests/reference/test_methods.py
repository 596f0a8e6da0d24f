"""Every method equals the authors' official code, by numbers computed with it (``methods/README.md``)."""

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from overproof.functional import entropy
from overproof.methods.catalogue import methods
from overproof.methods.method import Method
from overproof.recipe import build_value
from overproof.training.optimisation import Triangular

from .harness import FOLDER, Differences, Form, load, run_case, run_replays, run_trajectory

NORMAL = {"start": "normal", "clip_start": False, "step": "2/255"}
UNIFORM = {"start": "uniform", "clip_start": False, "mode": "train", "step": "2/255"}

PAPER: dict[str, dict[str, Any]] = {
    "natural": {},
    "pgd_at": {},
    "kd": {"kl_scale": "class", "tempered_labels": True},
    "ard": {"kl_scale": "class", "clean_forward": "always", "inner": UNIFORM},
    "trades": {
        "beta": 6.0,
        "detach_target": False,
        "clean_target_forward": "again",
        "inner": {**NORMAL, "eps": "0.031", "step": "0.007"},
    },
    "rslad": {"alpha": 5 / 6, "kl_scale": "class", "log_eps": 1e-5, "factor": 1.0, "inner": NORMAL},
    "iad": {
        "beta": 0.1,
        "warmup": 0.3,
        "weigh_teacher": False,
        "detach_self": False,
        "idle_forwards": "official",
        "inner": UNIFORM,
    },
    "adaad": {"kl_scale": "class", "clean_forward": "always", "inner": NORMAL},
    "adaiad": {
        "beta": 0.1,
        "warmup": 0.3,
        "weigh_teacher": False,
        "detach_self": False,
        "idle_forwards": "official",
        "inner": NORMAL,
    },
    "igdm": {"weight": 1.0},
    "rrm": {"replays": 1},
    "free_at": {},
    "mtard": {
        "balance_rate": 0.025,
        "balance_power": 1.0,
        "kl_scale": "class",
        "log_eps": 1e-5,
        "factor": 1.0,
        "inner": NORMAL,
    },
    "b_mtard": {
        "balance_rate": 0.025,
        "balance_power": 1.0,
        "temper_rate": 0.001,
        "kl_scale": "class",
        "log_eps": 1e-5,
        "factor": 1.0,
        "inner": NORMAL,
    },
}
"""What every official code does that is not a hyper-parameter, as a recipe writes it; ``preset: paper`` must say it."""


@dataclass(frozen=True)
class Row:
    """How a recipe writes a case: the kind of method, the case's own options, the share of the run that is over."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    progress: float = 0.0
    batch_norm: bool = True

    def method(self, **changes: Any) -> Method:
        """Return the method as the official code runs it, with some options changed."""
        return _written({"kind": self.kind, **PAPER[self.kind], **self.options, **changes})

    def preset(self) -> Method:
        """Return the same from ``preset: paper`` and the case's own options."""
        return _written({"kind": self.kind, "preset": "paper", **self.options})


def _written(text: dict[str, Any]) -> Method:
    method: Method = build_value(Method, text, where="method")
    return method


def _igdm(inner: dict[str, Any], progress: float) -> Row:
    # The cases are of SAAD's copy of the code, which asks the student twice; the authors' own, and so the preset, asks
    # it four times, which moves BatchNorm and no loss.
    base = {"kind": "adaad", "alpha": 1.0, "kl_scale": "batch", "clean_forward": "needed", "inner": inner}
    return Row("igdm", {"weight": 1.0, "attacked_forward": "shared", "base": base}, progress)


MIX = {"alpha": 0.9, "temperature": 5.0}
SHARP = {"alpha": 1.0, "temperature": 30.0}

CASES: dict[str, Row] = {
    "natural_ce": Row("natural"),
    "natural_ce_nobn": Row("natural"),
    # AdaAD's baseline also looks at the clean batch, with weight 0: BatchNorm statistics move, nothing else does.
    "pgd_at_normal_start": Row(
        "pgd_at", {"inner": {"start": "normal", "clip_start": True, "step": "2/255"}}, batch_norm=False
    ),
    "pgd_at_uniform_start": Row("pgd_at", {"inner": {"start": "uniform", "step": "2/255"}}),
    "pgd_at_uniform_start_nobn": Row("pgd_at", {"inner": {"start": "uniform", "step": "2/255"}}),
    "pgd_at_trainmode": Row("pgd_at", {"inner": {"start": "uniform", "steps": 7, "step": "2/255", "mode": "train"}}),
    "kd_alpha09_T4": Row("kd", {"alpha": 0.9, "temperature": 4.0}),
    "kd_alpha1_T30": Row("kd", SHARP),
    "ard_alpha09_T5": Row("ard", MIX),
    "ard_alpha09_T5_nobn": Row("ard", MIX),
    "ard_alpha1_T30": Row("ard", SHARP),
    "trades": Row("trades"),
    "trades_nobn": Row("trades"),
    "rslad": Row("rslad"),
    "rslad_nobn": Row("rslad"),
    "rslad_times10": Row("rslad", {"factor": 10.0}),
    "iad1": Row("iad", {"alpha": 1.0, "temperature": 1.0}, progress=60 / 200),
    "iad1_alpha09_T5_nobn": Row("iad", MIX, progress=60 / 200),
    "iad1_warmup_alpha09_T5": Row("iad", MIX),
    "adaad_alpha1": Row("adaad", {"alpha": 1.0}),
    "adaad_alpha06": Row("adaad", {"alpha": 0.6}),
    "adaad_alpha06_nobn": Row("adaad", {"alpha": 0.6}),
    "adaad_alpha06_batchmean": Row("adaad", {"alpha": 0.6, "kl_scale": "batch"}),
    "adaiad_alpha1_T30": Row("adaiad", SHARP, progress=60 / 200),
    "adaiad_alpha09_T5_nobn": Row("adaiad", MIX, progress=60 / 200),
    "igdm_corrected": _igdm(NORMAL, progress=100 / 200),
    "igdm_corrected_nobn": _igdm(NORMAL, progress=150 / 200),
    "igdm_as_shipped": _igdm({**NORMAL, "eps": "2/255", "step": "8/255"}, progress=100 / 200),
    "rrm_cosine": Row("rrm", {"distance": "cosine", "label_weight": 0.005}),
    "rrm_cosine_normalised": Row("rrm", {"distance": "cosine", "label_weight": 0.005}),
    "rrm_relative_l2": Row("rrm", {"distance": "relative_l2", "label_weight": 0.001}),
    "rrm_relative_l2_nobn": Row("rrm", {"distance": "relative_l2", "label_weight": 0.001}),
}
TRAJECTORIES: dict[str, Row] = {
    "mtard_traj20": Row("mtard"),
    "mtard_traj20_times10": Row("mtard", {"factor": 10.0}),
    "bmtard_traj60": Row("b_mtard"),
    "bmtard_traj60_fast": Row("b_mtard", {"balance_rate": 0.1, "temper_rate": 0.05}),
}
REPLAYS: dict[str, Row] = {
    "free_at": Row("free_at", {"replays": 3, "threat": {"eps": "8/255"}, "clamp_images": False}),
}
DEVIATIONS: list[tuple[str, dict[str, Any], str]] = [
    ("kd_alpha09_T4", {"kl_scale": "batch"}, "weight times kl"),
    ("kd_alpha09_T4", {"tempered_labels": False}, "weight times ce_tempered"),
    ("ard_alpha09_T5", {"inner": {**UNIFORM, "clip_start": True}}, "x_adv"),
    ("ard_alpha09_T5", {"inner": {**UNIFORM, "mode": "eval"}}, "buffer bn1.num_batches_tracked"),
    ("ard_alpha1_T30", {"clean_forward": "needed"}, "outer forwards"),
    ("trades", {"detach_target": True}, "gradient of kl_robust"),
    ("trades", {"clean_target_forward": "shared"}, "buffer bn2.running_mean"),
    ("rslad", {"log_eps": 0.0}, "weight times kl_adv"),
    ("iad1", {"weigh_teacher": True}, "weight times kl_teacher"),
    ("iad1", {"detach_self": True}, "gradient of kl_self_weighted"),
]
"""One change to an official setting, and a difference that it must cause."""

CONTROLLERS = ("mtard_controller", "mtard_controller_beta2", "bmtard_controller", "bmtard_controller_fast")

BATCHMEAN = {"kl_scale": "batch", "log_eps": 0.0, "factor": 1.0}
"""A KL as this library recommends it: summed over classes, exact."""

SAME_WITHOUT_BATCH_NORM: dict[str, dict[str, Any]] = {
    "ard_alpha09_T5_nobn": {"clean_forward": "needed"},
    "trades_nobn": {"clean_target_forward": "shared"},
    "iad1_alpha09_T5_nobn": {"idle_forwards": "none"},
    "adaad_alpha06_nobn": {"clean_forward": "needed"},
    "adaiad_alpha09_T5_nobn": {"idle_forwards": "none"},
}
"""The cheaper default of every option that only moves BatchNorm statistics."""


def _parametrise(*rows: tuple[Any, ...]) -> pytest.MarkDecorator:
    """Parametrise by case, row and what else a row has; skip the kinds that do not exist yet."""
    return pytest.mark.parametrize(
        ("name", "row", "extra"),
        [
            pytest.param(
                name,
                row,
                extra,
                id="-".join([name, *([label] if label else [])]),
                marks=pytest.mark.skipif(row.kind not in methods(), reason=f"there is no method {row.kind!r} yet"),
            )
            for name, row, extra, label in rows
        ],
    )


def _forms(name: str) -> list[Form]:
    """Return the other losses that a case has numbers for."""
    spec = load(name).spec
    return [form for form in ("batchmean", "hinton") if f"weights_{form}" in spec]


def _precise(name: str, row: Row) -> bool:
    """Return whether float32 is not meaningful: TRADES starts next to a zero of its own objective."""
    return row.kind == "trades"


def test_no_stored_case_is_forgotten() -> None:
    stored = {path.stem for path in FOLDER.glob("*.json")}
    assert stored == {*CASES, *TRAJECTORIES, *REPLAYS, *CONTROLLERS}


@_parametrise(*((name, row, torch.float64, "") for name, row in CASES.items()))
def test_official(name: str, row: Row, extra: torch.dtype) -> None:
    run_case(load(name), row.method(), dtype=extra, progress=row.progress, batch_norm=row.batch_norm)


@_parametrise(*((name, row, torch.float32, "") for name, row in CASES.items() if not _precise(name, row)))
def test_official_in_float32(name: str, row: Row, extra: torch.dtype) -> None:
    run_case(load(name), row.method(), dtype=extra, progress=row.progress, batch_norm=row.batch_norm)


@_parametrise(*((name, row, form, form) for name, row in CASES.items() for form in _forms(name)))
def test_recommended_scale(name: str, row: Row, extra: Form) -> None:
    changes = {key: value for key, value in BATCHMEAN.items() if key in PAPER[row.kind]}
    if extra == "hinton":
        changes["tempered_labels"] = False
    run_case(load(name), row.method(**changes), form=extra, progress=row.progress, batch_norm=row.batch_norm)


@_parametrise(*((name, CASES[name], changes, "") for name, changes in SAME_WITHOUT_BATCH_NORM.items()))
def test_idle_forwards_only_move_batch_norm(name: str, row: Row, extra: dict[str, Any]) -> None:
    run_case(load(name), row.method(**extra), progress=row.progress)


@_parametrise(*((name, CASES[name], (changes, seen), next(iter(changes))) for name, changes, seen in DEVIATIONS))
def test_a_deviation_is_seen(name: str, row: Row, extra: tuple[dict[str, Any], str]) -> None:
    changes, seen = extra
    with pytest.raises(AssertionError, match=seen):
        run_case(load(name), row.method(**changes), progress=row.progress)


@_parametrise(
    *(
        (name, row, None, "")
        for name, row in {**CASES, **TRAJECTORIES, **REPLAYS}.items()
        if row.kind not in methods() or "paper" in methods()[row.kind].presets
    )
)
def test_preset_paper(name: str, row: Row, extra: None) -> None:
    if name in TRAJECTORIES:
        run_trajectory(load(name), row.preset())
    elif name in REPLAYS:
        run_replays(load(name), row.preset())
    else:
        run_case(load(name), row.preset(), progress=row.progress, batch_norm=row.batch_norm)


@_parametrise(*((name, row, None, "") for name, row in TRAJECTORIES.items()))
def test_trajectory(name: str, row: Row, extra: None) -> None:
    run_trajectory(load(name), row.method())


@_parametrise(*((name, row, None, "") for name, row in TRAJECTORIES.items()))
def test_trajectory_at_recommended_scale(name: str, row: Row, extra: None) -> None:
    run_trajectory(load(name), row.method(**BATCHMEAN), form="batchmean")


@_parametrise(*((name, row, None, "") for name, row in REPLAYS.items()))
def test_replays(name: str, row: Row, extra: None) -> None:
    run_replays(load(name), row.method())


def test_triangular_schedule_is_that_of_free_training() -> None:
    rates = load("free_at").tensors["f64/trajectory/lr"]
    ours = [0.04 * Triangular(peak=0.5).factor(2 * t / len(rates), epochs=2) for t in range(len(rates))]
    torch.testing.assert_close(torch.tensor(ours, dtype=torch.float64), rates, rtol=1e-8, atol=1e-10)


@pytest.mark.skipif(find_spec("overproof.methods.control") is None, reason="there are no controllers yet")
@pytest.mark.parametrize("name", CONTROLLERS)
def test_controllers(name: str) -> None:
    case, control = load(name), import_module("overproof.methods.control")
    differences = Differences(case.tolerance(torch.float64))
    rule, official = case.spec["controller"], case.under("f64/trajectory/")
    losses = torch.stack([case.tensors["inputs/loss_adv"], case.tensors["inputs/loss_nat"]], dim=1).double()
    weights = [torch.tensor([0.5, 0.5], dtype=torch.float64)]
    temperatures = [torch.tensor([1.0, 1.0], dtype=torch.float64)]
    for t, now in enumerate(losses):
        rate = float(official["weight_rate"][t])
        weights.append(control.balance(now, losses[0], weights[-1], rate, rule["beta"]))
        if "tau_adv" in official:
            logits = (case.tensors[f"inputs/teacher_{which}_logits"][t].double() for which in ("adv", "nat"))
            entropies = torch.stack([entropy(z, tau).mean() for z, tau in zip(logits, temperatures[-1], strict=True)])
            low, high = rule["temperature_range"]
            rate = float(official["temp_rate"][t])
            temperatures.append(control.temper(entropies, temperatures[-1], rate, low, high))
    for index, which in enumerate(("adv", "nat")):
        differences.numbers(f"w_{which}", torch.stack(weights[1:])[:, index], official[f"w_{which}"])
        if "tau_adv" in official:
            differences.numbers(f"tau_{which}", torch.stack(temperatures[1:])[:, index], official[f"tau_{which}"])
    differences.none(at_least=2)


@pytest.mark.parametrize("name", sorted({*CASES, *TRAJECTORIES}))
def test_networks_are_those_of_the_case(name: str) -> None:
    """The harness itself: its networks give the stored logits and representations."""
    case = load(name)
    group = "f64/step1/" if name in TRAJECTORIES else "f64/"
    stored, (x, _), *_ = case.under(group), *case.batches(torch.float64)
    differences = Differences(case.tolerance(torch.float64))
    inputs = {"clean": x, "adv": stored.get("x_adv"), "plus": stored.get("x_adv")}
    if "x_adv" in stored:
        inputs["minus"] = 2 * x - stored["x_adv"]
    for key, logits in case.under(f"{group}logits/").items():
        network, _, view = key.rpartition("_")
        # Where nothing moved the student before, its first forward is that of its initial state.
        if network != "student" or (view == "clean" and case.spec["attack"] is None):
            differences.numbers(key, case.network(network, torch.float64)(inputs[view]), logits)
    for network, features in case.under(f"{group}feat/").items():
        differences.numbers(network, case.network(network, torch.float64).features(x)[1], features)
    differences.none(at_least=0)  # without a teacher an attack leaves nothing to look at

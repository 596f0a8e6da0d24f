import importlib
import inspect
import pkgutil
import re
from dataclasses import MISSING, fields, is_dataclass
from inspect import isabstract

import pytest

from overproof import methods as package
from overproof.attacks.ball import Radius, Threat
from overproof.attacks.pgd import PGD
from overproof.methods.catalogue import methods
from overproof.methods.divergence import KL
from overproof.methods.method import Method

# Results depend on these, and recipes that do not write them down change with them. Of a search: what is not PGD's.
NORMAL, RAMPED = {"start": "normal"}, {"steps": 8, "ramp": 0.5}
BY_KL, SHARP = {"divergence": KL()}, {"label_smoothing": 0.0}
LATENT = {"relus": 1, "steps": 8, "expansion": 5.0, "link": 0.5, "balance": 0.0, "scaled_start": False}
DEFAULTS = {
    "adaad": {
        "alpha": 1.0, "inner": NORMAL, "kl_scale": "batch", "clean_forward": "needed", "search_target": "attacked",
        **BY_KL,
    },
    "adaiad": {
        "alpha": 1.0, "temperature": 30.0, "beta": 0.1, "warmup": 0.3, "inner": NORMAL, "weigh_teacher": True,
        "detach_self": True, "idle_forwards": "none", **BY_KL, **SHARP,
    },
    "ard": {
        "alpha": 1.0, "temperature": 30.0, "inner": {}, "kl_scale": "batch", "clean_forward": "needed",
        **BY_KL, **SHARP,
    },
    "awp": {"base": methods()["pgd_at"](), "gamma": 0.005, "start": 0.0},
    "b_mtard": {
        "balance_rate": 0.025, "balance_power": 1.0, "temper_rate": 0.001, "low": 1.0, "high": 10.0, "rate_drops": (),
        "inner": NORMAL, "kl_scale": "batch", "log_eps": 0.0, "factor": 1.0, **BY_KL,
    },
    "crown_ibp": {
        "threat": Threat(), "ramp": 0.5, "kappa": (1.0, 0.5), "beta": (1.0, 0.0), "balance": 0.0, "scaled_start": False,
    },
    "dgad": {"beta": 1.0, "correct": True, "inner": NORMAL, **BY_KL},
    "faithful": {
        "alpha": 0.5, "temperature": 1.0, "threat": Threat(), "ramp": 0.5, "kappa": 2.0, "gap": "log",
        "beta": (0.0, 0.0), "teacher_bounds": "ibp", "inner": None, "attacked": 0.0, "balance": 0.0,
        "scaled_start": False,
    },
    "fare": {"label_weight": 0.0, "inner": {}, **SHARP},
    "fast_ard": {
        "alpha": 1.0, "temperature": 30.0, "replays": 4, "ascend": "distillation", "threat": Threat(),
        "kl_scale": "batch", **BY_KL, **SHARP,
    },
    "fast_at": {"inner": {"steps": 1}, "reach": 1.25, **SHARP},
    "free_at": {"replays": 8, "threat": Threat(), "clamp_images": True, **SHARP},
    "hat": {"beta": 2.5, "gamma": 0.5, "reach": 3.5, "inner": NORMAL, **SHARP},
    "iad": {
        "alpha": 1.0, "temperature": 1.0, "beta": 0.1, "warmup": 0.3, "inner": {}, "weigh_teacher": True,
        "detach_self": True, "idle_forwards": "none", **BY_KL, **SHARP,
    },
    "ibp": {"threat": Threat(), "ramp": 0.5, "kappa": (1.0, 0.5), "balance": 0.0, "scaled_start": False},
    "igdm": {"base": methods()["adaad"](), "weight": 1.0, "attacked_forward": "shared"},
    "kd": {"alpha": 0.9, "temperature": 4.0, "kl_scale": "batch", "tempered_labels": False, **BY_KL, **SHARP},
    "lbgat": {"beta": 0.0, "guide": 1.0, "inner": NORMAL, **SHARP},
    "mart": {"beta": 5.0, "inner": {}, **SHARP},
    "mtard": {
        "balance_rate": 0.025, "balance_power": 1.0, "rate_drops": (), "inner": NORMAL, "kl_scale": "batch",
        "log_eps": 0.0, "factor": 1.0, **BY_KL,
    },
    "mtl_ibp": {"alpha": 0.5, "inner": RAMPED, "balance": 0.0, "scaled_start": False},
    "n_fgsm": {"noise": 2.0, "reach": 1.0, "mode": "eval", "threat": Threat(), **SHARP},
    "natural": {"label_smoothing": 0.0},
    "peeraid": {
        "label": 0.0, "peer": 1.0, "own": 1.0, "temperature": 5.0, "peer_label": 1.0, "peer_student": 0.1,
        "peer_temperature": 1.0, "inner": NORMAL, "kl_scale": "batch", "detach_targets": True, "idle_forwards": "none",
        **BY_KL, **SHARP,
    },
    "pgd_at": {"inner": {}, "label_smoothing": 0.0},
    "rrm": {"distance": "cosine", "label_weight": 0.005, "replays": 1, **SHARP},
    "rslad": {"alpha": 5 / 6, "inner": NORMAL, "kl_scale": "batch", "log_eps": 0.0, "factor": 1.0, **BY_KL},
    "saad": {
        "entropy_scale": 5.0, "gradient_weight": 1.0, "clean_weight": 0.0, "correction": 1.0, "inner": NORMAL,
        **BY_KL,
    },
    "saad_weight": {"base": methods()["rslad"](), "scale": 1.0, "from_least": False},
    "sabr": {"lam": 0.4, "inner": RAMPED, "balance": 0.0, "scaled_start": False},
    "staps": {"lam": 0.4, "inner": RAMPED, **LATENT},
    "taps": {"threat": Threat(), "ramp": 0.5, **LATENT},
    "trades": {
        "beta": 6.0, "inner": NORMAL, "clean_target_forward": "shared", "detach_target": False, **SHARP,
    },
}  # fmt: skip
UNCLIPPED = {"steps": 10, "start": "normal", "clip_start": False}
IN_TRAIN_MODE = {"steps": 10, "start": "uniform", "clip_start": False, "mode": "train"}
BALANCED = {"kl_scale": "class", "log_eps": 1e-5, "rate_drops": [215 / 300, 260 / 300, 285 / 300], "inner": UNCLIPPED}
OFFICIAL = {"weigh_teacher": False, "detach_self": False, "idle_forwards": "official"}
PRESETS = {
    "adaad": {"paper": {"kl_scale": "class", "clean_forward": "always", "inner": UNCLIPPED}},
    "adaiad": {"paper": {**OFFICIAL, "inner": UNCLIPPED}},
    "ard": {
        "paper": {
            "alpha": 1.0, "temperature": 30.0, "kl_scale": "class", "clean_forward": "always", "inner": IN_TRAIN_MODE,
        }
    },
    "b_mtard": {"paper": BALANCED},
    "dgad": {"paper": {"beta": 1.0, "inner": UNCLIPPED}},
    "fare": {"paper": {"label_weight": 0.0, "inner": {"steps": 10}}},
    "free_at": {"paper": {"replays": 8}},
    "hat": {
        "paper": {"beta": 2.5, "gamma": 0.5, "inner": UNCLIPPED},
        "paper_extra": {"beta": 3.5, "gamma": 0.5, "label_smoothing": 0.1, "inner": UNCLIPPED},
    },
    "iad": {"paper": {**OFFICIAL, "inner": IN_TRAIN_MODE}},
    "igdm": {
        "paper": {
            "weight": 5.0, "attacked_forward": "again",
            "base": {"kind": "adaad", "clean_forward": "always", "inner": UNCLIPPED},
        }
    },
    "kd": {"paper": {"alpha": 1.0, "temperature": 30.0, "kl_scale": "class", "tempered_labels": True}},
    "lbgat": {"paper": {"beta": 6.0, "inner": {"eps": "0.031", "step": "0.007", **UNCLIPPED}}},
    "mtard": {"paper": BALANCED},
    "n_fgsm": {"paper": {"noise": 2.0, "reach": 1.0, "mode": "train"}},
    "peeraid": {
        "paper": {
            "kl_scale": "class", "detach_targets": False, "idle_forwards": "official", "inner": UNCLIPPED,
        }
    },
    "rrm": {
        "paper": {"distance": "cosine", "label_weight": 0.005},
        "paper_l2": {"distance": "cosine", "label_weight": 0.00005},
        "paper_imagenet": {"distance": "relative_l2", "label_weight": 0.001},
    },
    "rslad": {"paper": {"alpha": 5 / 6, "kl_scale": "class", "log_eps": 1e-5, "inner": UNCLIPPED}},
    "trades": {
        "paper": {
            "beta": 6.0, "clean_target_forward": "again", "inner": {"eps": "0.031", "step": "0.007", **UNCLIPPED},
        }
    },
}  # fmt: skip
every_method = pytest.mark.parametrize("kind", methods())


def test_every_file_that_defines_a_method_is_found_by_itself():
    defined = set()
    for module in pkgutil.iter_modules(package.__path__):
        path = f"{package.__name__}.{module.name}"
        members = vars(importlib.import_module(path)).values()
        here = [m for m in members if isinstance(m, type) and issubclass(m, Method) and m.__module__ == path]
        assert len(here) <= 1, f"{module.name} defines more than one method"
        defined |= set(here)
    assert set(methods().values()) == {each for each in defined if not isabstract(each)}
    assert {"natural", "pgd_at", "kd", "ard"} <= set(methods())


def test_the_order_is_alphabetical():
    assert list(methods()) == sorted(methods())


@every_method
def test_a_method_is_a_frozen_value_written_with_keywords(kind):
    cls = methods()[kind]
    assert is_dataclass(cls) and cls.__dataclass_params__.frozen and cls.__dataclass_params__.eq
    assert all(part.kw_only for part in fields(cls))
    assert (fields(cls)[0].name, fields(cls)[0].default) == ("kind", kind)
    assert all(part.default is not MISSING or part.default_factory is not MISSING for part in fields(cls))
    assert cls() == cls() and hash(cls()) == hash(cls())


@every_method
def test_a_method_is_final(kind):
    cls = methods()[kind]
    (above,) = cls.__bases__
    assert issubclass(above, Method) and isabstract(above)
    # Other tests make methods of their own.
    assert not [child for child in cls.__subclasses__() if child.__module__.startswith("overproof")]


@every_method
def test_the_docstring_is_the_card(kind):
    cls = methods()[kind]
    wraps_another = any(part.name == "base" for part in fields(cls))
    assert cls.__doc__.splitlines()[0].endswith((".", "?"))
    assert re.search("^Formula[:,]", inspect.getdoc(cls), re.MULTILINE) or wraps_another


def options(value):
    """Return a value's options but its kind; those of a search only where they are not PGD's own."""
    found = {part.name: getattr(value, part.name) for part in fields(value) if part.name != "kind"}
    if isinstance(value, PGD):
        return {name: option for name, option in found.items() if option != getattr(PGD(), name)}
    return {name: options(option) if isinstance(option, PGD) else option for name, option in found.items()}


@every_method
def test_the_defaults_are_those_that_were_chosen(kind):
    assert options(methods()[kind]()) == DEFAULTS[kind]


def test_the_defaults_of_what_a_method_is_made_of():
    assert Threat() == Threat(norm="linf", eps=Radius("8/255"))
    assert PGD() == PGD(
        norm="linf", eps=Radius("8/255"), step=None, steps=10, restarts=1, start="uniform", clip_start=True,
        best=False, momentum=0.0, mode="eval", ramp=0.0, steps_ramp=0.0,
    )  # fmt: skip


@every_method
def test_the_presets_are_those_of_the_official_codes(kind):
    assert methods()[kind].presets == PRESETS.get(kind, {})


SHARE = ((0.0, 1.0), (-1e-3, 1.001))
WEIGHT = ((0.0, 100.0), (-1e-9,))
POSITIVE = ((1e-3, 100.0), (0.0, -1.0))
COUNT = ((1, 2), (0, -1))
OF_LATENT = {"relus": ((0, 3), (-1,)), "steps": COUNT, "expansion": WEIGHT, "link": ((1e-3, 1.0), (0.0, 1.001))}
SHARES = (((0.0, 1.0), (1.0, 0.0)), ((-1e-3, 1.0), (0.0, 1.001), (1.001, 0.0)))
# What an option may be at its ends, and what is just beyond.
EDGES = {
    "adaad": {"alpha": SHARE},
    "adaiad": {"alpha": SHARE, "temperature": POSITIVE, "beta": WEIGHT, "warmup": SHARE},
    "ard": {"alpha": SHARE, "temperature": POSITIVE},
    "awp": {"gamma": WEIGHT, "start": SHARE},
    "b_mtard": {
        "balance_rate": SHARE, "temper_rate": WEIGHT, "low": ((1e-3, 1.0), (0.0, 1.001)),
        "high": ((1.0, 100.0), (0.999,)), "log_eps": WEIGHT, "factor": WEIGHT,
    },
    "crown_ibp": {"ramp": SHARE, "kappa": SHARES, "beta": SHARES, "balance": WEIGHT},
    "faithful": {
        "alpha": SHARE, "temperature": POSITIVE, "ramp": SHARE, "kappa": WEIGHT, "beta": SHARES, "balance": WEIGHT,
    },
    "fast_ard": {"alpha": SHARE, "temperature": POSITIVE, "replays": COUNT},
    "fast_at": {"reach": POSITIVE},
    "free_at": {"replays": COUNT},
    "iad": {"alpha": SHARE, "temperature": POSITIVE, "beta": WEIGHT, "warmup": SHARE},
    "ibp": {"ramp": SHARE, "kappa": SHARES, "balance": WEIGHT},
    "igdm": {"weight": WEIGHT},
    "kd": {"alpha": SHARE, "temperature": POSITIVE},
    "mart": {"beta": WEIGHT},
    "mtard": {"balance_rate": SHARE, "log_eps": WEIGHT, "factor": WEIGHT},
    "mtl_ibp": {"alpha": SHARE, "balance": WEIGHT},
    "peeraid": {
        "label": WEIGHT, "peer": WEIGHT, "own": WEIGHT, "temperature": POSITIVE, "peer_label": WEIGHT,
        "peer_student": WEIGHT, "peer_temperature": POSITIVE,
    },
    "rrm": {"label_weight": WEIGHT, "replays": COUNT},
    "rslad": {"alpha": SHARE, "log_eps": WEIGHT, "factor": WEIGHT},
    "saad": {"entropy_scale": WEIGHT, "gradient_weight": WEIGHT, "clean_weight": WEIGHT},
    "sabr": {"lam": ((1e-3, 0.999), (0.0, 1.0)), "balance": WEIGHT},
    "staps": {"lam": ((1e-3, 0.999), (0.0, 1.0)), "balance": WEIGHT, **OF_LATENT},
    "taps": {"ramp": SHARE, "balance": WEIGHT, **OF_LATENT},
    "trades": {"beta": WEIGHT},
}  # fmt: skip


@pytest.mark.parametrize(("kind", "option"), [(kind, option) for kind, options in EDGES.items() for option in options])
def test_an_option_may_be_at_its_ends_and_not_beyond(kind, option):
    within, beyond = EDGES[kind][option]
    for value in within:
        assert getattr(methods()[kind](**{option: value}), option) == value
    for value in beyond:
        with pytest.raises(ValueError):
            methods()[kind](**{option: value})

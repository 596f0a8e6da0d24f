"""RobustBench: an entry for its leaderboard, and our networks under the name its loader asks for.

Sources: RobustBench's ``model_info`` files and ``robustbench.utils.load_model``, which asks timm for a model of a
certain name before it looks at its own zoo.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overproof.errors import InputError, nearest
from overproof.models.classifier import Classifier
from overproof.models.weights import build, from_plain, load_description, load_model
from overproof.signature import Signature

DATASETS = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
THREATS = {"linf": "Linf", "l2": "L2"}
_ID = re.compile(r"[A-Za-z0-9][\w-]*")


def model_info(
    evaluation: Mapping[str, Any],
    *,
    title: str,
    authors: str,
    link: str = "",
    venue: str = "Unpublished",
    architecture: str = "",
    additional_data: bool = False,
    footnote: str = "",
) -> dict[str, Any]:
    """Return the leaderboard's JSON entry for what ``evaluate --attacks standard`` found on a whole test split.

    Accuracies are strings in percent with two digits, eps is a fraction as it was written. It is filed as
    ``model_info/<dataset>/<Linf or L2>/<id>.json``. Raises ``InputError`` for a data set or a norm that RobustBench
    does not list, another suite, and a part of the test split.
    """
    data, threat = evaluation["data"], evaluation["threat"]
    dataset = str(data["name"]).rsplit("/", 1)[-1].lower()
    if dataset not in DATASETS:
        raise InputError(f"RobustBench has no leaderboard for {data['name']!r}{nearest(dataset, DATASETS)}")
    if threat["norm"] not in THREATS:
        raise InputError(f"RobustBench has no leaderboard for {threat['norm']}{nearest(threat['norm'], THREATS)}")
    if evaluation["suite"]["name"] != "standard":
        raise InputError(
            f"RobustBench lists the standard suite, not {evaluation['suite']['name']!r}; run: overproof evaluate RUN "
            "--attacks standard"
        )
    if data["examples"] != data["of"]:
        raise InputError(f"RobustBench lists the whole test split, not {data['examples']} of its {data['of']} images")
    reliability = evaluation.get("reliability") or {}
    robust = _percent(evaluation["worst"])
    return {
        "link": link,
        "name": title,
        "authors": authors,
        "additional_data": additional_data,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": venue,
        "architecture": architecture or evaluation["architecture"],
        "eps": threat["eps"],
        "clean_acc": _percent(evaluation["clean"]),
        "reported": robust,
        "autoattack_acc": robust,
        "footnote": footnote or None,
        "unreliable": reliability.get("verdict") == "fail",
    }


def timm_name(name: str, dataset: str, threat: str = "Linf") -> str:
    """Return the name under which RobustBench's loader asks timm for its model ``name``; raise ``InputError``."""
    if not _ID.fullmatch(name):
        raise InputError(f"{name!r}: RobustBench's ids look like Wang2023Better_WRN-28-10: letters, digits, _ and -")
    if dataset not in DATASETS:
        raise InputError(f"RobustBench has no data set {dataset!r}{nearest(dataset, DATASETS)}")
    if threat not in THREATS.values():
        raise InputError(f"RobustBench has no threat {threat!r}{nearest(threat, THREATS.values())}")
    return f"{name.lower().replace('-', '_')}_{dataset}_{threat.lower()}"


def register(folder: Path, name: str, *, dataset: str, threat: str = "Linf") -> str:
    """Make a run or repository folder known to timm, so that RobustBench's ``load_model(name, ...)`` finds it.

    Holds for this process; returns timm's name for it. Raises ``InputError`` where timm is missing, the name is none of
    RobustBench's form, or the network is for another number of classes than the data set.
    """
    try:
        from timm.models import register_model
    except ModuleNotFoundError as problem:
        raise InputError("timm is an extra: pip install 'overproof[zoo]'") from problem
    registered, description = timm_name(name, dataset, threat), load_description(folder)
    signature = Signature(**description["signature"])
    if signature.classes != DATASETS[dataset]:
        raise InputError(f"{folder}: it has {signature.classes} classes, {dataset} has {DATASETS[dataset]}")

    def entry(pretrained: bool = False, *, num_classes: int = 0, **_: Any) -> Classifier:
        """Return the network, for timm: trained, or freshly initialised."""
        if num_classes and num_classes != signature.classes:
            raise InputError(f"{registered}: it has {signature.classes} classes, not {num_classes}")
        if pretrained:
            return load_model(folder)[0]
        layer = description["normalisation"] or {"mean": (), "std": ()}
        inside = {part: tuple(layer[part]) for part in ("mean", "std")}
        return build(from_plain(description["architecture"]), signature, **inside)

    entry.__name__ = registered
    register_model(entry)
    return registered


def _percent(proportion: Mapping[str, Any]) -> str:
    return f"{100 * proportion['share']:.2f}"

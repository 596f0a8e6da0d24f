"""Verifier queries about a run's test images, with the networks they are about, checked before they are written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from overproof.attacks.ball import Radius, Threat
from overproof.attacks.pgd import PGD
from overproof.certification.pair_attack import attack_pair
from overproof.data.draws import seed_at
from overproof.data.images import Batch, ImageSet, balanced_subset, pixels, stratified_subset
from overproof.diagnostics.parity import same_logits
from overproof.environment import package, versions
from overproof.errors import InputError
from overproof.files import check_absent, make_folder, write_folder
from overproof.formats import vnnlib
from overproof.formats.onnx import to_onnx
from overproof.formats.queries import Point, Query
from overproof.functional import cross_entropy
from overproof.models.classifier import Classifier
from overproof.models.external.onnx_file import OnnxFile
from overproof.reading import is_file, parsing, read_bytes, read_lines, read_object
from overproof.runs.exported import ExportTask, export_task, parity_lines
from overproof.runs.results import CERTIFICATE
from overproof.runs.sources import AnySource

_SAMPLES = 32  # points of each ball that a query is tried on
_STEPS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class _Images:
    """The N images that are asked about: pixels, labels, places in the test split; the radius and a seed."""

    x: Tensor
    y: Tensor
    index: tuple[int, ...]
    classes: int
    eps: Radius
    seed: int

    def inside(self, points: Tensor) -> Tensor:
        """Return points ``[N, C, H, W]`` brought back into the boxes of the queries, where rounding left them."""
        low, high = vnnlib.box(self.x, float(self.eps))
        return torch.minimum(torch.maximum(points.double(), low), high).float()

    def sampled(self, number: int) -> Tensor:
        """Return corners and uniform points ``[S, C, H, W]`` of the ball around image ``number``, and the image."""
        x = self.x[number]
        draws = torch.Generator().manual_seed(seed_at(self.seed, "queries", self.index[number]))
        uniform = 2 * torch.rand(_SAMPLES, *x.shape, generator=draws) - 1
        uniform[: _SAMPLES // 2] = uniform[: _SAMPLES // 2].sign()
        low, high = vnnlib.box(x, float(self.eps))
        points = (x.double() + float(self.eps) * uniform).clamp(low, high).float()
        return torch.cat([x[None], points])


@dataclass(frozen=True, kw_only=True)
class _Question:
    """One query: its file, its text, and what is known of the answer: ``sat``, ``unsat`` or nothing."""

    file: str
    index: int
    label: int
    text: str
    known: str | None = None


def ask(
    subject: ExportTask,
    out: Path,
    *,
    examples: int = 10,
    eps: str | float | None = None,
    teacher: AnySource | None = None,
    gamma: float = 1.0,
    timeout: int = 300,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a folder of queries about ``examples`` test images that are classified correctly.

    ``robust/`` holds VNN-LIB 1.0 queries. With a ``teacher`` (a source, right about the images as well) ``pair/`` holds
    two VNN-LIB 2.0 queries per image: a disagreement, and margins that differ by ``gamma``, above 0. Each has its ONNX
    files and an ``instances.csv`` with ``timeout`` seconds. ``eps`` replaces the recipe's radius, in linf.

    Every query is tried before anything is written: an attack's counter-examples must satisfy theirs, and no sampled
    point may satisfy one that ``certify`` has answered. Raises ``InputError``.
    """
    check_absent(out)
    threat = _threat(subject, eps)
    if examples < 1 or timeout < 1:
        raise InputError(f"examples and timeout must be at least 1, got {examples} and {timeout}")
    if not gamma > 0:
        raise InputError(f"gamma is a difference of margins, above 0, got {gamma:g}")
    if teacher is not None:
        package("vnnlib", extra="export", where=f"{subject.name}: checking queries about a pair")
    other = (
        None
        if teacher is None or subject.source is None
        else export_task(teacher, subject.source, trust_code=subject.trust_code)
    )
    if other is not None and other.model.signature != subject.model.signature:
        raise InputError(f"{other.name}: this teacher is for {other.model.signature}, not {subject.model.signature}")
    if subject.source is None:
        raise InputError(
            f"{subject.name}: queries are about the test split of a source of images; say which, with data"
        )
    test = subject.source.load("test")
    networks = [subject.model] if other is None else [other.model, subject.model]
    asked = _choose_images(networks, test, examples, threat.eps, seed, where=subject.name)
    student = _File.of(subject, asked.x)
    own = _read_certificate(subject, threat)
    questions = _robustness(subject.model, student, asked, own)
    files = _benchmark("robust", {vnnlib.STUDENT: student.body}, questions, timeout)
    report: dict[str, Any] = {
        "to": "vnnlib",
        "run": subject.name,
        "file": str(out),
        "digest": subject.digest,
        "norm": "linf",
        "eps": str(threat.eps),
        "images": list(asked.index),
        "robust": _summary(questions, student.parity),
        "pair": None,
    }
    if other is not None:
        lead = _File.of(other, asked.x)
        both = _pair(other.model, subject.model, lead, student, asked, gamma, own.agreeing(other.name))
        files |= _benchmark("pair", {vnnlib.TEACHER: lead.body, vnnlib.STUDENT: student.body}, both, timeout)
        report["pair"] = {"teacher": other.name, "gamma": gamma, **_summary(both, lead.parity)}
    report["versions"] = versions()
    files["report.json"] = (json.dumps(report, indent=1) + "\n").encode()
    make_folder(out.parent)
    write_folder(out, files)
    return report


def _threat(subject: ExportTask, eps: str | float | None) -> Threat:
    if subject.threat.norm != "linf" and eps is None:
        raise InputError(
            f"{subject.name}: queries are boxes, linf balls, and it was made for {subject.threat.norm}; "
            "say which with --eps"
        )
    try:
        return Threat(norm="linf", eps=subject.threat.eps if eps is None else Radius(eps))
    except ValueError as problem:
        raise InputError(str(problem)) from problem


def _choose_images(
    networks: list[Classifier], test: ImageSet, examples: int, eps: Radius, seed: int, *, where: str
) -> _Images:
    """Return a balanced subset of so many images that all networks classify correctly."""
    count = min(2 * examples + 20, len(test))  # more than are needed, so that all classes have some
    while True:
        rows = stratified_subset(test, count, seed)  # as certify's, whose answers are then known
        x, y = pixels(test.images[rows]), test.labels[rows]
        right = torch.ones(len(y), dtype=torch.bool)
        with torch.no_grad():
            for network in networks:
                right &= torch.cat([network(part).argmax(dim=1) for part in torch.split(x, 128)]) == y
        rows = rows[right]
        if len(rows) >= examples:
            break
        if count == len(test):
            raise InputError(f"{where}: {len(rows)} of {count} test images are classified correctly, not {examples}")
        count = min(2 * count + 20, len(test))
    rows = rows[balanced_subset(test.at(rows), examples, seed)]
    return _Images(
        x=pixels(test.images[rows]),
        y=test.labels[rows],
        index=tuple(rows.tolist()),
        classes=len(test.classes),
        eps=eps,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class _File:
    """An exported network: its bytes, itself as it runs from them, and its parity with the original."""

    body: bytes
    network: OnnxFile
    parity: list[dict[str, Any]]

    @classmethod
    def of(cls, subject: ExportTask, x: Tensor) -> "_File":
        body = to_onnx(subject.model, x, metadata=subject.metadata("not stated"), where=subject.name)
        network = OnnxFile(body, where=subject.name)
        return cls(body, network, parity_lines(same_logits(subject.model, network, x, where=subject.name)))


@dataclass(frozen=True)
class _Known:
    """What ``certify`` found in the same ball: verdicts by image, counter-examples, and verdicts on agreement."""

    verdicts: Mapping[int, str]
    images: Mapping[int, Tensor]
    teacher: str
    agreement: Mapping[int, str]

    def agreeing(self, teacher: str) -> frozenset[int]:
        """Return the images where agreement with this teacher is proved."""
        if Path(teacher).resolve() != Path(self.teacher).resolve():
            return frozenset()
        return frozenset(index for index, verdict in self.agreement.items() if verdict == "verified")


def _read_certificate(subject: ExportTask, threat: Threat) -> _Known:
    """Read a certificate of the same network and radius, where there is one."""
    file = subject.results / "certificate.json"
    nothing = _Known({}, {}, "", {})
    if not is_file(file):
        return nothing
    with parsing(file, "a certificate of overproof; run certify again"):
        said = read_object(file)
        before = Threat(norm=said["threat"]["norm"], eps=Radius(said["threat"]["eps"]))
        if said["kind"] != "bounds" or said["model_digest"] != subject.digest or before != threat:
            return nothing
        home = CERTIFICATE.folder(subject.results, said)
        lines = list(read_lines(home / "certificate.jsonl"))
        if len(lines) != (expected := said["data"]["examples"]):
            raise ValueError(f"{len(lines)} whole lines for {expected} images")
        tensors = load(read_bytes(home / "counterexamples.safetensors"))
        pairs = {one["index"]: one["pair"]["agreement"] for one in lines if one.get("pair")}
        return _Known(
            {one["index"]: one["verdict"] for one in lines},
            dict(zip(tensors["index"].tolist(), tensors["images"], strict=True)),
            said["teacher"]["name"] if said["teacher"] else "",
            pairs,
        )


def _robustness(model: Classifier, file: _File, asked: _Images, known: _Known) -> list[_Question]:
    """Return the 1.0 queries, each tried on an attack's image, a known counter-example and sampled points."""
    attack = PGD(eps=asked.eps, steps=_STEPS, best=True)
    torch.manual_seed(seed_at(asked.seed, "queries", "attack"))
    attacked = asked.inside(attack(model, asked.x, lambda x: cross_entropy(model(x), asked.y)))
    questions = []
    for number, (index, label) in enumerate(zip(asked.index, asked.y.tolist(), strict=True)):
        text = vnnlib.robustness(asked.x[number], label, asked.classes, float(asked.eps))
        points = [asked.sampled(number), attacked[number : number + 1]]
        if index in known.images:
            points.append(known.images[index][None])
        x = torch.cat(points)
        with torch.no_grad():
            logits = file.network(x)
        misclassified = logits.argmax(dim=1) != label
        query = Query.read(text)
        answers = torch.tensor(
            [query.satisfied_by(_point({"X": one}, {"Y": out})) for one, out in zip(x, logits, strict=True)]
        )
        name = f"robust-{index:05d}.vnnlib"
        _agree(name, misclassified, answers, proved=known.verdicts.get(index) == "verified")
        if index in known.images and not answers[-1]:
            raise InputError(f"{name}: the counter-example of certificate.json does not satisfy it; run certify again")
        verdict = "sat" if answers.any() else "unsat" if known.verdicts.get(index) == "verified" else None
        questions.append(_Question(file=name, index=index, label=label, text=text, known=verdict))
    return questions


def _pair(
    teacher: Classifier,
    student: Classifier,
    lead: _File,
    behind: _File,
    asked: _Images,
    gamma: float,
    agreeing: frozenset[int],
) -> list[_Question]:
    """Return the 2.0 queries, parsed by the standard's parser and tried on attacked and sampled points."""
    threat = Threat(norm="linf", eps=asked.eps)
    ends = attack_pair(teacher, student, Batch(asked.x, asked.y), threat, steps=_STEPS, restarts=1, seed=asked.seed)
    worst = [asked.inside(part) for part in (ends.x_under, ends.x_over, ends.x_disagree)]
    questions = []
    for number, (index, label) in enumerate(zip(asked.index, asked.y.tolist(), strict=True)):
        image, eps = asked.x[number], float(asked.eps)
        x = torch.cat([asked.sampled(number), *(part[number : number + 1] for part in worst)])
        with torch.no_grad():
            one, two = lead.network(x).double(), behind.network(x).double()
        gap = ((one[:, [label]] - one) - (two[:, [label]] - two)).abs().amax(dim=1)
        names = [f"disagree-{index:05d}.vnnlib", f"margins-{index:05d}.vnnlib"]
        texts = [
            vnnlib.disagreement(image, asked.classes, eps),
            vnnlib.margin_gap(image, label, asked.classes, eps, gamma),
        ]
        truths = [one.argmax(dim=1) != two.argmax(dim=1), gap > gamma]
        for name, text, truth, proved in zip(names, texts, truths, (index in agreeing, False), strict=True):
            vnnlib.check_version_2(text, where=name)
            query = Query.read(text)
            answers = torch.tensor(
                [
                    query.satisfied_by(
                        _point(
                            {f"X_{who}": point[None] for who in (vnnlib.TEACHER, vnnlib.STUDENT)},
                            {f"Y_{vnnlib.TEACHER}": here[None], f"Y_{vnnlib.STUDENT}": there[None]},
                        )
                    )
                    for point, here, there in zip(x, one, two, strict=True)
                ]
            )
            _agree(name, truth, answers, proved=proved)
            verdict = "sat" if answers.any() else "unsat" if proved else None
            questions.append(_Question(file=name, index=index, label=label, text=text, known=verdict))
    return questions


def _agree(name: str, truth: Tensor, answers: Tensor, *, proved: bool) -> None:
    """Raise ``InputError`` where the query misses a counter-example, or finds one where a proof excludes it."""
    if (truth & ~answers).any():
        raise InputError(f"{name}: a counter-example does not satisfy it, so it asks something else; please report it")
    if proved and answers.any():
        raise InputError(f"{name}: certificate.json proves that there is no counter-example, but one satisfies it")


def _point(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Point:
    return Point(
        {name: value.double().numpy() for name, value in inputs.items()},
        {name: value.double().numpy() for name, value in outputs.items()},
    )


def _benchmark(
    folder: str, networks: Mapping[str, bytes], questions: list[_Question], timeout: int
) -> dict[str, bytes]:
    """Return the files of one benchmark as VNN-COMP lays it out, by their paths."""
    paths = {name: f"onnx/{name}.onnx" for name in networks}
    cell = vnnlib.pair_of_files(*paths.values()) if len(paths) == 2 else next(iter(paths.values()))
    rows = [(cell, f"vnnlib/{question.file}", timeout) for question in questions]
    return {
        **{f"{folder}/{paths[name]}": body for name, body in networks.items()},
        **{f"{folder}/vnnlib/{question.file}": question.text.encode() for question in questions},
        f"{folder}/instances.csv": vnnlib.instances(rows).encode(),
    }


def _summary(questions: list[_Question], parity: list[dict[str, Any]]) -> dict[str, Any]:
    known = [question.known for question in questions]
    return {
        "queries": len(questions),
        "known": {"sat": known.count("sat"), "unsat": known.count("unsat"), "open": known.count(None)},
        "instances": [
            {"file": one.file, "index": one.index, "label": one.label, "known": one.known} for one in questions
        ],
        "parity": parity,
    }

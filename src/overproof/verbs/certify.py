"""``certify``: proves what a network withstands on the test split, and how near it stays to its teacher."""

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from overproof.allocation import keep_freed_memory
from overproof.attacks.ball import Norm, Radius, Threat
from overproof.data.images import ImageSet
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError
from overproof.evaluation.admission import admit
from overproof.evaluation.attacked import prepare
from overproof.evaluation.certified import Plan, Proposal, Reach, check_weights, graph_of
from overproof.evaluation.evidence import Evidence
from overproof.evaluation.faithful import Pair
from overproof.evaluation.imitation import GAMMAS
from overproof.evaluation.marks import Marks, placed
from overproof.evaluation.shards import Shard
from overproof.evaluation.smoothing import Smoothing
from overproof.evaluation.store import Store
from overproof.locking import exclusive
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode
from overproof.models.precision import tensor_float
from overproof.recipe import plain
from overproof.results import CERTIFICATE
from overproof.run import Run
from overproof.verbs.certificate import Bounding, Certificate, Smoothening
from overproof.verbs.examinee import Examinee, shown
from overproof.verbs.given import Subject, carried_out, kept_where_asked, subject_of
from overproof.verbs.networks import digest_of, load_other
from overproof.verbs.options import CertifyOptions, Images
from overproof.verbs.summary import Beginning, device_line, known_lines, network_line, results_line, subject_name

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Certifying:
    """What a certification has to say after a step: where it is, and the certified accuracy of the blocks begun.

    ``done`` of ``total`` examples are finished; ``where`` says which means those that are open have come to.
    """

    stage: str
    where: str
    done: int
    total: int
    verified: Evidence
    warnings: tuple[str, ...] = ()


def certify(run: Subject, **options: Unpack[CertifyOptions]) -> dict[str, Any]:
    """Certify a network on the test split; write ``certificate.json`` and ``certificate.jsonl``, return the former.

    ``run`` is a run folder, or a foreign network (``package.module:factory``, ``timm:NAME``, ``robustbench:NAME``) with
    ``data``. The options are those of ``certifying``. A network in memory is an ``nn.Module``
    with images ``data=(x, y)``; nothing is written of it without ``out``. Raises ``InputError``.
    """
    with kept_where_asked(run, options) as given:
        return carried_out(certifying(run, **given))


def certifying(
    run: Subject,
    *,
    teacher: Path | str | None = None,
    eps: str | float | None = None,
    norm: Norm | None = None,
    bound: Reach = "split",
    seconds: float = 1.0,
    gamma: float | None = None,
    smoothing: float | None = None,
    samples: int = Smoothing.samples,
    examples: int | None = None,
    seed: int = 0,
    batch: int = 100,
    device: str = "auto",
    data: Images | None = None,
    classes_by_position: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    out: Path | str | None = None,
    announce: bool = False,
) -> Generator[Beginning | Certifying, None, dict[str, Any]]:
    """Certify step by step: yield after each, return what was written to ``certificate.json``.

    ``teacher`` asks for the pair as well: agreement and the gap of confidences, attacked and proven. ``eps`` and
    ``norm`` (linf or l2) replace the recipe's threat. ``bound`` is how far the cascade goes (see ``certified``), with
    ``seconds`` (above 0) for an example, attack and pair included; what they do not suffice for is left out and told.
    ``gamma``, in [0, 1], is one more gap at which faithful examples are counted. ``smoothing`` is a sigma: randomised
    smoothing with so many ``samples`` certifies l2 balls of the smoothed network, instead of bounds. ``examples`` takes
    a seeded subset in proportion to the classes (0: all); ``batch`` of them are certified together.
    ``classes_by_position`` takes images whose classes have other names than the network's, or another order. ``resume``
    continues after a crash. ``out`` is the folder of the results (default: the run's own, or ``evaluations/NAME``); in
    it, results are kept side by side by what was asked. The same question again returns what was found, unless
    ``overwrite`` asks for it to be worked out again. ``announce`` yields a
    ``Beginning`` as soon as something is known. Raises ``InputError``.
    """
    announce = announce and Shard.here().leads
    if announce:
        yield Beginning(lines=(f"{run if isinstance(run, str) else subject_name(run)}: reading network and images",))
    keep_freed_memory()
    subject = subject_of(run, data, readable=True, classes_by_position=classes_by_position)
    place, shard = pick_device(device), Shard.here()
    plan = _plan(subject, norm, eps, bound, seconds)
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    noise = None if smoothing is None else _noise(smoothing, samples, plan.threat)
    gammas = _gammas(subject, gamma, teacher)
    if teacher is not None and noise is not None:
        raise InputError("smoothing certifies one network and no pair; leave out --teacher or --smoothing")
    model = subject.model.to(place)
    other = None
    if teacher is not None:
        other = load_other(teacher, subject.images, by_position=classes_by_position).to(place)
    rows = subject.rows(examples, seed)
    images = subject.images.at(rows).decoded().to(place)  # no other image is read
    folder = subject.folder if out is None else Path(out)
    pair = None if other is None else (str(teacher), other)
    certificate = _certificate(subject, model, pair, plan, noise, gammas)
    sample = shown(images, seed)
    warnings = admit(model, *sample, where=subject.name)
    if other is not None:
        warnings += admit(other, *sample, where=f"teacher {teacher}")
    asked = {
        "network": subject.facts["model_digest"],
        "teacher": None if other is None else digest_of(other),
        "seed": seed,
        "examples": len(images),
        "data": images.digest,
        "plan": plain(plan),
        "smoothing": None if noise is None else asdict(noise),
        "gammas": list(gammas),
    }
    how = bound if noise is None else "smoothing"
    title = f"{how} {plan.threat.norm} {plan.threat.eps} {len(images)} images{' pair' if other is not None else ''}"
    kept = CERTIFICATE.place(folder, asked, title)
    if (earlier := CERTIFICATE.finished(kept, overwrite=overwrite)) is not None:
        if shard.leads:  # a crash may have come between the results and their place at the root
            with exclusive(folder, "certify"):
                CERTIFICATE.promote(folder, subject.facts["model_digest"])
        return earlier
    if announce:
        course = f"smoothing with {samples:,} samples" if noise else f"bounds up to {bound}, {seconds:g} s an image"
        yield Beginning(
            lines=(
                *known_lines(subject, images, model),
                *(() if other is None else (network_line("teacher", str(teacher), other),)),
                f"certify: {plan.threat.norm} eps {plan.threat.eps}; {course}, {batch} together",
                device_line(place, "fp32"),
                results_line(kept, (CERTIFICATE.main, *CERTIFICATE.beside)),
            )
        )
    with exclusive(folder, "certify") if shard.leads else nullcontext():
        store = Store(kept / "certificate-state", {**asked, "batch": batch})
        if shard.leads:
            store.open(resume=resume, overwrite=overwrite)
        shard.wait()
        with in_mode(model, training=False), tensor_float(False):
            blocks = yield from _Course(certificate, images, rows, store, shard, seed, batch).run(warnings)
        found = {
            "schema": SCHEMA,
            **subject.facts,
            "data": subject.said_of(images),
            "threat": plain(plan.threat),
            "as_trained": data is None and plan.threat == subject.threat,
            "seed": seed,
            "batch": batch,
            **certificate.figures(blocks),
            "warnings": list(warnings),
            "versions": versions(),
            "hardware": hardware(place),
        }
        if shard.leads:
            results = Run(kept)
            certificate.write(results, blocks, rows.tolist())
            results.write_json("certificate.json", found)
            store.remove()
            CERTIFICATE.promote(folder, subject.facts["model_digest"])
        return found


def _plan(subject: Examinee, norm: Norm | None, eps: str | float | None, bound: Reach, seconds: float) -> Plan:
    try:
        radius = subject.threat.eps if eps is None else Radius(eps)
        return Plan(threat=Threat(norm=norm or subject.threat.norm, eps=radius), reach=bound, seconds=seconds)
    except ValueError as problem:
        raise InputError(str(problem)) from problem


def _noise(sigma: float, samples: int, threat: Threat) -> Smoothing:
    if threat.norm != "l2":
        raise InputError(f"smoothing certifies l2 balls, not {threat.norm}; add --norm l2 and an --eps in l2")
    try:
        noise = Smoothing(sigma=sigma, samples=samples)
    except ValueError as problem:
        raise InputError(str(problem)) from problem
    noise.check(float(threat.eps))
    return noise


def _gammas(subject: Examinee, gamma: float | None, teacher: Path | str | None) -> tuple[float, ...]:
    if gamma is None:
        return GAMMAS
    if teacher is None:
        raise InputError(f"{subject.name}: gamma is a gap to a teacher; say which with --teacher RUN")
    if not 0 <= gamma <= 1:
        raise InputError(f"gamma is a difference of confidences, in [0, 1], got {gamma:g}")
    return (*GAMMAS, gamma)


def _certificate(
    subject: Examinee,
    model: Classifier,
    teacher: tuple[str, Classifier] | None,
    plan: Plan,
    noise: Smoothing | None,
    gammas: tuple[float, ...],
) -> Certificate:
    """Return how the network is certified; raise ``InputError`` for one that bounds cannot follow."""
    check_weights(model, where=subject.name)
    if noise is not None:
        return Smoothening(model, plan.threat, noise)
    proposal = Proposal(prepare(model), graph_of(model, where=subject.name))
    if teacher is None:
        return Bounding(proposal, None, plan)
    name, other = teacher
    own = Proposal(prepare(other), graph_of(other, where=f"teacher {name}"))
    return Bounding(proposal, Pair.of(other, model, own, proposal.graph), plan, name, gammas)


@dataclass(frozen=True, eq=False)
class _Course:
    """The way of all blocks, with what is done kept in the store."""

    certificate: Certificate
    images: ImageSet
    rows: Tensor
    store: Store
    shard: Shard
    seed: int
    batch: int

    def run(self, warnings: tuple[str, ...]) -> Generator[Certifying, None, list[Marks]]:
        """Yield after every step, in the leading process alone; return the marks of all blocks, in each of them."""
        blocks: dict[int, Marks] = {}
        done: dict[int, int] = {}
        counts: dict[int, Evidence] = {}
        parts = list(self.images.batches(self.batch))
        places = torch.split(self.rows, self.batch)
        mine = [number for number in range(len(parts)) if self.shard.mine(number)]
        for number in mine:
            before = self._restored(number)
            steps = self.certificate.steps(parts[number], before, seed=self.seed, number=number, rows=places[number])
            for step in steps:
                blocks[number], done[number] = step.marks, step.done
                counts[number] = self.certificate.evidence(step.marks)
                self.store.save(number, step.marks, whole=step.whole)
                if self.shard.leads:
                    yield Certifying(
                        stage=step.stage,
                        where=step.where,
                        done=sum(done.values()) // self.certificate.rounds,
                        total=sum(len(places[one]) for one in mine),
                        verified=reduce(add, counts.values()),
                        warnings=warnings,
                    )
                    warnings = ()
        return list(self.shard.collected(blocks).values())

    def _restored(self, number: int) -> Marks | None:
        marks = self.store.load(number)
        return marks and placed(marks, self.images.labels.device)

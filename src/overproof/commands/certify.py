"""``certify``: proves what a network withstands on the test split, and how near it stays to its teacher."""

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors.torch import save

from overproof.allocation import keep_freed_memory
from overproof.attacks.ball import Threat
from overproof.attacks.radius import radius_or_none
from overproof.certification.cascade import Plan, Proposal, check_finite_weights, trace_classifier
from overproof.certification.pair import Pair
from overproof.certification.pair_attack import GAMMAS
from overproof.certification.smoothing import Smoothing
from overproof.commands.options import Certification, CertifyOptions, call_of
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError
from overproof.evaluation.attacked import prepare_subject
from overproof.evaluation.in_memory import in_float64
from overproof.evaluation.input_checks import admit
from overproof.evaluation.shards import Shard
from overproof.files import write_atomically
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode
from overproof.models.precision import tensor_float
from overproof.recipe import plain
from overproof.runs.blocks import Block, BlockProgress, Question, Runner
from overproof.runs.certificate import Bounding, Certificate, Smoothening
from overproof.runs.folder import Run
from overproof.runs.in_memory import keep_where_asked, run_to_end
from overproof.runs.known import CounterExamples, known_counter_examples
from overproof.runs.loaded import digest_of
from overproof.runs.networks import load_other
from overproof.runs.results import CERTIFICATE
from overproof.runs.sources import AnySource
from overproof.runs.subject import EvaluationTask, draw_batch, evaluation_task
from overproof.runs.summary import Beginning, device_line, known_lines, network_line, results_line, subject_name
from overproof.statistics import Proportion


@dataclass(frozen=True, kw_only=True)
class CertificationEvent:
    """What a certification has to say after a step: where it is, and the certified accuracy of the blocks begun.

    ``done`` of ``total`` examples are finished; ``where`` says which means those that are open have come to.
    """

    stage: str
    where: str
    done: int
    total: int
    verified: Proportion
    warnings: tuple[str, ...] = ()


def certify(run: AnySource, **options: Unpack[CertifyOptions]) -> dict[str, Any]:
    """Certify a network on the test split; write ``certificate.json`` and ``certificate.jsonl``, return the former.

    ``run`` is any source of a network whose layers can be followed (see ``resolve.find_network``); one that does not
    know its images needs ``data``. The options are those of ``Certification``. A network in memory is an ``nn.Module``,
    with images ``data=(x, y)`` or a source of images; nothing is written of it without ``out``. Raises ``InputError``.
    """
    with keep_where_asked(run, options) as given:
        return run_to_end(iter_certify(run, **given))


def iter_certify(
    run: AnySource, *, announce: bool = False, **options: Unpack[CertifyOptions]
) -> Generator[Beginning | CertificationEvent, None, dict[str, Any]]:
    """Certify step by step: yield after each, return what was written to ``certificate.json``.

    The options are those of ``Certification``. ``announce`` yields a ``Beginning`` as soon as something is known.
    Raises ``InputError``.
    """
    return _certifying(run, Certification(**options), announce and Shard.here().leads)


def _certifying(
    run: AnySource, asked_for: Certification, announce: bool
) -> Generator[Beginning | CertificationEvent, None, dict[str, Any]]:
    if announce:
        yield Beginning(lines=(f"{run if isinstance(run, str) else subject_name(run)}: reading network and images",))
    keep_freed_memory()
    by_position, trust_code, seed = asked_for.classes_by_position, asked_for.trust_code, asked_for.seed
    subject = evaluation_task(run, asked_for.data, classes_by_position=by_position, layers=True, trust_code=trust_code)
    place, shard, batch = pick_device(asked_for.device), Shard.here(), asked_for.batch
    if in_float64(subject.model):
        asked_for = replace(asked_for, precision="float64")
    plan = _plan(subject, asked_for)
    noise = _noise(asked_for, plan.threat)
    gammas = _gammas(subject, asked_for)
    if asked_for.precision == "float64" and (asked_for.teacher is not None or noise is not None):
        raise InputError("float64 is for bounds of one network; leave out --precision, or --teacher and --smoothing")
    if asked_for.teacher is not None and noise is not None:
        raise InputError("smoothing certifies one network and no pair; leave out --teacher or --smoothing")
    model, teacher, other = subject.model.to(place), "", None
    if asked_for.teacher is not None:
        loaded = load_other(
            asked_for.teacher, subject.images, by_position=by_position, trust_code=trust_code, layers=True
        )
        teacher, other = loaded.known.title, loaded.model.to(place)
    rows = subject.rows(asked_for.examples, seed)
    images = subject.images.at(rows).decoded().to(place)  # no other image is read
    pair = None if other is None else (teacher, other)
    folder, digest = subject.folder if asked_for.out is None else Path(asked_for.out), subject.facts["model_digest"]
    known, unread = ((), ()) if noise is not None else known_counter_examples(folder, digest)
    certificate = _certificate(subject, model, pair, plan, noise, gammas, known)
    sample = draw_batch(images, seed)
    warnings = (*unread, *admit(model, *sample, where=subject.name))
    if other is not None:
        warnings += admit(other, *sample, where=f"teacher {teacher}")
    how = asked_for.bound if noise is None else "smoothing"
    question = Question(
        command="certify",
        kind=CERTIFICATE,
        folder=folder,
        asked={
            "network": digest,
            "teacher": None if other is None else digest_of(other),
            "seed": seed,
            "examples": len(images),
            "data": images.digest,
            "plan": _identity(plan),
            "smoothing": None if noise is None else asdict(noise),
            "gammas": list(gammas),
        },
        title=f"{how} {plan.threat.norm} {plan.threat.eps} {len(images)} images{' pair' if other is not None else ''}",
        digest=digest,
        shard=shard,
    )
    if (earlier := question.earlier(overwrite=asked_for.overwrite)) is not None:
        question.promote()
        return earlier
    if announce:
        yield Beginning(
            lines=(
                *known_lines(subject, images, model),
                *(() if other is None else (network_line("teacher", teacher, other),)),
                f"certify: {plan.threat.norm} eps {plan.threat.eps}; {_describe_method(asked_for)}, {batch} together",
                device_line(place, "fp32"),
                results_line(question.kept, (CERTIFICATE.main, *CERTIFICATE.beside)),
            )
        )
    with question.held():
        store = question.store(
            "certificate-state", {"batch": batch}, resume=asked_for.resume, overwrite=asked_for.overwrite
        )
        runner = Runner(
            images=images,
            batch=batch,
            store=store,
            shard=shard,
            units=lambda count: certificate.rounds * count,
            evidence=certificate.evidence,
        )
        places = torch.split(rows, batch)

        def steps(block: Block) -> Iterator[BlockProgress]:
            at = places[block.number]
            return certificate.steps(block.batch, block.before, seed=seed, number=block.number, rows=at)

        with in_mode(model, training=False), tensor_float(False):
            blocks = yield from runner.run(
                steps,
                lambda now: CertificationEvent(
                    stage=now.stage,
                    where=now.where,
                    done=now.done // certificate.rounds,
                    total=now.total // certificate.rounds,
                    verified=now.evidence,
                    warnings=warnings if now.first else (),
                ),
            )
        report = {
            "schema": CERTIFICATE.schema,
            **subject.facts,
            "data": subject.said_of(images),
            "threat": plain(plan.threat),
            "as_trained": asked_for.data is None and plan.threat == subject.threat,
            "seed": seed,
            "batch": batch,
            "call": call_of(
                run,
                asked_for,
                norm=plan.threat.norm,
                eps=str(plan.threat.eps),
                examples=subject.wanted(len(images)),
                batch=batch,
            ),
            **certificate.figures(blocks),
            "warnings": list(warnings),
            "versions": versions(),
            "hardware": hardware(place),
        }
        if shard.leads:
            results = Run(question.kept)
            results.write_lines("certificate.jsonl", certificate.records(blocks, rows.tolist()))
            if falsifying := certificate.counter_examples(blocks, rows.tolist()):
                body = save({name: value.contiguous() for name, value in falsifying.items()})
                write_atomically(results.folder / "counterexamples.safetensors", body)
            results.write_json("certificate.json", report)
            store.remove()
    return report


def _identity(plan: Plan) -> dict[str, Any]:
    """Return a plan as what was asked: float32 was the only precision once, so it is not said."""
    words: dict[str, Any] = plain(plan)
    if plan.precision == "float32":
        del words["precision"]
    return words


def _describe_method(asked_for: Certification) -> str:
    if asked_for.smoothing is not None:
        return f"smoothing with {asked_for.samples:,} samples"
    return f"bounds up to {asked_for.bound}, {asked_for.seconds:g} s an image"


def _plan(subject: EvaluationTask, asked_for: Certification) -> Plan:
    try:
        radius = subject.threat.eps if asked_for.eps is None else radius_or_none(asked_for.eps)
        threat = Threat(norm=asked_for.known_norm or subject.threat.norm, eps=radius)
        return Plan(threat=threat, reach=asked_for.bound, seconds=asked_for.seconds, precision=asked_for.precision)
    except ValueError as problem:
        raise InputError(str(problem)) from problem


def _noise(asked_for: Certification, threat: Threat) -> Smoothing | None:
    if asked_for.smoothing is None:
        return None
    if threat.norm != "l2":
        raise InputError(f"smoothing certifies l2 balls, not {threat.norm}; add --norm l2 and an --eps in l2")
    try:
        noise = Smoothing(sigma=asked_for.smoothing, samples=asked_for.samples)
    except ValueError as problem:
        raise InputError(str(problem)) from problem
    noise.check(float(threat.eps))
    return noise


def _gammas(subject: EvaluationTask, asked_for: Certification) -> tuple[float, ...]:
    gamma = asked_for.gamma
    if gamma is None:
        return GAMMAS
    if asked_for.teacher is None:
        raise InputError(f"{subject.name}: gamma is a gap to a teacher; say which with --teacher RUN")
    if not 0 <= gamma <= 1:
        raise InputError(f"gamma is a difference of confidences, in [0, 1], got {gamma:g}")
    return (*GAMMAS, gamma)


def _certificate(
    subject: EvaluationTask,
    model: Classifier,
    teacher: tuple[str, Classifier] | None,
    plan: Plan,
    noise: Smoothing | None,
    gammas: tuple[float, ...],
    known: tuple[CounterExamples, ...],
) -> Certificate:
    """Return how the network is certified; raise ``InputError`` for one that bounds cannot follow."""
    check_finite_weights(model, where=subject.name)
    if noise is not None:
        return Smoothening(model, plan.threat, noise)
    proposal = Proposal(prepare_subject(model), trace_classifier(model, where=subject.name))
    if teacher is None:
        return Bounding(proposal, None, plan, known=known)
    name, other = teacher
    own = Proposal(prepare_subject(other), trace_classifier(other, where=f"teacher {name}"))
    return Bounding(proposal, Pair.of(other, model, own, proposal.graph), plan, name, gammas, known)

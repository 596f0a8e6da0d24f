"""``evaluate``: the only reader of the test split; attacks a network and writes down what it withstood."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from overproof.allocation import keep_freed_memory
from overproof.attacks.ball import Threat
from overproof.attacks.suites import Suite
from overproof.commands.options import EvaluateOptions, Evaluation, call_of
from overproof.data.images import Batch, ImageSet
from overproof.diagnostics.gradient_masking import probe
from overproof.diagnostics.reliability import Reliability, from_attacks
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError
from overproof.evaluation.answers import check_answers
from overproof.evaluation.attacked import prepare_subject
from overproof.evaluation.calibration import calibration, compare_answers
from overproof.evaluation.check import Check
from overproof.evaluation.engine import count_passes, run_attacks
from overproof.evaluation.input_checks import admit, need_gradients
from overproof.evaluation.results import Verdicts, count_robust
from overproof.evaluation.shards import Shard
from overproof.evaluation.store import Store
from overproof.files import write_atomically
from overproof.models.classifier import Classifier
from overproof.models.cost import multiply_adds
from overproof.models.external.onnx_file import OnnxFile
from overproof.models.external.onnx_network import lacking_of
from overproof.models.mode import in_mode
from overproof.models.precision import choose_precision, tensor_float
from overproof.recipe import plain
from overproof.runs.artefact import artefact
from overproof.runs.blocks import Block, BlockProgress, Question, Runner
from overproof.runs.folder import Run
from overproof.runs.in_memory import keep_where_asked, run_to_end
from overproof.runs.loaded import digest_of
from overproof.runs.networks import load_other
from overproof.runs.results import EVALUATION
from overproof.runs.sources import AnySource
from overproof.runs.subject import EvaluationTask, choose_suite, draw_batch, evaluation_task
from overproof.runs.summary import Beginning, device_line, known_lines, network_line, results_line, subject_name
from overproof.statistics import Proportion

_IMAGES = "adversarial.safetensors"
_MOST_BYTES = 64 * 2**20  # bytes of images that are kept though nobody asked for them


@dataclass(frozen=True, kw_only=True)
class EvaluationEvent:
    """What an evaluation has to say after a pass: where it is, and the robust accuracy of the blocks begun."""

    attack: str
    done: int
    total: int
    robust: Proportion
    warnings: tuple[str, ...] = ()


def evaluate(run: AnySource, **options: Unpack[EvaluateOptions]) -> dict[str, Any]:
    """Attack a network on the test split; write ``evaluation.json`` and ``examples.jsonl``, return the former.

    ``run`` is any source of a network (see ``resolve.find_network``); one that does not know its images needs ``data``.
    The options are those of ``Evaluation``. A network in memory is an ``nn.Module``, with images ``data=(x, y)`` or a
    source of images; nothing is written of it without ``out``. Raises ``InputError``.
    """
    with keep_where_asked(run, options) as given:
        return run_to_end(iter_evaluate(run, **given))


def iter_evaluate(
    run: AnySource, *, announce: bool = False, **options: Unpack[EvaluateOptions]
) -> Generator[Beginning | EvaluationEvent, None, dict[str, Any]]:
    """Evaluate pass by pass: yield after each, return what was written to ``evaluation.json``.

    The options are those of ``Evaluation``. ``announce`` yields a ``Beginning`` as soon as something is known. Raises
    ``InputError``.
    """
    return _evaluating(run, Evaluation(**options), announce and Shard.here().leads)


def _evaluating(
    run: AnySource, asked_for: Evaluation, announce: bool
) -> Generator[Beginning | EvaluationEvent, None, dict[str, Any]]:
    if announce:
        yield Beginning(lines=(f"{run if isinstance(run, str) else subject_name(run)}: reading network and images",))
    keep_freed_memory()
    by_position, trust_code, seed = asked_for.classes_by_position, asked_for.trust_code, asked_for.seed
    subject = evaluation_task(run, asked_for.data, classes_by_position=by_position, trust_code=trust_code)
    place, shard = pick_device(asked_for.device), Shard.here()
    threat, suite = choose_suite(subject, asked_for.words, asked_for.known_norm, asked_for.eps, trust_code=trust_code)
    model, teacher, other = subject.model.to(place), "", None
    if asked_for.teacher is not None:
        loaded = load_other(asked_for.teacher, subject.images, by_position=by_position, trust_code=trust_code)
        teacher, other = loaded.known.title, loaded.model.to(place)
    made = artefact(subject, asked_for.original, place, trust_code=trust_code)
    source = made.original if made and made.original else other
    if made and source is None and not asked_for.words:
        suite = replace(suite, attacks=tuple(trial for trial in suite.attacks if not trial.surrogate))
    rows = subject.rows(asked_for.examples, seed)
    images = subject.images.at(rows).decoded().to(place)  # no other image is read
    size = asked_for.batch or subject.batch
    warnings = admit_network(subject, model, source, draw_batch(images, seed), suite)
    if made:
        warnings += made.warnings
    chosen = choose_precision(asked_for.precision, place, model)
    stated = {"norm": asked_for.known_norm or subject.threat.norm, "eps": "0"} if threat is None else plain(threat)
    question = Question(
        command="evaluate",
        kind=EVALUATION,
        folder=subject.folder if asked_for.out is None else Path(asked_for.out),
        asked={
            "network": subject.facts["model_digest"],
            "teacher": None if other is None else digest_of(other),
            "original": None if made is None or made.original is None else digest_of(made.original),
            "seed": seed,
            "examples": len(images),
            "data": images.digest,
            "threat": stated,
            "suite": plain(suite),
        },
        title=f"{suite.name} {stated['norm']} {stated['eps']} {len(images)} images",
        digest=subject.facts["model_digest"],
        shard=shard,
    )
    kept, reliability = question.kept, asked_for.reliability
    if (earlier := question.earlier(overwrite=asked_for.overwrite)) is not None:
        wanted = {"adversarial": asked_for.save_adversarial, "reliability": reliability and threat is not None}
        _check_holds(kept, earlier, wanted)
        question.promote()
        return earlier
    if announce:
        passes = count_passes(suite, images.signature.classes) * -(-len(images) // size)
        yield Beginning(
            lines=(
                *known_lines(subject, images, model),
                *(() if other is None else (network_line("teacher", teacher, other),)),
                f"attacks: {suite.name}, {stated['norm']} eps {stated['eps']}; {passes:,} passes, {size} images each",
                device_line(place, chosen),
                results_line(kept, (EVALUATION.main, *EVALUATION.beside[:1])),
            )
        )
    with question.held():
        setting = {"batch": size, "precision": chosen}
        store = question.store("evaluation-state", setting, resume=asked_for.resume, overwrite=asked_for.overwrite)
        attacks = _Attacks(images, suite, shard, seed, size, chosen)
        before, store_before = None, None
        with tensor_float(False):
            verdicts = yield from attacks.run(model, source, store, warnings)
            if made and made.original:
                # Unfinished work of it may only be there where the file's own was, too.
                store_before = question.store(
                    "original-state", setting, resume=asked_for.resume, overwrite=not asked_for.resume
                )
                before = yield from attacks.run(made.original, made.original, store_before, (), beside="original, ")
            answers = None if other is None else _answers(other, verdicts, images)
            answered = check_answers(verdicts.predictions, verdicts.labels, images.classes)
            trust = _reliability(subject, verdicts, images, threat, seed, answered) if reliability and threat else None
            shipped = made and made.figures(verdicts, before, draw_batch(images, seed).x, teacher, other)
        evaluation = {
            "schema": EVALUATION.schema,
            **subject.facts,
            "multiply_adds": None if subject.file else _multiply_adds(model, images),
            "data": subject.said_of(images),
            "classes": list(images.classes),
            "threat": stated,
            "as_trained": asked_for.data is None and threat == subject.threat,
            "suite": {"name": suite.name, "survivors": suite.survivors, "caution": suite.caution},
            "seed": seed,
            "batch": size,
            "search_precision": chosen,
            "call": call_of(
                run,
                asked_for,
                norm=stated["norm"],
                eps=stated["eps"],
                examples=subject.wanted(len(images)),
                batch=size,
                precision=chosen,
            ),
            **_figures(verdicts),
            "per_class": verdicts.per_class(images.classes),
            "calibration": _calibration(verdicts),
            "teacher": None if answers is None else {"name": teacher, **_imitation(verdicts, answers)},
            "answers": answered.plain(),
            "reliability": trust and trust.plain(),
            "artefact": shipped,
            "warnings": list(warnings),
            "versions": versions(),
            "hardware": hardware(place),
        }
        if shard.leads:
            results = Run(kept)
            (kept / _IMAGES).unlink(missing_ok=True)  # of what is being replaced
            if asked_for.save_adversarial:
                evaluation["adversarial"] = _save_adversarial(results, model, verdicts, answers, images, rows)
            else:
                _keep_for_certificates(results, verdicts, rows)
            results.write_lines("examples.jsonl", _lines(verdicts, before, rows.tolist()))
            results.write_json("evaluation.json", evaluation)
            store.remove()
            if store_before:
                store_before.remove()
    return evaluation


def _multiply_adds(model: Classifier, images: ImageSet) -> int | None:
    """Return the multiply-adds of one image; None where other people's code cannot be counted: no reason to stop."""
    try:
        return multiply_adds(model, images.signature)
    except Exception:  # the counter takes every operation apart, and of some it knows nothing
        return None


def _check_holds(kept: Path, earlier: dict[str, Any], wanted: dict[str, bool]) -> None:
    """Raise ``InputError`` where the result of the same question lacks what is wanted of it now."""
    lacking = [name for name, wish in wanted.items() if wish and not earlier.get(name)]
    if lacking:
        raise InputError(f"{kept}: this was evaluated before, without {lacking[0]}; --overwrite evaluates it again")


def admit_network(
    subject: EvaluationTask, model: Classifier, surrogate: nn.Module | None, shown: Batch, suite: Suite
) -> tuple[str, ...]:
    """Return warnings about the network; raise ``InputError`` for one that the suite cannot attack."""
    warnings = admit(model, shown.x, shown.y, where=subject.name)
    for trial in suite.attacks:
        if trial.family == "transfer" and surrogate is None:
            raise InputError(f"attack {trial.name!r} searches on a teacher; name one with --teacher")
        if trial.family == "transfer" and trial.attack.needs == "gradients":
            assert surrogate is not None
            need_gradients(trial.name, surrogate, shown.x, where="the network that it searches on")
        if trial.family == "white_box":
            need_gradients(trial.name, model, shown.x, where=f"{subject.name}{lacking_of(model.backbone)}")
    return warnings


@dataclass(frozen=True, eq=False)
class _Attacks:
    """The images, and the suite that all their blocks go through."""

    images: ImageSet
    suite: Suite
    shard: Shard
    seed: int
    batch: int
    precision: Literal["fp32", "bf16"]

    def run(
        self,
        model: Classifier,
        surrogate: Classifier | None,
        store: Store,
        warnings: tuple[str, ...],
        beside: str = "",
    ) -> Generator[EvaluationEvent, None, Verdicts]:
        """Yield after every pass; return the verdicts on all blocks. ``beside`` goes before each attack's name."""
        classes = self.images.signature.classes
        passes = count_passes(self.suite, classes)
        names = ["clean", *(trial.name for trial in self.suite.attacks for _ in trial.passes(classes))]
        runner = Runner(
            images=self.images,
            batch=self.batch,
            store=store,
            shard=self.shard,
            units=lambda _: passes,
            evidence=count_robust,
        )
        with in_mode(model, training=False):
            subject = prepare_subject(model, precision=self.precision, surrogate=surrogate)

            def attacked(block: Block) -> Iterator[BlockProgress]:
                states = run_attacks(
                    subject, block.batch, self.suite, seed=self.seed, number=block.number, state=block.before
                )
                for state in states:
                    done = int(state["passes"])
                    yield BlockProgress(names[done], state, done + 1, whole=done + 1 == passes)

            blocks = yield from runner.run(
                attacked,
                lambda now: EvaluationEvent(
                    attack=beside + now.stage,
                    done=now.done,
                    total=now.total,
                    robust=now.evidence,
                    warnings=warnings if now.first else (),
                ),
            )
        return Verdicts.of(blocks, suite=self.suite)


def _figures(verdicts: Verdicts) -> dict[str, Any]:
    clean, attacks = verdicts.clean, verdicts.attacks
    passes = {name: verdicts.state[name].sum(dim=0).tolist() for name in ("forward", "backward")}
    survivors = verdicts.survivors()
    return {
        "clean": clean.plain(),
        "attacks": {
            trial.name: {
                **attacks[trial.name].plain(),
                # Weighted robust accuracy (MTARD): half clean, half robust.
                "w_robust": (clean.share + attacks[trial.name].share) / 2,
                "forward": passes["forward"][column],
                "backward": passes["backward"][column],
                "survivors": survivors[trial.name],
                "trial": plain(trial),
            }
            for column, trial in enumerate(verdicts.suite.attacks)
        },
        "worst": verdicts.worst.plain(),
    }


def _lines(verdicts: Verdicts, before: Verdicts | None, rows: list[int]) -> list[dict[str, Any]]:
    """Return the examples' records, each with what was found of the original network beside it."""
    lines = verdicts.records(index=rows)
    if before is None:
        return lines
    kept = ("prediction", "broken_by", "margin")
    pairs = zip(lines, before.records(index=rows), strict=True)
    return [one | {"original": {name: other[name] for name in kept}} for one, other in pairs]


def _calibration(verdicts: Verdicts) -> dict[str, Any]:
    return {
        name: calibration(verdicts.state[f"{name}_logits"], verdicts.labels).plain() for name in ("clean", "attacked")
    }


def _answers(teacher: Classifier, verdicts: Verdicts, images: ImageSet) -> dict[str, Tensor]:
    """Return the teacher's logits ``[N, K]`` on the clean images and at the worst points found for the student."""
    place = images.labels.device
    with in_mode(teacher, training=False), torch.no_grad():
        clean = torch.cat([teacher(part.x).cpu() for part in images.batches(256)])
        attacked = torch.cat([teacher(part.to(place)).cpu() for part in torch.split(verdicts.state["image"], 256)])
    return {"clean": clean, "attacked": attacked}


def _imitation(verdicts: Verdicts, answers: dict[str, Tensor]) -> dict[str, Any]:
    """Return how the student agrees with the teacher on clean images and at the worst points found."""
    clean, attacked = answers["clean"], answers["attacked"]
    return {
        "clean": compare_answers(verdicts.state["clean_logits"], clean).plain(),
        "attacked": compare_answers(verdicts.state["attacked_logits"], attacked, classes=clean.argmax(dim=1)).plain(),
    }


def _reliability(
    subject: EvaluationTask, verdicts: Verdicts, images: ImageSet, threat: Threat, seed: int, answered: Check
) -> Reliability:
    checks = from_attacks(
        of=len(verdicts.labels),
        clean=int(verdicts.correct.sum()),
        white_box=verdicts.misclassified_in("white_box"),
        black_box=verdicts.misclassified_in("black_box"),
        transfer=verdicts.misclassified_in("transfer"),
    )
    x, y = draw_batch(images, seed)
    probed = probe(subject.model, x, y, threat, seed=seed, gradients=not isinstance(subject.model.backbone, OnnxFile))
    return Reliability(checks=(answered, *checks, *probed))


def _keep_for_certificates(results: Run, verdicts: Verdicts, rows: Tensor) -> None:
    """Write the misclassified images, which ``certify`` tries before it searches, unless they take much space."""
    misclassified = (verdicts.correct & ~verdicts.robust).nonzero().flatten()
    images = verdicts.state["image"]
    if len(misclassified) and len(misclassified) * images[0].numel() * images.element_size() <= _MOST_BYTES:
        body = {"images": images[misclassified].contiguous(), "index": rows[misclassified]}
        write_atomically(results.folder / _IMAGES, save(body))


def _save_adversarial(
    results: Run,
    model: Classifier,
    verdicts: Verdicts,
    answers: dict[str, Tensor] | None,
    images: ImageSet,
    rows: Tensor,
) -> dict[str, Any]:
    """Write the misclassified images beside the clean ones (uint8) and what was answered; confirm each as written."""
    misclassified = (verdicts.correct & ~verdicts.robust).nonzero().flatten()
    file = results.folder / _IMAGES
    logits = {f"{name}_logits": verdicts.state[f"{name}_logits"] for name in ("clean", "attacked")}
    logits |= {f"teacher_{name}_logits": values for name, values in (answers or {}).items()}
    body = {
        "images": verdicts.state["image"][misclassified].contiguous(),
        "clean": images.images.cpu()[misclassified].contiguous(),
        "labels": verdicts.labels[misclassified],
        "index": rows[misclassified],
        **{name: values[misclassified].contiguous() for name, values in logits.items()},
    }
    write_atomically(file, save(body))
    read, place = load_file(file), images.labels.device
    with in_mode(model, training=False), torch.no_grad():
        predicted = [model(part.to(place)).argmax(dim=1).cpu() for part in torch.split(read["images"], 256)]
    wrong = torch.cat(predicted) != read["labels"] if predicted else torch.zeros(0, dtype=torch.bool)
    return {"file": file.name, "images": len(misclassified), "confirmed": int(wrong.sum())}

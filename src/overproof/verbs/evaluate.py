"""``evaluate``: the only reader of the test split; attacks a network and writes down what it withstood."""

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from overproof.allocation import keep_freed_memory
from overproof.attacks.ball import Norm, Threat
from overproof.data.images import Batch, ImageSet
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError
from overproof.evaluation.admission import admit, need_gradients
from overproof.evaluation.answers import check_answers
from overproof.evaluation.attacked import prepare
from overproof.evaluation.calibration import agreement, calibration
from overproof.evaluation.engine import assail, count_passes
from overproof.evaluation.evidence import Evidence
from overproof.evaluation.marks import Marks, placed
from overproof.evaluation.probes import probe
from overproof.evaluation.reliability import Reliability, Sign, from_attacks
from overproof.evaluation.shards import Shard
from overproof.evaluation.store import Store
from overproof.evaluation.trial import Suite
from overproof.evaluation.verdicts import Verdicts, standing
from overproof.files import write_atomically
from overproof.locking import exclusive
from overproof.models.classifier import Classifier
from overproof.models.cost import multiply_adds
from overproof.models.mode import in_mode
from overproof.models.precision import choose_precision, tensor_float
from overproof.reading import parsing
from overproof.recipe import plain
from overproof.results import EVALUATION
from overproof.run import Run
from overproof.verbs.artefact import artefact
from overproof.verbs.examinee import Examinee, chosen_suite, shown
from overproof.verbs.given import Subject, carried_out, kept_where_asked, subject_of
from overproof.verbs.networks import digest_of, load_other
from overproof.verbs.options import EvaluateOptions, Images
from overproof.verbs.summary import Beginning, device_line, known_lines, network_line, results_line, subject_name

SCHEMA = 2
_IMAGES = "adversarial.safetensors"


@dataclass(frozen=True, kw_only=True)
class Attacking:
    """What an evaluation has to say after a pass: where it is, and the robust accuracy of the blocks begun."""

    attack: str
    done: int
    total: int
    robust: Evidence
    warnings: tuple[str, ...] = ()


def evaluate(run: Subject, **options: Unpack[EvaluateOptions]) -> dict[str, Any]:
    """Attack a network on the test split; write ``evaluation.json`` and ``examples.jsonl``, return the former.

    ``run`` is a run folder, an exported ``FILE.onnx``, or a foreign network (``package.module:factory``, ``timm:NAME``,
    ``robustbench:NAME``) with ``data``. The options are those of ``evaluating``. A network in memory is an
    ``nn.Module`` with images ``data=(x, y)``; nothing is written of it without ``out``. Raises ``InputError``.
    """
    with kept_where_asked(run, options) as given:
        return carried_out(evaluating(run, **given))


def evaluating(
    run: Subject,
    *,
    attacks: str | tuple[str, ...] = (),
    eps: str | float | None = None,
    norm: Norm | None = None,
    examples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    data: Images | None = None,
    teacher: Path | str | None = None,
    original: Path | str | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    batch: int | None = None,
    reliability: bool = True,
    save_adversarial: bool = False,
    classes_by_position: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    out: Path | str | None = None,
    announce: bool = False,
) -> Generator[Beginning | Attacking, None, dict[str, Any]]:
    """Evaluate pass by pass: yield after each, return what was written to ``evaluation.json``.

    ``attacks`` is a suite's name, a YAML file of one, or names of attacks (default: the recipe's own, or ``quick``).
    ``eps`` and ``norm`` replace the recipe's threat; with an eps of 0 nothing is attacked. ``examples`` takes a seeded
    subset in proportion to the classes (0: all). ``teacher`` is what transfer attacks climb and what agreement is
    measured with.
    ``classes_by_position`` takes images whose classes have other names than the network's, or another order.
    ``original`` is the network that an exported file came from (default: the run in whose folder it lies): transfer
    attacks climb it, and its verdicts are found by the same attacks and put beside the file's.
    ``precision`` is that of the search; every success is confirmed in float32. ``batch`` examples go through the suite
    together. ``reliability`` probes the network for hidden gradients. ``resume`` continues an evaluation that was
    interrupted. ``out`` is the folder of the results (default: the run's own, or ``evaluations/NAME``); in it, results
    are kept side by side by what was asked. The same question again returns what was found, unless ``overwrite`` asks
    for it to be worked out again. ``announce`` yields a
    ``Beginning`` as soon as something is known. Raises ``InputError``.
    """
    announce = announce and Shard.here().leads
    if announce:
        yield Beginning(lines=(f"{run if isinstance(run, str) else subject_name(run)}: reading network and images",))
    keep_freed_memory()
    subject = subject_of(run, data, readable=False, classes_by_position=classes_by_position)
    place, shard = pick_device(device), Shard.here()
    words = (attacks,) if isinstance(attacks, str) else attacks
    threat, suite = chosen_suite(subject, words, norm, eps)
    model, other = subject.model.to(place), None
    if teacher is not None:
        other = load_other(teacher, subject.images, by_position=classes_by_position).to(place)
    made = artefact(subject, original, place)
    source = made.original if made and made.original else other
    if made and source is None and not words:
        suite = replace(suite, attacks=tuple(trial for trial in suite.attacks if not trial.surrogate))
    rows = subject.rows(examples, seed)
    images = subject.images.at(rows).decoded().to(place)  # no other image is read
    size = subject.batch if batch is None else batch
    if size < 1:
        raise InputError(f"batch must be at least 1, got {size}")
    warnings = _admitted(subject, model, source, shown(images, seed), suite)
    if made:
        warnings += made.warnings
    chosen = choose_precision(precision, place, model)
    folder = subject.folder if out is None else Path(out)
    stated = {"norm": norm or subject.threat.norm, "eps": "0"} if threat is None else plain(threat)
    asked = {
        "network": subject.facts["model_digest"],
        "teacher": None if other is None else digest_of(other),
        "original": None if made is None or made.original is None else digest_of(made.original),
        "seed": seed,
        "examples": len(images),
        "data": images.digest,
        "threat": stated,
        "suite": plain(suite),
    }
    kept = EVALUATION.place(folder, asked, f"{suite.name} {stated['norm']} {stated['eps']} {len(images)} images")
    if (earlier := EVALUATION.finished(kept, overwrite=overwrite)) is not None:
        _check_holds(
            kept, earlier, {"adversarial": save_adversarial, "reliability": reliability and threat is not None}
        )
        if shard.leads:  # a crash may have come between the results and their place at the root
            with exclusive(folder, "evaluate"):
                EVALUATION.promote(folder, subject.facts["model_digest"])
        return earlier
    if announce:
        passes = count_passes(suite, images.signature.classes) * -(-len(images) // size)
        yield Beginning(
            lines=(
                *known_lines(subject, images, model),
                *(() if other is None else (network_line("teacher", str(teacher), other),)),
                f"attacks: {suite.name}, {stated['norm']} eps {stated['eps']}; {passes:,} passes, {size} images each",
                device_line(place, chosen),
                results_line(kept, (EVALUATION.main, *EVALUATION.beside[:1])),
            )
        )
    with exclusive(folder, "evaluate") if shard.leads else nullcontext():
        store = Store(kept / "evaluation-state", {**asked, "batch": size, "precision": chosen})
        if shard.leads:
            store.open(resume=resume, overwrite=overwrite)
        shard.wait()
        course = _Course(model, source, images, suite, store, shard, seed, size, chosen)
        before, course_before = None, None
        with tensor_float(False):
            verdicts = yield from course.run(warnings)
            if made and made.original:
                store_before = Store(kept / "original-state", {**asked, "batch": size, "precision": chosen})
                course_before = course.on(made.original, store_before, resume=resume)
                before = yield from course_before.run((), beside="original, ")
            answers = None if other is None else _answers(other, verdicts, images)
            answered = check_answers(verdicts.predictions, verdicts.labels, images.classes)
            trust = _reliability(subject, verdicts, images, threat, seed, answered) if reliability and threat else None
            shipped = made and made.figures(verdicts, before, shown(images, seed).x, teacher, other)
        found = {
            "schema": SCHEMA,
            **subject.facts,
            "multiply_adds": None if subject.file else _multiply_adds(model, images),
            "data": subject.said_of(images),
            "classes": list(images.classes),
            "threat": stated,
            "as_trained": data is None and threat == subject.threat,
            "suite": {"name": suite.name, "survivors": suite.survivors, "caution": suite.caution},
            "seed": seed,
            "batch": size,
            "search_precision": chosen,
            **_figures(verdicts),
            "per_class": verdicts.per_class(images.classes),
            "calibration": _calibration(verdicts),
            "teacher": None if answers is None else {"name": str(teacher), **_imitation(verdicts, answers)},
            "answers": answered.plain(),
            "reliability": trust and trust.plain(),
            "artefact": shipped,
            "warnings": list(warnings),
            "versions": versions(),
            "hardware": hardware(place),
        }
        if shard.leads:
            results = Run(kept)
            if save_adversarial:
                found["adversarial"] = _save_broken(results, model, verdicts, answers, images, rows)
            else:
                (kept / _IMAGES).unlink(missing_ok=True)  # of what is being replaced
            results.write_lines("examples.jsonl", _lines(verdicts, before, rows.tolist()))
            results.write_json("evaluation.json", found)
            store.remove()
            if course_before:
                course_before.store.remove()
            EVALUATION.promote(folder, subject.facts["model_digest"])
        return found


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


def _admitted(
    subject: Examinee, model: Classifier, surrogate: nn.Module | None, shown: Batch, suite: Suite
) -> tuple[str, ...]:
    """Return warnings about the network; raise ``InputError`` for one that the suite cannot attack."""
    warnings = admit(model, shown.x, shown.y, where=subject.name)
    for trial in suite.attacks:
        if trial.family == "transfer" and surrogate is None:
            raise InputError(f"attack {trial.name!r} searches on a teacher; name one with --teacher")
        if trial.family == "transfer" and trial.attack.gradients:
            assert surrogate is not None
            need_gradients(trial.name, surrogate, shown.x, where="the network that it searches on")
        if trial.family == "white_box":
            need_gradients(trial.name, model, shown.x, where=subject.name)
    return warnings


@dataclass(frozen=True, eq=False)
class _Course:
    """The way of all blocks through the suite, with what is done kept in the store."""

    model: Classifier
    surrogate: Classifier | None
    images: ImageSet
    suite: Suite
    store: Store
    shard: Shard
    seed: int
    batch: int
    precision: Literal["fp32", "bf16"]

    def on(self, model: Classifier, store: Store, *, resume: bool) -> "_Course":
        """Return the same course for another network, which is what its transfer attacks climb as well."""
        if self.shard.leads:
            store.open(resume=resume, overwrite=not resume)
        self.shard.wait()
        return replace(self, model=model, surrogate=model, store=store)

    def run(self, warnings: tuple[str, ...], beside: str = "") -> Generator[Attacking, None, Verdicts]:
        """Yield after every pass, in the leading process alone; return the verdicts on all blocks, in each of them.

        ``beside`` goes before the name of every attack.
        """
        blocks: dict[int, Marks] = {}
        counts: dict[int, Evidence] = {}
        parts = list(self.images.batches(self.batch))
        mine = [number for number in range(len(parts)) if self.shard.mine(number)]
        passes = count_passes(self.suite, self.images.signature.classes)
        with in_mode(self.model, training=False):
            subject = prepare(self.model, precision=self.precision, surrogate=self.surrogate)
            for place, number in enumerate(mine):
                before = self._restored(number)
                if before is not None:
                    with parsing(self.store.folder, "marks of this evaluation; delete the folder to begin again"):
                        blocks[number], counts[number] = before, standing(before)
                for marks in assail(subject, parts[number], self.suite, seed=self.seed, number=number, marks=before):
                    blocks[number], counts[number] = marks, standing(marks)
                    done = int(marks["passes"])
                    self.store.save(number, marks, whole=done + 1 == passes)
                    if self.shard.leads:
                        yield Attacking(
                            attack=beside + self._attack_of(done),
                            done=place * passes + done + 1,
                            total=len(mine) * passes,
                            robust=reduce(add, counts.values()),
                            warnings=warnings if place == done == 0 else (),
                        )
        return Verdicts.of(self.suite, self.shard.collected(blocks).values())

    def _restored(self, number: int) -> Marks | None:
        marks = self.store.load(number)
        return marks and placed(marks, self.images.labels.device)

    def _attack_of(self, done: int) -> str:
        classes = self.images.signature.classes
        names = [trial.name for trial in self.suite.attacks for _ in trial.passes(classes)]
        return names[done - 1] if done else "clean"


def _figures(verdicts: Verdicts) -> dict[str, Any]:
    clean, attacks = verdicts.clean, verdicts.attacks
    passes = {name: verdicts.marks[name].sum(dim=0).tolist() for name in ("forward", "backward")}
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
    lines = verdicts.lines(rows)
    if before is None:
        return lines
    kept = ("prediction", "broken_by", "margin")
    pairs = zip(lines, before.lines(rows), strict=True)
    return [one | {"original": {name: other[name] for name in kept}} for one, other in pairs]


def _calibration(verdicts: Verdicts) -> dict[str, Any]:
    return {
        name: calibration(verdicts.marks[f"{name}_logits"], verdicts.labels).plain() for name in ("clean", "attacked")
    }


def _answers(teacher: Classifier, verdicts: Verdicts, images: ImageSet) -> dict[str, Tensor]:
    """Return the teacher's logits ``[N, K]`` on the clean images and at the worst points found for the student."""
    place = images.labels.device
    with in_mode(teacher, training=False), torch.no_grad():
        clean = torch.cat([teacher(part.x).cpu() for part in images.batches(256)])
        attacked = torch.cat([teacher(part.to(place)).cpu() for part in torch.split(verdicts.marks["image"], 256)])
    return {"clean": clean, "attacked": attacked}


def _imitation(verdicts: Verdicts, answers: dict[str, Tensor]) -> dict[str, Any]:
    """Return how the student agrees with the teacher on clean images and at the worst points found."""
    clean, attacked = answers["clean"], answers["attacked"]
    return {
        "clean": agreement(verdicts.marks["clean_logits"], clean).plain(),
        "attacked": agreement(verdicts.marks["attacked_logits"], attacked, classes=clean.argmax(dim=1)).plain(),
    }


def _reliability(
    subject: Examinee, verdicts: Verdicts, images: ImageSet, threat: Threat, seed: int, answered: Sign
) -> Reliability:
    signs = from_attacks(
        of=len(verdicts.labels),
        clean=int(verdicts.correct.sum()),
        white_box=verdicts.broken_in("white_box"),
        black_box=verdicts.broken_in("black_box"),
        transfer=verdicts.broken_in("transfer"),
    )
    x, y = shown(images, seed)
    probed = probe(subject.model, x, y, threat, seed=seed, gradients=subject.file is None)
    return Reliability(signs=(answered, *signs, *probed))


def _save_broken(
    results: Run,
    model: Classifier,
    verdicts: Verdicts,
    answers: dict[str, Tensor] | None,
    images: ImageSet,
    rows: Tensor,
) -> dict[str, Any]:
    """Write the broken images beside the clean ones (uint8) and what was answered; confirm each as it was written."""
    broken = (verdicts.correct & ~verdicts.robust).nonzero().flatten()
    file = results.folder / _IMAGES
    logits = {f"{name}_logits": verdicts.marks[f"{name}_logits"] for name in ("clean", "attacked")}
    logits |= {f"teacher_{name}_logits": values for name, values in (answers or {}).items()}
    body = {
        "images": verdicts.marks["image"][broken].contiguous(),
        "clean": images.images.cpu()[broken].contiguous(),
        "labels": verdicts.labels[broken],
        "index": rows[broken],
        **{name: values[broken].contiguous() for name, values in logits.items()},
    }
    write_atomically(file, save(body))
    read, place = load_file(file), images.labels.device
    with in_mode(model, training=False), torch.no_grad():
        predicted = [model(part.to(place)).argmax(dim=1).cpu() for part in torch.split(read["images"], 256)]
    wrong = torch.cat(predicted) != read["labels"] if predicted else torch.zeros(0, dtype=torch.bool)
    return {"file": file.name, "images": len(broken), "confirmed": int(wrong.sum())}

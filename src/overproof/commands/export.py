"""``export``: a network as a file that runs elsewhere, written only once it is known to do the same."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from overproof.attacks.pgd import PGD
from overproof.attacks.square import Square
from overproof.attacks.suites import AttackSpec
from overproof.commands.options import ExportOptions, Format
from overproof.data.images import balanced_subset, pixels
from overproof.diagnostics.parity import BATCHES, Paired, same_logits
from overproof.environment import hardware, pick_device, versions
from overproof.errors import InputError, nearest
from overproof.evaluation.attacked import judge
from overproof.files import make_folder, write_atomically
from overproof.formats.footprint import latency
from overproof.formats.hub import push as push_repository
from overproof.formats.hub import write_repository
from overproof.formats.onnx import LOWEST, to_onnx
from overproof.formats.program import read_program, to_program
from overproof.formats.quantize import Calibration, calibration_pixels, quantised
from overproof.models.classifier import Classifier
from overproof.models.external.onnx_file import OnnxFile
from overproof.runs.exported import ExportTask, export_task, parity_lines, report_of
from overproof.runs.queries import ask
from overproof.runs.sources import AnySource, Example, Images

_CALIBRATIONS = ("minmax", "entropy", "percentile")
_COST = 200  # held-out images on which the cost of quantisation is measured


def export(
    run: AnySource,
    *,
    to: Format,
    out: Path | str | None = None,
    data: Images | None = None,
    example: Example | None = None,
    trust_code: bool = False,
    **options: Unpack[ExportOptions],
) -> dict[str, Any]:
    """Write a network in another format; return the report, which is written beside the file as ``NAME.json``.

    ``run`` is any source but a file that was exported (see ``resolve.find_network``); one that does not know its images
    needs ``data``. ``to`` is one of ``TARGETS``; ``options`` are those of its function. ``out`` is the file's or
    folder's path (default: in the user's own run, for everything else in ``exports/NAME``). ``trust_code`` runs code
    that the files of a run name, wherever it lies. A network in memory is an ``nn.Module`` with ``data``, a source or
    ``(x, y)``, or for ONNX and ``torch.export`` with an ``example``: pixels ``[N, C, H, W]``, or the size ``(C, H, W)``
    of an image; it stays as it is. Raises ``InputError``, and then nothing is written.
    """
    return exporting(run, to=to, out=out, data=data, example=example, trust_code=trust_code, **options)


def exporting(
    run: AnySource,
    *,
    to: str,
    out: Path | str | None = None,
    data: Images | None = None,
    example: Example | None = None,
    trust_code: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Do what ``export`` does, with a format and options that no type checker has seen."""
    if to not in TARGETS:
        raise InputError(f"there is no format {to!r}{nearest(to, TARGETS)}")
    target = TARGETS[to]
    for name in options:
        if name not in target.options:
            takes = ", ".join(target.options) or "no options"
            raise InputError(f"export to {to} has no use for {name!r}; it takes {takes}")
    subject = export_task(run, data, example=example, trust_code=trust_code)
    return target.write(subject, subject.folder / target.file if out is None else Path(out), **options)


def _onnx(subject: ExportTask, out: Path, *, opset: int = LOWEST, licence: str = "not stated") -> dict[str, Any]:
    """Write one ONNX file, checked through onnxruntime at three batch sizes."""
    x = _samples(subject)
    body, report = _float_file(subject, x, opset, licence)
    return _write(subject, out, body, {"to": "onnx", "opset": opset, "parity": report})


def _torch(subject: ExportTask, out: Path) -> dict[str, Any]:
    """Write a ``torch.export`` program, checked as it reads back."""
    x = _samples(subject)
    body = to_program(subject.model, x, where=subject.name)
    same = same_logits(subject.model, read_program(body, where=str(out)), x, where=subject.name)
    return _write(subject, out, body, {"to": "torch", "parity": parity_lines(same)})


def _int8(
    subject: ExportTask,
    out: Path,
    *,
    calibration: Calibration = "minmax",
    examples: int = 512,
    opset: int = LOWEST,
    licence: str = "not stated",
) -> dict[str, Any]:
    """Write an INT8 file calibrated on ``examples`` training images; measure its cost on held-out ones."""
    if calibration not in _CALIBRATIONS:
        raise InputError(f"there is no calibration {calibration!r}{nearest(str(calibration), _CALIBRATIONS)}")
    if not subject.real:
        raise InputError(f"{subject.name}: export to int8 is calibrated on images; say which, with data")
    learnt, held = subject.split()
    chosen = calibration_pixels(learnt, examples, subject.seed)
    x = _samples(subject)
    body, float_report = _float_file(subject, x, opset, licence)
    small = quantised(body, chosen, calibration=calibration, where=subject.name)
    report = {
        "to": "int8",
        "opset": opset,
        "calibration": {"method": calibration, "images": examples, "of": "training images"},
        "float": {"bytes": len(body), "parity": float_report, "latency": _latency(body, x)},
        "latency": _latency(small, x),
        "hardware": hardware(pick_device("cpu")),
        "cost": _cost(subject, held, small),
    }
    return _write(subject, out, small, report)


def _samples(subject: ExportTask) -> Tensor:
    """Return pixels of real images, enough for every batch of the comparison."""
    x = pixels(subject.images.images[balanced_subset(subject.images, sum(BATCHES), subject.seed)]).cpu()
    return x.repeat(-(-sum(BATCHES) // len(x)), 1, 1, 1)[: sum(BATCHES)]  # an example may be one image


def _float_file(subject: ExportTask, x: Tensor, opset: int, licence: str) -> tuple[bytes, list[dict[str, Any]]]:
    body = to_onnx(subject.model, x, metadata=subject.metadata(licence), where=subject.name, opset=opset)
    return body, parity_lines(same_logits(subject.model, OnnxFile(body, where=subject.name), x, where=subject.name))


def _latency(body: bytes, x: Tensor) -> dict[str, Any]:
    return asdict(latency(OnnxFile(body, where="the exported file", threads=1), x))


def _cost(subject: ExportTask, held: Any, body: bytes) -> dict[str, Any]:
    """Return what quantisation changed on held-out images: clean, and under attacks that need no gradient of it.

    The float network is what transfer attacks search on, so for itself they are white-box attacks.
    """
    images = held.at(balanced_subset(held, _COST, subject.seed))
    threat = subject.threat
    trials = tuple(
        trial.under(threat)
        for trial in (
            AttackSpec(name="transfer-pgd-20", attack=PGD(steps=20), surrogate=True),
            AttackSpec(name="square-200", attack=Square(queries=200), loss="margin"),
        )
    )
    small = Classifier(OnnxFile(body, where=subject.name), subject.model.signature)
    before, after = (judge(one, images, trials, surrogate=subject.model) for one in (subject.model, small))
    same = before.predictions == after.predictions
    return {
        "images": len(images),
        "of": "held-out part of the training split",
        "agreeing": int(same.sum()),
        "attacks": [trial.name for trial in trials],
        "clean": _change(before.correct, after.correct),
        "robust": _change(before.robust, after.robust),
    }


def _change(before: Tensor, after: Tensor) -> dict[str, Any]:
    return {"float": int(before.sum()), "int8": int(after.sum()), "paired": Paired.of(before, after).plain()}


def _write(subject: ExportTask, out: Path, body: bytes, report: Mapping[str, Any]) -> dict[str, Any]:
    """Write the file, then its report."""
    result = {
        "run": subject.name,
        "file": str(out),
        "bytes": len(body),
        "sha256": sha256(body).hexdigest(),
        "digest": subject.digest,
        "classes": list(subject.images.classes),
        **report,
        "versions": versions(),
    }
    make_folder(out.parent)
    write_atomically(out, body)
    write_atomically(report_of(out), (json.dumps(result, indent=1) + "\n").encode())
    return result


def _hub(
    subject: ExportTask, out: Path, *, licence: str = "unknown", push: str | None = None, private: bool = False
) -> dict[str, Any]:
    """Write a repository of the Hub, with its card and the run's evidence; push it to ``org/name`` where asked."""
    if subject.run is None:
        raise InputError(f"{subject.name}: is no run folder; a repository holds a run's weights and evidence")
    written = write_repository(subject.run.folder, out, licence=licence, trust_code=subject.trust_code)
    address = None if push is None else push_repository(written, push, private=private)
    names = sorted(file.name for file in written.iterdir())
    return {"to": "hub", "run": subject.name, "file": str(written), "files": names, "address": address}


@dataclass(frozen=True)
class Target:
    """A format: the name of its file or folder, and the function that writes it and returns the report."""

    file: str
    write: Callable[..., dict[str, Any]]

    @property
    def options(self) -> tuple[str, ...]:
        """The names of its options: the keyword-only parameters of its function."""
        parameters = inspect.signature(self.write).parameters.values()
        return tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


TARGETS: Mapping[str, Target] = {
    "onnx": Target("model.onnx", _onnx),
    "int8": Target("model-int8.onnx", _int8),
    "torch": Target("model.pt2", _torch),
    "vnnlib": Target("vnnlib", ask),
    "hub": Target("hub", _hub),
}
"""Every format by the word of ``--to``."""

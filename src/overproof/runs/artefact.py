"""An exported file under examination: the network it came from, what the two lose to each other, and what it costs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overproof.diagnostics.parity import Paired
from overproof.environment import package
from overproof.errors import InputError
from overproof.evaluation.results import Verdicts
from overproof.formats.footprint import graph_multiply_adds, latency
from overproof.formats.onnx import own_words
from overproof.models.classifier import Classifier, parameter_count
from overproof.models.cost import multiply_adds
from overproof.models.external.onnx_file import OnnxFile
from overproof.models.external.onnx_graph import with_weights
from overproof.models.external.onnx_network import file_of
from overproof.reading import read_bytes
from overproof.runs.folder import Run
from overproof.runs.resolve import resolve
from overproof.runs.sources import AnySource
from overproof.runs.subject import EvaluationTask


@dataclass(frozen=True, kw_only=True, eq=False)
class Artefact:
    """A file, and the network that it came from, by its name, where that is at hand."""

    path: str
    file: OnnxFile
    name: str = ""
    original: Classifier | None = None
    warnings: tuple[str, ...] = ()

    def figures(
        self, after: Verdicts, before: Verdicts | None, x: Tensor, teacher: str, other: Classifier | None
    ) -> dict[str, Any]:
        """Return what ``evaluation.json`` says of the file beside its network and beside the teacher."""
        body = with_weights(read_bytes(Path(self.path)), Path(self.path))
        form = self.file.form
        x = x.cpu()
        said = own_words(self.file.metadata)
        figures: dict[str, Any] = {
            "sha256": self.file.digest,
            "bytes": self.file.size,
            "classes": said.get("classes"),
            "latency": {
                **asdict(latency(OnnxFile(body, where=self.path, threads=1, layout=form.layout), x)),
                "threads": 1,
                "batch": 1,
            },
            "multiply_adds": _multiply_adds(body, self.path),
            "original": None,
            "teacher": None,
        }
        if self.original is not None and before is not None:
            figures["original"] = {"name": self.name, **_weight(self.original, x), **_compare(before, after)}
        if other is not None:
            figures["teacher"] = {"name": teacher, **_weight(other, x)}
        return figures


def artefact(
    subject: EvaluationTask, original: AnySource | None, device: torch.device, *, trust_code: bool = False
) -> Artefact | None:
    """Return the file that is examined with the network it came from; None where the subject is no file.

    Without ``original`` it is the run in whose folder the file lies, if that holds the weights whose digest the file
    carries. (A path in the file would tell the world its maker's folders.) Raises ``InputError`` for an original that
    does not fit, or of a subject that is no file.
    """
    if subject.file is None:
        if original is not None:
            raise InputError(
                f"{subject.name}: original is the network an exported file came from; this is no file, leave it out"
            )
        return None
    package("onnx", extra="export", where=f"{subject.name}: counting its multiply-adds")
    made = Artefact(path=subject.file.where, file=subject.file)
    signature = subject.images.signature
    if original is not None:
        network = resolve(original, signature, trust_code=trust_code)
        return Artefact(path=made.path, file=made.file, name=network.known.title, original=network.model.to(device))
    digest = own_words(subject.file.metadata).get("digest")
    if digest is None:
        return made
    folder = Path(subject.file.where).parent
    try:
        same = Run(folder).description()["digest"] == digest
    except InputError:
        same = False
    if not same:
        warning = (
            f"{subject.name}: the run that it came from does not lie beside it, so no attack is transferred from "
            f"it and nothing compared with it; name it with --original"
        )
        return Artefact(path=made.path, file=made.file, warnings=(warning,))
    network = resolve(folder, signature, trust_code=trust_code)
    return Artefact(path=made.path, file=made.file, name=str(folder), original=network.model.to(device))


def _multiply_adds(body: bytes, path: str) -> int | None:
    try:
        return graph_multiply_adds(body, where=path)
    except InputError:
        raise
    except Exception:  # of a foreign graph, on which shapes may not be inferred: no reason to lose an evaluation
        return None


def _weight(model: Classifier, x: Tensor) -> dict[str, Any]:
    """Return the size of a network: its tensors' bytes, its parameters, and its multiply-adds for one image."""
    if (file := file_of(model.backbone)) is not None:
        return {"bytes": file.size, "parameters": parameter_count(model) or None, "multiply_adds": None}
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "bytes": sum(one.numel() * one.element_size() for one in tensors),
        "parameters": parameter_count(model),
        "multiply_adds": multiply_adds(model, model.signature),
    }


def _compare(before: Verdicts, after: Verdicts) -> dict[str, Any]:
    """Return the verdicts of two networks on the same examples, paired."""
    return {
        "agreeing": int((before.predictions == after.predictions).sum()),
        "clean": before.clean.plain() | {"paired": Paired.of(before.correct, after.correct).plain()},
        "attacks": {
            name: evidence.plain() | {"paired": Paired.of(before.survived[name], after.survived[name]).plain()}
            for name, evidence in before.attacks.items()
        },
        "worst": before.worst.plain() | {"paired": Paired.of(before.robust, after.robust).plain()},
    }

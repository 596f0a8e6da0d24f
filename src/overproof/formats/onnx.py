"""A network as one ONNX file: dynamic batch, normalisation inside, and what it is written into its metadata."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from overproof.environment import package
from overproof.errors import InputError
from overproof.models.mode import put_into_mode

LOWEST, HIGHEST = 18, 23
"""The operator sets that are written: torch translates to 18 and later; runtimes of 2025 read up to 23."""

INPUT, OUTPUT = "pixels", "logits"
_PREFIX = "overproof."
_LICENCE = "model_license"  # the name that the ONNX specification gives it


def metadata_of(own: Mapping[str, str], licence: str) -> dict[str, str]:
    """Return a file's metadata: words of ours under ``overproof.``, and the licence under the standard's name."""
    return {_LICENCE: licence, **{_PREFIX + key: value for key, value in own.items()}}


def own_words(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the words of ours in a file's metadata; none where another tool made it."""
    return {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}


def to_onnx(network: nn.Module, x: Tensor, *, metadata: Mapping[str, str], where: str, opset: int = LOWEST) -> bytes:
    """Return the file of a network in eval mode: ``pixels`` float32 ``[N, C, H, W]`` in, ``logits`` ``[N, K]`` out.

    ``x`` ``[N, C, H, W]`` are example pixels, at least one, and N in the file is any number from 1. ``metadata`` is
    written as it is; the traces of source code that the exporter adds are not. Raises ``InputError`` for an opset that
    cannot be written, a network whose control flow depends on its pixels or on the number of images, and an operator
    that ONNX does not have, with the layer that it is in.
    """
    if opset < LOWEST:
        raise InputError(f"opset {opset} is too low: networks are translated to opset {LOWEST} or later")
    if opset > HIGHEST:
        raise InputError(f"opset {opset} is too high: runtimes read up to {HIGHEST}")
    for name in ("onnx", "onnxscript"):
        package(name, extra="export", where=f"{where}: export to ONNX")
    program = export_program(network, x, where=where)
    with quiet():
        try:
            program_file = torch.onnx.export(
                program, (), input_names=[INPUT], output_names=[OUTPUT], opset_version=opset, dynamo=True, verbose=False
            )
        except Exception as problem:  # the exporter's error types are private
            raise InputError(f"{where}: {_find_untranslated(program, problem)}") from problem
    assert program_file is not None
    model = program_file.model_proto
    _strip(model.graph)
    model.producer_name = "overproof"
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    body: bytes = model.SerializeToString()
    return body


def export_program(network: nn.Module, x: Tensor, *, where: str) -> torch.export.ExportedProgram:
    """Return the program of a network in eval mode for any number of images; raise ``InputError`` without one."""
    put_into_mode(network, training=False)
    # Two examples: with one, a number of images would look like any other 1.
    pixels = x[:1].cpu().repeat(2, 1, 1, 1)
    try:
        with quiet():
            batch = torch.export.Dim("batch", min=1)
            return torch.export.export(network, (pixels,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as problem:  # each way of not being followed has a type of its own
        said = str(problem)
        if "specialized it to be a constant" in said or "Constraints violated" in said:
            raise InputError(
                f"{where}: it computes for one number of images only; take it from the input (x.shape[0] or -1)"
            ) from problem
        if "data-dependent" in said:
            raise InputError(
                f"{where}: its control flow depends on the values of the pixels, which no exported graph can follow"
            ) from problem
        first = next((line for line in said.splitlines() if line.strip()), type(problem).__name__)
        raise InputError(
            f"{where}: torch.export cannot follow it ({type(problem).__name__}: {first[:200]})"
        ) from problem


def _find_untranslated(program: torch.export.ExportedProgram, problem: Exception) -> str:
    """Return which operator of which layer has no translation."""
    causes: list[str] = []
    cause: BaseException | None = problem
    while cause is not None:
        causes.append(str(cause))
        cause = cause.__cause__
    for node in program.graph.nodes:
        name = str(node.target).removesuffix(".default")
        overload = getattr(node.target, "_schema", None)
        short = name if overload is None else overload.name.replace("::", ".")
        if node.op == "call_function" and any(f"op='{short}'" in said for said in causes):
            layers = list(node.meta.get("nn_module_stack", {}).values())
            path, kind = layers[-1] if layers else ("", type(None).__name__)
            layer = f"layer {path!r} ({str(kind).rpartition('.')[2]})" if path else "the network"
            return f"ONNX has no operator for {short}, which {layer} uses"
    return f"it cannot be translated to ONNX ({causes[-1].splitlines()[0][:200]})"


def _strip(graph: Any) -> None:
    """Remove what the exporter notes of every part: lines of source with the maker's folders in them."""
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters remark about themselves away from the user: deprecations, missing packages, advice."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)

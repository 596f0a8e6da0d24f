"""An ONNX file as a network: it runs through onnxruntime, so it gives logits and no gradients."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.environment import memory, package
from overproof.errors import InputError
from overproof.models.onnx_form import form_of, with_any_batch, without_softmax
from overproof.models.onnx_graph import check_graph, with_weights
from overproof.reading import parsing, read_bytes
from overproof.wording import one_line

T = TypeVar("T")
_SECONDS = 60.0
"""That loading a file may take, and its first run; large networks take a few."""
_SAME = 1e-5
"""Share of the largest logit by which two sums of the same numbers may differ in float32."""


class OnnxFile(nn.Module):
    """The graph of an ONNX file, from pixels float32 ``[N, C, H, W]`` to logits ``[N, K]``, on the CPU.

    ``metadata`` is what the file says of itself; ``form`` how it takes images, their order from ``layout`` or guessed;
    ``notes`` what is to be said of that; ``body`` the graph that runs, which has no softmax at its end and, where that
    computes the same, any batch. The file's SHA-256 is a buffer, so that the digest of a network that holds one differs
    from file to file. Computes with ``threads`` threads (default: as many as torch), and takes at most half of this
    process's memory.
    """

    sha256: Tensor

    def __init__(self, body: bytes, *, where: str, threads: int | None = None, layout: str | None = None) -> None:
        super().__init__()
        runtime = package("onnxruntime", extra="export", where=where)
        check_graph(body, where=where)
        _bound_memory(runtime)
        self.where, self._tried, self._run_options = where, False, runtime.RunOptions()
        self._run_options.log_severity_level = 4
        self.lacking = ""
        """Why it has no torch network, where one was asked for in vain (``onnx_network.full_network``)."""
        self.digest = sha256(body).hexdigest()
        self.size = len(body)
        self.body, notes = without_softmax(body, where)
        self._session = _session(runtime, self.body, where, threads)
        with parsing(where, "an ONNX file"):
            self.form = form_of(self._session, where, layout)
            self._input: str = self._session.get_inputs()[0].name
            self._output: str = self._session.get_outputs()[0].name
            self._metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.notes = (*notes, *self.form.notes)
        if self.form.batch:
            self._free_batch(runtime, threads)
        self.register_buffer("sha256", torch.tensor(list(bytes.fromhex(self.digest)), dtype=torch.uint8))

    @classmethod
    def read(cls, file: Path, *, threads: int | None = None, layout: str | None = None) -> "OnnxFile":
        """Return the network of a file; raise ``InputError`` where there is none that takes batches of images.

        Weights that lie in other files beside it are part of it, and of its digest.
        """
        return cls(with_weights(read_bytes(file), file), where=str(file), threads=threads, layout=layout)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxFile":
        """Return the file itself: it does not change, and its session cannot be copied."""
        return self

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself, as its maker wrote it."""
        return self._metadata

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` to what the graph's first output says, on the device of the pixels."""
        if not isinstance(x, Tensor):  # a tracer's stand-in would crash the process in onnxruntime
            why = f": {self.lacking}" if self.lacking else ""
            raise TypeError(
                f"an ONNX file runs in onnxruntime on numbers and cannot be traced, got {type(x).__name__}{why}"
            )
        pixels = self.form.arranged(x.detach().to("cpu", torch.float32)).contiguous().numpy()
        found = self._in_parts(pixels) if self.form.batch else self._run(pixels)
        if not hasattr(found, "shape") or len(found.shape) != 2 or len(found) != len(x) or found.dtype.kind != "f":
            shape = list(found.shape) if hasattr(found, "shape") else type(found).__name__
            raise InputError(
                f"{self.where}: given {len(x)} images it returned {shape} {getattr(found, 'dtype', '')}; expected one "
                "row of float logits each"
            )
        return torch.from_numpy(found).to(x.device)

    def _free_batch(self, runtime: Any, threads: int | None) -> None:
        """Run the graph with any batch where its answers are those of one batch of the fixed size after the other."""
        fixed, session, body = self.form, self._session, self.body
        x = torch.rand(3, prod(fixed.sizes), generator=torch.Generator().manual_seed(0))
        images = x.reshape(3, *fixed.sizes)
        pixels = ((images * 255).to(torch.uint8) if fixed.whole else images).numpy()
        expected = self._in_parts(pixels)
        try:
            self.body = with_any_batch(body, self.where)
            self._session = _session(runtime, self.body, self.where, threads)
            found = self._run(pixels)
            same = found.shape == expected.shape and abs(found - expected).max() <= _SAME * abs(expected).max()
        except InputError:
            same = False
        self.form = replace(fixed, batch=0) if same else fixed
        if not same:
            self._session, self.body = session, body
        how = "opened" if same else f"kept, and {fixed.batch} at a time are run, which is slow"
        self.notes += (f"its batch is fixed at {fixed.batch}; it is {how}",)

    def _in_parts(self, pixels: Any) -> Any:
        """Run as many images at a time as the batch is fixed at; the last part is filled up with its first image."""
        size, parts = self.form.batch, []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            whole = part if len(part) == size else part[[*range(len(part)), *[0] * (size - len(part))]]
            found = self._run(whole)
            if not hasattr(found, "shape") or found.shape[:1] != (size,):
                return found  # of which ``forward`` says what is wrong
            parts.append(torch.from_numpy(found[: len(part)]))
        return torch.cat(parts).numpy()

    def _run(self, pixels: Any) -> Any:
        def run() -> Any:
            (found,) = self._session.run([self._output], {self._input: pixels}, self._run_options)
            return found

        try:
            if self._tried:
                return run()
            # Of the work that a graph means nothing is known before it has run once.
            found = _in_time(run, lambda: setattr(self._run_options, "terminate", True), f"{self.where}: running it")
        except InputError:
            raise
        except Exception as problem:  # onnxruntime raises a type of its own for each of its failures
            if "Available memory of" in str(problem) or "bad allocation" in str(problem):
                raise MemoryError(f"{self.where}: memory ran out on {len(pixels)} images") from problem
            raise InputError(
                f"{self.where}: onnxruntime failed on {len(pixels)} images ({_short(problem)})"
            ) from problem
        self._tried = True
        return found


@cache
def _bound_memory(runtime: Any) -> None:
    """Let all files of this process together take at most half of its memory; a small graph can ask for any amount."""
    place = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    runtime.create_and_register_allocator(place, runtime.OrtArenaCfg({"max_mem": memory() // 2}))


def _in_time(work: Callable[[], T], stop: Callable[[], None], what: str) -> T:
    """Return what the work returns; stop it and raise ``InputError`` where it takes too long.

    It runs beside this thread, which can therefore be interrupted: foreign code in the main thread hears no signal.
    """
    found: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as problem:
            raised.append(problem)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    try:
        worker.join(_SECONDS)
    finally:
        if worker.is_alive():
            stop()
    if worker.is_alive():
        raise InputError(f"{what} takes more than {_SECONDS:g} seconds, so it was stopped")
    if raised:
        raise raised[0]
    return found[0]


def _session(runtime: Any, body: bytes, where: str, threads: int | None) -> Any:
    """Return onnxruntime's session of a graph; raise ``InputError`` where it cannot be run."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised as well
    options.add_session_config_entry("session.use_env_allocators", "1")

    def load() -> Any:
        # With its fallback it would print that it tries the same once more.
        return runtime.InferenceSession(body, options, providers=["CPUExecutionProvider"], enable_fallback=0)

    try:
        return _in_time(load, lambda: options.set_load_cancellation_flag(True), f"{where}: loading it")
    except InputError:
        raise
    except Exception as problem:  # onnxruntime raises a type of its own for each of its failures
        raise InputError(f"{where}: onnxruntime cannot run this file ({_short(problem)})") from problem


def _short(problem: Exception) -> str:
    return one_line(str(problem), 200)

"""An ONNX file as a network: it runs through onnxruntime, so it gives logits and no gradients."""

import threading
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.environment import memory, package
from overproof.errors import InputError
from overproof.models.onnx_graph import check_graph, with_weights
from overproof.reading import parsing, read_bytes
from overproof.wording import one_line

T = TypeVar("T")
_SECONDS = 60.0
"""That loading a file may take, and its first run; large networks take a few."""


class OnnxFile(nn.Module):
    """The graph of an ONNX file, from pixels float32 ``[N, C, H, W]`` to logits ``[N, K]``, on the CPU.

    ``metadata`` is what the file says of itself. The file's SHA-256 is a buffer, so that the digest of a network that
    holds one differs from file to file. Computes with ``threads`` threads (default: as many as torch), and takes at
    most half of this process's memory.
    """

    sha256: Tensor

    def __init__(self, body: bytes, *, where: str, threads: int | None = None) -> None:
        super().__init__()
        runtime = package("onnxruntime", extra="export", where=where)
        check_graph(body, where=where)
        _bound_memory(runtime)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised as well
        options.add_session_config_entry("session.use_env_allocators", "1")
        self._where, self._tried, self._run_options = where, False, runtime.RunOptions()
        self._run_options.log_severity_level = 4

        def load() -> Any:
            # With its fallback it would print that it tries the same once more.
            return runtime.InferenceSession(body, options, providers=["CPUExecutionProvider"], enable_fallback=0)

        try:
            self._session = _in_time(load, lambda: options.set_load_cancellation_flag(True), f"{where}: loading it")
        except InputError:
            raise
        except Exception as problem:  # onnxruntime raises a type of its own for each of its failures
            raise InputError(f"{where}: onnxruntime cannot run this file ({_short(problem)})") from problem
        with parsing(where, "an ONNX file"):
            self._input = _checked_input(self._session, where)
            self._output: str = self._session.get_outputs()[0].name
            self._metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.digest = sha256(body).hexdigest()
        self.size = len(body)
        self.register_buffer("sha256", torch.tensor(list(bytes.fromhex(self.digest)), dtype=torch.uint8))

    @classmethod
    def read(cls, file: Path, *, threads: int | None = None) -> "OnnxFile":
        """Return the network of a file; raise ``InputError`` where there is none that takes batches of images.

        Weights that lie in other files beside it are part of it, and of its digest.
        """
        return cls(with_weights(read_bytes(file), file), where=str(file), threads=threads)

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself, as its maker wrote it."""
        return self._metadata

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` to what the graph's first output says, on the device of the pixels."""
        if not isinstance(x, Tensor):  # a tracer's stand-in would crash the process in onnxruntime
            raise TypeError(f"an ONNX file runs in onnxruntime on numbers and cannot be traced, got {type(x).__name__}")
        pixels = x.detach().to("cpu", torch.float32).contiguous().numpy()
        found = self._run(pixels)
        if not hasattr(found, "shape") or len(found.shape) != 2 or len(found) != len(x) or found.dtype.kind != "f":
            shape = list(found.shape) if hasattr(found, "shape") else type(found).__name__
            raise InputError(
                f"{self._where}: given {len(x)} images it returned {shape} {getattr(found, 'dtype', '')}; expected one "
                "row of float logits each"
            )
        return torch.from_numpy(found).to(x.device)

    def _run(self, pixels: Any) -> Any:
        def run() -> Any:
            (found,) = self._session.run([self._output], {self._input: pixels}, self._run_options)
            return found

        try:
            if self._tried:
                return run()
            # Of the work that a graph means nothing is known before it has run once.
            found = _in_time(run, lambda: setattr(self._run_options, "terminate", True), f"{self._where}: running it")
        except InputError:
            raise
        except Exception as problem:  # onnxruntime raises a type of its own for each of its failures
            if "Available memory of" in str(problem) or "bad allocation" in str(problem):
                raise MemoryError(f"{self._where}: memory ran out on {len(pixels)} images") from problem
            raise InputError(
                f"{self._where}: onnxruntime failed on {len(pixels)} images ({_short(problem)})"
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


def _checked_input(session: Any, where: str) -> str:
    """Return the name of the one input; raise ``InputError`` unless it takes any number of float images."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = one_line(", ".join(each.name for each in inputs), 200)
        raise InputError(f"{where}: it has {len(inputs)} inputs ({names}); expected one, images [N, C, H, W]")
    (only,) = inputs
    if only.type != "tensor(float)" or len(only.shape) != 4:
        raise InputError(f"{where}: its input is {only.type} {only.shape}; expected float32 images [N, C, H, W]")
    if isinstance(only.shape[0], int):
        raise InputError(
            f"{where}: its batch is fixed at {only.shape[0]}; export it with a dynamic batch, as in "
            f"torch.onnx.export(model, x, dynamic_shapes=({{0: 'batch'}},))"
        )
    name: str = only.name
    return name


def _short(problem: Exception) -> str:
    return one_line(str(problem), 200)

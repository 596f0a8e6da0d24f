"""An ONNX file as a network: it runs through onnxruntime, so it gives logits and no gradients."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.environment import package
from overproof.errors import InputError


class OnnxFile(nn.Module):
    """The graph of an ONNX file, from pixels float32 ``[N, C, H, W]`` to logits ``[N, K]``, on the CPU.

    ``metadata`` is what the file says of itself. The file's SHA-256 is a buffer, so that the digest of a network that
    holds one differs from file to file. Computes with ``threads`` threads (default: as many as torch).
    """

    sha256: Tensor

    def __init__(self, body: bytes, *, where: str, threads: int | None = None) -> None:
        super().__init__()
        runtime = package("onnxruntime", extra="export", where=where)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # its warnings are about what it optimised
        try:
            self._session = runtime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime raises a type of its own for each of its failures
            raise InputError(f"{where}: onnxruntime cannot run this file ({_short(problem)})") from problem
        self._input = _checked_input(self._session, where)
        self._output: str = self._session.get_outputs()[0].name
        self.digest = sha256(body).hexdigest()
        self.size = len(body)
        self.register_buffer("sha256", torch.tensor(list(bytes.fromhex(self.digest)), dtype=torch.uint8))

    @classmethod
    def read(cls, file: Path, *, threads: int | None = None) -> "OnnxFile":
        """Return the network of a file; raise ``InputError`` where there is none that takes batches of images."""
        try:
            body = file.read_bytes()
        except OSError as problem:
            raise InputError(f"{file}: cannot read this file ({problem.strerror or problem})") from problem
        return cls(body, where=str(file), threads=threads)

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself, as its maker wrote it."""
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` to what the graph's first output says, on the device of the pixels."""
        if not isinstance(x, Tensor):  # a tracer's stand-in would crash the process in onnxruntime
            raise TypeError(f"an ONNX file runs in onnxruntime on numbers and cannot be traced, got {type(x).__name__}")
        pixels = x.detach().to("cpu", torch.float32).contiguous().numpy()
        (found,) = self._session.run([self._output], {self._input: pixels})
        return torch.from_numpy(found).to(x.device)


def _checked_input(session: Any, where: str) -> str:
    """Return the name of the one input; raise ``InputError`` unless it takes any number of float images."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
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
    words = " ".join(str(problem).split())
    return words if len(words) <= 200 else f"{words[:196]} ..."

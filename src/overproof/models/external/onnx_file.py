"""An ONNX file as a network: it runs through onnxruntime, so it gives logits and no gradients."""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.environment import package
from overproof.errors import InputError
from overproof.models.external.onnx_form import form_of, with_any_batch, without_softmax
from overproof.models.external.onnx_graph import check_graph, with_weights
from overproof.models.external.onnx_session import Session
from overproof.reading import parsing, read_bytes

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
        package("onnxruntime", extra="export", where=where)
        check_graph(body, where=where)
        self.where = where
        self.lacking = ""
        """Why it has no torch network, where one was asked for in vain (``onnx_network.full_network``)."""
        self.digest = sha256(body).hexdigest()
        self.size = len(body)
        self.body, notes = without_softmax(body, where)
        self._session = Session(self.body, where=where, threads=threads)
        with parsing(where, "an ONNX file"):
            self.form = form_of(self._session.runtime, where, layout)
            self._metadata = self._session.metadata()
        self.notes = (*notes, *self.form.notes)
        if self.form.batch:
            self._free_batch(threads)
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
        logits = self._in_parts(pixels) if self.form.batch else self._session.run(pixels)
        if not hasattr(logits, "shape") or len(logits.shape) != 2 or len(logits) != len(x) or logits.dtype.kind != "f":
            shape = list(logits.shape) if hasattr(logits, "shape") else type(logits).__name__
            raise InputError(
                f"{self.where}: given {len(x)} images it returned {shape} {getattr(logits, 'dtype', '')}; expected one "
                "row of float logits each"
            )
        return torch.from_numpy(logits).to(x.device)

    def _free_batch(self, threads: int | None) -> None:
        """Run the graph with any batch where its answers are those of one batch of the fixed size after the other."""
        fixed, session, body = self.form, self._session, self.body
        x = torch.rand(3, prod(fixed.sizes), generator=torch.Generator().manual_seed(0))
        images = x.reshape(3, *fixed.sizes)
        pixels = ((images * 255).to(torch.uint8) if fixed.whole else images).numpy()
        expected = self._in_parts(pixels)
        try:
            self.body = with_any_batch(body, self.where)
            self._session = Session(self.body, where=self.where, threads=threads)
            logits = self._session.run(pixels)
            same = logits.shape == expected.shape and abs(logits - expected).max() <= _SAME * abs(expected).max()
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
            logits = self._session.run(whole)
            if not hasattr(logits, "shape") or logits.shape[:1] != (size,):
                return logits  # of which ``forward`` says what is wrong
            parts.append(torch.from_numpy(logits[: len(part)]))
        return torch.cat(parts).numpy()

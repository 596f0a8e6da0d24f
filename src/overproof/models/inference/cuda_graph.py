"""The passes of a network as CUDA graphs: recorded once for a shape, replayed without launching each kernel again.

Experimental: no GPU has run it yet; tests put a record of operations in the place of CUDA's.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

_SHAPES = 4  # so many shapes are recorded; each keeps the memory of its two passes


class CUDAGraphRunner:
    """A network whose forward pass, and backward pass to the images, are replayed as CUDA graphs.

    A replay reads the tensors of the recorded passes where they lay: weights may change their values, but not their
    place, between one ``renew`` and the next. One forward pass at a time waits for its backward pass; what is asked in
    between, without a gradient, or in a fifth shape is computed by the network itself.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network, self._places = network, _places(network)
        self._tapes: dict[tuple[object, ...], Tape] = {}

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return what the network makes of ``[N, ...]``, which must be on a CUDA device."""
        tape = self._tape(inputs) if torch.is_grad_enabled() and inputs.requires_grad else None
        output: Tensor = self._network(inputs) if tape is None or tape.waiting else _Played.apply(inputs, tape)  # type: ignore[no-untyped-call]
        return output

    def _tape(self, inputs: Tensor) -> "Tape | None":
        kind = (inputs.shape, inputs.stride(), inputs.dtype, torch.is_autocast_enabled(inputs.device.type))
        if kind not in self._tapes and len(self._tapes) < _SHAPES:
            self._tapes[kind] = Tape(self._network, inputs)
        return self._tapes.get(kind)

    def renew(self) -> None:
        """Wait no longer for backward passes that were not asked for; record again if the network's tensors moved."""
        for tape in self._tapes.values():
            tape.waiting = False
        if (places := _places(self._network)) != self._places:
            self._tapes, self._places = {}, places


class Tape:
    """Both passes of a network, recorded for inputs like ``like``, in the autocast that holds at the time."""

    def __init__(self, network: nn.Module, like: Tensor) -> None:
        self.waiting, self.plays = False, 0
        self._inputs = like.detach().clone().requires_grad_()
        place = like.device.type
        # What autocast remembers of weights would be read where it lay when it was remembered, hence no memory.
        with torch.autocast(
            place, torch.get_autocast_dtype(place), enabled=torch.is_autocast_enabled(place), cache_enabled=False
        ):
            self._warm_up(network)
            self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            # Other threads (they pin the loader's memory) may go on meanwhile.
            with torch.cuda.graph(self._forward, capture_error_mode="thread_local"):
                outputs: Tensor = network(self._inputs)
            self._incoming = torch.zeros_like(outputs)
            with torch.cuda.graph(self._backward, self._forward.pool(), capture_error_mode="thread_local"):
                (self._gradient,) = torch.autograd.grad(outputs, self._inputs, self._incoming)
        self._outputs = outputs.detach()

    def _warm_up(self, network: nn.Module) -> None:
        """Let libraries choose their kernels and take their memory, which a recording must not; torch asks for 3."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                outputs = network(self._inputs)
                torch.autograd.grad(outputs, self._inputs, torch.zeros_like(outputs))
        torch.cuda.current_stream().wait_stream(aside)

    @torch.no_grad()
    def play(self, inputs: Tensor) -> Tensor:
        """Replay the forward pass on inputs like the recorded ones."""
        self.waiting, self.plays = True, self.plays + 1
        self._inputs.copy_(inputs)
        self._forward.replay()
        return self._outputs.clone()

    @torch.no_grad()
    def rewind(self, gradient: Tensor) -> Tensor:
        """Replay the backward pass of the last forward pass, from the gradient of its outputs."""
        self.waiting = False
        self._incoming.copy_(gradient)
        self._backward.replay()
        return self._gradient.clone()


class _Played(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, inputs: Tensor, tape: Tape) -> Tensor:
        output = tape.play(inputs)
        ctx.tape, ctx.play = tape, tape.plays
        return output

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.tape.plays != ctx.play:
            raise RuntimeError("this forward pass was replayed again since; its gradient is lost")
        return ctx.tape.rewind(gradient), None


def _places(network: nn.Module) -> list[tuple[int, torch.dtype]]:
    return [(value.data_ptr(), value.dtype) for value in (*network.parameters(), *network.buffers())]

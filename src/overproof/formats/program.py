"""A network as a ``torch.export`` program: one file that torch runs without this package."""

import io
import warnings

import torch
from torch import Tensor, nn

from overproof.errors import InputError
from overproof.formats.onnx import export_program


def to_program(network: nn.Module, x: Tensor, *, where: str) -> bytes:
    """Return the ``.pt2`` file of a network in eval mode, for any number of images like pixels ``x``.

    Read it with ``torch.export.load``. Raises ``InputError`` as ``export_program`` does.
    """
    body = io.BytesIO()
    torch.export.save(export_program(network, x, where=where), body)
    return body.getvalue()


def read_program(body: bytes, *, where: str) -> nn.Module:
    """Return the network of such a file; raise ``InputError`` where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own use of what it deprecates
            return torch.export.load(io.BytesIO(body)).module()
    except Exception as problem:  # a damaged archive raises what its reader trips over first
        raise InputError(f"{where}: torch cannot read this program ({type(problem).__name__})") from problem

"""Torch's own layers of transformers, added to the draft of a graph."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overproof.bounds import functions
from overproof.bounds.activations import ReLU
from overproof.bounds.composed import Draft
from overproof.bounds.maps import NoBoundsError
from overproof.bounds.operators import Add
from overproof.bounds.smooth import Smooth

_HARMLESS = {"need_weights", "average_attn_weights", "query", "key", "value", "is_causal"}
"""Options that change nothing where there is no mask."""

Transformer = nn.MultiheadAttention | nn.TransformerEncoderLayer | nn.TransformerEncoder


def add_transformer(
    draft: Draft,
    module: Transformer,
    nodes: Sequence[int],
    options: Sequence[str],
    like: Tensor,
    *,
    batch: int,
    training: bool,
) -> int:
    """Add a module over these nodes (query, key and value for attention alone) and return its node.

    ``options`` are the names of those that are given, ``batch`` is the dimension of the batch.
    """
    kind = type(module).__name__
    attention = isinstance(module, nn.MultiheadAttention)
    if set(options) - _HARMLESS or len(nodes) != (3 if attention else 1):
        raise NoBoundsError(f"{kind} with a mask")
    layers: Any = module.layers if isinstance(module, nn.TransformerEncoder) else [module]
    for layer in layers:
        if batch != (0 if (layer if attention else layer.self_attn).batch_first else 1):
            raise NoBoundsError(f"{kind} across the images of a batch")
        dropping = layer.dropout if attention else layer.dropout.p or layer.self_attn.dropout
        if training and dropping:
            raise NoBoundsError("dropout in train mode")
    if isinstance(module, nn.MultiheadAttention):
        return _add_attention(draft, module, nodes, like)
    x = nodes[0]
    for layer in layers:
        x = _add_encoder_layer(draft, layer, x, like)
    norm = getattr(module, "norm", None)
    return x if norm is None else _add_norm(draft, norm, x, like)


def _add_attention(draft: Draft, module: nn.MultiheadAttention, nodes: Sequence[int], like: Tensor) -> int:
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise NoBoundsError("MultiheadAttention with keys of another size or with added keys")
    weights = module.in_proj_weight.chunk(3)
    biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    query, key, value = (
        draft.heads(draft.linear(x, weight, bias), module.num_heads, like)
        for x, weight, bias in zip(nodes, weights, biases, strict=True)
    )
    mixed = draft.attention(query, key, value, 1 / sqrt(module.head_dim), like)
    return draft.linear(draft.beside(mixed, like), module.out_proj.weight, module.out_proj.bias)


def _add_encoder_layer(draft: Draft, layer: nn.TransformerEncoderLayer, x: int, like: Tensor) -> int:
    activation = _activation(layer)

    def attended(x: int) -> int:
        return _add_attention(draft, layer.self_attn, [x] * 3, like)

    def forward(x: int) -> int:
        hidden = draft.linear(x, layer.linear1.weight, layer.linear1.bias)
        hidden = draft.put(activation, [hidden], draft.shape(hidden))
        return draft.linear(hidden, layer.linear2.weight, layer.linear2.bias)

    for part, norm in ((attended, layer.norm1), (forward, layer.norm2)):
        if layer.norm_first:
            x = draft.put(Add(), [x, part(_add_norm(draft, norm, x, like))], draft.shape(x))
        else:
            x = _add_norm(draft, norm, draft.put(Add(), [x, part(x)], draft.shape(x)), like)
    return x


def _activation(layer: nn.TransformerEncoderLayer) -> ReLU | Smooth:
    kind: Any = layer.activation
    if kind is F.relu or isinstance(kind, nn.ReLU):
        return ReLU()
    if kind is F.gelu or (isinstance(kind, nn.GELU) and kind.approximate == "none"):
        return Smooth(function=functions.GELU)
    raise NoBoundsError("TransformerEncoderLayer with another activation than ReLU or GELU")


def _add_norm(draft: Draft, norm: nn.Module, x: int, like: Tensor) -> int:
    if not isinstance(norm, nn.LayerNorm):
        raise NoBoundsError(f"{type(norm).__name__} in a transformer")
    rows = torch.Size(draft.shape(x)).numel() // torch.Size(norm.normalized_shape).numel()
    x = draft.normalised(x, rows, norm.eps, like)
    weight = like.new_ones(()) if norm.weight is None else norm.weight
    return draft.scaled(x, weight, like.new_zeros(()) if norm.bias is None else norm.bias)

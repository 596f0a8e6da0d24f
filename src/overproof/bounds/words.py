"""Torch's names of the steps that have bounds: functions with their options, and modules that do the same."""

from typing import Any

from torch import fx, nn

from overproof.bounds import functions
from overproof.bounds.functions import Function

SUPPORTED = (
    "Conv2d and its kin, Linear, BatchNorm, LayerNorm, GroupNorm, ReLU and its kin, sigmoid, tanh, GELU, SiLU and "
    "other smooth functions, average, adaptive average and max pooling, other sizes of maps, sums, products and "
    "quotients of layers, variances and norms, matrix products, softmax and attention, whatever only moves values, and "
    "dropout in eval mode"
)
_CONV = (("weight", None), ("bias", None), ("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))
FUNCTIONS: dict[str, tuple[tuple[str, Any], ...]] = {
    "leaky_relu": (("negative_slope", 0.01),),
    "avg_pool2d": (
        ("kernel_size", None),
        ("stride", None),
        ("padding", 0),
        ("ceil_mode", False),
        ("count_include_pad", True),
        ("divisor_override", None),
    ),
    "adaptive_avg_pool2d": (("output_size", None),),
    "max_pool2d": (
        ("kernel_size", None),
        ("stride", None),
        ("padding", 0),
        ("dilation", 1),
        ("ceil_mode", False),
        ("return_indices", False),
    ),
    "dropout": (("p", 0.5), ("training", True)),
    "pad": (("pad", None), ("mode", "constant"), ("value", None)),
    "interpolate": (
        ("size", None),
        ("scale_factor", None),
        ("mode", "nearest"),
        ("align_corners", None),
        ("recompute_scale_factor", None),
        ("antialias", False),
    ),
    "conv_transpose2d": (
        ("weight", None),
        ("bias", None),
        ("stride", 1),
        ("padding", 0),
        ("output_padding", 0),
        ("groups", 1),
        ("dilation", 1),
    ),
    "conv1d": _CONV,
    "avg_pool1d": (
        ("kernel_size", None),
        ("stride", None),
        ("padding", 0),
        ("ceil_mode", False),
        ("count_include_pad", True),
    ),
    "adaptive_max_pool2d": (("output_size", None), ("return_indices", False)),
    "prelu": (("weight", None),),
    "var": (("dim", None), ("unbiased", None), ("keepdim", False), ("correction", None)),
    "std": (("dim", None), ("unbiased", None), ("keepdim", False), ("correction", None)),
    "norm": (("p", "fro"), ("dim", None), ("keepdim", False), ("dtype", None)),
    "linalg_vector_norm": (("ord", 2), ("dim", None), ("keepdim", False), ("dtype", None)),
    "amax": (("dim", ()), ("keepdim", False)),
    "amin": (("dim", ()), ("keepdim", False)),
    "fold": (("output_size", None), ("kernel_size", None), ("dilation", 1), ("padding", 0), ("stride", 1)),
    "normalize": (("p", 2.0), ("dim", 1), ("eps", 1e-12)),
    "mean": (("dim", None), ("keepdim", False), ("dtype", None)),
    "sum": (("dim", None), ("keepdim", False), ("dtype", None)),
    "gelu": (("approximate", "none"),),
    "softplus": (("beta", 1.0), ("threshold", 20.0)),
    "elu": (("alpha", 1.0),),
    "celu": (("alpha", 1.0),),
    "hardtanh": (("min_val", -1.0), ("max_val", 1.0)),
    "clamp": (("min", None), ("max", None)),
    "clamp_min": (("min", None),),
    "clamp_max": (("max", None),),
    "pow": (("exponent", None),),
    "softmax": (("dim", None), ("_stacklevel", 3), ("dtype", None)),
    "log_softmax": (("dim", None), ("_stacklevel", 3), ("dtype", None)),
    "layer_norm": (("normalized_shape", None), ("weight", None), ("bias", None), ("eps", 1e-5)),
    "rms_norm": (("normalized_shape", None), ("weight", None), ("eps", None)),
    "group_norm": (("num_groups", None), ("weight", None), ("bias", None), ("eps", 1e-5)),
    "batch_norm": (
        ("running_mean", None),
        ("running_var", None),
        ("weight", None),
        ("bias", None),
        ("training", False),
        ("momentum", 0.1),
        ("eps", 1e-5),
    ),
    "linear": (("weight", None), ("bias", None)),
    "conv2d": _CONV,
    "scaled_dot_product_attention": (
        ("key", None),
        ("value", None),
        ("attn_mask", None),
        ("dropout_p", 0.0),
        ("is_causal", False),
        ("scale", None),
        ("enable_gqa", False),
    ),
    **dict.fromkeys(("relu", "relu6", "hardsigmoid", "selu", "logsigmoid"), ()),
}
"""The options of the functions that are not plain arithmetic, in their order, with their defaults."""
ALIASES = {
    "clip": "clamp",
    "square": "pow 2",
    "special_expit": "sigmoid",
    "expit": "sigmoid",
    "log_sigmoid": "logsigmoid",
}
SMOOTH: dict[str, Function] = {
    "sigmoid": functions.SIGMOID,
    "tanh": functions.TANH,
    "erf": functions.ERF,
    "silu": functions.SILU,
    "mish": functions.MISH,
    "hardswish": functions.HARDSWISH,
    "exp": functions.EXP,
    "square": functions.SQUARE,
    "abs": functions.ABS,
    "reciprocal": functions.RECIPROCAL,
    "rsqrt": functions.RSQRT,
    "sqrt": functions.SQRT,
    "log": functions.LOG,
}
ARITHMETIC = {"add", "iadd", "sub", "isub", "mul", "imul", "truediv", "itruediv", "div", "neg"}
MODULES: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.ReLU: ("relu", ()),
    nn.ReLU6: ("relu6", ()),
    nn.LeakyReLU: ("leaky_relu", ("negative_slope",)),
    nn.Hardtanh: ("hardtanh", ("min_val", "max_val")),
    nn.Hardsigmoid: ("hardsigmoid", ()),
    nn.Hardswish: ("hardswish", ()),
    nn.Sigmoid: ("sigmoid", ()),
    nn.LogSigmoid: ("logsigmoid", ()),
    nn.Tanh: ("tanh", ()),
    nn.SiLU: ("silu", ()),
    nn.Mish: ("mish", ()),
    nn.GELU: ("gelu", ("approximate",)),
    nn.Softplus: ("softplus", ("beta", "threshold")),
    nn.ELU: ("elu", ("alpha",)),
    nn.CELU: ("celu", ("alpha",)),
    nn.SELU: ("selu", ()),
    nn.Softmax: ("softmax", ("dim",)),
    nn.Softmax2d: ("softmax", ()),
    nn.LogSoftmax: ("log_softmax", ("dim",)),
    nn.LayerNorm: ("layer_norm", ("normalized_shape", "weight", "bias", "eps")),
    nn.RMSNorm: ("rms_norm", ("normalized_shape", "weight", "eps")),
    nn.GroupNorm: ("group_norm", ("num_groups", "weight", "bias", "eps")),
    nn.Linear: ("linear", ("weight", "bias")),
    nn.Conv2d: ("conv2d", (*(name for name, _ in _CONV), "padding_mode")),
    nn.AvgPool2d: ("avg_pool2d", tuple(name for name, _ in FUNCTIONS["avg_pool2d"])),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", ()),
    nn.AdaptiveMaxPool2d: ("adaptive_max_pool2d", ("return_indices",)),
    nn.Upsample: ("interpolate", ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")),
    nn.UpsamplingBilinear2d: ("interpolate", ("size", "scale_factor", "mode", "align_corners")),
    nn.ConvTranspose2d: (
        "conv_transpose2d",
        ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation", "padding_mode"),
    ),
    nn.Conv1d: ("conv1d", (*(name for name, _ in _CONV), "padding_mode")),
    nn.AvgPool1d: ("avg_pool1d", ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
    nn.Fold: ("fold", ("kernel_size", "dilation", "padding", "stride")),
    nn.PReLU: ("prelu", ("weight",)),
    nn.MaxPool2d: ("max_pool2d", tuple(name for name, _ in FUNCTIONS["max_pool2d"])),
}
"""Modules that do what a function does, with the attributes that are its options."""
SAME = {"contiguous", "to", "float", "double", "clone", "type_as"}
MOVES = {
    *("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as", "ravel"),
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint"),
    *("getitem", "select", "narrow", "chunk", "split", "tensor_split", "unbind", "index_select", "unsafe_chunk"),
    *("expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave", "flip", "roll", "rot90"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold"),
    *("cat", "concat", "concatenate", "stack", "hstack", "vstack"),
}
AS = {"to", "type_as", "view_as", "reshape_as", "expand_as"}
"""Steps that take the kind or the shape of a second tensor, whatever its values are."""
LIKE = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_tensor"}
"""Steps that give constants of the kind of a tensor, whatever its values are."""
JOINING = {"cat", "concat", "concatenate", "stack", "hstack", "vstack"}
MOVING = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold)
PADDING = (nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d, nn.ConstantPad2d, nn.ZeroPad2d)
IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)


def name_of(node: fx.Node) -> str:
    """Return the name of a function or a method, without the mark of one in place."""
    if node.op == "call_module":
        return ""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return name.rstrip("_").removeprefix("__")


def padding_of(node: fx.Node, module: nn.Module | None, values: dict[fx.Node, Any]) -> tuple[Any, str, float | None]:
    """Return the margins of a padding, its mode and what is filled in; no margins for another step."""
    match module:
        case nn.ReflectionPad2d():
            return module.padding, "reflect", None
        case nn.ReplicationPad2d():
            return module.padding, "replicate", None
        case nn.CircularPad2d():
            return module.padding, "circular", None
        case nn.ConstantPad2d():
            return module.padding, "constant", float(module.value)
        case nn.Module():
            return None, "", None
    if name_of(node) != "pad":
        return None, "", None
    given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | node.kwargs
    named: Any = fx.map_arg(given, lambda other: values[other])
    return named["pad"], named.get("mode", "constant"), named.get("value")

"""What each step of a recorded network is: operators added to the draft of a graph, or a refusal in a sentence."""

from collections.abc import Callable, Collection, Sequence
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor, fx, nn

from overproof.bounds import functions, maps, resampling
from overproof.bounds.activations import ReLU
from overproof.bounds.curves import make_smooth
from overproof.bounds.layers import Layer, Made, Operand, alike
from overproof.bounds.maps import NoBoundsError
from overproof.bounds.movement import BatchMixedError
from overproof.bounds.moving import Mover
from overproof.bounds.operators import Add, Linear, Operator, Pad, Reshape, Scale, Shape
from overproof.bounds.probabilities import Softmax, convert_mask
from overproof.bounds.products import (
    add_product,
    einsum_terms,
    elementwise_terms,
    matmul_terms,
)
from overproof.bounds.smooth import Smooth
from overproof.bounds.transformers import add_transformer
from overproof.bounds.words import (
    ALIASES,
    ARITHMETIC,
    FUNCTIONS,
    IDLE,
    MODULES,
    SAME,
    SMOOTH,
    SUPPORTED,
    name_of,
)
from overproof.errors import InputError


class Reader(Mover):
    """Adds the steps of a recorded network to the draft, one after another."""

    def read(self, node: fx.Node) -> None:
        """Add a step that reads what others gave; raises ``InputError`` where it has no bounds."""
        self.draft.place = self.place(node)
        try:
            made = self._made(node)
        except (NoBoundsError, BatchMixedError) as problem:
            what = str(problem) or "a step that mixes the batch"
            raise InputError(f"{self.place(node)}: no bounds for {what}; supported are {SUPPORTED}") from None
        if made is not None:
            self.results[node] = made
            if self._in_place(node):
                self.results[node.all_input_nodes[0]] = made

    def _made(self, node: fx.Node) -> Layer | tuple[Layer | None, ...] | None:
        sources, name, value = self.sources(node), name_of(node), self.values[node]
        parts: list[Any] = []
        torch.utils._pytree.tree_map(parts.append, value)
        if name == "setitem":
            return self._assigned(node)
        if not any(isinstance(part, Tensor) for part in parts):  # a size, or a part of a shape, is no layer
            return self._refuse(f"{node.name}, a number made of a layer") if isinstance(value, float) else None
        if self._in_place(node) and self._overwrites_others(node, node.all_input_nodes[0]):
            raise NoBoundsError("a step in place on a value that others read")
        if any(isinstance(self.results[other], tuple) for other in sources):
            return self._part(node, sources)
        made = self._moves(node, sources, name)
        if made is None and not isinstance(value, Tensor) and node.op != "call_module":
            raise NoBoundsError(f"{node.name}, which gives several tensors")
        if made is None and node.op == "call_module":
            made = self._module(self.graph_module.get_submodule(str(node.target)), node, sources)
        elif made is None:
            made = self._function(name, node, sources)
        return made if isinstance(made, Layer | tuple) else self._chained(node, sources, made)

    def _chained(self, node: fx.Node, sources: Sequence[fx.Node], operators: Sequence[Operator]) -> Layer:
        layer = self._batch(*sources)
        return layer.at(self._put([self.layer(other).node for other in sources], operators, self._after(node, layer)))

    def _put(self, read: Sequence[int], operators: Sequence[Operator], after: Shape) -> int:
        """Add operators one after another; the last one gives a layer of shape ``after``."""
        for operator in operators:
            shape = after
            if isinstance(operator, Reshape):
                shape = operator.shape
            elif isinstance(operator, Pad):
                shape = operator.around(self.draft.shape(read[0]))
            read = [self.draft.put(operator, read, shape)]
        return read[0]

    def _part(self, node: fx.Node, sources: Sequence[fx.Node]) -> Layer | tuple[Layer | None, ...]:
        """Return one or some of several tensors that a step gave."""
        (parts,) = (self.results[other] for other in sources)
        at: Any = node.args[1] if name_of(node) == "getitem" and len(node.args) == 2 else None
        part = parts[at] if isinstance(parts, tuple) and isinstance(at, int | slice) else None
        return part if part is not None else self._refuse(f"{node.name} of several tensors")

    # --- functions and modules ----------------------------------------------------------------------------------------

    def _function(self, name: str, node: fx.Node, sources: Sequence[fx.Node]) -> Made:
        name = ALIASES.get(name, name)
        if name in ARITHMETIC:
            return self._arithmetic(name, node, sources)
        if name in SAME:
            return []
        if name in ("matmul", "bmm", "einsum"):
            return self._product(name, node, sources)
        if name == "scaled_dot_product_attention":
            return self._attention(node, sources)
        if name == "pow 2":
            return [Smooth(function=functions.SQUARE)]
        if name not in FUNCTIONS and name not in SMOOTH:
            self._refuse(name)
        given = self._given(node, *FUNCTIONS.get(name, ()))
        if len(sources) != 1:
            self._refuse(f"{node.name} with another layer as an option")
        return self._applied(name, node, sources[0], given)

    def _applied(self, name: str, node: fx.Node, source: fx.Node, given: dict[str, Any]) -> Made:
        """Return a function of one layer with these options."""
        like = self.values[source]
        if name in SMOOTH:
            return [Smooth(function=SMOOTH[name])]
        match name:
            case "relu":
                return [ReLU()]
            case "prelu":
                return self._leaky(source, like, **given)
            case "leaky_relu":
                slope = given["negative_slope"]
                if not 0 <= slope < 1:
                    self._refuse(f"LeakyReLU with slope {slope:g}, which is not in [0, 1)")
                return [ReLU(leak=slope)]
            case "relu6" | "hardtanh" | "clamp" | "clamp_min" | "clamp_max" | "hardsigmoid":
                return self._clipped(name, source, like, **given)
            case "gelu" | "softplus" | "logsigmoid" | "elu" | "celu" | "selu" | "pow":
                return make_smooth(name, like, **given)
            case "softmax" | "log_softmax":
                return self._softmax(name, node, source, **given)
            case "layer_norm" | "rms_norm" | "group_norm":
                return self._normalised(name, node, source, **given)
            case "linear":
                return self._linear(node, source, **given)
            case "mean" | "sum":
                return self._reduced(name, node, source, **given)
            case "var" | "std" | "norm" | "linalg_vector_norm":
                return self._measured(name, node, source, **given)
            case "amax" | "amin":
                return self._largest(name, node, source, **given)
            case "fold":
                layer, after = self._batch(source, first=True), self._after(node, self.layer(source))
                return layer.at(resampling.add_fold(self.draft, layer.node, after, like, **given))
            case "normalize":
                return self._unit(node, source, **given)
            case "dropout":
                return self._refuse("dropout in train mode") if given["training"] else []
        return self._on_maps(name, node, source, given)

    def _on_maps(self, name: str, node: fx.Node, source: fx.Node, given: dict[str, Any]) -> Made:
        """Return a layer on maps, or on lines, whose first dimension is the batch."""
        layer, value, like = self.layer(source), self.values[source], self.values[node]
        if layer.batch != 0 or not isinstance(like, Tensor):
            raise NoBoundsError("a step on layers whose first dimension is not the batch")
        if name == "batch_norm":
            return self._batch_norm(node, value.dim() - 1, **given)
        if value.dim() != (3 if name.endswith("1d") else 4) and name != "interpolate":
            self._refuse(f"{node.name} of other than a batch")
        before, after = tuple(value.shape[1:]), tuple(like.shape[1:])
        parts = layer.parts
        if parts is not None:  # of an image: their channels one after another
            before, after = ((parts * shape[0], *shape[1:]) for shape in (before, after))
            given = resampling.for_parts(name, given, parts)
        lines = name.endswith("1d")
        if lines:
            before, after = ((shape[0], 1, shape[1]) for shape in (before, after))
        made = self._on_map(name, node, source, before, after, like, given)
        if parts is None and not lines and not callable(made):
            return made
        framed = self.draft.shape(layer.node)[-2:] if source in self.framed else before[1:]
        x = self.draft.reshaped(layer.node, (before[0], *framed))
        x = made(x) if callable(made) else self._put([x], made, after)
        return layer.at(self.draft.reshaped(x, self._after(node, layer)))

    def _on_map(
        self,
        name: str,
        node: fx.Node,
        source: fx.Node,
        before: Shape,
        after: Shape,
        like: Tensor,
        given: dict[str, Any],
    ) -> Sequence[Operator] | Callable[[int], int]:
        """Return the operators of a layer on one map, or what adds it to the draft."""
        match name:
            case "interpolate":
                return lambda x: resampling.add_resize(self.draft, x, like, **given)
            case "conv_transpose2d":
                return lambda x: resampling.add_transposed_conv(self.draft, x, after, **given)
            case "conv1d":
                return [resampling.conv1d(**given)]
            case "avg_pool1d":
                return resampling.average1d(before, after, like, **given)
            case "avg_pool2d":
                return maps.average(before, after, like, **given)
            case "adaptive_avg_pool2d":
                return maps.adaptive(before, after, like)
            case "adaptive_max_pool2d":
                return [maps.largest_to_size(before, after, **given)]
            case "max_pool2d":
                return [maps.max_pool(before, after, frame=self.framed.get(source, ()), **given)]
            case "conv2d":
                return [maps.conv(**given)]
        return self._refuse(name)

    def _module(self, module: nn.Module, node: fx.Node, sources: Sequence[fx.Node]) -> Made:
        kind = type(module)
        if isinstance(module, nn.MultiheadAttention | nn.TransformerEncoderLayer | nn.TransformerEncoder):
            layer = self._batch(*sources)
            options = [name for name, value in node.kwargs.items() if value is not None]
            nodes = [self.layer(each).node for each in sources]
            if len(node.args) > len(sources) or self.values[sources[0]].dim() != 3 or layer.parts:
                self._refuse(f"{kind.__name__} with a mask")
            training = module.training and not self.running
            transformed_node = add_transformer(
                self.draft, module, nodes, options, self.values[sources[0]], batch=layer.batch, training=training
            )
            return (
                (layer.at(transformed_node), None)
                if isinstance(module, nn.MultiheadAttention)
                else layer.at(transformed_node)
            )
        if isinstance(module, IDLE):
            if not isinstance(module, nn.Identity) and module.training and not self.running:
                return self._refuse("dropout in train mode")
            return []
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            if self._batch(*sources).batch != 0:
                raise NoBoundsError("a step on layers whose first dimension is not the batch")
            return self._batch_norm(
                node,
                self.values[sources[0]].dim() - 1,
                module.running_mean,
                module.running_var,
                module.weight,
                module.bias,
                training=module.training,
                eps=module.eps,
            )
        if kind not in MODULES or len(sources) != 1:
            return self._refuse(kind.__name__)
        name, attributes = MODULES[kind]
        given = {option: getattr(module, option) for option in attributes}
        given = dict(FUNCTIONS.get(name, ())) | given
        if kind is nn.Softmax2d:
            given["dim"] = -3
        return self._applied(name, node, sources[0], given)

    def _batch_norm(
        self,
        node: fx.Node,
        dimensions: int,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Sequence[Operator]:
        where = self.place(node)
        if running_mean is None or running_var is None:
            raise InputError(f"{where}: this BatchNorm has no running statistics, so its output depends on the batch")
        if training and not self.running:
            raise InputError(
                f"{where}: this BatchNorm is in train mode, so its output depends on the batch; use eval()"
            )
        return [maps.batch_norm(running_mean, running_var, weight, bias, eps, dimensions)]

    def _clipped(self, name: str, source: fx.Node, like: Tensor, **given: Any) -> Layer:
        layer = self.layer(source)
        x, low, high = layer.node, 0.0, 6.0
        if name == "hardsigmoid":
            x, high = self.draft.scaled(x, like.new_full((), 1 / 6), like.new_full((), 0.5)), 1.0
        elif name == "hardtanh":
            low, high = given["min_val"], given["max_val"]
        elif name.startswith("clamp"):
            if any(isinstance(each, Tensor) and each.numel() > 1 for each in given.values()):
                self._refuse("clamp to other limits for each value")
            low = -inf if given.get("min") is None else float(given["min"])
            high = inf if given.get("max") is None else float(given["max"])
        if not low <= high:
            self._refuse(f"{name} to [{low:g}, {high:g}]")
        return layer.at(self.draft.clipped(x, low, high, like))

    def _leaky(self, source: fx.Node, like: Tensor, weight: Tensor) -> Layer:
        layer = self._batch(source)
        if weight.numel() > 1 and layer.batch != 0:
            self._refuse("PReLU on layers whose first dimension is not the batch")
        slope = weight.reshape(-1, *(1,) * (like.dim() - 2)) if weight.numel() > 1 else weight
        return layer.at(resampling.leaky(self.draft, layer.node, slope, like))

    def _softmax(self, name: str, node: fx.Node, source: fx.Node, dim: Any, **given: Any) -> Made:
        if given["dtype"] is not None and given["dtype"] != self.values[source].dtype:
            self._refuse("a softmax in another precision")
        if dim is None:
            self._refuse("a softmax without a dimension")
        (own,) = self._own(node, source, dim)
        if name == "softmax":
            return [Softmax(dim=own)]
        layer = self.layer(source)
        return layer.at(self.draft.log_softmax(layer.node, own, self.values[source]))

    def _normalised(self, name: str, node: fx.Node, source: fx.Node, **given: Any) -> Layer:
        layer, like = self.layer(source), self.values[source]
        shape, eps = self.draft.shape(layer.node), given["eps"]
        eps = torch.finfo(like.dtype).eps if eps is None else float(eps)
        if name == "group_norm":
            self._batch(source, first=True)
            rows, end = int(given["num_groups"]), len(shape) - 1
        else:
            over = given["normalized_shape"]
            end = 0
            over = (over,) if isinstance(over, int) else tuple(over)
            if layer.batch >= like.dim() - len(over):
                self._refuse(f"{node.name} over the batch")
            rows = torch.Size(shape).numel() // torch.Size(over).numel()
        x = self.draft.normalised(layer.node, rows, eps, like, centred=name != "rms_norm")
        weight, bias = given["weight"], given.get("bias")
        if weight is None and bias is None:
            return layer.at(x)
        weight = like.new_ones(()) if weight is None else weight
        bias = like.new_zeros(()) if bias is None else bias
        factor, shift = (each.reshape((*each.shape, *(1,) * (end if each.dim() else 0))) for each in (weight, bias))
        return layer.at(self.draft.scaled(x, factor, shift))

    def _linear(self, node: fx.Node, source: fx.Node, weight: Tensor, bias: Tensor | None) -> Made:
        layer = self.layer(source)
        if len(self.draft.shape(layer.node)) == 1 and (layer.batch, layer.parts) == (0, None):
            return [Linear(weight=weight, bias=weight.new_zeros(len(weight)) if bias is None else bias)]
        if layer.batch == self.values[source].dim() - 1:
            self._refuse(f"{node.name} over the batch")
        return layer.at(self.draft.linear(layer.node, weight, bias))

    def _reduced(self, name: str, node: fx.Node, source: fx.Node, **given: Any) -> Made:
        """The mean or the sum over dimensions."""
        layer, like = self.layer(source), self.values[source]
        shape = self.draft.shape(layer.node)
        self._same_kind(name, like, given["dtype"])
        own = self._own(node, source, None if given["dim"] == () else given["dim"])
        if name == "mean" and len(shape) == 3 and own == [-2, -1] and self._ordinary(source):
            return maps.mean_of_map(shape, like, keepdim=given["keepdim"])
        gone = {dim % len(shape) for dim in own}
        count = torch.Size(shape[at] for at in gone).numel()
        total = self.draft.totalled(layer.node, gone, like.new_full((), 1 / count if name == "mean" else 1.0))
        return self._without(layer.at(total), gone, node, keepdim=given["keepdim"])

    def _measured(self, name: str, node: fx.Node, source: fx.Node, **given: Any) -> Layer:
        """A variance, a standard deviation or a Euclidean norm over dimensions."""
        layer, like = self.layer(source), self.values[source]
        self._same_kind(name, like, given.get("dtype"))
        dims, correction = given["dim"], given.get("correction")
        if isinstance(dims, bool):  # of torch's own kind of overloading: the first option is ``unbiased``
            self._refuse(f"{name} with these options")
        gone = {
            dim % len(self.draft.shape(layer.node)) for dim in self._own(node, source, None if dims == () else dims)
        }
        if name in ("norm", "linalg_vector_norm"):
            if given.get("p", given.get("ord")) not in ("fro", 2, None):
                self._refuse("a norm other than the Euclidean one")
            x = self.draft.length(layer.node, gone, like)
        else:
            unbiased = given["unbiased"] is None or given["unbiased"]
            correction = float(unbiased) if correction is None else float(correction)
            if torch.Size(self.draft.shape(layer.node)[at] for at in gone).numel() <= correction:
                self._refuse(f"{name} of too few values")
            x = self.draft.variance(layer.node, gone, correction, like)
            x = self.draft.rooted(x) if name == "std" else x
        return self._without(layer.at(x), gone, node, keepdim=given["keepdim"])

    def _largest(self, name: str, node: fx.Node, source: fx.Node, **given: Any) -> Layer:
        layer, like = self.layer(source), self.values[source]
        own = self._own(node, source, None if given["dim"] == () else given["dim"])
        gone = {dim % len(self.draft.shape(layer.node)) for dim in own}
        minus, none = -like.new_ones(()), like.new_zeros(())
        x = self.draft.scaled(layer.node, minus, none) if name == "amin" else layer.node
        x = resampling.largest_over(self.draft, x, gone, like)
        x = self.draft.scaled(x, minus, none) if name == "amin" else x
        return self._without(layer.at(x), gone, node, keepdim=given["keepdim"])

    def _unit(self, node: fx.Node, source: fx.Node, **given: Any) -> Layer:
        layer, like = self.layer(source), self.values[source]
        eps = float(given["eps"])
        if given["p"] != 2 or eps**2 < torch.finfo(like.dtype).tiny:
            self._refuse("normalize with another norm than the Euclidean one, or without eps")
        gone = {dim % len(self.draft.shape(layer.node)) for dim in self._own(node, source, given["dim"])}
        return layer.at(self.draft.unit(layer.node, gone, eps, like))

    def _without(self, layer: Layer, gone: Collection[int], node: fx.Node, *, keepdim: bool) -> Layer:
        """Return a layer without its dimensions ``gone``, whose size is 1, unless they are kept."""
        shape = self.draft.shape(layer.node)
        if keepdim:
            return layer
        if len(gone) == len(shape):
            self._refuse(f"{node.name}, one number for an image")
        left = tuple(size for at, size in enumerate(shape) if at not in gone)
        batch = layer.batch - sum(at < layer.batch for at in gone)
        return Layer(self.draft.reshaped(layer.node, left), batch, layer.parts)

    def _same_kind(self, name: str, like: Tensor, dtype: torch.dtype | None) -> None:
        if dtype is not None and dtype != like.dtype:
            self._refuse(f"a {name} in another precision")

    # --- two layers ---------------------------------------------------------------------------------------------------

    def _arithmetic(self, name: str, node: fx.Node, sources: Sequence[fx.Node]) -> Made:
        """Sums, differences, products and quotients of layers, and with a constant."""
        if node.kwargs or len(node.args) > 2:
            self._refuse(f"{name} with options")
        name = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "truediv": "div"}.get(name, name)
        if len(sources) == 2:
            return self._of_two(name, node, *sources)
        (source,) = sources
        like = self.values[source]
        if name == "neg":
            return [Scale(factor=-like.new_ones(()), shift=like.new_zeros(()))]
        first = node.args[0] is source
        other = node.args[1] if first else node.args[0]
        value = self.values[other] if isinstance(other, fx.Node) else other
        value = value.to(like) if isinstance(value, Tensor) else torch.tensor(value, dtype=like.dtype).to(like)
        layer = self._spread(node, source)
        constant = alike(value.expand_as(self.values[node]), layer.batch, layer.parts)
        if constant is None:
            self._refuse("another constant for each image")
        one, zero = torch.ones_like(constant), torch.zeros_like(constant)
        match name, first:
            case ("add", _):
                factor, shift = one, constant
            case ("mul", _):
                factor, shift = constant, zero
            case ("sub", True):
                factor, shift = one, -constant
            case ("sub", False):
                factor, shift = -one, constant
            case ("div", True):
                factor, shift = one / constant, zero
            case _:
                inverse = self.draft.put(
                    Smooth(function=functions.RECIPROCAL), [layer.node], self.draft.shape(layer.node)
                )
                layer, factor, shift = layer.at(inverse), constant, zero
        return layer.at(self.draft.scaled(layer.node, factor, shift))

    def _of_two(self, name: str, node: fx.Node, first: fx.Node, second: fx.Node) -> Made:
        one, other = self.layer(first), self.layer(second)
        like = self.values[first]
        if name == "mul" and first is second:
            shape = self.draft.shape(one.node)
            return one.at(self.draft.put(Smooth(function=functions.SQUARE), [one.node], shape))
        if name in ("add", "sub"):
            one, other = self._spread(node, first, 0), self._spread(node, second, 1)
            if not one.like(other):
                self._refuse("a step that mixes the batch")
            shape = self.draft.shape(one.node)
            minus = like.new_zeros(())
            second_node = self.draft.scaled(other.node, minus - 1, minus) if name == "sub" else other.node
            return one.at(self.draft.put(Add(), [one.node, second_node], shape))
        if name == "div":
            shape = self.draft.shape(other.node)
            other = other.at(self.draft.put(Smooth(function=functions.RECIPROCAL), [other.node], shape))
        a, b, out = elementwise_terms(like.dim(), self.values[second].dim())
        return add_product(self.draft, [a, b], [one, other], out, like)

    def _spread(self, node: fx.Node, source: fx.Node, number: int = 0) -> Layer:
        """Return a layer broadcast to what a step gives."""
        shape = self.values[node].shape
        if self.values[source].shape == shape:
            return self.layer(source)
        (move,) = self._moved(node, number, [source], lambda x: x.expand(shape))
        return self._taken(move, [source])

    def _product(self, name: str, node: fx.Node, sources: Sequence[fx.Node]) -> Made:
        """A product of matrices, or what ``torch.einsum`` says."""
        if node.kwargs:
            self._refuse(f"{name} with options")
        args: list[Any] = list(node.args)
        equation = args.pop(0) if name == "einsum" else None
        args = list(args[0]) if len(args) == 1 and isinstance(args[0], tuple | list) else args
        if not all(isinstance(each, fx.Node) for each in args) or not 1 <= len(args) <= 2:
            self._refuse(f"{name} of other than one or two tensors")
        like = self.values[sources[0]]
        sizes = [self.values[each].dim() for each in args]
        if isinstance(equation, str):
            terms, out = einsum_terms(equation, sizes)
        elif len(args) == 2 and equation is None:
            *terms, out = matmul_terms(*sizes)
        else:
            self._refuse(f"{name} without an equation")
        operands: list[Operand] = [self.layer(each) if each in self.results else self.values[each] for each in args]
        return add_product(self.draft, terms, operands, out, like)

    def _attention(self, node: fx.Node, sources: Sequence[fx.Node]) -> Layer:
        given = self._given(node, *FUNCTIONS["scaled_dot_product_attention"])
        if given["dropout_p"]:
            self._refuse("dropout in train mode")
        # Its layers may be given by name, and what is no layer of the image is a constant.
        named = dict(zip(("query", "key", "value"), node.args, strict=False)) | node.kwargs
        three: Any = [named[name] for name in ("query", "key", "value")]
        if len(sources) != 3 or not set(sources) <= set(three) or not all(each in self.results for each in three):
            self._refuse("attention to constants, or with a mask made of the image")
        layer, like = self._batch(*three), self.values[three[0]]
        if layer.batch > like.dim() - 3:
            self._refuse("attention over the batch")
        lead, count = like.shape[:-2], like.shape[-3]
        nodes = []
        for number, each in enumerate(three):
            own, groups = self.values[each].shape, 1
            if given["enable_gqa"] and own[-3] != count:
                groups = count // own[-3]
            (move,) = self._moved(
                node,
                number,
                [each],
                lambda x, groups=groups: x.repeat_interleave(groups, -3).expand(*lead, *x.shape[-2:]),
            )
            nodes.append(self._taken(move, [each]).node)
        scale = 1 / sqrt(like.shape[-1]) if given["scale"] is None else float(given["scale"])
        mask = given["attn_mask"]
        size = (*lead, like.shape[-2], self.values[three[1]].shape[-2])
        if given["is_causal"]:
            mask = torch.ones(size[-2:], dtype=torch.bool, device=like.device).tril()
        if mask is not None:
            mask = alike(convert_mask(mask, like).expand(size), layer.batch, layer.parts)
            if mask is None:
                self._refuse("another mask for each image")
        query, key, value = nodes
        return layer.at(self.draft.attention(query, key, value, scale, like, mask))

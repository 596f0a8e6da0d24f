"""A network recorded as a graph for images of one shape, and what each of its steps gives for a batch of two."""

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from overproof.bounds.rewritten import rewrite

Values = dict[fx.Node, Any]


class CannotRunError(Exception):
    """The network does not take such images; the text says why."""


def trace_values(network: nn.Module, image: Tensor) -> tuple[fx.GraphModule, Values]:
    """Return the recorded graph of a network and its values on a batch of images ``[2, C, H, W]``.

    Shapes are numbers on the way, so control flow may depend on them, but not on what the images show. Raises
    ``CannotRunError``, and whatever a foreign forward does with a value that is not there yet.
    """
    tracer = _Tracer(image)
    with torch.no_grad():
        graph_module = fx.GraphModule(network, tracer.trace(network))
    # The graph's own nodes are the tracer's.
    return graph_module, tracer.values


class _Value(fx.Proxy):
    """A value on the way: its shape and kind are known, its numbers are not."""

    tracer: "_Tracer"

    @property
    def _known(self) -> Any:
        return self.tracer.live[self.node]

    def __setitem__(self, place: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, place, value), {})

    def size(self, dim: int | None = None) -> Any:
        return self._known.shape if dim is None else self._known.shape[dim]

    def dim(self) -> Any:
        return self._known.dim()

    def numel(self) -> Any:
        return self._known.numel()

    def is_floating_point(self) -> Any:
        return self._known.is_floating_point()


def _constant(name: str) -> property:
    return property(lambda self: getattr(self._known, name))


for _name in ("shape", "ndim", "dtype", "device", "is_cuda", "requires_grad"):
    setattr(_Value, _name, _constant(_name))


class _Tracer(fx.Tracer):
    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image
        self.live: Values = {}  # what steps compute with, and may change in place
        self.values: Values = {}
        self._running = False

    @override
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    @override
    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *others: Any, **named: Any) -> fx.Proxy:
        written = rewrite(kind, target, args, kwargs)
        if written is not None:
            return cast("fx.Proxy", written())
        proxy = super().create_proxy(kind, target, args, kwargs, *others, **named)
        self._running, before = True, self._running
        try:
            self._ask(proxy.node)
        except (RuntimeError, AssertionError, ValueError, IndexError) as problem:
            raise CannotRunError(str(problem)) from problem
        finally:
            self._running = before
        return proxy

    @override
    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Return the network and its image alone: options of its forward have their defaults, as in a call."""
        return root_fn, [self.root, self.create_proxy("placeholder", "image", (), {})]

    def _ask(self, node: fx.Node) -> Any:
        """Return what a step gives; a parameter becomes a step where it is used first."""
        if node not in self.live:
            self.live[node] = result = self._run(node)
            self.values[node] = result.clone() if isinstance(result, Tensor) else result
        return self.live[node]

    def _run(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.image
        if node.op == "get_attr":
            value: Any = self.root
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._ask)
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    @override
    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._running else super().call_module(m, forward, args, kwargs)

    @override
    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

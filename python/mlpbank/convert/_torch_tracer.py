"""A tracer of PyTorch forwards that knows the shapes of all values."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
from torch import fx, nn

from mlpbank.convert._torch_outputs import picked
from mlpbank.errors import InvalidTypeError


class _Proxy(fx.Proxy):  # type: ignore[misc]
    """A value in a graph. What it says of its shape and type are numbers, so code may use them.

    It distinguishes ``x += y``, which changes x in place, from ``x + y``.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise InvalidTypeError(f"{name} of a tensor is set")
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        value = self.node.meta.get("value")
        if isinstance(value, torch.Tensor) and name in _FACTS:
            return getattr(value, name)
        return super().__getattr__(name)

    def __len__(self) -> int:
        return len(self._known())

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self._known()))])

    def _known(self) -> Any:
        value = self.node.meta.get("value")
        if value is None:
            raise InvalidTypeError(f"the length of {self.node.name} is not known")
        return value


# What the shape and type of a tensor tell, not its values.
_FACTS = {"shape", "ndim", "dtype", "device", "layout", "is_cuda", "is_sparse", "requires_grad"}
_FACTS |= {"size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "is_complex"}
_FACTS |= {"get_device", "element_size", "stride", "is_contiguous"}


def _in_place(function: Any) -> Any:
    def call(self: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return call


for _name in (
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ifloordiv",
    "imod",
    "ipow",
    "iand",
    "ior",
    "ixor",
    "imatmul",
):
    setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


class Tracer(fx.Tracer):  # type: ignore[misc]  # for mypy, PyTorch is Any
    """A tracer that computes each value for some rows too, to know its shape.

    A forward that branches on a value of a tensor cannot be traced.
    """

    proxy_buffer_attributes = True

    def __init__(self, rows: Any, output: Any, where: str) -> None:
        super().__init__()
        self.rows, self.output, self.where = rows, output, where
        self.paused = False  # while values are computed

    def proxy(self, node: Any) -> Any:
        """Return the proxy of a node."""
        return _Proxy(node, self)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Return the arguments of the forward: rows only. Other parameters keep their defaults."""
        name, *_ = list(inspect.signature(root_fn).parameters)[1:] or ["x"]
        rows = self.create_proxy("placeholder", name.lstrip("*"), (), {})
        kind = type(self.root).__name__

        def one(*args: Any) -> Any:
            return picked(root_fn(*args), self.output, self.where, kind)

        return one, [self.root, rows]

    def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
        """Return whether a module is read by its type, and not by its forward."""
        own = type(m).__module__.startswith("torch.") and not isinstance(m, fx.GraphModule)
        return own and not isinstance(m, nn.Sequential)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module: a proxy for a tensor."""
        if self.paused:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        """Return what a module makes of proxies."""
        if self.paused:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_proxy(
        self, kind: Any, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any
    ) -> Any:
        """Return the proxy of a new node, whose value is kept beside it."""
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **named)
        if self.paused:
            return proxy
        self.paused = True
        state = torch.get_rng_state()
        try:
            with torch.no_grad():
                proxy.node.meta["value"] = self._value(proxy.node)
        finally:
            self.paused = False
            torch.set_rng_state(state)
        return proxy

    def _value(self, node: Any) -> Any:
        """Return the value of a node, None if it is not known."""
        if node.op == "placeholder":
            return self.rows
        if node.op == "get_attr":
            return operator.attrgetter(node.target)(self.root).detach().clone()
        given = fx.node.map_arg((node.args, node.kwargs), self._argument)
        unknown: list[Any] = []
        fx.node.map_arg(
            (node.args, node.kwargs),
            lambda n: unknown.append(n) if self._argument(n) is None else None,
        )
        if unknown:
            return None
        args, kwargs = given
        if node.op == "call_module":
            module = inner(self.root.get_submodule(node.target))
            if type(module) not in LAYERS:
                try:
                    return module(*args, **kwargs)
                except Exception:  # its reader says what is the matter with it
                    return None
            return module(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)

    def _argument(self, node: Any) -> Any:
        if "value" not in node.meta and node.op == "get_attr":  # a constant made by the forward
            node.meta["value"] = operator.attrgetter(node.target)(self.root).detach().clone()
        return node.meta.get("value")


def inner(module: Any) -> Any:
    """Return the module that a wrapper of PyTorch runs."""
    while (name := WRAPPERS.get(type(module).__name__)) and type(module).__module__.startswith(
        "torch."
    ):
        module = getattr(module, name)
    return module


# The attribute of a wrapper's class that has the module.
WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # of torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
}
# The layers that fail for rows of a wrong size.
LAYERS = {nn.Linear, nn.BatchNorm1d}

"""Forwards of PyTorch modules as graphs, if they compute the same in each call.

A trace keeps all that a forward reads as constants. So a forward is refused if it draws random
numbers, changes what it reads, or differs from call to call: its graph would hold for one call
only. A forward that computes something else when it is not traced (``isinstance(x,
torch.Tensor)``) is found with numbers.
"""

from __future__ import annotations

import inspect
import operator
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mlpbank._activations import ACTIVATIONS
from mlpbank.convert._chain import Affine, Dense, Step, unsupported
from mlpbank.errors import InvalidTypeError

_WAY_OUT = "it has to compute the same from the same rows each time it is called"


class Traced(NamedTuple):
    """A forward as a graph."""

    graph: Any
    made: dict[str, Any]  # tensors that the forward creates
    reusable: bool  # modules with other parameters have the same graph


def trace(module: Any, where: str) -> Traced:
    """Return the graph of a module's forward.

    Raises
    ------
    UnsupportedLayerError
        The forward cannot be traced, or depends on more than the module and its input.
    """
    first, second = _trace(module, where), _trace(module, where)
    nodes, others = list(first.graph.nodes), list(second.graph.nodes)
    if len(nodes) != len(others) or first.made.keys() != second.made.keys():
        raise _changing(module, where)
    for a, b in zip(nodes, others, strict=True):
        if (a.op, a.name) != (b.op, b.name) or not _same(
            (a.target, a.args, a.kwargs), (b.target, b.args, b.kwargs)
        ):
            raise _changing(module, where)
    if not _same(first.made, second.made):
        raise _changing(module, where)
    return first


def evaluate(call: Callable[[], Any], where: str, name: str) -> Any:
    """Return the result of a call that uses only the module's own tensors.

    Raises
    ------
    UnsupportedLayerError
        It draws random numbers.
    """
    with torch.no_grad(), _Operations() as operations:
        result = call()
    if operations.refused:
        raise unsupported(
            where, f"{name} computes a constant with {operations.refused}; {_WAY_OUT}"
        )
    return result


def check(module: Any, steps: list[Step], where: str) -> None:
    """Compare a module with the steps of its graph on a few rows.

    A module that cannot compute these rows passes.

    Raises
    ------
    UnsupportedLayerError
        The results differ.
    """
    inputs = [len(step.weight) for step in steps if isinstance(step, Dense)]
    features = [max(step.scale.size, step.shift.size) for step in steps if isinstance(step, Affine)]
    size = inputs[0] if inputs else max(features, default=3)
    like = next(
        (t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()),
        torch.empty(0),
    )
    rows = torch.randn(5, size, generator=torch.Generator().manual_seed(0)).to(like)
    state = _state(module)
    try:
        for part in module.modules():
            if isinstance(part, (nn.Dropout, nn.AlphaDropout)):
                part.training = False
        with torch.no_grad():
            got = module(rows).to("cpu", torch.float64).numpy()
    except Exception:  # such as rows of an unexpected shape
        return
    finally:
        _restored(state)
    x = rows.to("cpu", torch.float64).numpy()
    largest = 0.0
    with np.errstate(all="ignore"):
        for step in steps:
            if isinstance(step, Dense):
                x = x @ step.weight.astype(np.float64) + (0.0 if step.bias is None else step.bias)
            else:
                x = (
                    x * step.scale + step.shift
                    if isinstance(step, Affine)
                    else ACTIVATIONS[step.activation](x, *step.arguments)
                )
            largest = max(largest, float(np.abs(x).max()))
        # Far above the error of arithmetic in few bits, far below the difference of functions.
        tolerance = 0.02 * np.abs(x).max() + 100 * torch.finfo(like.dtype).eps * largest
        if got.size != x.size or (np.abs(got.reshape(x.shape) - x) > tolerance).any():
            name = type(module).__name__
            raise unsupported(
                where,
                f"the forward of {name} computes something else when it is not traced; {_WAY_OUT}",
            )


def writes(node: Any) -> bool:
    """Return whether a node changes its first argument, or another, in place."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    in_place = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
    return in_place or node.kwargs.get("out") is not None or node.kwargs.get("inplace") is True


_IN_PLACE = {
    name
    for name in dir(operator)
    if name.strip("_") in {f"i{op.strip('_')}" for op in dir(operator)}
}
_IN_PLACE |= {"setitem", "delitem", "__setitem__", "__delitem__"}


class _Proxy(fx.Proxy):  # type: ignore[misc]
    """A value in a graph. It distinguishes ``x += y``, which changes x in place, from ``x + y``."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            raise InvalidTypeError(f"{name} of a tensor is set")
        super().__setattr__(name, value)


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


class _Tracer(fx.Tracer):  # type: ignore[misc]  # for mypy, PyTorch is Any
    """A tracer without values of tensors. A forward that branches on one cannot be traced."""

    proxy_buffer_attributes = True

    def proxy(self, node: Any) -> Any:
        """Return the proxy of a node."""
        return _Proxy(node, self)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Return the arguments of the forward: rows only. Other parameters keep their defaults."""
        name, *_ = list(inspect.signature(root_fn).parameters)[1:] or ["x"]
        return root_fn, [self.root, self.create_proxy("placeholder", name.lstrip("*"), (), {})]


class _Operations(TorchDispatchMode):  # type: ignore[misc]
    """Records the first operation whose result does not depend on its inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1]
        random = torch.Tag.nondeterministic_seeded in func.tags
        unknown = func.namespace not in ("aten", "prim", "prims")
        if not self.refused and (random or unknown or name.startswith(("empty", "new_empty"))):
            self.refused = f"{func.namespace}.{name}"
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):  # type: ignore[misc]
    """Records whether a forward uses the module's tensors, which differ from module to module."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= self._has_own((args, kwargs))
        return func(*args, **(kwargs or {}))

    def _has_own(self, value: Any) -> bool:
        if isinstance(value, (tuple, list)):
            return any(map(self._has_own, value))
        if isinstance(value, dict):
            return any(map(self._has_own, value.values()))
        return id(value) in self.own


def _trace(module: Any, where: str) -> Traced:
    name = type(module).__name__
    state = _state(module)
    versions = _versions(module)
    draws = _draws()
    try:
        with _Reads(module) as reads, _Operations() as operations:
            graph = _Tracer().trace(module)
    except Exception as error:  # a user's forward may raise anything for a proxy
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise unsupported(where, f"the forward of {name} cannot be traced: {reason[0]}") from error
    finally:
        # The tracer stores tensors that the forward creates in the module. Take them out again.
        made = {
            n: v
            for n, v in module.__dict__.items()
            if n not in state[0][1] and n.startswith("_tensor_constant")
        }
        for constant in made:
            del module.__dict__[constant]
        changed = _restored(state)
    if operations.refused:
        raise unsupported(
            where, f"the forward of {name} makes a tensor with {operations.refused}; {_WAY_OUT}"
        )
    if draws != _draws():
        raise unsupported(where, f"the forward of {name} draws random numbers; {_WAY_OUT}")
    if changed or versions != _versions(module):
        what = repr(changed) if changed else "a tensor"
        raise unsupported(where, f"the forward of {name} changes {what} of the module; {_WAY_OUT}")
    return Traced(graph, made, not reads.found)


def _state(
    module: Any,
) -> list[tuple[Any, dict[str, Any], list[tuple[dict[str, Any], dict[str, Any]]]]]:
    """Return the attributes of a module and of the modules in it, the module first."""
    return [
        (part, dict(part.__dict__), [(t, dict(t)) for t in _tables(part)])
        for part in module.modules()
    ]


def _tables(module: Any) -> tuple[dict[str, Any], ...]:
    return (module._parameters, module._buffers, module._modules)


def _restored(state: list[Any]) -> str:
    """Restore attributes, and return the name of one that had been changed or ""."""
    changed = ""
    for module, attributes, tables in state:
        for now, before in ((module.__dict__, attributes), *tables):
            names = [
                n
                for n in {**now, **before}
                if n not in now or n not in before or now[n] is not before[n]
            ]
            if names:
                changed = changed or names[0]
                now.clear()
                now.update(before)
    return changed


def _versions(module: Any) -> list[int]:
    """Return how often each tensor of a module was changed in place."""
    return [
        0 if tensor.is_inference() else tensor._version
        for tensor in (*module.parameters(), *module.buffers())
    ]


def _draws() -> tuple[Any, ...]:
    """Return the states of the random generators that a forward may use."""
    numpy: Any = np.random.get_state()  # the global generator  # noqa: NPY002
    return random.getstate(), numpy[1].tobytes(), numpy[2:], torch.get_rng_state().numpy().tobytes()


def _changing(module: Any, where: str) -> Exception:
    return unsupported(
        where, f"the forward of {type(module).__name__} differs from call to call; {_WAY_OUT}"
    )


def _same(a: Any, b: Any) -> bool:
    """Return whether two parts of two graphs of one forward are equal."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, fx.Node):
        return bool(a.name == b.name)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(value, b[name]) for name, value in a.items())
    if isinstance(a, torch.Tensor):
        return bool(a.shape == b.shape and a.dtype is b.dtype and torch.equal(a, b))
    if isinstance(a, slice):
        return _same((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    return bool(a == b) or (isinstance(a, float) and a != a and b != b)


def called_as_usual(module: Any) -> bool:
    """Return whether calling a module is calling its forward."""
    kind = type(module)
    if isinstance(module, fx.GraphModule):  # its own __call__ only adds the place of an error
        return getattr(kind.__call__, "__module__", "") == "torch.fx.graph_module"
    return kind.__call__ is nn.Module.__call__ and kind._call_impl is nn.Module._call_impl

"""Forwards of PyTorch modules as graphs, if they compute the same in each call.

A trace keeps all that a forward reads as constants. So a forward is refused if it draws random
numbers, changes what it reads, or differs from call to call: its graph would hold for one call
only. A forward that computes something else when it is not traced (``isinstance(x,
torch.Tensor)``) is found with numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mlpbank._activations import ACTIVATIONS
from mlpbank.convert._chain import Affine, Dense, Step, unsupported
from mlpbank.convert._torch_mode import Snapshot
from mlpbank.convert._torch_outputs import picked
from mlpbank.convert._torch_tracer import Tracer
from mlpbank.errors import MlpbankError, UnsupportedLayerError

_WAY_OUT = "it has to compute the same from the same rows each time it is called"


class Traced(NamedTuple):
    """A forward as a graph."""

    graph: Any
    made: dict[str, Any]  # tensors that the forward creates
    reusable: bool  # modules with other parameters have the same graph
    row: tuple[int, ...]  # the shape of a row


def trace(module: Any, where: str, shape: tuple[int, ...] | None, output: Any) -> Traced:
    """Return the graph of a module's forward.

    Parameters
    ----------
    shape : tuple of int, optional
        That of a row, if it is known.
    output : str or int, optional
        The result to take, of a forward that has several.

    Raises
    ------
    UnsupportedLayerError
        The forward cannot be traced, or depends on more than the module and its input.
    """
    shapes = [shape] if shape is not None else [(size,) for size in _sizes(module)]
    error: UnsupportedLayerError | None = None
    for row in shapes:
        try:
            first = _trace(module, where, row, ROWS, output)
            break
        except _Untraceable as failed:
            error = error or failed
    else:
        assert error is not None
        raise UnsupportedLayerError(str(error)) from error.__cause__
    rows = 1
    try:
        second = _trace(module, where, row, rows, output)
    except _Untraceable:  # a forward that takes no single row
        rows = 2
        second = _trace(module, where, row, rows, output)
    try:
        _merge(first, second, rows)
    except _DifferError:
        name = type(module).__name__
        try:
            _merge(_trace(module, where, row, rows, output), second, ROWS)
        except _DifferError:
            raise unsupported(
                where, f"the forward of {name} differs from call to call; {_WAY_OUT}"
            ) from None
        raise unsupported(
            where,
            f"the forward of {name} computes something else for another number of rows; rows of a "
            "bank are computed one by one",
        ) from None
    return first


def _merge(first: Traced, second: Traced, rows: int) -> None:
    """Put `ROW_COUNT` into a graph where it has `ROWS`, and one of `rows` rows has that number."""
    nodes, others = list(first.graph.nodes), list(second.graph.nodes)
    if len(nodes) != len(others) or not _same(first.made, second.made):
        raise _DifferError
    for a, b in zip(nodes, others, strict=True):
        if (a.op, a.name) != (b.op, b.name) or not _same(a.target, b.target):
            raise _DifferError
        args, kwargs = _merged(a.args, b.args, rows), _merged(a.kwargs, b.kwargs, rows)
        if rows != ROWS:
            a.args, a.kwargs = args, kwargs


class _DifferError(MlpbankError, ValueError):
    """Two graphs are of different forwards."""


# The rows of a trace, a prime number that no model has as a size. A second trace has another
# number, so what depends on it is known.
ROWS = 1009


class _RowCount:
    """Stands in a graph for the number of rows."""

    def __repr__(self) -> str:
        return "the number of rows"


ROW_COUNT = _RowCount()


class _Untraceable(UnsupportedLayerError):
    """A forward raised an error, maybe because the size of its rows was guessed."""


def _sizes(module: Any) -> list[int]:
    """Return the sizes that rows may have, likely ones first."""
    sizes = [
        getattr(part, name)
        for part in module.modules()
        for name in ("in_features", "num_features")
        if isinstance(getattr(part, name, None), int)
    ][:1]
    for tensor in (*module.parameters(), *module.buffers()):
        sizes += tensor.shape[::-1]
    return list(dict.fromkeys(size for size in sizes if size))[:6] or [3]


def _merged(a: Any, b: Any, rows: int) -> Any:
    """Return the arguments that two traces agree on, with `ROW_COUNT` for the number of rows."""
    if type(a) is type(b):
        if isinstance(a, dict) and a.keys() == b.keys():
            return {name: _merged(a[name], b[name], rows) for name in a}
        if isinstance(a, (tuple, list)) and len(a) == len(b):
            return tuple(_merged(x, y, rows) for x, y in zip(a, b, strict=True))
        if isinstance(a, slice):
            x, y = (a.start, a.stop, a.step), (b.start, b.stop, b.step)
            return slice(*_merged(x, y, rows))
        if (a, b) == (ROWS, rows) and type(a) is int:
            return ROW_COUNT
    if not _same(a, b):
        raise _DifferError
    return a


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


def check(module: Any, steps: list[Step], where: str, traced: Traced, output: Any) -> None:
    """Compare a module with the steps of its graph on a few rows.

    A module that cannot compute these rows passes.

    Raises
    ------
    UnsupportedLayerError
        The results differ.
    """
    like = _like(module)
    rows = torch.randn(5, *traced.row, generator=torch.Generator().manual_seed(0)).to(like)
    snapshot = Snapshot(module)
    try:
        with torch.no_grad():
            got = picked(module(rows), output, where, "").to("cpu", torch.float64).numpy()
    except Exception:  # such as rows of an unexpected shape
        return
    finally:
        snapshot.restore()
        snapshot.restore_random()
    x = rows.to("cpu", torch.float64).numpy().reshape(len(rows), -1)
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


class _Operations(TorchDispatchMode):  # type: ignore[misc]
    """Records the first operation whose result does not depend on its inputs alone."""

    def __init__(self, tracer: Any = None) -> None:
        super().__init__()
        self.refused, self.tracer = "", tracer

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave torch._dynamo alone: nothing compiles here, and its import takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.tracer is not None and self.tracer.paused:
            return func(*args, **(kwargs or {}))
        name = str(func).split(".")[1]
        random = torch.Tag.nondeterministic_seeded in func.tags
        unknown = func.namespace not in ("aten", "prim", "prims")
        if not self.refused and (random or unknown or name.startswith(("empty", "new_empty"))):
            self.refused = f"{func.namespace}.{name}"
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):  # type: ignore[misc]
    """Records whether a forward uses the module's tensors, which differ from module to module."""

    def __init__(self, module: Any, tracer: Any) -> None:
        super().__init__()
        self.tracer = tracer
        self.own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.tracer.paused:
            self.found |= self._has_own((args, kwargs))
        return func(*args, **(kwargs or {}))

    def _has_own(self, value: Any) -> bool:
        if isinstance(value, (tuple, list)):
            return any(map(self._has_own, value))
        if isinstance(value, dict):
            return any(map(self._has_own, value.values()))
        return id(value) in self.own


def _like(module: Any) -> Any:
    """Return a tensor of the type and device that rows of a module have."""
    return next(
        (t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()),
        torch.empty(0),
    )


def _trace(module: Any, where: str, row: tuple[int, ...], count: int, output: Any) -> Traced:
    name = type(module).__name__
    snapshot = Snapshot(module)
    before = set(module.__dict__)
    numbers = torch.randn(count, *row, generator=torch.Generator().manual_seed(1))
    tracer = Tracer(numbers.to(_like(module)), output, where)
    made: dict[str, Any] = {}
    try:
        with _Reads(module, tracer) as reads, _Operations(tracer) as operations:
            graph = tracer.trace(module)
    except UnsupportedLayerError:
        raise
    except Exception as error:  # a user's forward may raise anything for a proxy
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise _Untraceable(
            str(unsupported(where, f"the forward of {name} cannot be traced: {reason[0]}"))
        ) from error
    finally:
        # The tracer stores tensors that the forward creates in the module. Take them out again.
        for constant in set(module.__dict__) - before:
            if constant.startswith("_tensor_constant"):
                made[constant] = module.__dict__.pop(constant)
        changed, written = snapshot.restore()
        drawn = snapshot.restore_random()
    if operations.refused:
        raise unsupported(
            where, f"the forward of {name} makes a tensor with {operations.refused}; {_WAY_OUT}"
        )
    if drawn:
        raise unsupported(where, f"the forward of {name} draws random numbers; {_WAY_OUT}")
    if changed or written:
        what = repr(changed) if changed else "a tensor"
        raise unsupported(where, f"the forward of {name} changes {what} of the module; {_WAY_OUT}")
    for node in graph.nodes:  # shapes are kept with the plan, values are not
        value = node.meta.pop("value", None)
        if isinstance(value, (tuple, list)) and value:  # of unbind
            value = value[0]
        if isinstance(value, torch.Tensor):
            node.meta["shape"], node.meta["dtype"] = tuple(value.shape), value.dtype
    return Traced(graph, made, not reads.found, row)


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

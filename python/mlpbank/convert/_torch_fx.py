"""PyTorch modules with their own forward, which torch.fx traces and this reads as a chain."""

from __future__ import annotations

import operator
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from mlpbank.convert._chain import Dense, Step, affine, join, unsupported
from mlpbank.convert._torch_parts import (
    OPTIONS,
    SQUEEZED,
    Plans,
    activation,
    dense,
    require_flat,
    to_numpy,
)
from mlpbank.convert._torch_trace import called_as_usual, check, evaluate, trace, writes
from mlpbank.errors import MlpbankError

CollectLayer = Callable[[Any, str, list[Step], Plans], None]

_FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_), "relu"),
    **dict.fromkeys((F.tanh, torch.tanh), "tanh"),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, torch.special.expit), "sigmoid"),
    **dict.fromkeys((F.softmax, torch.softmax), "softmax"),
    **dict.fromkeys((operator.add, operator.iadd, torch.add), "add"),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, torch.subtract), "sub"),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, torch.multiply), "mul"),
    **dict.fromkeys(
        (operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide), "div"
    ),
    **dict.fromkeys((operator.matmul, torch.matmul, torch.mm), "matmul"),
    F.leaky_relu: "leaky_relu",
    F.elu: "elu",
    F.gelu: "gelu",
    F.silu: "silu",
    F.softplus: "softplus",
    **dict.fromkeys((F.celu, F.celu_, torch.celu, torch.celu_), "celu"),
    **dict.fromkeys((F.selu, F.selu_, torch.selu, torch.selu_), "selu"),
    F.mish: "mish",
    F.hardswish: "hardswish",
    F.hardsigmoid: "hardsigmoid",
    F.relu6: "relu6",
    **dict.fromkeys((F.hardtanh, F.hardtanh_), "hardtanh"),
    F.softsign: "softsign",
    **dict.fromkeys((torch.clamp, torch.clamp_, torch.clip, torch.clip_), "clamp"),
    torch.clamp_min: "clamp_min",
    torch.clamp_max: "clamp_max",
    **dict.fromkeys((torch.exp, torch.exp_), "exp"),
    **dict.fromkeys((torch.expm1, torch.expm1_, torch.special.expm1), "expm1"),
    **dict.fromkeys((F.prelu, torch.prelu), "prelu"),
    F.dropout: "dropout",
    F.linear: "linear",
    torch.flatten: "flatten",
    torch.squeeze: "squeeze",
    operator.neg: "neg",
}
_METHODS = {
    **{
        name: name
        for name in (
            "relu",
            "tanh",
            "sigmoid",
            "softmax",
            "add",
            "sub",
            "mul",
            "div",
            "matmul",
            "squeeze",
        )
    },
    **{name: name for name in ("flatten", "view", "reshape")},
    **dict.fromkeys(("contiguous", "clone", "detach", "float"), "nothing"),
    **{f"{name}_": name for name in ("relu", "tanh", "sigmoid", "add", "sub", "mul", "div")},
    **{name: name for name in ("exp", "expm1", "clamp_min", "clamp_max")},
    **{f"{name}_": name for name in ("exp", "expm1", "clamp_min", "clamp_max")},
    **dict.fromkeys(("clamp", "clamp_", "clip", "clip_"), "clamp"),
    "prelu": "prelu",
}
_ACTIVATIONS = {
    "relu",
    "tanh",
    "sigmoid",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "softplus",
    "celu",
    "selu",
    "mish",
    "hardswish",
    "hardsigmoid",
    "relu6",
    "hardtanh",
    "softsign",
    "clamp",
    "clamp_min",
    "clamp_max",
    "exp",
    "expm1",
    "prelu",
    "softmax",
}
_ARITHMETIC = {"add", "sub", "mul", "div"}


def collect(
    module: Any, where: str, chain: list[Step], plans: Plans, collect_layer: CollectLayer
) -> None:
    """Append the steps of a module's forward to a chain.

    `collect_layer` appends the steps of the modules that the forward calls.

    Raises
    ------
    UnsupportedLayerError
        The forward cannot be traced, or is no chain of supported steps. The message names the first
        unsupported part.
    """
    if not called_as_usual(module):
        raise unsupported(
            where, f"{type(module).__name__} has a __call__ of its own, which may compute anything"
        )
    key = _fingerprint(module)
    plan = plans.get(key) if key is not None else None
    is_new, begin = plan is None, len(chain)
    if plan is None:
        traced = trace(module, where)
        plan = _data_path(traced.graph, where), traced.made
        if key is not None and traced.reusable:
            plans[key] = plan
    path, constants = plan
    for i, node in enumerate(path):
        if node.op == "call_module":
            if len(node.args) + len(node.kwargs) != 1:
                raise unsupported(join(where, node.target), "is called with more than its input")
            collect_layer(module.get_submodule(node.target), join(where, node.target), chain, plans)
        else:
            width = next(
                (step.weight.shape[1] for step in reversed(chain) if isinstance(step, Dense)), None
            )
            owner = _Owner(module, constants, join(where, node.name))
            step = _step(node, owner, width, last=i == len(path) - 1)
            if step is not None:
                chain.append(step)
    if is_new:
        check(module, chain[begin:], where)


class _Owner(NamedTuple):
    """The module that owns a node and its constants, and the place of the node."""

    module: Any
    made: dict[str, Any]
    where: str

    def value(self, argument: Any) -> Any:
        """Return a number or tensor computed from the module's tensors and constants alone."""
        if not isinstance(argument, fx.Node):
            return argument
        if argument.op == "get_attr":
            if argument.target in self.made:
                return self.made[argument.target]
            return operator.attrgetter(argument.target)(self.module)
        if argument.op not in ("call_method", "call_function"):
            raise unsupported(self.where, "depends on its input in a way that no layer does")
        args: Any = self._values(argument.args)
        kwargs: Any = self._values(argument.kwargs)
        call = argument.target
        if argument.op == "call_method":
            call = getattr(args[0], call)
            args = args[1:]
        return evaluate(lambda: call(*args, **kwargs), self.where, _name(argument))

    def _values(self, arguments: Any) -> Any:
        if isinstance(arguments, (tuple, list)):
            return [self._values(a) for a in arguments]
        if isinstance(arguments, dict):
            return {name: self._values(a) for name, a in arguments.items()}
        return self.value(arguments)


# Attributes of every module. The values of all others may change what a forward computes.
_COMMON = frozenset(nn.Module().__dict__) - {"training"}
_PLAIN = (
    int,
    float,
    str,
    bool,
    type(None),
    type,
    torch.dtype,
    types.FunctionType,
    types.BuiltinFunctionType,
)


class _Untold(MlpbankError, ValueError):
    """It is unknown what a traced forward depends on."""


def _fingerprint(module: Any) -> Any:
    """Return all that a traced forward depends on, hashable, or None if that is unknown."""
    # Shared layers and tensors by id, because a trace names the first occurrence.
    seen: dict[int, int] = {}
    try:
        return _parts(module, seen)
    except _Untold:
        return None


def _parts(module: Any, seen: dict[int, int]) -> Any:
    if module is None:
        return None
    if module._forward_hooks or module._forward_pre_hooks:
        raise _Untold
    kind = type(module)
    parts: list[Any] = [kind, kind.forward, seen.setdefault(id(module), len(seen))]
    parts += [
        (name, _value_parts(value))
        for name, value in module.__dict__.items()
        if name not in _COMMON
    ]
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            is_same = seen.setdefault(id(tensor), len(seen))
            parts.append((name, None if tensor is None else (tensor.shape, tensor.dtype, is_same)))
    parts += [(name, _parts(child, seen)) for name, child in module._modules.items()]
    return tuple(parts)


def _value_parts(value: Any) -> Any:
    if type(value) in (tuple, list):
        return type(value), tuple(map(_value_parts, value))
    if not isinstance(value, _PLAIN):
        raise _Untold
    return type(value), value


def _data_path(graph: Any, where: str) -> list[Any]:
    """Return the nodes that rows pass through, first to last."""
    data: list[Any] = []  # nodes that depend on the values of the input, not only on its shape
    known: set[Any] = set()
    for node in graph.nodes:
        shape_only = node.op == "call_method" and node.target in ("size", "dim")
        shape_only |= (
            node.op == "call_function"
            and node.target is getattr
            and node.args[1] in ("shape", "ndim")
        )
        if node.op == "placeholder" or (
            not shape_only and any(n in known for n in node.all_input_nodes)
        ):
            data.append(node)
            known.add(node)
    for node in graph.nodes:
        if node not in known and writes(node):
            raise unsupported(
                join(where, node.name), f"{_name(node)} changes a tensor of the module in place"
            )
    *nodes, output = data
    if output.op != "output" or not isinstance(output.args[0], fx.Node):
        raise unsupported(
            where, "expected a forward that returns one tensor computed from its input"
        )
    path: list[Any] = []
    node = output.args[0]
    while node.op != "placeholder":
        path.append(node)
        inputs = [n for n in node.all_input_nodes if n in known]
        if len(inputs) != 1:
            raise unsupported(
                join(where, node.name), "joins several results, and only chains are supported"
            )
        node = inputs[0]
    # An unused result may be computed in place, or be part of a second path of the rows.
    unused = [n for n in nodes if n.op != "placeholder" and n not in path]
    if unused:
        raise unsupported(
            join(where, unused[0].name),
            "stands beside the chain of layers, and only chains are supported",
        )
    return path[::-1]


def _step(node: Any, owner: _Owner, width: int | None, last: bool) -> Step | None:
    """Return the step of a function or method call, None if it changes nothing.

    `width` is the number of features of a row, if known.
    """
    where = owner.where
    table: Any = _METHODS if node.op == "call_method" else _FUNCTIONS
    name = table.get(node.target) if node.op in ("call_method", "call_function") else None
    if name in _ARITHMETIC:
        return _arithmetic(name, node, owner)
    first = node.args[0] if node.args else node.kwargs.get("input")
    if name is not None and name != "matmul" and not _depends_on_input(first):
        raise unsupported(where, "depends on its input in a way that no layer does")
    if name in _ACTIVATIONS:
        given = _arguments(node, OPTIONS.get(name, {}), where)
        given = {option: owner.value(value) for option, value in given.items()}
        return activation(name, given, where)
    if name == "neg":
        return affine(-1.0, 0.0, where)
    if name == "linear":
        given = _arguments(node, {"weight": None, "bias": None}, where)
        return dense(owner.value(given["weight"]), owner.value(given["bias"]), where)
    if name == "matmul" and len(node.args) == 2 and not node.kwargs and _depends_on_input(first):
        weight = to_numpy(owner.value(node.args[1]), where)
        if weight.ndim == 2:
            return Dense(weight, None, where)
    if name == "dropout":
        if _arguments(node, {"p": 0.5, "training": True}, where)["training"]:
            raise unsupported(
                where, "dropout is active; call model.eval() first, and pass training=self.training"
            )
        return None
    if name == "nothing":
        return None
    if name == "flatten":
        given = _arguments(node, {"start_dim": 0, "end_dim": -1}, where)
        require_flat(given["start_dim"], given["end_dim"], where)
        return None
    # view(n, -1) and view(-1, width) flatten rows. squeeze(-1) at the end drops the dimension of a
    # single output.
    if name in ("view", "reshape") and len(node.args) == 3:
        count, features = node.args[1:]
        if features == -1 and _is_row_count(count):
            return None
        if count == -1 and isinstance(features, int) and features == (width or features):
            return None
    if name == "squeeze" and last and _arguments(node, {"dim": None}, where)["dim"] in (-1, 1):
        return SQUEEZED._replace(where=where)
    raise unsupported(where, f"{_name(node)} is not supported")


# Arguments that change nothing but the precision of a result, and the input by its name.
_HARMLESS = {"input", "inplace", "dtype", "memory_format", "_stacklevel"}


def _is_row_count(node: Any) -> bool:
    """Return whether a node is the row count ``y.size(0)``, ``y.shape[0]`` or ``y.size()[0]``."""
    if not isinstance(node, fx.Node) or node.kwargs:
        return False
    sized = node
    if node.op == "call_function" and node.target is operator.getitem and node.args[1] == 0:
        sized = node.args[0]
        if sized.op == "call_function" and sized.target is getattr and sized.args[1] == "shape":
            return _depends_on_input(sized.args[0])
    given = sized.args[1:] if sized is node else (0, *sized.args[1:])
    is_size = sized.op == "call_method" and sized.target == "size" and given == (0,)
    return is_size and _depends_on_input(sized.args[0])


def _arguments(node: Any, options: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the options of a call, with defaults for those not given."""
    given = dict(zip(options, node.args[1:], strict=False))
    # The only positional argument after the options is the `inplace` of some functions.
    more = node.args[1 + len(options) :]
    unknown = [name for name in node.kwargs if name not in options and name not in _HARMLESS]
    if unknown or len(more) > 1 or not all(isinstance(value, bool) for value in more):
        raise unsupported(where, f"{_name(node)} with options is not supported")
    return {
        **options,
        **given,
        **{name: value for name, value in node.kwargs.items() if name in options},
    }


def _arithmetic(name: str, node: Any, owner: _Owner) -> Step:
    where = owner.where
    if len(node.args) != 2 or node.kwargs:
        raise unsupported(where, f"{_name(node)} with options is not supported")
    left, right = node.args
    reverse = _depends_on_input(right)
    if reverse and _depends_on_input(left):
        raise unsupported(
            where, f"{_name(node)} of two values that depend on the input is not supported"
        )
    if reverse and writes(node):
        raise unsupported(where, f"{_name(node)} changes a tensor of the module in place")
    constant = owner.value(left if reverse else right)
    if isinstance(constant, complex) or (
        isinstance(constant, torch.Tensor) and constant.is_complex()
    ):
        raise unsupported(where, f"{_name(node)} of a complex number is not supported")
    if isinstance(constant, torch.Tensor):
        constant = to_numpy(constant.to(torch.float64), where)
    value = np.asarray(constant, np.float64)
    if value.ndim == 2 and value.shape[0] == 1:
        value = value[0]
    if name == "add":
        return affine(1.0, value, where)
    if name == "mul":
        return affine(value, 0.0, where)
    if name == "sub":
        return affine(-1.0, value, where) if reverse else affine(1.0, -value, where)
    if reverse or not value.all():
        raise unsupported(where, "a division by a result, or by 0, is not supported")
    return affine(1.0 / value, 0.0, where)


def _depends_on_input(node: Any) -> bool:
    if not isinstance(node, fx.Node):
        return False
    return node.op == "placeholder" or any(_depends_on_input(n) for n in node.all_input_nodes)


def _name(node: Any) -> str:
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))

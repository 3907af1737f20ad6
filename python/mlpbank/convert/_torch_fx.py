"""PyTorch modules with their own forward, which torch.fx traces and this reads as a chain."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx

from mlpbank.convert._chain import Dense, Step, affine, join, unsupported
from mlpbank.convert._torch_functions import (
    ACTIVATIONS,
    ARITHMETIC,
    FUNCTIONS,
    METHODS,
    ONE_OF_ONE,
    RESHAPES,
)
from mlpbank.convert._torch_hooks import require_initialized, require_known_parametrization
from mlpbank.convert._torch_kinds import fingerprint
from mlpbank.convert._torch_mode import as_in_eval_mode
from mlpbank.convert._torch_parts import (
    OPTIONS,
    Chain,
    Plans,
    activation,
    dense,
    to_numpy,
)
from mlpbank.convert._torch_shapes import is_reshape, node_name, require_rows, reshape, words
from mlpbank.convert._torch_trace import (
    ROW_COUNT,
    ROWS,
    Traced,
    called_as_usual,
    check,
    evaluate,
    trace,
    writes,
)

CollectLayer = Callable[[Any, str, Chain, Plans], None]


def collect(
    module: Any, where: str, chain: Chain, plans: Plans, collect_layer: CollectLayer
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
    row, output = chain.row(), chain.output
    key = fingerprint(module)
    key = None if key is None else (key, row, output)
    plan = plans.get(key) if key is not None else None
    if plan is not None and plan.is_plain:
        _follow(plan, module, where, chain, plans, collect_layer)
        return
    with as_in_eval_mode(module, where):
        begin, is_new = len(chain), plan is None
        if plan is None:
            require_initialized(module, where)
            traced = trace(module, where, row, output)
            plan = _Plan.of(traced, where, module, row)
            if key is not None and traced.reusable:
                plans[key] = plan
        _follow(plan, module, where, chain, plans, collect_layer, is_new)
        if is_new:
            check(module, chain[begin:], where, plan.traced, output)


class _Plan(NamedTuple):
    """A traced forward, which holds for all modules of one kind."""

    traced: Traced
    path: list[tuple[Any, Any]]  # nodes, each with the one before it
    is_plain: bool  # no constant is computed from parameters
    is_vector: bool  # the results have lost the dimension of their features

    @classmethod
    def of(cls, traced: Traced, where: str, module: Any, row: Any) -> _Plan:
        """Return the plan of a graph."""
        path = _data_path(traced.graph, where, module)
        end = path[-1][0].meta.get("shape") if path else (ROWS, *traced.row)
        on_path = {node for node, _ in path}
        computes = (
            n.op == "get_attr" or (n.op == "call_module" and n not in on_path)
            for n in traced.graph.nodes
        )
        return cls(traced, path, not any(computes), end == (ROWS,))


def _follow(
    plan: _Plan,
    module: Any,
    where: str,
    chain: Chain,
    plans: Plans,
    collect_layer: CollectLayer,
    is_new: bool = False,
) -> None:
    """Append the steps of a plan, with the parameters of one module."""
    output = chain.output
    chain.output, chain.taken = None, output is not None
    for node, source in plan.path:
        shape, after = source.meta.get("shape"), node.meta.get("shape")
        chain.is_vector = shape == (ROWS,)
        if node.op == "call_module":
            place = join(where, node.target)
            if len(node.args) + len(node.kwargs) != 1:
                raise unsupported(place, "is called with more than its input")
            part = module.get_submodule(node.target)
            if not is_reshape(part, shape, after):
                if is_new:
                    require_rows(part, shape, place)
                collect_layer(part, place, chain, plans)
        else:
            owner = _Owner(module, plan.traced.made, join(where, node.name))
            step = _step(node, owner, shape, after)
            if step is not None:
                chain.append(step)
    chain.output, chain.is_vector = output, plan.is_vector


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
        if argument.op not in ("call_method", "call_function", "call_module"):
            raise unsupported(self.where, "depends on its input in a way that no layer does")
        args: Any = self._values(argument.args)
        kwargs: Any = self._values(argument.kwargs)
        call = argument.target
        if any(value is ROW_COUNT for value in args):
            if call not in ("expand", "view", "reshape", "repeat"):
                raise unsupported(self.where, "depends on the number of rows, as no layer does")
            args = [1 if value is ROW_COUNT else value for value in args]
        if argument.op == "call_module":
            call = self._layer(argument.target)
        if argument.op == "call_method":
            call = getattr(args[0], call)
            args = args[1:]
        return evaluate(lambda: call(*args, **kwargs), self.where, node_name(argument))

    def _layer(self, target: str) -> Any:
        """Return a layer of PyTorch that computes a constant."""
        layer = self.module.get_submodule(target)
        if type(layer).__name__ == "ParametrizationList":
            require_known_parametrization(layer, target, self.where)
        elif not type(layer).__module__.startswith("torch.nn.modules.") or (
            layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__
        ):
            raise unsupported(self.where, f"{target} computes a constant, and may do anything")
        return layer

    def _values(self, arguments: Any) -> Any:
        if isinstance(arguments, (tuple, list)):
            return [self._values(a) for a in arguments]
        if isinstance(arguments, dict):
            return {name: self._values(a) for name, a in arguments.items()}
        return self.value(arguments)


def _data_path(graph: Any, where: str, module: Any) -> list[tuple[Any, Any]]:
    """Return the nodes that rows pass through, first to last, each with the one before it."""
    modules = dict(module.named_modules())
    data: list[Any] = []  # nodes that depend on the values of the input, not only on its shape
    known: set[Any] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(n in known for n in _inputs(node)):
            data.append(node)
            known.add(node)
    for node in graph.nodes:
        if node not in known and writes(node):
            raise unsupported(
                join(where, node.name), f"{node_name(node)} changes a tensor of the module in place"
            )
    *nodes, output = data if data[-1].op == "output" else [*data, list(graph.nodes)[-1]]
    if output.op != "output" or not isinstance(output.args[0], fx.Node):
        raise unsupported(
            where, "expected a forward that returns one tensor computed from its input"
        )
    if output.args[0] not in known:
        raise unsupported(where, "the result does not depend on the rows, as those of layers do")
    path: list[tuple[Any, Any]] = []
    node = output.args[0]
    while node.op != "placeholder":
        inputs = [n for n in _inputs(node) if n in known]
        if len(inputs) != 1:
            raise unsupported(
                join(where, node.name), "joins several results, and only chains are supported"
            )
        path.append((node, inputs[0]))
        node = inputs[0]
    # A result that is not used, such as another head's, matters only if it is computed in place.
    used = {node for node, _ in path}
    for node in nodes:
        if node not in used and node.op != "placeholder" and _may_write(node, modules):
            raise unsupported(
                join(where, node.name),
                f"{node_name(node)} stands beside the chain of layers and may change its rows "
                "in place",
            )
    return path[::-1]


def _inputs(node: Any) -> list[Any]:
    """Return the nodes whose values matter. Of some arguments only type or shape does."""
    if node.op == "call_method" and node.target in ("to", "type_as", "view_as", "reshape_as"):
        return [node.args[0]]
    return list(node.all_input_nodes)


def _may_write(node: Any, modules: dict[str, Any]) -> bool:
    if node.op == "call_module":
        return getattr(modules.get(node.target), "inplace", False) is True
    return writes(node) or any(value is True for value in node.args)


def _step(node: Any, owner: _Owner, shape: Any, after: Any) -> Step | None:
    """Return the step of a function or method call, None if it changes nothing.

    `shape` and `after` are the shapes of `ROWS` rows before and after it, None if unknown.
    """
    where = owner.where
    table: Any = METHODS if node.op == "call_method" else FUNCTIONS
    name = table.get(node.target) if node.op in ("call_method", "call_function") else None
    if name in ARITHMETIC:
        return _arithmetic(name, node, owner)
    first = node.args[0] if node.args else node.kwargs.get("input")
    if name in ONE_OF_ONE and isinstance(first, (tuple, list)) and len(first) == 1:
        first = first[0]
    if name is not None and name != "matmul" and not _depends_on_input(first):
        raise unsupported(where, "depends on its input in a way that no layer does")
    if name in RESHAPES and shape is not None and after is not None:
        reshape(name, node, shape, after, where)
        return None
    if name == "softmax":
        _require_last(node, shape, where)
    if name in ACTIVATIONS:
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
                where, "dropout is active in eval mode too; pass training=self.training"
            )
        return None
    if name == "nothing":
        dtype = node.meta.get("dtype")
        if dtype is not None and not dtype.is_floating_point:
            raise unsupported(where, f"{node_name(node)} makes whole numbers of results ({dtype})")
        return None
    raise unsupported(where, f"{node_name(node)} is not supported")


def _require_last(node: Any, shape: Any, where: str) -> None:
    """Raise if a softmax does not run over all features of a row."""
    dim = _arguments(node, OPTIONS["softmax"], where)["dim"]
    if shape is None or dim not in (-1, 1, None):
        return
    if len(shape) != 2:
        raise unsupported(
            where, f"softmax of {words(shape)} does not run over the features of a row"
        )


# Arguments that change nothing but the precision of a result, and the input by its name.
_HARMLESS = {"input", "inplace", "dtype", "memory_format", "_stacklevel"}


def _arguments(node: Any, options: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the options of a call, with defaults for those not given."""
    given = dict(zip(options, node.args[1:], strict=False))
    # The only positional argument after the options is the `inplace` of some functions.
    more = node.args[1 + len(options) :]
    unknown = [name for name in node.kwargs if name not in options and name not in _HARMLESS]
    if unknown or len(more) > 1 or not all(isinstance(value, bool) for value in more):
        raise unsupported(where, f"{node_name(node)} with options is not supported")
    return {
        **options,
        **given,
        **{name: value for name, value in node.kwargs.items() if name in options},
    }


def _arithmetic(name: str, node: Any, owner: _Owner) -> Step:
    where = owner.where
    if len(node.args) != 2 or node.kwargs:
        raise unsupported(where, f"{node_name(node)} with options is not supported")
    left, right = node.args
    reverse = _depends_on_input(right)
    if reverse and _depends_on_input(left):
        raise unsupported(
            where, f"{node_name(node)} of two values that depend on the input is not supported"
        )
    if reverse and writes(node):
        raise unsupported(where, f"{node_name(node)} changes a tensor of the module in place")
    constant = owner.value(left if reverse else right)
    if constant is ROW_COUNT:
        raise unsupported(
            where, f"{node_name(node)} depends on the number of rows, as no layer does"
        )
    if isinstance(constant, complex) or (
        isinstance(constant, torch.Tensor) and constant.is_complex()
    ):
        raise unsupported(where, f"{node_name(node)} of a complex number is not supported")
    if isinstance(constant, torch.Tensor):
        constant = to_numpy(constant.to(torch.float64), where)
    value = np.asarray(constant, np.float64)
    if value.ndim == 2 and value.shape[0] == 1:
        value = value[0]
    if name == "add":
        return affine(1.0, value, where)
    if name == "mul":
        return affine(value, 0.0, where)
    if name == "rsub":
        return affine(-1.0, value, where)
    if name == "sub":
        return affine(-1.0, value, where) if reverse else affine(1.0, -value, where)
    if reverse or not value.all():
        raise unsupported(
            where,
            "a division by 0 is not supported"
            if not reverse
            else "a number divided by a result is not supported, only a result by a number",
        )
    return affine(1.0 / value, 0.0, where)


def _depends_on_input(node: Any) -> bool:
    if not isinstance(node, fx.Node):
        return False
    return node.op == "placeholder" or any(_depends_on_input(n) for n in node.all_input_nodes)

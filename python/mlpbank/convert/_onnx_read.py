"""Reads an ONNX graph node by node, from the inputs to one output."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from onnx import helper

from mlpbank.architecture import Activation
from mlpbank.convert._chain import (
    Activate,
    Step,
    affine,
    batch_norm,
    prelu,
    require,
    unsupported,
)
from mlpbank.convert._columns import Select
from mlpbank.convert._onnx_activations import ACTIVATIONS, ELEMENTWISE, activation, activation_of
from mlpbank.convert._onnx_constants import (
    STANDARD,
    Array,
    attributes_of,
    evaluate,
    fold,
    where_of,
)
from mlpbank.convert._onnx_dims import ROWS, feature_axis, features, rows_stand_first
from mlpbank.convert._onnx_graph import Graph
from mlpbank.convert._onnx_inputs import FLOATS, read_inputs
from mlpbank.convert._onnx_operators import (
    ARITHMETIC,
    TAKES_INTEGERS,
    check_elementwise,
    check_operator,
    refusal,
)
from mlpbank.convert._onnx_rows import Rows, arithmetic, dense, finished, in_words, joined
from mlpbank.convert._onnx_shapes import (
    SHAPES,
    Node,
    Symbols,
    computed_symbols,
    shape_symbols,
    split,
)
from mlpbank.convert._recognise import agrees
from mlpbank.errors import InvalidValueError

_LONGEST = 32  # nodes; no activation has nearly as many


class Reader:
    """What the tensors of a graph are: constants, shapes, or rows after some steps."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = graph.constants
        self.symbols: dict[str, Symbols] = {}
        self.rows, self.batch, self.width = read_inputs(graph.inputs)
        self._users: dict[str, list[Any]] = {}
        self._done: set[str] = set()  # inside activations that are made of several nodes
        self._output = ""

    def steps(self, tensor: str, columns: int | None) -> list[Step | Select]:
        """Return the steps to a tensor. It must have as many columns, if that is not None."""
        self._output = tensor
        self._keep()
        i = 0
        while i < len(self.graph.nodes) and tensor not in self.rows:
            node = self.graph.nodes[i]
            if self._is_ready(node):
                i += 1
            elif node.op_type == "If" and node.domain in STANDARD:
                self.graph.replace(i, self._branch(node))
                self._keep()
                i = 0
            else:
                self._read(node)
                i += 1
        return self._finished(tensor, columns)

    def _keep(self) -> None:
        self.graph.keep([self._output])
        self._users = {}
        for node in self.graph.nodes:
            if node.op_type not in ("Shape", "Size"):
                for name in {*node.input}:
                    self._users.setdefault(name, []).append(node)

    def _finished(self, tensor: str, columns: int | None) -> list[Step | Select]:
        rows = self.rows.get(tensor)
        if rows is None:
            raise unsupported(
                tensor, "leads nowhere: the output does not depend on the input through a chain"
            )
        count = features(rows.dims)
        mixed = self.batch != 1 and not rows_stand_first(rows.dims)
        if mixed or (count != 1 and feature_axis(rows.dims) is None):
            raise unsupported(
                tensor,
                f"its shape {in_words(rows.dims)} is not that of one vector for each row; Flatten "
                "or Transpose has to stand last",
            )
        if columns is not None and columns != count:
            raise unsupported(
                tensor, f"expected each of its {count} columns as an output, got {columns}"
            )
        return finished(rows, self.width)

    def _branch(self, node: Any) -> list[Any]:
        """Return the nodes that an If stands for. Its condition has to be a constant by now."""
        where = where_of(node)
        if node.input[0] not in self.constants:
            raise unsupported(where, refusal("If"))
        wanted = "then_branch" if self.constants[node.input[0]].all() else "else_branch"
        branch = attributes_of(node)[wanted]
        if branch.initializer or len(branch.output) != len(node.output):
            raise unsupported(where, "If with weights inside a branch is not supported")
        ends = [
            helper.make_node("Identity", [inner.name], [outer], where)
            for inner, outer in zip(branch.output, node.output, strict=True)
        ]
        return [*branch.node, *ends]

    def _is_ready(self, node: Any) -> bool:
        """Return whether no rows are needed to know the results of a node, and compute them."""
        result = node.output[0]
        if result in self.constants or result in self._done or result in self.rows:
            return True
        results = fold(node, self.constants, self.graph.opsets)
        if results is not None:
            self.constants |= results
            return True
        if node.domain not in STANDARD:
            return False
        if node.op_type == "Shape" and node.input[0] in self.rows:
            self._add_symbols(
                node, shape_symbols(self.rows[node.input[0]].dims, attributes_of(node))
            )
            return True
        known = [self._value(name) for name in node.input]
        if node.input[0] in self.rows or not any(name in self.symbols for name in node.input):
            return False
        if any(value is None for value in known):
            return False
        self._add_symbols(node, computed_symbols(node, known))
        return True

    def _value(self, name: str) -> Any:
        return self.constants.get(name, self.symbols.get(name)) if name else None

    def _add_symbols(self, node: Any, value: Symbols) -> None:
        value = np.asarray(value, object)
        if any(isinstance(v, str) for v in value.ravel()):
            self.symbols[node.output[0]] = value
        else:
            self.constants[node.output[0]] = value.astype(np.int64)

    def _read(self, node: Any) -> None:
        """Read a node that computes rows from rows."""
        where, op = where_of(node), node.op_type
        check_operator(node, where)
        data = [name for name in node.input if name in self.rows]
        lost = [n for n in node.input if n and n not in self.rows and self._value(n) is None]
        if lost:
            raise unsupported(where, f"reads {lost[0]!r}, which no earlier node makes")
        if not data:
            raise unsupported(where, refusal(op))
        if op in ("Concat", "FeatureVectorizer"):
            self.rows[node.output[0]] = self._joined(node, data, where)
            return
        if op == "CastLike":
            self.rows[node.output[0]] = self._cast_like(node, where)
            return
        tensor = data[0]
        # What reads a tensor twice may be an activation of several nodes, which is one step.
        if len(self._users.get(tensor, ())) > 1 and self._region(tensor):
            return
        if len(data) > 1:
            raise unsupported(
                where,
                f"{op} of two computed tensors ({', '.join(map(repr, data))}) is neither a chain "
                "of layers nor an activation mlpbank has",
            )
        rows = self.rows[tensor]
        if rows.whole and op not in TAKES_INTEGERS:
            raise unsupported(
                where, f"{op} of whole numbers is not supported; Cast to float has to stand first"
            )
        if op == "Split":
            given = self._shape_node(node)
            parts = split(rows, given, len(node.output))
            self.rows |= dict(zip(node.output, parts, strict=True))
            return
        # -x begins a sigmoid that is written with exp, and else is a scale.
        if op == "Neg" and self._region(tensor):
            return
        found = self._step(node, rows, where)
        if found is not None:
            self.rows[node.output[0]] = found
        elif not self._region(tensor):
            raise unsupported(
                where, f"{op} is not supported, or not part of an activation mlpbank has"
            )

    def _cast_like(self, node: Any, where: str) -> Rows:
        x, like = node.input
        rows = self.rows.get(like)
        whole = self.constant(like, where).dtype.kind != "f" if rows is None else rows.whole
        if whole or x not in self.rows:
            raise unsupported(where, "CastLike to anything but floating point is not supported")
        return self.rows[x]._replace(whole=False)

    def _joined(self, node: Any, data: list[str], where: str) -> Rows:
        if len(data) != len(node.input):
            raise unsupported(where, f"{node.op_type} with a constant is not supported")
        parts = [self.rows[name] for name in data]
        if node.op_type == "Concat":
            if len({part.whole for part in parts}) > 1:
                raise InvalidValueError(f"{where}: expected tensors of one type for Concat")
            return joined(parts, attributes_of(node)["axis"], where)
        return joined(parts, 1, where)._replace(whole=False)

    def _shape_node(self, node: Any) -> Node:
        arguments = [self._value(name) for name in node.input[1:]]
        return Node(node.op_type, where_of(node), attributes_of(node), arguments, self.batch)

    def _step(self, node: Any, rows: Rows, where: str) -> Rows | None:
        """Return the rows after a node, or None if only several nodes together are known."""
        op, attributes = node.op_type, attributes_of(node)
        first = node.input[0] in self.rows
        if op in ("Gemm", "MatMul"):
            return self._product(node, rows, attributes, where)
        if op in ARITHMETIC:
            value = self.constant(node.input[1 if first else 0], where)
            return arithmetic(rows, op, value, first, where)
        if not first:
            check_elementwise(op, where)
            return None
        if op in SHAPES:
            return SHAPES[op](rows, self._shape_node(node))
        if op == "Softmax":
            return rows.then(self._softmax(rows, attributes, where))
        if op in ACTIVATIONS:
            return rows.then(activation(op, attributes, where))
        if op == "PRelu":
            return rows.then(prelu(self.constant(node.input[1], where), where))
        if op == "BatchNormalization":
            return rows.then(self._batch_norm(node, rows, attributes, where))
        if op == "Scaler":
            scale = np.asarray(attributes.get("scale", [1.0]), np.float64)
            shift = -np.asarray(attributes.get("offset", [0.0]), np.float64) * scale
            return rows.then(affine(scale, shift, where))
        if op == "LinearRegressor":
            return _linear_regressor(rows, attributes, where)
        if op == "Dropout":
            if len(node.input) > 2 and node.input[2] and self.constant(node.input[2], where).any():
                raise unsupported(where, "Dropout is in training mode")
            return rows
        if op == "Cast":
            if attributes["to"] not in FLOATS:
                raise unsupported(where, "Cast to anything but floating point is not supported")
            return rows._replace(whole=False)
        if op == "Identity":
            return rows
        if op == "Neg":
            return rows.then(affine(-1.0, 0.0, where))
        check_elementwise(op, where)
        return None

    def _product(self, node: Any, rows: Rows, attributes: dict[str, Any], where: str) -> Rows:
        left = node.input[0] not in self.rows
        weight = self.constant(node.input[0 if left else 1], where)
        if node.op_type == "MatMul":
            return dense(rows, weight, None, where, left)
        if weight.ndim != 2 or len(rows.dims) != 2:
            raise unsupported(
                where, f"expected matrices for Gemm, got {in_words(rows.dims)} and {weight.shape}"
            )
        turned = [bool(attributes.get(name, 0)) for name in ("transA", "transB")]
        if turned[0 if left else 1]:
            weight = weight.T
        if turned[1 if left else 0]:
            rows = rows._replace(dims=rows.dims[::-1])
        alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
        if alpha != 1:
            weight = weight.astype(np.float64) * alpha
        bias = None
        if len(node.input) > 2 and node.input[2]:
            bias = self.constant(node.input[2], where)
            bias = bias if beta == 1 else bias.astype(np.float64) * beta
        return dense(rows, weight, bias, where, left)

    def _softmax(self, rows: Rows, attributes: dict[str, Any], where: str) -> Activate:
        old = self.graph.opset < 13  # then all dimensions from the axis on are one
        axis = attributes.get("axis", 1 if old else -1)
        at = axis + len(rows.dims) if axis < 0 else axis
        wide = feature_axis(rows.dims)
        if (
            wide is None
            or (at > wide if old else at != wide)
            or ROWS in rows.dims[at if old else wide :]
        ):
            raise unsupported(
                where, f"Softmax: expected axis {wide}, that of the features, got {axis}"
            )
        return Activate(Activation.SOFTMAX, where)

    def _batch_norm(self, node: Any, rows: Rows, attributes: dict[str, Any], where: str) -> Step:
        require(where, "BatchNormalization", "spatial", attributes.get("spatial", 1), (1,))
        # Before opset 14, further outputs mean training mode.
        if attributes.get("training_mode", 0) or any(node.output[1:]):
            raise unsupported(where, "BatchNormalization is in training mode")
        gamma, beta, mean, variance = (self.constant(name, where) for name in node.input[1:5])
        count = features(rows.dims[:2])
        if rows.dims[:1] != (ROWS,) or len(rows.dims) < 2:
            raise unsupported(
                where, f"BatchNormalization of {in_words(rows.dims)} is not supported"
            )
        if any(d != 1 for d in rows.dims[2:]):
            raise unsupported(
                where, "BatchNormalization of inputs that are not flat; Flatten has to stand first"
            )
        if count is not None and any(a.shape != (count,) for a in (gamma, beta, mean, variance)):
            raise unsupported(where, f"expected a statistic for each of {count} features")
        return batch_norm(mean, variance, gamma, beta, attributes.get("epsilon", 1e-5), where)

    def _region(self, tensor: str) -> bool:
        """Read the activation that several nodes form, and return whether there is one.

        Opsets below 20 have no Gelu, and silu is x * Sigmoid(x), so exporters write several nodes.
        Of several regions the longest counts: exp(x) begins log(1 + exp(x)).
        """
        best: tuple[Activate, list[Any]] | None = None
        region: list[Any] = []
        names = {tensor}
        rank = len(self.rows[tensor].dims)
        for node in self.graph.nodes:
            data = [name for name in node.input if name not in self.constants and name]
            if not data or not all(name in names for name in data):
                continue
            if (
                len(region) == _LONGEST
                or node.op_type not in ELEMENTWISE
                or node.domain not in STANDARD
            ):
                break
            constants = [self.constants[name] for name in node.input if name in self.constants]
            if any(a.size != 1 or a.ndim > rank for a in constants):
                break
            region.append(node)
            names.add(node.output[0])
            inside = [id(n) for n in region]
            read = {n for other in self.graph.nodes if id(other) not in inside for n in other.input}
            live = {name for name in names if name == self._output or name in read}
            if live == {node.output[0]}:  # all paths of the region join here
                result = node.output[0]
                found = activation_of(region, result, tensor, self.constants)
                compute = partial(self._computed, region[:], result, tensor)
                if found is not None and agrees(compute, found):
                    best = found._replace(where=where_of(node)), region[:]
        if best is None:
            return False
        step, nodes = best
        self._done.update(node.output[0] for node in nodes)
        rows = self.rows[tensor]
        if rows.whole:
            raise unsupported(
                step.where,
                f"{nodes[-1].op_type} of whole numbers is not supported; Cast to float has to "
                "stand first",
            )
        self.rows[nodes[-1].output[0]] = rows.then(step)
        return True

    def _computed(self, region: list[Any], result: str, tensor: str, x: Array) -> Array:
        return evaluate(region, result, {tensor: x}, self.constants, self.graph.opsets)

    def constant(self, name: str, where: str) -> Array:
        """Return a constant."""
        if name not in self.constants:
            raise unsupported(where, f"expected {name!r} to be a constant, got a computed value")
        return self.constants[name]


def _linear_regressor(rows: Rows, attributes: dict[str, Any], where: str) -> Rows:
    transform = attributes.get("post_transform", b"NONE")
    require(where, "LinearRegressor", "post_transform", transform, (b"NONE",))
    targets = attributes.get("targets", 1)
    weight = np.asarray(attributes["coefficients"], np.float32).reshape(targets, -1).T
    bias = np.asarray(attributes.get("intercepts") or [0.0] * targets, np.float32)
    return dense(rows._replace(whole=False), weight, bias, where)

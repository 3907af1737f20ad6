"""The nodes of an ONNX graph that lead to an output: functions inlined, constants known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from onnx import helper

from mlpbank.convert._chain import require, unsupported
from mlpbank.convert._onnx_constants import STANDARD, Array, attributes_of, fold, to_array, where_of
from mlpbank.errors import InvalidValueError

_FUSED_ACTIVATIONS = {
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"), ()),
}


class Graph:
    """A graph whose constants are folded.

    Attributes
    ----------
    nodes : list of NodeProto
        All other nodes, in order.
    constants : dict of str to array
        Initializers, and what depends on nothing but them.
    """

    def __init__(self, model: Any) -> None:
        model = _inlined(model)
        graph = self.proto = model.graph
        if graph.sparse_initializer:
            raise unsupported(
                "", "sparse initializers are not supported; store the weights as dense ones"
            )
        self.opsets = model.opset_import
        _check_versions(model)
        self.constants: dict[str, Array] = {t.name: to_array(t) for t in graph.initializer}
        self.inputs = [v for v in graph.input if v.name not in self.constants]
        self.nodes: list[Any] = []
        self._made = {*self.constants, *(v.name for v in self.inputs)}
        self.extend(graph.node)

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return int(next(o.version for o in self.opsets if o.domain in STANDARD))

    def extend(self, nodes: Iterable[Any], at: int | None = None) -> None:
        """Add nodes, at the end by default; those of constants become constants."""
        kept: list[Any] = []
        for given in nodes:
            for node in _plain(given):
                for name in filter(None, node.output):
                    if name in self._made:
                        raise InvalidValueError(
                            f"{where_of(node)}: expected a new name for its result, "
                            f"got {name!r}, which is there already"
                        )
                    self._made.add(name)
                results = fold(node, self.constants, self.opsets)
                if results is None:
                    kept.append(node)
                else:
                    self.constants |= results
        place = len(self.nodes) if at is None else at
        self.nodes[place:place] = kept

    def replace(self, at: int, nodes: Iterable[Any]) -> None:
        """Put other nodes, which make the same results, in the place of one."""
        self._made.difference_update(self.nodes.pop(at).output)
        self.extend(nodes, at)

    def keep(self, names: Iterable[str]) -> None:
        """Drop the nodes that these tensors do not depend on."""
        needed, kept = set(names), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(names_in(node))
        self.nodes = kept[::-1]


def names_in(node: Any) -> Iterator[str]:
    """Yield the tensors that a node reads, in its subgraphs too."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (output.name for output in graph.output)
            for inner in graph.node:
                yield from names_in(inner)


def _inlined(model: Any) -> Any:
    if own := [f.name for f in model.functions if f.domain in (*STANDARD, "ai.onnx.ml")]:
        raise unsupported(
            "",
            f"{own[0]} is a function of the model's own, which may compute anything, under the "
            "name of an operator; give it a domain of its own",
        )
    if not model.functions:
        return model
    from onnx import inliner

    return inliner.inline_local_functions(model)


def _check_versions(model: Any) -> None:
    versions = [o.version for o in model.opset_import if o.domain in STANDARD]
    if not versions:
        raise InvalidValueError("expected an opset of the standard operators, got none")
    if versions[0] < 7:
        raise unsupported(
            "",
            f"opset {versions[0]} is not supported; onnx.version_converter makes a later one of it",
        )
    if versions[0] > (newest := onnx.defs.onnx_opset_version()):
        raise unsupported(
            "",
            f"opset {versions[0]} is newer than those that onnx {onnx.__version__} knows (up to "
            f"{newest}); pip install -U onnx, or export in an older opset",
        )


def _plain(node: Any) -> list[Any]:
    """Return a fused node of onnxruntime as standard nodes, any other node as it is."""
    if node.domain != "com.microsoft":
        return [node]
    op, where, attributes = node.op_type, where_of(node), attributes_of(node)
    x, *others = node.input
    result = node.output[0]

    def made(kind: str, inputs: list[str], output: str, **options: Any) -> Any:
        return helper.make_node(kind, inputs, [output], where, **options)

    if op == "FusedMatMul":
        for name in ("transBatchA", "transBatchB"):
            require(where, op, name, attributes.pop(name, 0), (0,))
        return [made("Gemm", list(node.input), result, **attributes)]
    if op == "FusedGemm":
        kind = attributes.pop("activation", b"").decode() or "Identity"
        given = {n[11:]: attributes.pop(n) for n in [*attributes] if n.startswith("activation_")}
        if kind not in (*_FUSED_ACTIVATIONS, "Identity"):
            raise unsupported(where, f"FusedGemm with activation {kind} is not supported")
        options = {n: given[n] for n in _FUSED_ACTIVATIONS.get(kind, ()) if n in given}
        sums = f"{result} before {kind}"
        return [
            made("Gemm", list(node.input), sums, **attributes),
            made(kind, [sums], result, **options),
        ]
    if op in ("Gelu", "FastGelu", "BiasGelu") and not attributes:
        sums = f"{result} before Gelu"
        first = [made("Add", [x, others[0]], sums)] if others and others[0] else []
        form = "tanh" if op == "FastGelu" else "none"
        return [*first, made("Gelu", [sums if first else x], result, approximate=form)]
    if op == "QuickGelu":
        return [made("Swish", [x], result, alpha=attributes.get("alpha", 1.702))]
    return [node]

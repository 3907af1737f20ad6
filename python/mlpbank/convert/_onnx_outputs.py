"""Which tensor of an ONNX graph a bank computes, and what the graph tells of it besides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlpbank.convert._chain import unsupported
from mlpbank.convert._onnx_constants import attributes_of
from mlpbank.convert._onnx_graph import Graph
from mlpbank.errors import InvalidValueError

# What may stand between the number of the largest probability and a label.
_OF_LABELS = {"Cast", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Gather"}
_OF_LABELS |= {"ArrayFeatureExtractor", "LabelEncoder"}
# What keeps the order of scores, so that a label of one is a label of the other.
_OF_SCORES = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_OF_SCORES |= {"Softmax", "LogSoftmax", "Sigmoid"}
_OF_COLUMNS = {"Reshape", "Identity", "Squeeze", "Flatten", "Cast"}


class Choice(NamedTuple):
    """The tensor that is computed; `columns` is how many outputs it is written as, if several.

    `classes` are the labels of its columns, where the graph tells them.
    """

    tensor: str
    columns: int | None
    classes: tuple[Any, ...] | None


def choose(graph: Graph, output: str | int | None) -> Choice:
    """Return the tensor of an output: the one that is named, or the only one.

    The label of a classifier is left out beside its probabilities, and probabilities in an output
    for each class are one tensor.

    Raises
    ------
    UnsupportedLayerError
        There are several outputs, and none is chosen.
    ValueError
        There is no such output.
    """
    makers = {name: node for node in graph.nodes for name in node.output if name}
    names = [v.name for v in graph.proto.output]
    if not names:
        raise InvalidValueError("expected a graph with an output, got none")

    def chosen(tensor: str, columns: int | None = None) -> Choice:
        """Return the choice of a tensor, with the labels that an output gives to it."""
        scores = _scores(tensor, makers, graph)
        for of, classes in filter(None, (_labels(name, makers, graph) for name in names)):
            if _scores(of, makers, graph) == scores:
                return Choice(tensor, columns, classes)
        return Choice(tensor, columns, None)

    if output is not None:
        name = _named(names, output)
        if _labels(name, makers, graph) and _is_label(name, makers, graph):
            raise unsupported(
                name, "gives labels; choose the output of the probabilities, which a bank computes"
            )
        return chosen(_tensor(name, makers))
    found = [n for n in names if n not in graph.constants]
    if len(found) > 1:
        found = [n for n in found if not _is_label(n, makers, graph)] or found
    if len(found) == 1:
        return chosen(_tensor(found[0], makers))
    if whole := _of_one_tensor(found, makers, graph):
        return chosen(whole, len(found))
    if not found:
        raise unsupported(names[0], "is a constant: it does not depend on the input")
    raise unsupported(
        "",
        f"the graph has {len(found)} outputs: {', '.join(map(repr, found))}; choose one of them "
        f"with output=, such as output={found[0]!r}",
    )


def _named(names: Sequence[str], output: str | int) -> str:
    if isinstance(output, str) and output in names:
        return output
    number = isinstance(output, int) and not isinstance(output, bool)
    if number and -len(names) <= int(output) < len(names):
        return names[int(output)]
    raise InvalidValueError(
        f"output: expected one of {', '.join(map(repr, names))} or its number, got {output!r}"
    )


def _tensor(name: str, makers: dict[str, Any]) -> str:
    node = makers.get(name)
    return node.input[0] if node is not None and node.op_type == "ZipMap" else name


def _path(name: str, makers: dict[str, Any], ops: set[str], graph: Graph) -> list[Any]:
    """Return the nodes back from a tensor: those of `ops`, and the one before them."""
    path: list[Any] = []
    while (node := makers.get(name)) is not None and len(path) < 16:
        path.append(node)
        data = [n for n in node.input if n and n not in graph.constants]
        if node.op_type not in ops or len(data) != 1:
            break
        name = data[0]
    return path


def _is_label(name: str, makers: dict[str, Any], graph: Graph) -> bool:
    path = _path(name, makers, _OF_LABELS, graph)
    return bool(path) and path[-1].op_type == "ArgMax"


def _scores(name: str, makers: dict[str, Any], graph: Graph) -> str:
    """Return the tensor that another one has the order of, row by row."""
    path = _path(name, makers, _OF_SCORES, graph)
    for node in path:
        over_rows = "Softmax" in node.op_type and attributes_of(node).get("axis") in (0, -2)
        if over_rows or node.op_type not in _OF_SCORES:
            return str(node.output[0])
    return str(path[-1].input[0]) if path else name


def _labels(name: str, makers: dict[str, Any], graph: Graph) -> tuple[str, tuple[Any, ...]] | None:
    """Return a tensor and the labels of its columns, where an output tells them.

    That is a map from labels, or the label of the largest column.
    """
    path = _path(name, makers, _OF_LABELS, graph)
    if not path:
        return None
    if path[0].op_type == "ZipMap":
        attributes = attributes_of(path[0])
        labels = attributes.get("classlabels_int64s") or attributes.get("classlabels_strings", ())
        return path[0].input[0], _plain(labels)
    if path[-1].op_type != "ArgMax" or attributes_of(path[-1]).get("axis", 0) == 0:
        return None
    found = [labels for node in path if (labels := _table(node, graph)) is not None]
    return (path[-1].input[0], found[0]) if len(found) == 1 and found[0] else None


def _table(node: Any, graph: Graph) -> tuple[Any, ...] | None:
    """Return what a node makes of 0, 1, 2, ...: () if that is not known, None if the same."""
    if node.op_type in ("ArrayFeatureExtractor", "Gather"):
        table = graph.constants.get(node.input[0])
        return () if table is None else _plain(table.ravel().tolist())
    if node.op_type == "LabelEncoder":
        attributes = attributes_of(node)
        keys = list(attributes.get("keys_int64s", ()))
        values = [v for n, v in attributes.items() if n.startswith("values_")]
        known = len(values) == 1 and keys == list(range(len(keys)))
        return _plain(values[0]) if known else ()
    return None


def _plain(labels: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(v.decode() if isinstance(v, bytes) else v for v in labels)


def _of_one_tensor(names: list[str], makers: dict[str, Any], graph: Graph) -> str | None:
    """Return the tensor whose columns the outputs are, one after the other."""
    whole: str | None = None
    for i, name in enumerate(names):
        path = _path(name, makers, _OF_COLUMNS, graph)
        if not path or path[-1].op_type != "Slice" or len(path[-1].input) < 4:
            return None
        tensor, *bounds = path[-1].input
        given = [graph.constants[b].tolist() for b in bounds if b in graph.constants]
        if given != [[i], [i + 1], [1]] or whole not in (None, tensor):
            return None
        whole = tensor
    return whole

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
_OF_COLUMNS = {"Reshape", "Identity", "Squeeze", "Flatten", "Cast"}


class Choice(NamedTuple):
    """The tensor that is computed; `columns` is how many outputs it is written as, if several."""

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
    classes = next((c for n in names if (c := _classes(n, makers, graph)) is not None), None)
    if output is not None:
        name = _named(names, output)
        if classes is not None and _is_label(name, makers, graph):
            raise unsupported(
                name, "gives labels; choose the output of the probabilities, which a bank computes"
            )
        return Choice(_tensor(name, makers), None, classes)
    found = [n for n in names if n not in graph.constants]
    if len(found) > 1:
        found = [n for n in found if not _is_label(n, makers, graph)] or found
    if len(found) == 1:
        return Choice(_tensor(found[0], makers), None, classes)
    if whole := _of_one_tensor(found, makers, graph):
        return Choice(whole, len(found), classes)
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


def _classes(name: str, makers: dict[str, Any], graph: Graph) -> tuple[Any, ...] | None:
    """Return the labels that an output tells: a map from them, or one of them by its number."""
    path = _path(name, makers, _OF_LABELS, graph)
    if path and path[0].op_type == "ZipMap":
        attributes = attributes_of(path[0])
        labels = attributes.get("classlabels_int64s") or attributes.get("classlabels_strings", ())
        return tuple(v.decode() if isinstance(v, bytes) else v for v in labels)
    if not path or path[-1].op_type != "ArgMax":
        return None
    for node in path:
        if node.op_type in ("ArrayFeatureExtractor", "Gather") and node.input[0] in graph.constants:
            values = graph.constants[node.input[0]].ravel().tolist()
            return tuple(v.decode() if isinstance(v, bytes) else v for v in values)
    return None


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

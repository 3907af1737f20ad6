"""Operations of ONNX that compute shapes, or change only that of rows, or pick features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank.convert._chain import require, unsupported
from mlpbank.convert._onnx_constants import attributes_of, where_of
from mlpbank.convert._onnx_dims import (
    ANY,
    ROWS,
    Dims,
    features,
    reshaped,
    squeezed,
    transposed,
    unsqueezed,
)
from mlpbank.convert._onnx_rows import Rows, in_words, select

Symbols = npt.NDArray[np.object_]  # integers, ROWS and ANY


class Node(NamedTuple):
    """A node that reads one tensor of rows and, behind it, values that are known."""

    op: str
    where: str
    attributes: dict[str, Any]
    arguments: Sequence[Any]  # of the inputs behind the first; None if left out
    batch: int | None

    def integers(self, name: str, at: int) -> list[Any] | None:
        """Return an argument that is an attribute in older opsets, None if it is left out."""
        if name in self.attributes:
            value = self.attributes[name]
        else:
            value = self.arguments[at] if at < len(self.arguments) else None
        return None if value is None else list(np.ravel(value).tolist())


def shape_symbols(dims: Dims, attributes: Mapping[str, Any]) -> Symbols:
    """Return what Shape gives for rows of this shape."""
    return np.array(dims, object)[attributes.get("start", 0) : attributes.get("end", len(dims))]


def computed_symbols(node: Any, values: Sequence[Any]) -> Symbols:
    """Return what a node makes of shapes that are not numbers only.

    Raises
    ------
    UnsupportedLayerError
        It does more than pick from shapes and put them together.
    """
    op, attributes = node.op_type, attributes_of(node)
    x, *rest = values
    axis = attributes.get("axis", 0)
    if op in ("Cast", "Identity"):
        return np.asarray(x, object)
    if op == "Gather" and axis in (0, -1) and len(rest) == 1:
        return np.asarray(x, object)[np.asarray(rest[0], np.int64)]
    if op == "Concat":
        return np.concatenate([np.asarray(v, object) for v in values])
    if op in ("Squeeze", "Unsqueeze", "Reshape") and x.size == 1:
        return np.asarray(x, object).reshape(() if op == "Squeeze" else (1,))
    if op == "Slice" and np.ndim(x) == 1:
        inner = Node(op, where_of(node), attributes, rest, None)
        return np.asarray(x, object)[_slice(inner, 1)[1]]
    raise unsupported(
        where_of(node), f"{op} of the number of rows is not supported; export the graph without it"
    )


def flatten(rows: Rows, node: Node) -> Rows:
    dims, axis = rows.dims, node.attributes.get("axis", 1)
    axis += len(dims) if axis < 0 else 0
    count = features(dims)
    if dims[:1] == (ROWS,) and axis == 1:
        return rows._replace(dims=(ROWS, ANY if count is None else count))
    sides = (dims[:axis], dims[axis:])
    wide = [any(d not in (ROWS, 1) for d in side) for side in sides]
    if count is None or wide[0] or (ROWS in sides[1] and node.batch != 1 and count != 1):
        require(node.where, node.op, "axis", node.attributes.get("axis", 1), (1,))
        raise unsupported(node.where, f"Flatten of {in_words(dims)} does more than flatten rows")
    if ROWS in sides[1] and count == 1:
        return rows._replace(dims=(1, ROWS))
    return rows._replace(dims=(ROWS if ROWS in dims else 1, count))


def reshape(rows: Rows, node: Node) -> Rows:
    target = node.integers("shape", 0)
    if target is None:
        raise unsupported(node.where, "expected the shape of Reshape to be known")
    done = reshaped(rows.dims, target, node.batch, bool(node.attributes.get("allowzero", 0)))
    if done is None:
        text = ", ".join(map(str, target))
        raise unsupported(
            node.where,
            f"Reshape to [{text}] does more than flatten rows of {in_words(rows.dims)}; "
            "export the graph with a free batch dimension, or without the Reshape",
        )
    return rows._replace(dims=done)


def squeeze(rows: Rows, node: Node) -> Rows:
    axes = node.integers("axes", 0)
    done = squeezed(rows.dims, axes, node.batch)
    if done is None:
        raise unsupported(
            node.where,
            f"Squeeze of axes {axes} does more than drop sizes of 1 from {in_words(rows.dims)}",
        )
    return rows._replace(dims=done)


def unsqueeze(rows: Rows, node: Node) -> Rows:
    axes = node.integers("axes", 0)
    done = None if axes is None else unsqueezed(rows.dims, axes)
    if done is None:
        raise unsupported(node.where, f"Unsqueeze of axes {axes} is not valid")
    return rows._replace(dims=done)


def transpose(rows: Rows, node: Node) -> Rows:
    order = node.attributes.get("perm", list(range(len(rows.dims)))[::-1])
    done = transposed(rows.dims, order)
    if done is None:
        raise unsupported(
            node.where,
            f"Transpose of {in_words(rows.dims)} by {list(order)} changes the order of features",
        )
    return rows._replace(dims=done)


def pool(rows: Rows, node: Node) -> Rows:
    """A mean, sum or maximum over dimensions of size 1, which changes no number."""
    rank = len(rows.dims)
    keep = True
    if node.op.startswith("Global"):
        axes: list[Any] | None = list(range(2, rank))
    else:
        axes = node.integers("axes", 0)
        keep = bool(node.attributes.get("keepdims", 1))
        if not axes and node.attributes.get("noop_with_empty_axes", 0):
            return rows
    at = {axis + rank if axis < 0 else axis for axis in axes or range(rank)}
    if any(not 0 <= i < rank or rows.dims[i] != 1 for i in at):
        raise unsupported(
            node.where,
            f"{node.op} over more than sizes of 1 of {in_words(rows.dims)} is not supported",
        )
    return (
        rows
        if keep
        else rows._replace(dims=tuple(d for i, d in enumerate(rows.dims) if i not in at))
    )


def _slice(node: Node, rank: int) -> tuple[int, slice]:
    """Return the axis of a Slice along one axis, and the slice."""
    starts, ends = node.integers("starts", 0), node.integers("ends", 1)
    if starts is None or ends is None or len(starts) != 1 or len(ends) != 1:
        raise unsupported(node.where, "Slice along more than one axis is not supported")
    axes, steps = node.integers("axes", 2) or [0], node.integers("steps", 3) or [1]
    if any(not isinstance(v, int) for v in (*starts, *ends, *axes, *steps)) or not steps[0]:
        raise unsupported(node.where, "expected bounds of Slice that are numbers")
    axis = axes[0] + rank if axes[0] < 0 else axes[0]
    return axis, slice(starts[0], ends[0], steps[0])  # cut to the size as Python does it


def slice_(rows: Rows, node: Node) -> Rows:
    axis, bounds = _slice(node, len(rows.dims))
    size = _size(rows, axis, node)
    at = list(range(size))[bounds]
    return _picked(rows, axis, at, (len(at),), node)


def gather(rows: Rows, node: Node) -> Rows:
    axis = node.attributes.get("axis", 0)
    axis += len(rows.dims) if axis < 0 else 0
    if node.op == "ArrayFeatureExtractor":
        axis = len(rows.dims) - 1
    indices = np.asarray(node.arguments[0])
    if indices.dtype.kind not in "iu":
        raise unsupported(node.where, f"{node.op} by a shape is not supported")
    # The row of a fixed batch of 1, without the dimension of the batch.
    single = node.batch == 1 and indices.ndim == 0 and int(indices) in (0, -1)
    if single and axis < len(rows.dims) and rows.dims[axis] == ROWS:
        return rows._replace(dims=rows.dims[:axis] + rows.dims[axis + 1 :])
    _size(rows, axis, node)
    shape = (indices.size,) if node.op == "ArrayFeatureExtractor" else indices.shape
    return _picked(rows, axis, indices.ravel().tolist(), shape, node)


def _size(rows: Rows, axis: int, node: Node) -> int:
    size = rows.dims[axis] if 0 <= axis < len(rows.dims) else ROWS
    if not isinstance(size, int):
        what = "along the rows" if size == ROWS else "of rows whose width the graph does not tell"
        raise unsupported(node.where, f"{node.op} {what} is not supported")
    return size


def _picked(rows: Rows, axis: int, at: list[int], shape: tuple[int, ...], node: Node) -> Rows:
    others = [d for i, d in enumerate(rows.dims) if i != axis and d not in (ROWS, 1)]
    if others and at != list(range(_size(rows, axis, node))):
        raise unsupported(
            node.where,
            f"{node.op} of {in_words(rows.dims)} is not supported; Flatten has to stand first",
        )
    dims = (*rows.dims[:axis], *shape, *rows.dims[axis + 1 :])
    return rows._replace(dims=dims) if others else select(rows, at, dims, node.where)


def split(rows: Rows, node: Node, count: int) -> list[Rows]:
    """Return the parts that Split makes of rows."""
    axis = node.attributes.get("axis", 0)
    axis += len(rows.dims) if axis < 0 else 0
    size = _size(rows, axis, node)
    part = -(-size // count)
    sizes = node.integers("split", 0) or [
        *[part] * (count - 1),
        size - part * (count - 1),
    ]
    if sum(sizes) != size or len(sizes) != count or min(sizes) < 1:
        raise unsupported(node.where, f"Split of {size} features into {sizes} is not valid")
    starts = np.cumsum([0, *sizes]).tolist()
    return [_picked(rows, axis, list(range(a, b)), (b - a,), node) for a, b in pairwise(starts)]


SHAPES: dict[str, Callable[[Rows, Node], Rows]] = {
    "Flatten": flatten,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Slice": slice_,
    "Gather": gather,
    "ArrayFeatureExtractor": gather,
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), pool),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"), pool),
}

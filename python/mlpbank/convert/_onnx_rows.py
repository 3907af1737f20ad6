"""A tensor of rows in an ONNX graph: the steps that lead to it from the input, and its shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlpbank.architecture import Activation
from mlpbank.convert._chain import Activate, Affine, Dense, Step, affine, unsupported
from mlpbank.convert._columns import Select
from mlpbank.convert._onnx_constants import Array
from mlpbank.convert._onnx_dims import ROWS, Dims, feature_axis, features, spread


class Rows(NamedTuple):
    """What a tensor holds.

    `columns` are the features of the bank's rows that the steps begin with, all of them if None.
    `whole` says that the numbers are integers so far.
    """

    steps: tuple[Step, ...]
    dims: Dims
    columns: tuple[int, ...] | None = None
    whole: bool = False

    def then(self, *steps: Step, dims: Dims | None = None) -> Rows:
        """Return these rows after more steps."""
        return self._replace(
            steps=self.steps + steps, dims=self.dims if dims is None else dims, whole=False
        )


def dense(rows: Rows, weight: Array, bias: Array | None, where: str, left: bool = False) -> Rows:
    """Return ``rows @ weight + bias``, or ``weight @ rows + bias`` (`left`)."""
    if weight.dtype.kind != "f":
        raise unsupported(where, f"expected floating-point weights, got {weight.dtype}")
    matrix = weight.reshape(weight.shape[-2:]) if _leads_with_ones(weight) else weight
    if matrix.ndim == 1:
        matrix = matrix[:, None] if not left else matrix[None, :]
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise unsupported(where, f"expected a matrix, got a constant of shape {weight.shape}")
    dims = (1,) * (weight.ndim - len(rows.dims)) + rows.dims
    axis = max(len(dims) - 2, 0) if left else len(dims) - 1
    if not dims or dims[axis] == ROWS:
        raise unsupported(
            where, f"multiplies along the rows of {in_words(dims)}; Transpose has to stand first"
        )
    if any(d not in (ROWS, 1) for i, d in enumerate(dims) if i != axis):
        raise unsupported(
            where,
            f"multiplies inputs that are not flat but {in_words(dims)}; Flatten has to stand first",
        )
    if left:
        matrix = matrix.T
    if isinstance(dims[axis], int) and dims[axis] != matrix.shape[0]:
        raise unsupported(where, f"expected {dims[axis]} inputs, got {matrix.shape[0]}")
    outputs = matrix.shape[1]
    new = (*dims[:axis], *(() if weight.ndim == 1 else (outputs,)), *dims[axis + 1 :])
    values = None
    if bias is not None:
        if bias.size not in (1, outputs) or (found := spread(bias, new)) is None:
            raise unsupported(
                where, f"expected a bias for each of {outputs} outputs, got {bias.size}"
            )
        values, new = np.broadcast_to(found[0], (outputs,)), found[1]
    return rows.then(Dense(matrix, values, where), dims=new)


def _leads_with_ones(array: Array) -> bool:
    return array.ndim > 2 and all(size == 1 for size in array.shape[:-2])


def arithmetic(rows: Rows, op: str, value: Array, first: bool, where: str) -> Rows | None:
    """Return rows and a constant added, subtracted, multiplied or divided; None if not affine."""
    if value.dtype.kind not in "fiu":
        raise unsupported(where, f"{op} with a constant of {value.dtype} is not supported")
    found = spread(value, rows.dims)
    if found is None:
        raise unsupported(
            where,
            f"expected a constant for each feature, got shape {value.shape} beside rows of "
            f"{in_words(rows.dims)}",
        )
    values, dims = found[0].astype(np.float64), found[1]
    if op == "Add":
        step = affine(1.0, values, where)
    elif op == "Mul":
        step = affine(values, 0.0, where)
    elif op == "Sub":
        step = affine(1.0, -values, where) if first else affine(-1.0, values, where)
    elif not first:
        return None
    elif not values.all():
        raise unsupported(where, "a division by 0 is not supported")
    else:
        step = affine(1.0 / values, 0.0, where)
    return rows.then(step, dims=dims)


def in_words(dims: Dims) -> str:
    """Return a shape as text."""
    return f"({', '.join(map(str, dims))}{',' if len(dims) == 1 else ''})"


def select(rows: Rows, indices: Sequence[int], dims: Dims, where: str) -> Rows:
    """Return some features of rows, in the order of `indices`. `dims` is the shape then."""
    count = features(rows.dims)
    if count is None:
        raise unsupported(where, "picks features of rows whose width the graph does not tell")
    if any(not -count <= i < count for i in indices):
        raise unsupported(where, f"expected features up to {count - 1}, got {list(indices)}")
    at = [int(i) % count for i in indices]
    if not at:
        raise unsupported(where, "picks no feature at all")
    if at == list(range(count)):
        return rows._replace(dims=dims)
    steps: list[Step] = []
    for i in range(len(rows.steps) - 1, -1, -1):
        step = rows.steps[i]
        if isinstance(step, Dense):
            bias = None if step.bias is None else step.bias[at]
            steps.append(Dense(step.weight[:, at], bias, step.where))
            return rows._replace(steps=(*rows.steps[:i], *steps[::-1]), dims=dims)
        if isinstance(step, Affine):
            scale, shift = (v[at] if v.size > 1 else v for v in (step.scale, step.shift))
            step = Affine(scale, shift, step.where)
        elif step.activation is Activation.SOFTMAX:
            raise unsupported(
                where,
                "picks some outputs of a softmax, which depend on all; make all of them the output",
            )
        steps.append(step)
    columns = range(count) if rows.columns is None else rows.columns
    return rows._replace(steps=tuple(steps[::-1]), dims=dims, columns=tuple(columns[i] for i in at))


def joined(parts: Sequence[Rows], axis: int, where: str) -> Rows:
    """Return tensors side by side: columns of the input, or the probabilities of two classes."""
    if (both := _two_classes(parts, where)) is not None:
        return both
    dims = parts[0].dims
    axis = axis + len(dims) if axis < 0 else axis
    scales, shifts = [], []
    columns: list[int] = []
    width = 0
    for part in parts:
        count = features(part.dims)
        if count is None or any(not isinstance(step, Affine) for step in part.steps):
            raise unsupported(
                where,
                "joins results of layers, which is no chain of layers; only columns of the input "
                "can be joined",
            )
        if (
            not 0 <= axis < len(part.dims)
            or any(d not in (ROWS, 1) for i, d in enumerate(part.dims) if i != axis)
            or part.dims[axis] == ROWS
        ):
            raise unsupported(where, f"joins tensors along another axis than features ({axis})")
        whole_step = _composed(part.steps, where)
        scales.append(np.broadcast_to(whole_step.scale, (count,)))
        shifts.append(np.broadcast_to(whole_step.shift, (count,)))
        columns += range(count) if part.columns is None else part.columns
        width += count
    steps: tuple[Step, ...] = ()
    if any(part.steps for part in parts):
        steps = (affine(np.concatenate(scales), np.concatenate(shifts), where),)
    whole = any(part.whole for part in parts)
    return Rows(steps, (*dims[:axis], width, *dims[axis + 1 :]), tuple(columns), whole)


def _composed(steps: Sequence[Step], where: str) -> Affine:
    """Return affine steps as one."""
    whole = affine(1.0, 0.0, where)
    for step in steps:
        assert isinstance(step, Affine)
        shift = whole.shift * step.scale + step.shift
        whole = Affine(whole.scale * step.scale, shift, where)
    return whole


def _two_classes(parts: Sequence[Rows], where: str) -> Rows | None:
    """Return [1 - p, p] or [p, 1 - p] of a sigmoid p as a softmax; None for anything else."""
    if len(parts) != 2:
        return None
    short, long = sorted(parts, key=lambda part: len(part.steps))
    steps = short.steps
    if len(steps) < 2 or len(long.steps) != len(steps) + 1 or features(short.dims) != 1:
        return None
    *before, last = steps
    *start, product = _without_affines(before)
    rest = long.steps[-1]
    if (
        any(a is not b for a, b in zip(steps, long.steps, strict=False))
        or not (isinstance(last, Activate) and last.activation is Activation.SIGMOID)
        or not isinstance(product, Dense)
        or not (isinstance(rest, Affine) and rest.scale == -1 and rest.shift == 1)
    ):
        return None
    # sigmoid(z) is the second of softmax([0, z]), as scikit-learn's models are read.
    bias = np.zeros(1) if product.bias is None else product.bias
    pair = [(np.zeros_like(product.weight), np.zeros_like(bias)), (product.weight, bias)]
    if short is parts[0]:
        pair.reverse()
    weight, shift = (np.concatenate(list(arrays), axis=-1) for arrays in zip(*pair, strict=True))
    axis = feature_axis(short.dims)
    assert axis is not None
    dims = (*short.dims[:axis], 2, *short.dims[axis + 1 :])
    both = (Dense(weight, shift, product.where), Activate(Activation.SOFTMAX, where))
    return Rows((*start, *both), dims, short.columns)


def _without_affines(steps: Sequence[Step]) -> list[Step]:
    """Return steps whose last dense layer has taken the scales and shifts behind it."""
    kept = list(steps)
    if not kept or not isinstance(kept[-1], Affine):
        return kept
    at = next((i for i in range(len(kept) - 1, -1, -1) if isinstance(kept[i], Dense)), None)
    if at is None or not all(isinstance(step, Affine) for step in kept[at + 1 :]):
        return kept
    product = kept[at]
    assert isinstance(product, Dense)
    weight = product.weight.astype(np.float64)
    bias = np.zeros(weight.shape[1]) if product.bias is None else product.bias.astype(np.float64)
    whole = _composed(kept[at + 1 :], product.where)
    layer = Dense(weight * whole.scale, bias * whole.scale + whole.shift, product.where)
    return [*kept[:at], layer]


def finished(rows: Rows, width: int | None) -> list[Step | Select]:
    """Return the steps from the bank's rows, of `width` features, on."""
    steps: list[Step | Select] = list(rows.steps)
    columns = rows.columns
    if columns is None or width is None or columns == tuple(range(width)):
        return steps
    where = steps[0].where if steps else ""
    if any(isinstance(step, Dense) for step in steps):
        return [Select(columns, width, where), *steps]
    picked = np.zeros((width, len(columns)), np.float32)
    picked[list(columns), range(len(columns))] = 1
    return [Dense(picked, None, where), *steps]

"""Shapes of tensors that hold rows, where the number of rows is a symbol.

A shape is a tuple of sizes, ROWS and ANY. Without ROWS it is that of one row alone: a graph with a
fixed batch of 1 may drop that dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ROWS = "rows"  # the number of rows
ANY = "any"  # a size that the graph does not tell
Dim = int | str
Dims = tuple[Dim, ...]


def features(dims: Dims) -> int | None:
    """Return the number of features of a row, None if the graph does not tell."""
    sizes = [d for d in dims if d != ROWS]
    return None if ANY in sizes else math.prod(d for d in sizes if isinstance(d, int))


def feature_axis(dims: Dims) -> int | None:
    """Return the only axis that may have several features, None if there are more of them."""
    wide = [i for i, d in enumerate(dims) if d not in (ROWS, 1)]
    if len(wide) > 1:
        return None
    if wide:
        return wide[0]
    ones = [i for i, d in enumerate(dims) if d == 1]
    return ones[-1] if ones else None


def rows_stand_first(dims: Dims) -> bool:
    """Return whether values of one row lie side by side in C order."""
    if ROWS not in dims:
        return True
    return all(d == 1 for d in dims[: dims.index(ROWS)]) or features(dims) == 1


def reshaped(dims: Dims, target: Sequence[Any], batch: int | None, allow_zero: bool) -> Dims | None:
    """Return the shape after a Reshape that keeps rows apart and features in order, else None.

    `batch` is the number of rows if the graph has it as a number. A `target` that has this number
    first, or leaves exactly the rows to -1, keeps rows apart.
    """
    if not rows_stand_first(dims):
        if batch != 1:
            return None
        dims = tuple(d for d in dims if d != ROWS)
    new: list[Any] = []
    for i, size in enumerate(target):
        if size == 0:
            if allow_zero or i >= len(dims):
                return None
            size = dims[i]
        new.append(size)
    if new.count(ROWS) > 1 or new.count(-1) > 1 or any(isinstance(d, int) and d < -1 for d in new):
        return None
    count = features(dims)
    if ROWS in dims and ROWS not in new:
        rest = math.prod(d for d in new if d not in (-1, ANY))
        if -1 in new and ANY not in new and (rest == count or (count is None and len(new) == 2)):
            if count is None and new[0] != -1:
                return None
            new[new.index(-1)] = ROWS
        elif batch is not None and new and new[0] == batch:
            new[0] = ROWS
        elif batch != 1:
            return None
    if -1 in new:
        rest = math.prod(d for d in new if isinstance(d, int) and d != -1)
        if count is None:
            if rest != 1 or ANY in new:
                return None
            new[new.index(-1)] = ANY
        elif rest == 0 or count % rest:
            return None
        else:
            new[new.index(-1)] = count // rest
    result = tuple(new)
    if count is not None and features(result) != count:
        return None
    return result if rows_stand_first(result) else None


def transposed(dims: Dims, order: Sequence[int]) -> Dims | None:
    """Return the shape after a Transpose that keeps the features in order, else None."""
    if sorted(order) != list(range(len(dims))):
        return None
    kept = [i for i in order if dims[i] not in (ROWS, 1)]
    return tuple(dims[i] for i in order) if kept == sorted(kept) else None


def squeezed(dims: Dims, axes: Sequence[int] | None, batch: int | None) -> Dims | None:
    """Return the shape after a Squeeze that drops sizes of 1 only, else None."""
    single = [d == 1 or (d == ROWS and batch == 1) for d in dims]
    if axes is None:
        return tuple(d for d, one in zip(dims, single, strict=True) if not one)
    at = {axis + len(dims) if axis < 0 else axis for axis in axes}
    if any(not 0 <= axis < len(dims) or not single[axis] for axis in at):
        return None
    return tuple(d for i, d in enumerate(dims) if i not in at)


def unsqueezed(dims: Dims, axes: Sequence[int]) -> Dims | None:
    """Return the shape after an Unsqueeze, None if the axes are not valid."""
    rank = len(dims) + len(axes)
    at = {axis + rank if axis < 0 else axis for axis in axes}
    if len(at) != len(axes) or any(not 0 <= axis < rank for axis in at):
        return None
    rest = iter(dims)
    return tuple(1 if i in at else next(rest) for i in range(rank))


def spread(values: npt.NDArray[Any], dims: Dims) -> tuple[npt.NDArray[Any], Dims] | None:
    """Return a constant as one value, or one for each feature, and the shape after broadcasting.

    None if rows or features would be repeated, or the shapes do not fit.
    """
    rank = max(values.ndim, len(dims))
    shape = (1,) * (rank - values.ndim) + values.shape
    result = [*(1,) * (rank - len(dims)), *dims]
    for i, size in enumerate(shape):
        if size == 1:
            continue
        if result[i] == ANY:
            result[i] = size
        elif result[i] != size:
            return None
    if values.size == 1:
        return values.reshape(1), tuple(result)
    whole = [size if isinstance(d, str) else d for d, size in zip(result, shape, strict=True)]
    return np.broadcast_to(values.reshape(shape), whole).reshape(-1), tuple(result)

"""A model that takes some columns of its rows, in an order of its own, one perhaps several times.

No layer does that: the first one has a row of weights for each column that is there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank.typing import Float64Array

FloatArray = npt.NDArray[np.floating[Any]]


class Select(NamedTuple):
    """``x[:, columns]`` of rows with `width` columns. It can be the first step only.

    `kept` are columns that the model was given to choose from, used or not.
    """

    columns: tuple[int, ...]
    width: int
    where: str
    kept: tuple[int, ...] = ()


def spread(
    weight: FloatArray,
    bias: FloatArray | None,
    scale: Float64Array | None,
    shift: Float64Array | None,
    select: Select,
) -> tuple[Float64Array, FloatArray | None, Float64Array | None, Float64Array | None]:
    """Return weight, bias, scale and shift of a layer that takes all columns.

    The given ones make ``(x[:, columns] * scale + shift) @ weight + bias``, the returned ones the
    same of x. A column that is not used has a scale and weights of 0.

    Parameters
    ----------
    weight : float array (columns, out)
    bias : float array (out,), optional
    scale, shift : float64 array (columns,), optional
        Both or none.
    """
    columns = np.array(select.columns, np.intp)
    wide = np.zeros((select.width, weight.shape[1]))
    if scale is None or shift is None:
        np.add.at(wide, columns, weight)
        return wide, bias, None, None
    # A column has one scale and shift. Of several that of the largest shift, so that a large mean
    # is subtracted before anything else; the others are expressed by it.
    order = np.argsort(np.abs(shift), kind="stable")
    order = order[scale[order] != 0]
    own_scale, own_shift = np.zeros(select.width), np.zeros(select.width)
    own_scale[columns[order]], own_shift[columns[order]] = scale[order], shift[order]
    divisor = own_scale[columns]
    factor = np.divide(scale, divisor, out=np.zeros_like(scale), where=divisor != 0)
    rest = shift - factor * own_shift[columns]
    np.add.at(wide, columns, factor[:, None] * weight)
    if rest.any():
        bias = rest @ weight if bias is None else rest @ weight + bias
    return wide, bias, own_scale, own_shift

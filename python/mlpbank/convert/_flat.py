"""Flat parameter vectors, such as those of evolution strategies, with the architecture given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlpbank._arrays import as_array, as_float32, in_default_mode
from mlpbank.architecture import Architecture, array_shapes
from mlpbank.convert._layers import to_float32
from mlpbank.convert._native import check_layout
from mlpbank.errors import InvalidValueError
from mlpbank.typing import Float32Array, Weights


@in_default_mode
def from_flat(
    vectors: npt.ArrayLike,
    architecture: Architecture,
    *,
    order: str | Sequence[str],
    weight_layout: str,
) -> Weights:
    """Return weights from flat parameter vectors.

    Parameters
    ----------
    vectors : array_like
        (N, P) for N models, or (P,) for one.
    architecture : Architecture
    order : str or sequence of str
        The order of the arrays in a vector. Layer by layer it is ``"weight,bias"``,
        ``"bias,weight"``, or ``"weight"`` if there are no biases; with ``slope`` where layers with
        prelu have theirs, ``"weight,bias,slope"`` in PyTorch. Any other order is given by the names
        of all arrays, such as ``["layer_0", "layer_1", "layer_0.bias", "layer_1.bias"]``; biases
        that are left out are 0. PyTorch's ``parameters_to_vector``, EvoTorch and EvoX have
        ``"weight,bias"``. ``jax.flatten_util.ravel_pytree`` of Flax parameters sorts by name and
        has ``"bias,weight"``; with more than ten layers, ``Dense_10`` comes before ``Dense_2``, so
        give all names.
    weight_layout : {"in_out", "out_in"}
        Whether each matrix is (in, out) in C order, as in Flax, or (out, in), as in PyTorch,
        EvoTorch, EvoX and Equinox.

    Returns
    -------
    dict of str to float32 array
        ``"layer_<i>"`` (N, in, out), ``"layer_<i>.bias"`` (N, out) and, of layers with prelu,
        ``"layer_<i>.slope"`` (N,), without N for one vector.

    Raises
    ------
    TypeError, ValueError
        `order` or `weight_layout` is not one of the above, or the number of parameters differs.
    """
    check_layout(weight_layout)
    flat = as_array(vectors, "vectors")
    if flat.dtype != np.float32:
        flat = (
            to_float32(flat, "vectors") if flat.dtype.kind == "f" else as_float32(flat, "vectors")
        )
    if flat.ndim not in (1, 2):
        raise InvalidValueError(f"vectors: expected shape (N, P) or (P,), got {flat.shape}")
    names = _names_in_order(architecture, order)
    sizes = {name: math.prod(shape) for name, shape in array_shapes(architecture).items()}
    expected = sum(sizes[name] for name in names)
    if flat.shape[-1] != expected:
        parts = ", ".join(f"{sizes[name]} of {name}" for name in names[:12])
        more = ", ..." if len(names) > 12 else ""
        raise InvalidValueError(
            f"vectors: expected {expected} parameters for each model ({parts}{more}), got "
            f"{flat.shape[-1]}; check the sizes of the architecture, and what `order` leaves out"
        )
    batch = flat.shape[:-1]
    pieces: dict[str, Float32Array] = {}
    start = 0
    for name in names:
        pieces[name] = flat[..., start : start + sizes[name]]
        start += sizes[name]
    weights: Weights = {}
    for i, layer in enumerate(architecture.layers):
        matrix = pieces[f"layer_{i}"]
        if weight_layout == "in_out":
            matrix = matrix.reshape(*batch, layer.input_size, layer.output_size)
        else:
            matrix = matrix.reshape(*batch, layer.output_size, layer.input_size).swapaxes(-1, -2)
        weights[f"layer_{i}"] = np.array(matrix, order="C")
        bias = pieces.get(f"layer_{i}.bias", np.zeros((*batch, layer.output_size), np.float32))
        weights[f"layer_{i}.bias"] = np.array(bias, order="C")
        if (slope := f"layer_{i}.slope") in pieces:
            weights[slope] = pieces[slope].reshape(batch).copy()
    return weights


def _names_in_order(architecture: Architecture, order: str | Sequence[str]) -> list[str]:
    known = list(array_shapes(architecture))
    n = len(architecture.layers)
    if isinstance(order, str):
        kinds = order.split(",")
        if "weight" not in kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(_KINDS):
            raise InvalidValueError(
                "order: expected 'weight,bias', 'bias,weight', 'weight', these with 'slope', or "
                f"all names, got {order!r}"
            )
        names = [f"layer_{i}{_KINDS[kind]}" for i in range(n) for kind in kinds]
        names = [name for name in names if not name.endswith(".slope") or name in known]
        given = repr(order)
    else:
        names = list(order)
        given = str(names)
    needed = [name for name in known if not name.endswith(".bias")]
    if not set(needed) <= set(names) <= set(known) or len(set(names)) != len(names):
        has_slopes = any(name.endswith(".slope") for name in needed)
        slopes = " (PyTorch has 'weight,bias,slope')" if has_slopes else ""
        raise InvalidValueError(
            f"order: expected each of {', '.join(needed)} and of their biases once{slopes}, got "
            f"{given}"
        )
    return names


_KINDS = {"weight": "", "bias": ".bias", "slope": ".slope"}

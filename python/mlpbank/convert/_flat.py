"""Flat parameter vectors, such as those of evolution strategies, with the architecture given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlpbank._arrays import as_array, as_float32, in_default_mode
from mlpbank.architecture import Architecture
from mlpbank.convert._chain import to_float32
from mlpbank.convert._native import check_layout
from mlpbank.errors import InvalidValueError
from mlpbank.typing import Float32Array


@in_default_mode
def from_flat(
    vectors: npt.ArrayLike,
    architecture: Architecture,
    *,
    order: str | Sequence[str],
    weight_layout: str,
) -> dict[str, Float32Array]:
    """Return weights from flat parameter vectors.

    Parameters
    ----------
    vectors : array_like
        (N, P) for N models, or (P,) for one.
    architecture : Architecture
    order : str or sequence of str
        The order of the arrays in a vector. Layer by layer it is ``"weight,bias"``,
        ``"bias,weight"``, or ``"weight"`` if there are no biases. Any other order is given by the
        names of all arrays, such as ``["layer_0", "layer_1", "layer_0.bias", "layer_1.bias"]``;
        biases that are left out are 0. PyTorch's ``parameters_to_vector``, EvoTorch and EvoX have
        ``"weight,bias"``. ``jax.flatten_util.ravel_pytree`` of Flax parameters sorts by name and
        has ``"bias,weight"``; with more than ten layers, ``Dense_10`` comes before ``Dense_2``, so
        give all names.
    weight_layout : {"in_out", "out_in"}
        Whether each matrix is (in, out) in C order, as in Flax, or (out, in), as in PyTorch,
        EvoTorch, EvoX and Equinox.

    Returns
    -------
    dict of str to float32 array
        ``"layer_<i>"`` (N, in, out) and ``"layer_<i>.bias"`` (N, out), without N for one vector.

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
    sizes = {
        f"layer_{i}": layer.input_size * layer.output_size
        for i, layer in enumerate(architecture.layers)
    }
    sizes |= {f"layer_{i}.bias": layer.output_size for i, layer in enumerate(architecture.layers)}
    expected = sum(sizes[name] for name in names)
    if flat.shape[-1] != expected:
        raise InvalidValueError(
            f"vectors: expected {expected} parameters for each model, got {flat.shape[-1]}"
        )
    batch = flat.shape[:-1]
    parts: dict[str, Float32Array] = {}
    start = 0
    for name in names:
        parts[name] = flat[..., start : start + sizes[name]]
        start += sizes[name]
    weights: dict[str, Float32Array] = {}
    for i, layer in enumerate(architecture.layers):
        matrix = parts[f"layer_{i}"]
        if weight_layout == "in_out":
            matrix = matrix.reshape(*batch, layer.input_size, layer.output_size)
        else:
            matrix = matrix.reshape(*batch, layer.output_size, layer.input_size).swapaxes(-1, -2)
        weights[f"layer_{i}"] = np.array(matrix, order="C")
        bias = parts.get(f"layer_{i}.bias", np.zeros((*batch, layer.output_size), np.float32))
        weights[f"layer_{i}.bias"] = np.array(bias, order="C")
    return weights


def _names_in_order(architecture: Architecture, order: str | Sequence[str]) -> list[str]:
    n = len(architecture.layers)
    if isinstance(order, str):
        suffixes = {
            "weight": ("",),
            "weight,bias": ("", ".bias"),
            "bias,weight": (".bias", ""),
        }.get(order)
        if suffixes is None:
            raise InvalidValueError(
                "order: expected 'weight,bias', 'bias,weight', 'weight' or all names, "
                f"got {order!r}"
            )
        return [f"layer_{i}{suffix}" for i in range(n) for suffix in suffixes]
    names = list(order)
    matrices = {f"layer_{i}" for i in range(n)}
    if not matrices <= set(names) <= matrices | {f"{m}.bias" for m in matrices} or len(
        set(names)
    ) != len(names):
        expected = ", ".join(sorted(matrices))
        raise InvalidValueError(
            f"order: expected each of {expected} and of their biases once, got {names}"
        )
    return names

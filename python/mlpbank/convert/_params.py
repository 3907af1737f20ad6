"""Parameters without a model: state_dicts and parameter trees, with the architecture given.

Nothing is inferred from a shape that two layers could have: a square matrix looks the same in both
orientations. Names and types tell the orientation of each framework, or the caller does.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank._arrays import as_array, in_default_mode
from mlpbank.architecture import Architecture
from mlpbank.convert._chain import unsupported
from mlpbank.convert._checkpoints import state_dict_of
from mlpbank.convert._layer_order import Path, found, ordered, slope_of
from mlpbank.convert._layers import Converted, to_float32
from mlpbank.convert._native import check_layout
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Weights

_ROLES = {
    "kernel": "weight",
    "weight": "weight",
    "w": "weight",
    "W": "weight",
    "bias": "bias",
    "b": "bias",
    # Of PReLU: Flax, Keras, Equinox. PyTorch calls it `weight`.
    "negative_slope": "slope",
    "alpha": "slope",
    "negative_alpha": "slope",
}


@dataclasses.dataclass
class _DenseParams:
    """The arrays of a layer or PReLU, and the orientation of its matrix if that is known."""

    weight: Any = None
    bias: Any = None
    slope: Any = None
    layout: str | None = None


@in_default_mode
def from_params(
    params: Any,
    architecture: Architecture,
    *,
    layers: Sequence[str] | None = None,
    weight_layout: str | None = None,
) -> Converted:
    """Return one model from its parameters.

    Parameters
    ----------
    params : mapping, sequence or module
        A PyTorch state_dict, parameters of Flax (Linen or NNX), an Equinox module, or any nesting
        of mappings and sequences whose arrays are called ``weight``, ``kernel``, ``w`` or ``W``,
        and ``bias`` or ``b``, or are pairs of a matrix and a vector, or stand in one list in turn
        (``get_weights()`` of Keras). Slopes of PReLU are a vector called ``weight`` (PyTorch),
        ``negative_slope`` (Flax), ``alpha`` (Keras) or ``negative_alpha`` (Equinox). In a training
        checkpoint, the one entry that holds them.
    architecture : Architecture
        Layers and activations, which parameters do not tell.
    layers : sequence of str, optional
        The names of the layers, first to last, such as ``["encoder.0", "head"]``. Not needed where
        names end with numbers (``fc1``, ``fc2``; ``net.0``, ``net.2``) or no two layers have the
        same sizes. With PReLU among them, where their names do not tell which is whose.
    weight_layout : {"in_out", "out_in"}, optional
        Whether matrices are (in, out), for ``x @ w``, or (out, in). Not needed where the framework
        tells it: a ``weight`` that is a PyTorch tensor, a Linear of Equinox, a ``kernel`` that is
        none (Flax, Keras). A layer of your own may have a `weight` the other way round; names
        do not tell, so pass `weight_layout` for it.

    Returns
    -------
    Converted

    Raises
    ------
    UnsupportedLayerError
        An array belongs to no dense layer. The message names it.
    TypeError, ValueError
        Names or shapes do not fit the architecture, or the order or orientation of layers is
        unknown.
    """
    return Converted(
        architecture, _read(params, architecture, layers, weight_layout, stacked=False)
    )


@in_default_mode
def from_stacked_params(
    params: Any,
    architecture: Architecture,
    *,
    layers: Sequence[str] | None = None,
    weight_layout: str | None = None,
) -> Weights:
    """Return the stacked weights of N models from their stacked parameters.

    Parameters
    ----------
    params : mapping, sequence or module
        As for `from_params`, each array with a leading dimension of N. Examples are the first
        result of ``torch.func.stack_module_state``, and ``jax.vmap`` of an initialisation.
    architecture, layers, weight_layout
        As for `from_params`.

    Returns
    -------
    dict of str to float32 array
        ``"layer_<i>"`` (N, in, out) and ``"layer_<i>.bias"`` (N, out), as
        `BatchedWeights.load_stacked` takes them.

    Raises
    ------
    UnsupportedLayerError, TypeError, ValueError
        As for `from_params`.
    """
    return _read(params, architecture, layers, weight_layout, stacked=True)


def _read(
    params: Any,
    architecture: Architecture,
    layers: Sequence[str] | None,
    weight_layout: str | None,
    stacked: bool,
) -> Weights:
    if not isinstance(architecture, Architecture):
        raise InvalidTypeError(f"architecture: expected an Architecture, got {architecture!r}")
    if weight_layout is not None:
        check_layout(weight_layout)
    groups, arrays, slopes = _layers_in(params, weight_layout, stacked)
    paths, slope_paths = ordered(arrays, slopes, architecture, layers)
    batch: tuple[int, ...] = ()
    weights: Weights = {}
    for i, (path, spec) in enumerate(zip(paths, architecture.layers, strict=True)):
        name = ".".join(path)
        matrix, group = arrays[path], groups[path]
        if i == 0 and stacked:
            batch = matrix.shape[:1]
        shape = (*batch, spec.input_size, spec.output_size)
        if matrix.shape != shape:
            turned = matrix.shape == (*shape[:-2], shape[-1], shape[-2])
            hint = f"it fits with weight_layout={_other(group, weight_layout)!r}"
            has = f"the parameters have {found(arrays)}, so check the sizes of the architecture"
            raise InvalidValueError(
                f"{name}: expected an (in, out) matrix {shape} for layer {i}, "
                f"got {matrix.shape}; {hint if turned else has}"
            )
        weights[f"layer_{i}"] = to_float32(matrix, name)
        shape = (*batch, spec.output_size)
        bias = np.zeros(shape, np.float32) if group.bias is None else as_array(group.bias, name)
        if stacked and bias.shape == (*batch, 1, spec.output_size):  # layers of ensembles
            bias = bias.reshape(shape)
        if bias.shape != shape:
            raise InvalidValueError(
                f"{name}: expected a bias {shape} for layer {i}, got {bias.shape}"
            )
        weights[f"layer_{i}.bias"] = to_float32(bias, name)
        if i in slope_paths:
            name = ".".join(slope_paths[i])
            slope = slope_of(slopes[slope_paths[i]], spec.output_size, name, stacked)
            if slope.shape != batch:
                raise InvalidValueError(
                    f"{name}: expected slopes of {batch[0]} models, got {slope.shape[0]}"
                )
            weights[f"layer_{i}.slope"] = to_float32(slope, name)
    return weights


def layers_in(params: Any, weight_layout: str | None) -> str:
    """Return the layers that parameters of one model have, in words. Errors as for from_params."""
    return found(_layers_in(params, weight_layout, stacked=False)[1])


def _layers_in(
    params: Any, weight_layout: str | None, stacked: bool
) -> tuple[dict[Path, _DenseParams], dict[Path, npt.NDArray[Any]], dict[Path, npt.NDArray[Any]]]:
    """Return layers by path: as they are, their matrices (..., in, out), and slopes of PReLU."""
    groups: dict[Path, _DenseParams] = {}
    _gather(state_dict_of(params), (), groups, None)
    if not groups:
        kind = type(params).__name__
        raise InvalidValueError(
            f"params: expected arrays called weight, kernel, w or W, got none in {kind}"
        )
    slopes = _taken_slopes(groups, stacked)
    arrays = {path: _matrix(path, group, weight_layout, stacked) for path, group in groups.items()}
    return groups, arrays, slopes


def _taken_slopes(groups: dict[Path, _DenseParams], stacked: bool) -> dict[Path, npt.NDArray[Any]]:
    """Remove what may be a PReLU, and return its slopes: a vector without a bias."""
    slopes = {}
    for path, group in groups.items():
        if group.slope is not None and (group.weight is not None or group.bias is not None):
            raise unsupported(
                ".".join(path), "has slopes of an activation and weights, so it is no dense layer"
            )
        given = group.weight if group.slope is None else group.slope
        if group.bias is None and np.ndim(given) <= 1 + stacked:
            slopes[path] = given
    if len(slopes) == len(groups):  # no slopes then, but matrices that are none
        slopes = {path: given for path, given in slopes.items() if groups[path].slope is not None}
    for path, given in slopes.items():
        del groups[path]
        slopes[path] = as_array(given, ".".join(path))
    return slopes


def _other(group: _DenseParams, weight_layout: str | None) -> str:
    return "out_in" if (weight_layout or group.layout) == "in_out" else "in_out"


def _matrix(
    path: Path, group: _DenseParams, weight_layout: str | None, stacked: bool
) -> npt.NDArray[Any]:
    """Return the matrix of a layer as (in, out), or as (N, in, out) if it is stacked."""
    name = ".".join(path)
    if group.weight is None:
        raise unsupported(name, "has a bias but no weight matrix, so it is no dense layer")
    matrix = as_array(group.weight, name)
    if matrix.ndim == 1 + stacked == np.ndim(group.bias) and group.bias is not None:
        raise unsupported(
            name,
            f"its weight has shape {matrix.shape} and it has a bias, as normalisation has; pass "
            "the module of PyTorch or Keras, into which BatchNorm is folded",
        )
    if matrix.ndim != 2 + stacked or matrix.dtype.kind != "f":
        what = "a stack of matrices" if stacked else "a matrix"
        got = f"{matrix.dtype} {matrix.shape}"
        if matrix.ndim == 3 - stacked:
            got += f"; {'from_params' if stacked else 'from_stacked_params'} takes such"
        raise unsupported(name, f"expected {what} of floating-point weights, got {got}")
    layout = weight_layout or group.layout
    if layout is None:
        raise InvalidValueError(
            f"{name}: nothing tells which way round this matrix is; pass weight_layout='in_out' "
            "to convert.from_params if the layer computes x @ w, 'out_in' if w @ x "
            f"(its shape is {matrix.shape})"
        )
    return matrix if layout == "in_out" else matrix.swapaxes(-1, -2)


def _gather(node: Any, path: Path, groups: dict[Path, _DenseParams], layout: str | None) -> None:
    """Add every array below a node of a tree to the group of its layer."""
    kind = type(node)
    if isinstance(node, Mapping):
        for key, value in node.items():
            _gather(value, (*path, *re.split(r"[./]", str(key))), groups, layout)
    elif _is_module(kind, "equinox"):
        # Only the `weight` of Linear has a known orientation, not that of other modules.
        below = "out_in" if _is_equinox_linear(kind) else None
        for field in dataclasses.fields(node):
            value = getattr(node, field.name, None)
            is_option = isinstance(value, (bool, int, float, str))
            if not field.metadata.get("static") and not is_option:
                _gather(value, (*path, field.name), groups, below)
    elif _is_module(kind, "flax"):
        from mlpbank.convert import jax

        _gather(jax.nnx_state(node), path, groups, layout)
    elif isinstance(node, (list, tuple)):
        if len(node) == 2 and all(map(_is_array, node)) and node[0].ndim == node[1].ndim + 1:
            # A pair of a matrix and a vector, as hand-written code has it for a layer.
            _gather({"w": node[0], "b": node[1]}, path, groups, layout)
        elif len(node) > 1 and all(map(_is_array, node)):
            _gather(_layers_of_list(node, path), path, groups, layout)
        else:
            for i, value in enumerate(node):
                _gather(value, (*path, str(i)), groups, layout)
    elif _is_array(node):
        _put(node, path, groups, layout)
    elif _is_module(kind, "torch"):
        raise unsupported(
            ".".join(path), f"expected arrays, got a module, {kind.__name__}; give its state_dict"
        )
    elif node is not None and not callable(node):
        raise unsupported(".".join(path), f"expected arrays, got {kind.__name__}")


def _layers_of_list(arrays: Sequence[Any], path: Path) -> list[dict[str, Any]]:
    """Return the layers of a flat list of arrays, such as Keras' ``model.get_weights()``."""
    dimensions = [array.ndim for array in arrays]
    most = dimensions[0]
    if most > 1 and dimensions == [most] * len(arrays):
        return [{"w": array} for array in arrays]
    if most > 1 and dimensions == [most, most - 1] * (len(arrays) // 2):
        return [{"w": w, "b": b} for w, b in zip(arrays[::2], arrays[1::2], strict=True)]
    raise unsupported(
        ".".join(path),
        "expected a list of matrices, each with its bias after it or none at all, got shapes "
        f"{', '.join(str(tuple(array.shape)) for array in arrays[:8])} (to fold normalisation, "
        "pass the model itself)",
    )


def _put(array: Any, path: Path, groups: dict[Path, _DenseParams], layout: str | None) -> None:
    if type(array).__name__.startswith("Rng"):  # the random state of a dropout in Flax NNX
        return
    *parents, name = path or ("",)
    role = _ROLES.get(name)
    if role is None:
        raise unsupported(
            ".".join(path),
            "is no weight or bias of a dense layer (to fold normalisation, pass the module itself, "
            "not its parameters)",
        )
    group = groups.setdefault(tuple(parents), _DenseParams())
    if getattr(group, role) is not None:
        raise unsupported(".".join(parents), f"has two arrays that could be its {role}")
    setattr(group, role, array)
    if role == "weight":
        if name == "kernel" and not hasattr(array, "detach"):  # of Flax and Keras
            layout = "in_out"
        elif name == "weight" and hasattr(array, "detach"):
            # The `weight` of a PyTorch layer. Other names are of hand-written code, where matrices
            # may have either orientation.
            layout = "out_in"
        group.layout = layout


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_module(kind: type, root: str) -> bool:
    return any(
        base.__name__ == "Module" and base.__module__.partition(".")[0] == root
        for base in kind.__mro__
    )


def _is_equinox_linear(kind: type) -> bool:
    """Return whether a class is Equinox' Linear or a subclass without a __call__ of its own."""
    for base in kind.__mro__:
        if base.__name__ == "Linear" and base.__module__.startswith("equinox."):
            return True
        if "__call__" in vars(base):
            return False
    return False

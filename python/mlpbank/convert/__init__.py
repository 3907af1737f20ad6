"""Models people have, in mlpbank's form: PyTorch, scikit-learn, Keras, ONNX, JAX, Flax, Equinox, flat vectors.

No framework is imported that the process has not imported already; only `to_onnx`, and models given
as an ONNX file or its bytes, import ``onnx``.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import numpy as np

from mlpbank._arrays import in_default_mode
from mlpbank._progress import progress_bar
from mlpbank.architecture import Architecture
from mlpbank.convert import _chain
from mlpbank.convert._chain import Converted
from mlpbank.convert._native import is_native, native_layers
from mlpbank.convert._params import from_flat, from_params, from_stacked_params
from mlpbank.convert.scalers import fold_scalers, mean_and_scale
from mlpbank.errors import (
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
    MlpbankError,
    UnknownKeyError,
    UnsupportedLayerError,
)
from mlpbank.typing import Float32Array

__all__ = [
    "Converted",
    "UnsupportedLayerError",
    "convert",
    "fold_scalers",
    "from_flat",
    "from_params",
    "from_stacked_params",
    "mean_and_scale",
    "stack",
    "to_onnx",
]

Key = TypeVar("Key", bound=Hashable)

# What `stack` raises again with the key in front. Errors of others stay what they are.
_MLPBANK_KINDS = (
    UnsupportedLayerError,
    InvalidTypeError,
    UnknownKeyError,
    InvalidValueError,
    MlpbankError,
)
_KINDS = (TypeError, KeyError, ValueError)


@in_default_mode
def convert(model: Any, architecture: Architecture | None = None) -> Converted:
    """Return a model's architecture and weights in mlpbank's form.

    Parameters
    ----------
    model : model or mapping
        - a PyTorch module that is a chain of layers; BatchNorm1d has to be in eval mode;
        - a fitted scikit-learn MLPRegressor or MLPClassifier, a Pipeline of scalers and one of them, or a
          TransformedTargetRegressor; the result computes predict, or predict_proba;
        - a Keras 3 model that is a chain of layers;
        - an ONNX ModelProto, its bytes, or the path of an .onnx file;
        - with `architecture`: a PyTorch state_dict, a JAX, Flax or Equinox parameter tree (see `from_params` where the
          order or orientation of its layers has to be told), or a mapping that is in mlpbank's form
          already.
    architecture : Architecture, optional
        What the model shall be; needed where it says nothing of its activations.

    Returns
    -------
    Converted
        Batch normalisation and scalers are folded into the layers in float64, rounded once to
        float32.

    Raises
    ------
    UnsupportedLayerError
        A ValueError: the model has a layer that mlpbank cannot express; the message names it and
        where it stands.
    TypeError, ValueError
        The model is of no known kind or not fitted; `architecture` is missing, or is not the
        model's.
    """
    layers = _layers(model, architecture, {})
    shape = _chain.shape_of(layers)
    if architecture is None:
        architecture = _chain.architecture_of(layers)
    elif shape != (expected := _chain.shape_of_architecture(architecture)):
        raise InvalidValueError(f"architecture: {_chain.difference(expected, shape)}")
    return Converted(architecture, _chain.weights_of(layers))


@in_default_mode
def stack(
    models: Mapping[Key, Any], architecture: Architecture | None = None, progress: bool = False
) -> tuple[list[Key], Architecture, dict[str, Float32Array]]:
    """Convert many models of one architecture.

    Parameters
    ----------
    models : mapping
        Keys to what `convert` takes.
    architecture : Architecture, optional
        What the models shall be; that of the first by default.
    progress : bool
        Show a progress bar, if tqdm is there.

    Returns
    -------
    keys : list
        In the order of `models`.
    architecture : Architecture
        That of every model.
    weights : dict of str to float32 array
        ``"layer_<i>"`` (N, in, out) and ``"layer_<i>.bias"`` (N, out): what
        `BatchedWeights.load_stacked` takes.

    Raises
    ------
    ValueError
        There is no model; a model differs from `architecture` or from the first, the message naming
        the key and how; or what `convert` raises, the message beginning with the key.
    TypeError
        As for `convert`.
    """
    if not isinstance(models, Mapping):
        raise InvalidTypeError(
            f"models: expected a mapping of keys to models, got {type(models).__name__}"
        )
    if not models:
        raise InvalidValueError("models: expected at least one, got none")
    shape = None if architecture is None else _chain.shape_of_architecture(architecture)
    whose = "the architecture"
    stacked: list[tuple[Float32Array, Float32Array]] = []
    plans: dict[Any, Any] = {}
    keys: list[Key] = []
    for i, (key, model) in enumerate(
        progress_bar(models.items(), "importing", progress, total=len(models), unit="model")
    ):
        try:
            layers = _layers(model, architecture, plans)
            got = _chain.shape_of(layers)
            if shape is None:
                architecture, shape, whose = _chain.architecture_of(layers), got, f"models[{key!r}]"
            if got != shape:
                raise InvalidValueError(f"differs from {whose}: {_chain.difference(shape, got)}")
            if not stacked:
                n = len(models)
                stacked = [
                    (np.empty((n, a, b), np.float32), np.zeros((n, b), np.float32))
                    for a, b, _ in shape
                ]
            for j, (layer, (weight, bias)) in enumerate(zip(layers, stacked, strict=True)):
                weight[i] = _rounded(layer.weight, f"layer_{j}")
                if layer.bias is not None:
                    bias[i] = _rounded(layer.bias, f"layer_{j}.bias")
        except (ValueError, TypeError, KeyError) as error:
            message = f"models[{key!r}]: {error.args[0] if error.args else error}"
            kinds = _MLPBANK_KINDS if isinstance(error, MlpbankError) else _KINDS
            raise next(kind for kind in kinds if isinstance(error, kind))(message) from error
        keys.append(key)
    assert architecture is not None
    weights: dict[str, Float32Array] = {}
    for i, (weight, bias) in enumerate(stacked):
        weights |= {f"layer_{i}": weight, f"layer_{i}.bias": bias}
    return keys, architecture, weights


def to_onnx(architecture: Architecture, weights: Mapping[str, Any]) -> Any:
    """Return stacked models as one ONNX graph, input (N, rows, in) to output (N, rows, out).

    Parameters
    ----------
    architecture : Architecture
        Shared by all N models.
    weights : mapping of str to array
        What `BatchedWeights.load_stacked` takes.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ImportError
        The package ``onnx`` is not there.
    ValueError, KeyError
        An array does not fit, or there are more bytes than an ONNX file can hold (2 GiB).
    """
    return _onnx().export(architecture, weights)


def _layers(
    model: Any, architecture: Architecture | None, plans: dict[Any, Any]
) -> list[_chain.Layer]:
    """Return a model's layers, folded."""
    framework = _framework(type(model))
    if framework == "torch":
        from mlpbank.convert import torch

        return _chain.fold(torch.steps(model, plans=plans))
    if framework == "sklearn":
        from mlpbank.convert import sklearn

        return _chain.fold(sklearn.steps(model))
    if framework == "keras":
        from mlpbank.convert import keras

        return _chain.fold(keras.steps(model))
    if framework == "onnx" or isinstance(model, (str, os.PathLike, bytes, bytearray, memoryview)):
        onnx = _onnx()
        return _chain.fold(onnx.steps(onnx.load(model)))
    if isinstance(model, Converted):
        return native_layers(model.weights, model.architecture)
    if framework is None and not isinstance(model, (Mapping, list, tuple)):
        raise InvalidTypeError(
            f"model: expected a PyTorch, scikit-learn, Keras, ONNX, Flax or Equinox model or a mapping of weights, "
            f"got {type(model).__name__}"
        )
    if architecture is None:
        raise InvalidValueError(
            f"architecture: needed for weights without activations ({type(model).__name__}), got None"
        )
    if is_native(model):
        return native_layers(model, architecture)
    return native_layers(from_params(model, architecture).weights, architecture)


# (name, package) of the class by which a framework's models are known.
_BASES = {
    ("Module", "torch"): "torch",
    ("BaseEstimator", "sklearn"): "sklearn",
    ("Layer", "keras"): "keras",
    ("ModelProto", "onnx"): "onnx",
    ("Module", "equinox"): "jax",
    ("Module", "flax"): "jax",
}
_known: weakref.WeakKeyDictionary[type, str | None] = weakref.WeakKeyDictionary()


def _framework(kind: type) -> str | None:
    """Return the framework of a class, by the names of its bases: so none has to be imported to ask."""
    if kind not in _known:
        bases = ((base.__name__, base.__module__.partition(".")[0]) for base in kind.__mro__)
        _known[kind] = next((_BASES[base] for base in bases if base in _BASES), None)
    return _known[kind]


def _onnx() -> Any:
    try:
        from mlpbank.convert import onnx
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"ONNX models need a package that is not there: {error}; pip install 'mlpbank[onnx]'"
        ) from error
    return onnx


def _rounded(array: Any, name: str) -> Any:
    """Return an array that a float32 one can be assigned from, without a copy where it is one already."""
    return array if array.dtype == np.float32 else _chain.to_float32(array, name)

"""Convert models of PyTorch, scikit-learn, Keras, ONNX, JAX, Flax and Equinox, and flat vectors.

A model's framework is never imported by mlpbank: the process has imported it already. Only
`to_onnx`, and ONNX models given as a file or bytes, import ``onnx``.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from mlpbank._arrays import in_default_mode
from mlpbank._progress import progress_bar
from mlpbank.architecture import Activation, Architecture
from mlpbank.convert import _chain
from mlpbank.convert._chain import Converted
from mlpbank.convert._flat import from_flat
from mlpbank.convert._native import is_native, native_layers
from mlpbank.convert._params import from_params, from_stacked_params
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

# The kinds of errors that `stack` raises again with the key in front: ours, and those of others.
_MLPBANK_KINDS = (
    UnsupportedLayerError,
    InvalidTypeError,
    UnknownKeyError,
    InvalidValueError,
    MlpbankError,
)
_KINDS = (TypeError, KeyError, ValueError)


@in_default_mode
def convert(
    model: Any, architecture: Architecture | None = None, *, output: str | int | None = None
) -> Converted:
    """Return a model's architecture and weights in mlpbank's form.

    Parameters
    ----------
    model : model or mapping
        - a PyTorch module that is a chain of layers; it is read as in eval mode;
        - a fitted scikit-learn MLPRegressor or MLPClassifier, a Pipeline of scalers that ends with
          one, or a TransformedTargetRegressor; the result computes predict, or predict_proba;
        - a Keras 3 model that is a chain of layers;
        - an ONNX ModelProto, its bytes, or the path of an .onnx file;
        - with `architecture`: a PyTorch state_dict, a JAX, Flax or Equinox parameter tree, or a
          mapping in mlpbank's form. `from_params` has arguments for trees that do not tell the
          order or orientation of their layers.
    architecture : Architecture, optional
        The expected architecture. Needed where the model does not tell its activations.
    output : str or int, optional
        The result to take of a PyTorch or Keras model that has several: the name in a dict,
        dataclass or named tuple, or the number in a tuple or list.

    Returns
    -------
    Converted
        Batch normalisation and scalers are folded into the layers in float64 and rounded once to
        float32.

    Raises
    ------
    UnsupportedLayerError
        The model has a layer that mlpbank cannot express. The message names it and its place.
    TypeError, ValueError
        The model is of an unknown kind or not fitted, or `architecture` is missing or differs from
        the model's.
    """
    layers = _layers(model, architecture, {}, output)
    shape = _chain.shape_of(layers)
    if architecture is None:
        architecture = _chain.architecture_of(layers)
    elif shape != (expected := _chain.shape_of_architecture(architecture)):
        raise InvalidValueError(f"architecture: {_chain.difference(expected, shape)}")
    return Converted(architecture, _chain.weights_of(layers))


@in_default_mode
def stack(
    models: Mapping[Key, Any],
    architecture: Architecture | None = None,
    progress: bool = False,
    *,
    output: str | int | None = None,
) -> tuple[list[Key], Architecture, dict[str, Float32Array]]:
    """Convert many models of one architecture.

    Parameters
    ----------
    models : mapping
        Keys to models, each in a form that `convert` takes.
    architecture : Architecture, optional
        The expected architecture of all models. That of the first by default.
    progress : bool
        Show a progress bar. It needs tqdm; without it there is a warning.
    output : str or int, optional
        As for `convert`.

    Returns
    -------
    keys : list
        In the order of `models`.
    architecture : Architecture
        The architecture of all models.
    weights : dict of str to float32 array
        ``"layer_<i>"`` (N, in, out) and ``"layer_<i>.bias"`` (N, out), as
        `BatchedWeights.load_stacked` takes them.

    Raises
    ------
    ValueError
        There is no model, or a model differs from `architecture` or from the first. The message
        names the key and the difference.
    UnsupportedLayerError, TypeError, ValueError, KeyError
        As for `convert`. The message begins with the key.
    """
    if not isinstance(models, Mapping):
        raise InvalidTypeError(
            f"models: expected a mapping of keys to models, got {type(models).__name__}"
        )
    if not models:
        raise InvalidValueError("models: expected at least one, got none")
    shape = None if architecture is None else _chain.shape_of_architecture(architecture)
    whose = "the architecture"
    stacked: list[tuple[Float32Array, Float32Array, Float32Array | None]] = []
    plans: dict[Any, Any] = {}
    keys: list[Key] = []
    for i, (key, model) in enumerate(
        progress_bar(models.items(), "importing", progress, total=len(models), unit="model")
    ):
        try:
            layers = _layers(model, architecture, plans, output)
            got = _chain.shape_of(layers)
            if shape is None:
                architecture, shape, whose = _chain.architecture_of(layers), got, f"models[{key!r}]"
            if got != shape:
                raise InvalidValueError(f"differs from {whose}: {_chain.difference(shape, got)}")
            if not stacked:
                n = len(models)
                stacked = [
                    (
                        np.empty((n, a, b), np.float32),
                        np.zeros((n, b), np.float32),
                        np.empty(n, np.float32) if activation is Activation.PRELU else None,
                    )
                    for a, b, activation, _ in shape
                ]
            for j, (layer, (weight, bias, slope)) in enumerate(zip(layers, stacked, strict=True)):
                weight[i] = _rounded(layer.weight, f"layer_{j}")
                if layer.bias is not None:
                    bias[i] = _rounded(layer.bias, f"layer_{j}.bias")
                if slope is not None and layer.slope is not None:
                    slope[i] = _rounded(layer.slope, f"layer_{j}.slope")
        except (ValueError, TypeError, KeyError) as error:
            message = f"models[{key!r}]: {error.args[0] if error.args else error}"
            kinds = _MLPBANK_KINDS if isinstance(error, MlpbankError) else _KINDS
            raise next(kind for kind in kinds if isinstance(error, kind))(message) from error
        keys.append(key)
    assert architecture is not None
    weights: dict[str, Float32Array] = {}
    for i, (weight, bias, slope) in enumerate(stacked):
        weights |= {f"layer_{i}": weight, f"layer_{i}.bias": bias}
        if slope is not None:
            weights[f"layer_{i}.slope"] = slope
    return keys, architecture, weights


def to_onnx(architecture: Architecture, weights: Mapping[str, Any]) -> Any:
    """Return stacked models as one ONNX graph, input (N, rows, in) to output (N, rows, out).

    Parameters
    ----------
    architecture : Architecture
        The architecture of all N models.
    weights : mapping of str to array
        Stacked weights, as `BatchedWeights.load_stacked` takes them.

    Returns
    -------
    onnx.ModelProto
        In opset 20.

    Raises
    ------
    ImportError
        The package ``onnx`` is not installed.
    ValueError, KeyError
        An array does not fit, or the weights exceed the 2 GiB that an ONNX file can hold.
    """
    with _needs_onnx():
        from mlpbank.convert import _onnx_export
    return _onnx_export.export(architecture, weights)


def _layers(
    model: Any,
    architecture: Architecture | None,
    plans: dict[Any, Any],
    output: str | int | None = None,
) -> list[_chain.Layer]:
    """Return the folded layers of a model. `plans` is one dict for all models of a call."""
    framework = _framework(type(model))
    if framework == "torch":
        from mlpbank.convert import torch

        return _chain.fold(torch.steps(model, plans=plans, output=output))
    if framework == "skorch":
        from mlpbank.convert import _skorch

        return _chain.fold(_skorch.steps(model, plans=plans, output=output))
    if framework == "keras":
        from mlpbank.convert import keras

        return _chain.fold(keras.steps(model, output=output))
    if framework in _REFUSED:
        raise UnsupportedLayerError(f"{type(model).__name__} {_REFUSED[framework]}")
    if framework == "onnx" or isinstance(model, (str, os.PathLike, bytes, bytearray, memoryview)):
        with _needs_onnx():
            from mlpbank.convert import onnx
        return _chain.fold(onnx.steps(model, output))
    if output is not None:
        raise InvalidValueError(
            f"output: expected None for a model with one result ({type(model).__name__}), "
            f"got {output!r}"
        )
    if framework == "sklearn":
        from mlpbank.convert import sklearn

        return _chain.fold(sklearn.steps(model))
    if isinstance(model, Converted):
        return native_layers(model.weights, model.architecture)
    if framework is None and not isinstance(model, (Mapping, list, tuple)):
        raise InvalidTypeError(
            "model: expected a PyTorch, scikit-learn, Keras, ONNX, Flax or Equinox model "
            f"or a mapping of weights, got {type(model).__name__}"
        )
    if architecture is None:
        kind = type(model).__name__
        raise InvalidValueError(
            f"architecture: needed for weights without activations ({kind}), got None"
        )
    if is_native(model):
        return native_layers(model, architecture)
    return native_layers(from_params(model, architecture).weights, architecture)


# (name, package) of the base class of each framework's models.
_BASES = {
    ("Module", "torch"): "torch",
    ("ExportedProgram", "torch"): "torch.export",
    ("NeuralNet", "skorch"): "skorch",
    ("BaseEstimator", "sklearn"): "sklearn",
    ("Layer", "keras"): "keras",
    ("Layer", "tf_keras"): "keras 2",
    ("Layer", "tensorflow"): "keras 2",
    ("Module", "tensorflow"): "tensorflow",
    ("ModelProto", "onnx"): "onnx",
    ("Module", "equinox"): "jax",
    ("Module", "flax"): "jax",
}
# Why models of a framework are not read, and what to pass instead.
_REFUSED = {
    "torch.export": "of torch.export is not read; pass the original module, as it was before the "
    "export, or export that to ONNX",
    "keras 2": "is a model of Keras 2 (tf_keras or tensorflow.keras before 2.16), which is not "
    "read; save it as .keras or .h5 and load that with Keras 3, or pass its arrays: "
    "from_params(list(zip(w[::2], w[1::2])), architecture, weight_layout='in_out') of "
    "w = model.get_weights() with a kernel and a bias for each layer",
    "tensorflow": "is a tf.Module, which may compute anything; pass its arrays with an "
    "architecture, or export it to ONNX (tf2onnx)",
}
_known: weakref.WeakKeyDictionary[type, str | None] = weakref.WeakKeyDictionary()


def _framework(kind: type) -> str | None:
    """Return the framework of a class by the names of its bases, which imports no framework."""
    if kind not in _known:
        bases = ((base.__name__, base.__module__.partition(".")[0]) for base in kind.__mro__)
        _known[kind] = next((_BASES[base] for base in bases if base in _BASES), None)
    return _known[kind]


@contextmanager
def _needs_onnx() -> Iterator[None]:
    """Name the package to install if an import in the block fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"ONNX models need a package that is not there: {error}; pip install 'mlpbank[onnx]'"
        ) from error


def _rounded(array: Any, name: str) -> Any:
    """Return an array rounded to float32. A float32 one is not copied."""
    return array if array.dtype == np.float32 else _chain.to_float32(array, name)

"""Convert models of PyTorch, scikit-learn, Keras, ONNX, JAX, Flax and Equinox, and flat vectors.

A model's framework is never imported by mlpbank: the process has imported it already. Only
`to_onnx`, and ONNX models given as a file or bytes, import ``onnx``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from mlpbank._arrays import in_default_mode
from mlpbank._progress import progress_bar
from mlpbank.architecture import Activation, Architecture
from mlpbank.convert import _layers, _shift
from mlpbank.convert._containers import pairs_of
from mlpbank.convert._flat import from_flat
from mlpbank.convert._frameworks import framework_of
from mlpbank.convert._knowledge import NOTHING, Agreement, Knowledge, knowledge_of
from mlpbank.convert._layers import Converted
from mlpbank.convert._params import from_params, from_stacked_params
from mlpbank.convert._read import needs_onnx, read
from mlpbank.convert.scalers import fold_scalers, mean_and_scale
from mlpbank.errors import (
    InvalidTypeError,
    InvalidValueError,
    MlpbankError,
    UnknownKeyError,
    UnsupportedLayerError,
)
from mlpbank.typing import Float32Array, Float64Array, Weights

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
        - a fitted scikit-learn MLPRegressor or MLPClassifier, a Pipeline of scalers, selectors, PCA
          and ColumnTransformers that ends with one, or a TransformedTargetRegressor; the result
          computes predict, or predict_proba;
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
        float32. It has the feature names and classes that a model of scikit-learn, skorch or ONNX
        knows.

    Raises
    ------
    UnsupportedLayerError
        The model has a layer that mlpbank cannot express. The message names it and its place.
    TypeError, ValueError
        The model is of an unknown kind or not fitted, or `architecture` is missing or differs from
        the model's.
    """
    return _converted(model, architecture, _shift.where_needed(_shift.LIMIT), output)


@in_default_mode
def _converted(
    model: Any,
    architecture: Architecture | None,
    decide: _shift.Decide,
    output: str | int | None = None,
    knowledge: Knowledge = NOTHING,
    align_classes: bool = False,
    who: str = "",
) -> Converted:
    """Do what `convert` does, for the input shift that is decided. `who` is the model in messages.

    `knowledge` is what the bank knows already: inputs come in the order of its names, and outputs
    in that of its classes, to which `align_classes` may add those that the model has not seen.
    """
    agreement = Agreement(knowledge, align_classes)
    layers, own = read(model, architecture, {}, output)
    try:
        if own is None:
            own = knowledge_of(model, layers[-1].weight.shape[1])
        layers = agreement.layers(layers, own, who or "the model")
    except InvalidValueError as error:
        raise InvalidValueError(f"{who}: {error}" if who else f"{error}") from None
    shape = _layers.shape_of(layers)
    if architecture is None:
        architecture = _layers.architecture_of(layers)
    elif shape != (expected := _layers.shape_of_architecture(architecture)):
        raise InvalidValueError(f"architecture: {_layers.difference(expected, shape)}")
    layers, shift = _shift.folded(layers, decide, agreement.knowledge.feature_names)
    weights = _layers.weights_of(layers)
    if shift is not None:
        weights[_shift.KEY] = shift
    return Converted(architecture, weights, *agreement.knowledge)


@in_default_mode
def stack(
    models: Mapping[Key, Any] | Iterable[tuple[Key, Any]],
    architecture: Architecture | None = None,
    progress: bool = False,
    *,
    output: str | int | None = None,
) -> tuple[list[Key], Architecture, Weights]:
    """Convert many models of one architecture.

    Parameters
    ----------
    models : mapping, or iterable of pairs of key and model
        Keys to models, each in a form that `convert` takes. An nn.ModuleDict or a pandas Series of
        models is such a mapping, too.
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
        `BatchedWeights.load_stacked` takes them. Where means are large beside their scales, also
        ``"input_shift"`` (in,) float64, one for all models, see `Converted`.

    Raises
    ------
    ValueError
        There is no model, or a model differs from `architecture` or from the first: also in its
        feature names, unless that is their order only, to which it is brought, or its classes. The
        message names the key and the difference.
    UnsupportedLayerError, TypeError, ValueError, KeyError
        As for `convert`. The message begins with the key.
    """
    decide = _shift.where_needed(_shift.LIMIT)
    keys, architecture, weights, _ = _stacked(models, architecture, progress, decide, output)
    return keys, architecture, weights


@in_default_mode
def _stacked(
    models: Mapping[Key, Any] | Iterable[tuple[Key, Any]],
    architecture: Architecture | None,
    progress: bool,
    decide: _shift.Decide,
    output: str | int | None = None,
    knowledge: Knowledge = NOTHING,
    align_classes: bool = False,
) -> tuple[list[Key], Architecture, Weights, Knowledge]:
    """Do what `stack` does, as `_converted` does what `convert` does."""
    pairs = keyed(models)
    if not pairs:
        raise InvalidValueError("models: expected at least one, got none")
    shape = None if architecture is None else _layers.shape_of_architecture(architecture)
    whose = "the architecture"
    stacked: list[tuple[Float32Array, Float32Array, Float32Array | None]] = []
    plans: dict[Any, Any] = {}
    keys: list[Key] = []
    agreement = Agreement(knowledge, align_classes)
    agreement.foresee(pairs, output)
    scaled: dict[int, _layers.Layer] = {}  # first layers that scale their inputs
    for i, (key, model) in enumerate(
        progress_bar(pairs, "importing", progress, total=len(pairs), unit="model")
    ):
        try:
            layers, own = read(model, architecture, plans, output)
            if own is None:
                own = knowledge_of(model, layers[-1].weight.shape[1])
            layers = agreement.layers(layers, own, f"models[{key!r}]")
            got = _layers.shape_of(layers)
            if shape is None:
                architecture, shape, whose = (
                    _layers.architecture_of(layers),
                    got,
                    f"models[{key!r}]",
                )
            if got != shape:
                raise InvalidValueError(f"differs from {whose}: {_layers.difference(shape, got)}")
            if not stacked:
                n = len(pairs)
                stacked = [
                    (
                        np.empty((n, a, b), np.float32),
                        np.zeros((n, b), np.float32),
                        np.empty(n, np.float32) if activation is Activation.PRELU else None,
                    )
                    for a, b, activation, _ in shape
                ]
            if layers[0].before is not None:
                scaled[i] = layers[0]
            for j, (layer, (weight, bias, slope)) in enumerate(zip(layers, stacked, strict=True)):
                if slope is not None and layer.slope is not None:
                    slope[i] = _rounded(layer.slope, f"layer_{j}.slope")
                if layer.before is not None:  # folded when the shift is known
                    continue
                weight[i] = _rounded(layer.weight, f"layer_{j}")
                if layer.bias is not None:
                    bias[i] = _rounded(layer.bias, f"layer_{j}.bias")
        except (ValueError, TypeError, KeyError) as error:
            message = f"models[{key!r}]: {error.args[0] if error.args else error}"
            kinds = _MLPBANK_KINDS if isinstance(error, MlpbankError) else _KINDS
            raise next(kind for kind in kinds if isinstance(error, kind))(message) from error
        keys.append(key)
    assert architecture is not None
    weight, bias, _ = stacked[0]
    features = agreement.knowledge.feature_names
    shift = _with_first_layers(
        weight, bias, scaled, decide, lambda i: f"models[{keys[i]!r}]: ", features
    )
    weights: Weights = {} if shift is None else {_shift.KEY: shift}
    for i, (weight, bias, slope) in enumerate(stacked):
        weights |= {f"layer_{i}": weight, f"layer_{i}.bias": bias}
        if slope is not None:
            weights[f"layer_{i}.slope"] = slope
    return keys, architecture, weights, agreement.knowledge


def _with_first_layers(
    weight: Float32Array,
    bias: Float32Array,
    scaled: Mapping[int, _layers.Layer],
    decide: _shift.Decide,
    name: _shift.Name,
    features: tuple[str, ...] | None,
) -> Float64Array | None:
    """Decide the shift of all models, and write first layers that take ``x - shift``.

    Parameters
    ----------
    weight, bias : float32 array (models, in, out) and (models, out)
        Hold those of models that are not in `scaled`.
    scaled : mapping of int to Layer
        First layers that scale their inputs, by the number of their model.
    """
    models = list(scaled)
    if not models:
        shift = decide(None, None)
    else:
        before = [layer.before for layer in scaled.values() if layer.before is not None]
        scale = np.stack([affine.scale for affine in before])
        offset = np.stack([affine.shift for affine in before])
        shift = decide(scale, offset)
        _shift.check(scale, offset, shift, lambda i: name(models[i]), features)
    for i in range(len(weight)) if shift is not None else models:
        layer = scaled.get(i) or _layers.Layer(weight[i], bias[i], Activation.NONE)
        layer = _shift.with_shift(layer, shift)
        try:
            weight[i] = _rounded(layer.weight, "layer_0")
            if layer.bias is not None:
                bias[i] = _rounded(layer.bias, "layer_0.bias")
        except InvalidValueError as error:
            raise InvalidValueError(f"{name(i)}{error}") from error
    return shift


def keyed(models: Any) -> list[tuple[Any, Any]]:
    """Return the keys and models of whatever `stack` takes, or raise TypeError or ValueError."""
    return pairs_of(models, framework_of)


def to_onnx(architecture: Architecture, weights: Mapping[str, Any]) -> Any:
    """Return stacked models as one ONNX graph, input (N, rows, in) to output (N, rows, out).

    Parameters
    ----------
    architecture : Architecture
        The architecture of all N models.
    weights : mapping of str to array
        Stacked weights, as `BatchedWeights.load_stacked` takes them. With ``"input_shift"`` the
        graph takes rows in float64 and subtracts it.

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
    with needs_onnx():
        from mlpbank.convert import _onnx_export
    return _onnx_export.export(architecture, weights)


def _rounded(array: Any, name: str) -> Any:
    """Return an array rounded to float32. A float32 one is not copied."""
    return array if array.dtype == np.float32 else _layers.to_float32(array, name)

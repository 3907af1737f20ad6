"""Which converter reads a model. Each is imported when a model needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlpbank.architecture import Architecture
from mlpbank.convert._checkpoints import state_dict_of
from mlpbank.convert._containers import model_inside
from mlpbank.convert._fold import fold
from mlpbank.convert._frameworks import REFUSED, framework_of, is_onnx
from mlpbank.convert._knowledge import Knowledge
from mlpbank.convert._layers import Converted, Layer
from mlpbank.convert._native import is_native, native_layers
from mlpbank.convert._params import from_params
from mlpbank.errors import (
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
    UnsupportedLayerError,
)


def read(
    model: Any,
    architecture: Architecture | None,
    plans: dict[Any, Any],
    output: str | int | None = None,
) -> tuple[list[Layer], Knowledge | None]:
    """Return the folded layers of a model, and what it knows, None where `knowledge_of` tells that.

    A file is read once for both. `plans` is one dict for all models of a call.
    """
    if is_onnx(model):
        with needs_onnx():
            from mlpbank.convert import onnx
        steps, own = onnx.read(model, output)
        return fold(steps), Knowledge(*own)
    return _layers(model, architecture, plans, output), None


def _layers(
    model: Any,
    architecture: Architecture | None,
    plans: dict[Any, Any],
    output: str | int | None,
) -> list[Layer]:
    framework = framework_of(type(model))
    if framework == "torch":
        from mlpbank.convert import torch

        return fold(torch.steps(model, plans=plans, output=output))
    if framework == "skorch":
        from mlpbank.convert import _skorch

        return fold(_skorch.steps(model, plans=plans, output=output))
    if framework == "keras":
        from mlpbank.convert import keras

        return fold(keras.steps(model, output=output))
    if framework in REFUSED:
        raise UnsupportedLayerError(f"{type(model).__name__} {REFUSED[framework]}")
    if output is not None:
        raise InvalidValueError(
            f"output: expected None for a model with one result ({type(model).__name__}), "
            f"got {output!r}"
        )
    if framework == "sklearn":
        from mlpbank.convert import sklearn

        return fold(sklearn.steps(model))
    if isinstance(model, Converted):
        return native_layers(model.weights, model.architecture)
    if framework is None and not isinstance(model, (Mapping, list, tuple)):
        got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise InvalidTypeError(
            "model: expected a PyTorch, scikit-learn, Keras, ONNX, Flax or Equinox model "
            f"or a mapping of weights, got {got}"
        )
    if architecture is None:
        kind = type(model).__name__
        if inside := model_inside(model, framework_of):
            raise InvalidTypeError(f"model: expected a model, got a {kind} with {inside}")
        raise InvalidValueError(
            f"architecture: needed for weights without activations ({kind}), got None; give one, "
            "or pass the module itself"
        )
    model = state_dict_of(model)
    if is_native(model):
        return native_layers(model, architecture)
    return native_layers(from_params(model, architecture).weights, architecture)


@contextmanager
def needs_onnx() -> Iterator[None]:
    """Name the package to install if an import in the block fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"ONNX models need a package that is not there: {error}; pip install 'mlpbank[onnx]'"
        ) from error

"""BatchedWeights: the weights of many models of one architecture."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._arrays import Float32Array, as_float32
from mlpbank.architecture import Architecture, positive_int

# Weights as users give them: "layer_<N>" and "layer_<N>.bias" to anything NumPy can read.
WeightsMapping = Mapping[str, Any]


class BatchedWeights:
    """The weights of `num_models` models in one contiguous, 64-byte aligned buffer.

    Parameters
    ----------
    num_models : int
        How many models; each starts without weights.
    architecture : Architecture
        Shared by all of them.
    layout : {"auto", "panel", "lane"}
        How weights lie in memory. ``"auto"`` picks by architecture: lane (16 models side by side) for tiny networks,
        panel (16 outputs side by side) for the others. Results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, or `num_models` is not positive.
    OverflowError, MemoryError
        The weights do not fit.

    Notes
    -----
    Loading and predicting may happen in different threads at once: a load waits for running forwards and they for it.
    """

    def __init__(self, num_models: int, architecture: Architecture, *, layout: str = "auto") -> None:
        if not isinstance(architecture, Architecture):
            raise TypeError(f"architecture: expected an Architecture, got {architecture!r}")
        self._architecture = architecture
        self._core = _core.BatchedWeights(positive_int(num_models, "num_models"), architecture._core, layout)

    @property
    def num_models(self) -> int:
        """Number of models."""
        return self._core.num_models

    @property
    def architecture(self) -> Architecture:
        """The architecture that all models share."""
        return self._architecture

    @property
    def layout(self) -> str:
        """``"panel"`` or ``"lane"``."""
        return self._core.layout

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return self._core.nbytes

    @property
    def loaded(self) -> npt.NDArray[np.bool_]:
        """Which models have weights, shape (num_models,); a copy."""
        return self._core.loaded_flags()

    def load(self, model_idx: int, weights: WeightsMapping, *, check_finite: bool = False) -> None:
        """Load the weights of one model. Everything is validated first: a load that fails changes nothing.

        Parameters
        ----------
        model_idx : int
            0 to num_models - 1.
        weights : mapping of str to array
            ``"layer_<N>"``: the weight matrix of layer N as (input_size, output_size), or flat in row-major order.
            ``"layer_<N>.bias"``: (output_size,); optional, zeros where it is missing. Converted to float32.
        check_finite : bool
            Refuse NaN and infinity.

        Raises
        ------
        IndexError
            `model_idx` is out of range.
        KeyError
            A layer is missing, or a key is unknown.
        TypeError, ValueError
            An array is not of real numbers, of the wrong size, or not finite where that is asked for.
        """
        try:
            index = operator.index(model_idx)
        except TypeError:
            raise TypeError(f"model_idx: expected an integer, got {model_idx!r}") from None
        if not 0 <= index < self.num_models:
            raise IndexError(f"model_idx: expected 0 to {self.num_models - 1}, got {index}")
        self._core.load(index, 1, *self._collect(weights, (), check_finite))

    def load_stacked(self, weights: WeightsMapping, *, check_finite: bool = False) -> None:
        """Load the weights of all models from stacked arrays.

        Parameters
        ----------
        weights : mapping of str to array
            As for `load`, each array with a leading dimension of num_models: (num_models, input_size, output_size) or
            (num_models, input_size * output_size), biases (num_models, output_size).
        check_finite : bool
            Refuse NaN and infinity.

        Raises
        ------
        KeyError, TypeError, ValueError
            As for `load`.
        """
        self._core.load(0, self.num_models, *self._collect(weights, (self.num_models,), check_finite))

    def get(self, model_idx: int) -> dict[str, Float32Array]:
        """Return the weights of one model as they were loaded, bit for bit.

        Returns
        -------
        dict of str to array
            ``"layer_<N>"`` (input_size, output_size) and ``"layer_<N>.bias"`` (output_size,) for every layer, float32.

        Raises
        ------
        IndexError
            `model_idx` is out of range.
        ModelNotLoadedError
            The model has no weights.
        """
        matrices, biases = self._core.get(operator.index(model_idx))
        result: dict[str, Float32Array] = {}
        for i, (matrix, bias) in enumerate(zip(matrices, biases, strict=True)):
            result[f"layer_{i}"] = matrix
            result[f"layer_{i}.bias"] = bias
        return result

    def _collect(
        self, weights: WeightsMapping, batch: tuple[int, ...], check_finite: bool
    ) -> tuple[list[Float32Array], list[Float32Array | None]]:
        """Return the weight and bias array of each layer, all checked, each with leading dimensions `batch`."""
        if not isinstance(weights, Mapping):
            raise TypeError(f"weights: expected a mapping of names to arrays, got {type(weights).__name__}")
        layers = self._architecture.layers
        known = {f"layer_{i}{suffix}" for i in range(len(layers)) for suffix in ("", ".bias")}
        for key in weights:
            if key not in known:
                raise KeyError(f"weights: unknown key {key!r}, expected {_key_range(len(layers))}")
        matrices: list[Float32Array] = []
        biases: list[Float32Array | None] = []
        for i, layer in enumerate(layers):
            name = f"layer_{i}"
            if name not in weights:
                raise KeyError(f"weights: missing key {name!r}")
            size = layer.input_size * layer.output_size
            shapes = ((*batch, layer.input_size, layer.output_size), (*batch, size))
            matrices.append(_checked(weights[name], name, shapes, check_finite))
            bias = f"{name}.bias"
            given = bias in weights
            biases.append(_checked(weights[bias], bias, ((*batch, layer.output_size),), check_finite) if given else None)
        return matrices, biases

    def __repr__(self) -> str:
        return f"BatchedWeights({self.num_models}, {self._architecture!r}, layout={self.layout!r})"


def _key_range(num_layers: int) -> str:
    last = "" if num_layers == 1 else f" to 'layer_{num_layers - 1}'"
    return f"'layer_0'{last}, each also with '.bias'"


def _checked(value: Any, name: str, shapes: tuple[tuple[int, ...], ...], check_finite: bool) -> Float32Array:
    array = as_float32(value, name)
    if array.shape not in shapes:
        raise ValueError(f"{name}: expected shape {' or '.join(map(str, shapes))}, got {array.shape}")
    if check_finite and not np.isfinite(array).all():
        bad = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
        raise ValueError(f"{name}: expected finite values, got {array[bad]} at {tuple(map(int, bad))}")
    return array

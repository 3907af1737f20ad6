"""BatchedWeights: the weights of many models of one architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._arrays import as_float32, transposed
from mlpbank.architecture import Architecture, array_shapes, as_index, positive_int
from mlpbank.errors import InvalidTypeError, InvalidValueError, OutOfRangeError, UnknownKeyError
from mlpbank.typing import Dtype, DtypeName, Float32Array, Layout

# "layer_<N>" and "layer_<N>.bias" to anything that NumPy can read.
WeightsMapping = Mapping[str, Any]


class BatchedWeights:
    """The weights of `num_models` models in one contiguous, 64-byte aligned buffer.

    Parameters
    ----------
    num_models : int
        Number of models. Each starts without weights.
    architecture : Architecture
        The architecture that all models share.
    layout : {"auto", "panel", "lane"}
        How weights lie in memory. ``"panel"`` has 16 outputs of one model side by side; ``"lane"``
        has 16 models side by side, and calls that name slots keep a second copy of the models that
        they need one by one. ``"auto"`` chooses lane for tiny networks and panel for others.
        Results do not depend on it.
    dtype : {"float32", "float16", "bfloat16", "int8"} or NumPy dtype
        How weights are stored. Inputs, outputs, biases and sums are always float32. float16 and
        bfloat16 round to nearest even. int8 is symmetric, with one float32 scale for each output of
        each model: the largest absolute weight of that output divided by 127. See
        docs/precision.md for accuracy and speed.

    Raises
    ------
    TypeError, ValueError
        An argument has a wrong type, or `num_models` is not positive.
    OverflowError, MemoryError
        The weights do not fit in memory.

    Notes
    -----
    Threads may load, unload, grow and predict at the same time. A load writes to free memory and
    then replaces the model in one step. The memory of the old weights is reused when no running
    forward can read it.

    Copies and pickles hold the weights as they are stored and give bit-identical results. A pickle
    is for processes that exchange it with the same version of mlpbank; `Bank.save` writes files to
    keep.
    """

    def __init__(
        self,
        num_models: int,
        architecture: Architecture,
        *,
        layout: Layout = "auto",
        dtype: Dtype = "float32",
    ) -> None:
        if not isinstance(architecture, Architecture):
            raise InvalidTypeError(f"architecture: expected an Architecture, got {architecture!r}")
        self._architecture = architecture
        if not isinstance(layout, str):
            raise InvalidTypeError(f"layout: expected a string, got {layout!r}")
        models = positive_int(num_models, "num_models")
        self._core = _core.BatchedWeights(models, architecture._core, layout, _dtype_name(dtype))

    @classmethod
    def _from_core(cls, core: _core.BatchedWeights, architecture: Architecture) -> BatchedWeights:
        """Return a BatchedWeights around an existing core object."""
        self = cls.__new__(cls)
        self._architecture = architecture
        self._core = core
        return self

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
    def dtype(self) -> DtypeName:
        """How weights are stored: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"``."""
        return self._core.dtype

    @property
    def nbytes(self) -> int:
        """Size of the buffer in bytes, without copies that calls by slot have made of models."""
        return self._core.nbytes

    @property
    def loaded(self) -> npt.NDArray[np.bool_]:
        """Copy of the flags of models that have weights, bool of shape (num_models,)."""
        return self._core.loaded_flags()

    def load(self, model_idx: int, weights: WeightsMapping, *, check_finite: bool = False) -> None:
        """Load the weights of one model. A load that fails changes nothing.

        Parameters
        ----------
        model_idx : int
            0 to num_models - 1.
        weights : mapping of str to array
            ``"layer_<N>"`` is the matrix of layer N, (input_size, output_size) or flat in row-major
            order. ``"layer_<N>.bias"`` is (output_size,) and optional; without it biases are 0.
            ``"layer_<N>.slope"`` is one number and belongs to layers with ``prelu``.
            Arrays are converted to float32.
        check_finite : bool
            Refuse NaN and infinity.

        Raises
        ------
        IndexError
            `model_idx` is out of range.
        KeyError
            A layer is missing, or a key is unknown.
        TypeError, ValueError
            An array does not hold real numbers, has a wrong shape, or is not finite where
            `check_finite` is set.
        """
        self._core.load(self._index(model_idx), 1, *self._collect(weights, (), check_finite))

    def unload(self, model_idx: int) -> None:
        """Remove the weights of one model.

        Raises
        ------
        TypeError, IndexError
            `model_idx` is not an integer, or out of range.
        """
        self._core.unload(self._index(model_idx))

    def grow(self, count: int) -> None:
        """Add `count` models without weights after the others, which keep their numbers.

        Raises
        ------
        TypeError, ValueError
            `count` is not a positive integer.
        OverflowError, MemoryError
            The weights do not fit in memory.
        """
        self._core.grow(positive_int(count, "count"))

    def revision(self, model_idx: int) -> int:
        """Return how often a model was loaded.

        Raises
        ------
        TypeError, IndexError
            `model_idx` is not an integer, or out of range.
        """
        return self._core.revision(self._index(model_idx))

    def _index(self, model_idx: int) -> int:
        index = as_index(model_idx)
        if index is None:
            raise InvalidTypeError(f"model_idx: expected an integer, got {model_idx!r}")
        if not 0 <= index < self.num_models:
            raise OutOfRangeError(f"model_idx: expected 0 to {self.num_models - 1}, got {index}")
        return index

    def load_stacked(self, weights: WeightsMapping, *, check_finite: bool = False) -> None:
        """Load the weights of all models from stacked arrays.

        Parameters
        ----------
        weights : mapping of str to array
            As for `load`, each array with a leading dimension of num_models. Matrices are
            (num_models, input_size, output_size) or (num_models, input_size * output_size), biases
            (num_models, output_size), or (num_models, 1, output_size) as layers of ensembles have
            them; slopes (num_models,).
        check_finite : bool
            Refuse NaN and infinity.

        Raises
        ------
        KeyError, TypeError, ValueError
            As for `load`.
        """
        models = self.num_models  # read once, because another thread may call grow
        self._core.load(0, models, *self._collect(weights, (models,), check_finite))

    def get(self, model_idx: int) -> dict[str, Float32Array]:
        """Return the weights of one model as they are stored.

        With dtype float32 they are bit-identical to the loaded ones. Other dtypes round them.

        Returns
        -------
        dict of str to float32 array
            ``"layer_<N>"`` (input_size, output_size) and ``"layer_<N>.bias"`` (output_size,) of
            every layer, and ``"layer_<N>.slope"`` () of those with ``prelu``.

        Raises
        ------
        IndexError
            `model_idx` is out of range.
        ModelNotLoadedError
            The model has no weights.
        """
        result: dict[str, Float32Array] = {}
        for i, (matrix, bias, slope) in enumerate(self._core.get(self._index(model_idx))):
            result[f"layer_{i}"] = matrix
            result[f"layer_{i}.bias"] = bias
            if slope is not None:
                result[f"layer_{i}.slope"] = slope
        return result

    def _collect(
        self, weights: WeightsMapping, batch: tuple[int, ...], check_finite: bool
    ) -> tuple[list[Float32Array], list[Float32Array | None], list[Float32Array | None]]:
        """Return the checked matrices, biases and slopes of all layers.

        Each has the leading dimensions `batch`.
        """
        if not batch and not check_finite:
            ready = self._core.ready_model(weights)
            if ready is not None:
                return ready
        if not isinstance(weights, Mapping):
            raise InvalidTypeError(
                f"weights: expected a mapping of names to arrays, got {type(weights).__name__}"
            )
        layers = self._architecture.layers
        known = array_shapes(self._architecture)
        for key in weights:
            if key == "input_shift":
                raise InvalidValueError(
                    "weights: take x - input_shift, which a Bank subtracts and numbered models do "
                    "not; use a Bank, or scale x yourself and convert the model without its scaler"
                )
            if key not in known:
                raise UnknownKeyError(
                    f"weights: unknown key {key!r}, expected {_key_range(len(layers))}"
                )
        matrices: list[Float32Array] = []
        biases: list[Float32Array | None] = []
        slopes: list[Float32Array | None] = []
        for i, layer in enumerate(layers):
            name = f"layer_{i}"
            if name not in weights:
                raise UnknownKeyError(f"weights: missing key {name!r}")
            size = layer.input_size * layer.output_size
            shapes = ((*batch, layer.input_size, layer.output_size), (*batch, size))
            matrix = _checked(weights[name], name, shapes, check_finite)
            _check_range(matrix, name, self.dtype)
            matrices.append(matrix)
            bias = f"{name}.bias"
            given = bias in weights
            biases.append(
                _bias(weights[bias], bias, batch, layer.output_size, check_finite)
                if given
                else None
            )
            slope = f"{name}.slope"
            if slope not in known:
                slopes.append(None)
                continue
            if slope not in weights:
                raise UnknownKeyError(f"weights: missing key {slope!r}, which 'prelu' has")
            slopes.append(_checked(weights[slope], slope, (batch, (*batch, 1)), check_finite))
        return matrices, biases, slopes

    def __reduce__(self) -> tuple[Any, ...]:
        copy = self._core.copy_blocks()
        return _restored, (
            copy.num_models,
            self._architecture,
            self.layout,
            self.dtype,
            copy.blocks,
            copy.present,
        )

    def __repr__(self) -> str:
        return f"BatchedWeights({self.num_models}, {self._architecture!r}, layout={self.layout!r})"


def _restored(
    models: int,
    architecture: Architecture,
    layout: Layout,
    dtype: Dtype,
    blocks: npt.NDArray[np.uint8],
    present: list[bool],
) -> BatchedWeights:
    """Return the BatchedWeights whose parts `BatchedWeights.__reduce__` returned."""
    weights = BatchedWeights(models, architecture, layout=layout, dtype=dtype)
    weights._core.restore_blocks(blocks, present)
    return weights


def _bias(
    value: Any, name: str, batch: tuple[int, ...], size: int, check_finite: bool
) -> Float32Array:
    array = as_float32(value, name)
    if batch and array.shape == (*batch, 1, size):  # layers of ensembles
        array = array.reshape(*batch, size)
    return _checked(array, name, ((*batch, size),), check_finite)


def _dtype_name(dtype: Dtype) -> str:
    """Return the name of "int8", np.dtype("int8") or np.int8. The core checks names."""
    if isinstance(dtype, str):
        return dtype
    if isinstance(dtype, np.dtype) or (isinstance(dtype, type) and issubclass(dtype, np.generic)):
        return str(np.dtype(dtype).name)
    raise InvalidTypeError(f"dtype: expected a dtype such as 'float16', got {dtype!r}")


# The smallest magnitudes that round to infinity.
_OVERFLOW = {"float16": 65520.0, "bfloat16": float.fromhex("0x1.ffp127")}


def _check_range(array: Float32Array, name: str, dtype: str) -> None:
    """Raise ValueError if a weight does not fit in the dtype of storage. The message names it."""
    if dtype == "float32":
        return
    if dtype == "int8":
        bad, what = ~np.isfinite(array), "finite values for int8"
    else:
        bad = np.isfinite(array) & (np.abs(array) >= _OVERFLOW[dtype])
        what = f"magnitudes that {dtype} can hold, below {_OVERFLOW[dtype]:g}"
    if bad.any():
        first = np.unravel_index(int(np.argmax(bad)), array.shape)
        raise InvalidValueError(
            f"{name}: expected {what}, got {array[first]} at {tuple(map(int, first))}"
        )


def _key_range(num_layers: int) -> str:
    last = "" if num_layers == 1 else f" to 'layer_{num_layers - 1}'"
    return f"'layer_0'{last}, each also with '.bias'"


def _checked(
    value: Any, name: str, shapes: tuple[tuple[int, ...], ...], check_finite: bool
) -> Float32Array:
    array = as_float32(value, name)
    if array.shape not in shapes:
        raise InvalidValueError(
            f"{name}: expected shape {' or '.join(map(str, shapes))}, got {array.shape}"
            f"{transposed(array, shapes)}"
        )
    if check_finite and not np.isfinite(array).all():
        bad = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
        raise InvalidValueError(
            f"{name}: expected finite values, got {array[bad]} at {tuple(map(int, bad))}"
        )
    return array

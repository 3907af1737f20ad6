"""BatchedInference: many models by number, computed in one call."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlpbank import _core
from mlpbank._arrays import as_float32, as_int64, check_out
from mlpbank.architecture import Architecture
from mlpbank.engine import Engine, as_threads
from mlpbank.errors import InvalidStateError, InvalidTypeError, InvalidValueError
from mlpbank.typing import Dtype, Float32Array, Layout, MissingModels
from mlpbank.weights import BatchedWeights, WeightsMapping

_MISSING = {"error": False, "nan": True}


class MomentPassed(InvalidStateError):
    """Models have changed since the moment that a call was to see. Users never see it."""


class BatchedInference:
    """Many models of one architecture, computed together.

    Parameters
    ----------
    num_models : int
        Number of models. Each starts without weights.
    architecture : Architecture
        The architecture that all models share.
    engine : Engine, optional
        ``Engine()`` by default.
    layout : {"auto", "panel", "lane"}
    dtype : {"float32", "float16", "bfloat16", "int8"} or NumPy dtype
        See `BatchedWeights`.

    Notes
    -----
    Every output is the bias plus one fused multiply-add per input in ascending order, in float32.
    So a row gives the same bits through the same model in every call, whatever else the call
    computes, with any number of threads, and with AVX2 and NEON as with AVX-512. The portable
    instruction set may differ by rounding.

    Any number of threads may call `forward` at once, while others load, unload and grow. `forward`
    releases the GIL and never waits for a load. Each call sees each model as one load left it. A
    call that starts after a load has returned sees the new weights.

    Pickles and deep copies have their own weights. Their engine is made again from its arguments,
    so that another process uses its own CPUs.

    Examples
    --------
    >>> import numpy as np
    >>> from mlpbank import Architecture, BatchedInference, LayerSpec
    >>> bi = BatchedInference(2, Architecture([LayerSpec(3, 1)]))
    >>> bi.load_weights(0, {"layer_0": [1, 2, 3]})
    >>> bi.load_weights(1, {"layer_0": [1, 1, 1], "layer_0.bias": [10]})
    >>> bi.forward(np.ones((2, 3)))
    array([[ 6.],
           [13.]], dtype=float32)
    """

    def __init__(
        self,
        num_models: int,
        architecture: Architecture,
        engine: Engine | None = None,
        *,
        layout: Layout = "auto",
        dtype: Dtype = "float32",
    ) -> None:
        self._bind(BatchedWeights(num_models, architecture, layout=layout, dtype=dtype), engine)

    @classmethod
    def from_weights(
        cls, weights: BatchedWeights, engine: Engine | None = None
    ) -> BatchedInference:
        """Return a BatchedInference that shares existing weights and sees later loads.

        Parameters
        ----------
        weights : BatchedWeights
            The models.
        engine : Engine, optional
            ``Engine()`` by default.

        Raises
        ------
        TypeError
            An argument has a wrong type.
        """
        if not isinstance(weights, BatchedWeights):
            raise InvalidTypeError(
                f"weights: expected BatchedWeights, got {type(weights).__name__}"
            )
        self = cls.__new__(cls)
        self._bind(weights, engine)
        return self

    def _bind(self, weights: BatchedWeights, engine: Engine | None) -> None:
        if engine is None:
            engine = Engine()
        elif not isinstance(engine, Engine):
            raise InvalidTypeError(f"engine: expected an Engine, got {engine!r}")
        self._weights = weights
        self._engine = engine
        self._core = _core.BatchedInference(weights._core, engine._core)
        # Looked up once, because a forward of few models takes microseconds.
        self._direct = self._core.forward_direct
        self._input_size = weights.architecture.input_size
        self._output_size = weights.architecture.output_size

    @property
    def num_models(self) -> int:
        """Number of models."""
        return self._weights.num_models

    @property
    def architecture(self) -> Architecture:
        """The architecture that all models share."""
        return self._weights.architecture

    @property
    def weights(self) -> BatchedWeights:
        """The weights that forward computes with."""
        return self._weights

    @property
    def engine(self) -> Engine:
        """The engine that forward computes with."""
        return self._engine

    def load_weights(
        self, model_idx: int, weights: WeightsMapping, *, check_finite: bool = False
    ) -> None:
        """Load the weights of one model, as `BatchedWeights.load` does."""
        self._weights.load(model_idx, weights, check_finite=check_finite)

    def unload(self, model_idx: int) -> None:
        """Remove the weights of one model, as `BatchedWeights.unload` does."""
        self._weights.unload(model_idx)

    def grow(self, count: int) -> None:
        """Add `count` models without weights, as `BatchedWeights.grow` does."""
        self._weights.grow(count)

    def revision(self, model_idx: int) -> int:
        """Return how often a model was loaded, as `BatchedWeights.revision` does."""
        return self._weights.revision(model_idx)

    def forward(
        self,
        x: Any,
        *,
        models: Any = None,
        out: Float32Array | None = None,
        num_threads: int | None = None,
        missing: MissingModels = "error",
    ) -> Float32Array:
        """Send every row through its model.

        Parameters
        ----------
        x : array_like of real numbers
            Without `models`: (num_models, input_size), one row for each model, or (num_models,
            rows, input_size). With `models`: (n, input_size) or (n, rows, input_size). A float32
            array in C order is used without a copy; anything else is converted.
        models : array_like of int, optional
            Shape (n,). Entry i of x goes through model ``models[i]``, in any order, with repeats.
        out : float32 array, optional
            Array for the result: C-contiguous, and not overlapping x.
        num_threads : int, optional
            Lowers the engine's number of threads for this call.
        missing : {"error", "nan"}
            What to do about models without weights: raise, or return NaN.

        Returns
        -------
        float32 array
            (num_models or n, output_size), or (num_models or n, rows, output_size). It is `out`
            where that was given.

        Raises
        ------
        ModelNotLoadedError
            A model has no weights. The message names it.
        IndexError
            A model number is out of range. The message gives its position.
        TypeError, ValueError
            An argument has a wrong dtype or shape.
        """
        if models is None and num_threads is None and missing == "error":
            y = self._direct(x, out)
            if y is not None:
                return y
        return self._forward(x, models, out, num_threads, missing, ("x", "models"))

    def _forward(
        self,
        x: Any,
        models: Any,
        out: Float32Array | None,
        num_threads: int | None,
        missing: str,
        names: tuple[str, str],
        moment: int | None = None,
    ) -> Float32Array:
        """Do what `forward` does. `names` are the names of x and models in error messages.

        With a `moment` of the weights, raise MomentPassed, before anything is written, if models
        have changed since.
        """
        x = as_float32(x, names[0])
        shape = x.shape
        slots = None if models is None else as_int64(models, names[1])
        entries = self._weights.num_models if slots is None else slots.shape[0]
        if not 2 <= len(shape) <= 3 or shape[-1] != self._input_size or shape[0] != entries:
            self._raise_shape(
                names[0], shape, "num_models" if slots is None else f"len({names[1]})", entries
            )
        y_shape = (*shape[:-1], self._output_size)
        y = np.empty(y_shape, np.float32) if out is None else check_out(out, y_shape, x, models)
        threads, nan = _options(num_threads, missing)
        if slots is None:
            self._core.forward(x, y, entries, threads, nan)
        elif not self._core.forward_models(slots, x, y, threads, nan, moment):
            raise MomentPassed
        return y

    def forward_shared(
        self,
        x: Any,
        *,
        out: Float32Array | None = None,
        num_threads: int | None = None,
        missing: MissingModels = "error",
    ) -> Float32Array:
        """Send the same rows through every model, as ensembles and populations need it.

        Parameters
        ----------
        x : array_like of real numbers
            (input_size,) or (rows, input_size).
        out, num_threads, missing
            As for `forward`.

        Returns
        -------
        float32 array
            (num_models, output_size) or (num_models, rows, output_size).

        Raises
        ------
        ModelNotLoadedError, TypeError, ValueError
            As for `forward`.
        """
        x = as_float32(x, "x")
        size = self._input_size
        if not 1 <= x.ndim <= 2:
            raise InvalidValueError(f"x: expected shape ({size},) or (rows, {size}), got {x.shape}")
        if x.shape[-1] != size:
            raise InvalidValueError(f"x: expected last dimension {size}, got {x.shape[-1]}")
        models = self._weights.num_models
        y_shape = (models, *x.shape[:-1], self._output_size)
        y = np.empty(y_shape, np.float32) if out is None else check_out(out, y_shape, x)
        self._core.forward_shared(x, y, models, *_options(num_threads, missing))
        return y

    def _raise_shape(
        self, name: str, shape: tuple[int, ...], entries_name: str, entries: int
    ) -> None:
        size = self._input_size
        if not 2 <= len(shape) <= 3:
            raise InvalidValueError(
                f"{name}: expected shape ({entries}, {size}) or ({entries}, rows, {size}), "
                f"got {shape}"
            )
        if shape[-1] != size:
            raise InvalidValueError(f"{name}: expected last dimension {size}, got {shape[-1]}")
        raise InvalidValueError(
            f"{name}: expected first dimension {entries} ({entries_name}), got {shape[0]}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_weights, (self._weights, self._engine)

    def __repr__(self) -> str:
        return f"BatchedInference({self.num_models}, {self.architecture!r}, {self._engine!r})"


def _options(num_threads: int | None, missing: str) -> tuple[int, bool]:
    """Return the core's arguments: threads (0 for the engine's), and whether to return NaN."""
    if not isinstance(missing, str) or missing not in _MISSING:
        raise InvalidValueError(f"missing: expected 'error' or 'nan', got {missing!r}")
    threads = as_threads(num_threads)
    return threads, _MISSING[missing]

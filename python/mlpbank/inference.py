"""Engine and BatchedInference: every row through its model, in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._arrays import Float32Array, as_float32, as_ids, check_out
from mlpbank.architecture import Activation, Architecture, LayerSpec, positive_int
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.weights import BatchedWeights, WeightsMapping

__all__ = [
    "Activation",
    "Architecture",
    "BatchedInference",
    "BatchedWeights",
    "Engine",
    "LayerSpec",
    "available_isas",
]

_MISSING = {"error": False, "nan": True}


def available_isas() -> list[str]:
    """Return the instruction sets this machine can run, the fastest first: some of avx512, avx2, portable."""
    return _core.available_isas()


class Engine:
    """What all arithmetic goes through: an instruction set and a number of threads.

    Parameters
    ----------
    num_threads : int, optional
        At most this many threads in one call. The default, and the upper bound, is the CPU budget: the least of
        MLPBANK_NUM_THREADS, OMP_NUM_THREADS, the CPUs this process may run on and its cgroup's quota.
    isa : {"avx512", "avx2", "portable"}, optional
        The default is the fastest that this machine has. The environment variable MLPBANK_ISA lowers it.

    Raises
    ------
    TypeError, ValueError
        `num_threads` is not a positive integer; `isa`, or MLPBANK_ISA, is unknown or not available here.
    """

    def __init__(self, num_threads: int | None = None, isa: str | None = None) -> None:
        threads = 0 if num_threads is None else min(positive_int(num_threads, "num_threads"), 2**31 - 1)
        if isa is not None and not isinstance(isa, str):
            raise InvalidTypeError(f"isa: expected a string, got {isa!r}")
        if isa == "":
            raise InvalidValueError(f"isa: expected one of {', '.join(map(repr, available_isas()))}, got ''")
        self._core = _core.Engine(threads, isa or "")
        self._arguments = (num_threads, isa)

    @property
    def num_threads(self) -> int:
        """The most threads one call uses."""
        return self._core.num_threads

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._core.isa

    def __reduce__(self) -> tuple[type[Engine], tuple[int | None, str | None]]:
        # By what was asked for, not by what came of it: another process may have another budget.
        return Engine, self._arguments

    def __repr__(self) -> str:
        return f"Engine(num_threads={self.num_threads}, isa={self.isa!r})"


class BatchedInference:
    """Many models of one architecture, computed together.

    Parameters
    ----------
    num_models : int
        How many models.
    architecture : Architecture
        Shared by all of them.
    engine : Engine, optional
        ``Engine()`` by default.
    layout : {"auto", "panel", "lane"}
    dtype : {"float32", "float16", "bfloat16", "int8"} or NumPy dtype
        See `BatchedWeights`.

    Notes
    -----
    Every output is the bias plus one fused multiply-add per input in ascending order, in float32. The same row through
    the same model therefore gives the same bits whatever else is in the call, for any number of threads and rows, and
    with AVX2 as with AVX-512. (The portable instruction set may differ by rounding.)

    Any number of threads may call `forward` at once, while others load, unload and grow; the GIL is released while it
    computes. Forwards never wait for loads. Each call sees exactly one generation of each model, and a call that starts
    after a load has returned sees what was loaded.

    Pickles and deep copies have weights of their own. Their engine is made anew from its arguments, so that another
    process uses the CPUs that it has.

    Examples
    --------
    >>> import numpy as np
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
        layout: str = "auto",
        dtype: npt.DTypeLike = "float32",
    ) -> None:
        self._bind(BatchedWeights(num_models, architecture, layout=layout, dtype=dtype), engine)

    @classmethod
    def from_weights(cls, weights: BatchedWeights, engine: Engine | None = None) -> BatchedInference:
        """Return an inference over existing weights, which it shares: what is loaded later is seen.

        Parameters
        ----------
        weights : BatchedWeights
            The models.
        engine : Engine, optional
            ``Engine()`` by default.
        """
        if not isinstance(weights, BatchedWeights):
            raise InvalidTypeError(f"weights: expected BatchedWeights, got {type(weights).__name__}")
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
        # Looked up once: forward is called for microseconds of work.
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

    def load_weights(self, model_idx: int, weights: WeightsMapping, *, check_finite: bool = False) -> None:
        """Load the weights of one model; the same as ``self.weights.load``, see `BatchedWeights.load`."""
        self._weights.load(model_idx, weights, check_finite=check_finite)

    def unload(self, model_idx: int) -> None:
        """Forget the weights of one model; the same as ``self.weights.unload``."""
        self._weights.unload(model_idx)

    def grow(self, count: int) -> None:
        """Add `count` models without weights; the same as ``self.weights.grow``."""
        self._weights.grow(count)

    def generation(self, model_idx: int) -> int:
        """Return how often a model was loaded; the same as ``self.weights.generation``."""
        return self._weights.generation(model_idx)

    def forward(
        self,
        inputs: Any,
        *,
        models: Any = None,
        out: Float32Array | None = None,
        num_threads: int | None = None,
        missing: str = "error",
    ) -> Float32Array:
        """Send every row through its model.

        Parameters
        ----------
        inputs : array_like of real numbers
            Without `models`: (num_models, input_size), one row for each model; (num_models, rows, input_size); or a
            list of num_models vectors. With `models`: (n, input_size) or (n, rows, input_size). float32 in C order is
            used without a copy, anything else is converted.
        models : array_like of int, optional
            Shape (n,). Entry i of the inputs goes through model ``models[i]``; any order, repeats allowed.
        out : float32 array, optional
            Where the result is written, C-contiguous and not overlapping the inputs.
        num_threads : int, optional
            Lowers the engine's number of threads for this call.
        missing : {"error", "nan"}
            What to do about models without weights: raise, or answer NaN.

        Returns
        -------
        float32 array
            (num_models or n, output_size), or (num_models or n, rows, output_size); `out` where that was given.

        Raises
        ------
        ModelNotLoadedError
            A model has no weights; the message names it.
        IndexError
            A model index is out of range; the message gives its position.
        TypeError, ValueError
            Dtype or shape of an argument; the message says what was expected and what came.
        """
        if models is None and num_threads is None and missing == "error":
            y = self._direct(inputs, out)
            if y is not None:
                return y
        return self._forward(inputs, models, out, num_threads, missing, ("inputs", "models"))

    def _forward(
        self,
        inputs: Any,
        models: Any,
        out: Float32Array | None,
        num_threads: int | None,
        missing: str,
        names: tuple[str, str],
    ) -> Float32Array:
        """`forward` for callers whose users know inputs and models by other names, which errors then use."""
        x = as_float32(inputs, names[0])
        shape = x.shape
        ids = None if models is None else as_ids(models, names[1])
        entries = self._weights.num_models if ids is None else ids.shape[0]
        if not 2 <= len(shape) <= 3 or shape[-1] != self._input_size or shape[0] != entries:
            self._raise_shape(names[0], shape, "num_models" if ids is None else f"len({names[1]})", entries)
        y_shape = (*shape[:-1], self._output_size)
        y = np.empty(y_shape, np.float32) if out is None else check_out(out, y_shape, x, models)
        threads, nan = _options(num_threads, missing)
        if ids is None:
            self._core.forward(x, y, entries, threads, nan)
        else:
            self._core.forward_models(ids, x, y, threads, nan)
        return y

    def forward_shared(
        self,
        inputs: Any,
        *,
        out: Float32Array | None = None,
        num_threads: int | None = None,
        missing: str = "error",
    ) -> Float32Array:
        """Send the same rows through every model: ensembles, populations.

        Parameters
        ----------
        inputs : array_like of real numbers
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
        x = as_float32(inputs, "inputs")
        size = self._input_size
        if not 1 <= x.ndim <= 2:
            raise InvalidValueError(f"inputs: expected shape ({size},) or (rows, {size}), got {x.shape}")
        if x.shape[-1] != size:
            raise InvalidValueError(f"inputs: expected last dimension {size}, got {x.shape[-1]}")
        models = self._weights.num_models
        y_shape = (models, *x.shape[:-1], self._output_size)
        y = np.empty(y_shape, np.float32) if out is None else check_out(out, y_shape, x)
        self._core.forward_shared(x, y, models, *_options(num_threads, missing))
        return y

    def _raise_shape(self, name: str, shape: tuple[int, ...], entries_name: str, entries: int) -> None:
        size = self._input_size
        if not 2 <= len(shape) <= 3:
            raise InvalidValueError(
                f"{name}: expected shape ({entries}, {size}) or ({entries}, rows, {size}), got {shape}"
            )
        if shape[-1] != size:
            raise InvalidValueError(f"{name}: expected last dimension {size}, got {shape[-1]}")
        raise InvalidValueError(f"{name}: expected first dimension {entries} ({entries_name}), got {shape[0]}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_weights, (self._weights, self._engine)

    def __repr__(self) -> str:
        return f"BatchedInference({self.num_models}, {self.architecture!r}, {self._engine!r})"


def _options(num_threads: int | None, missing: str) -> tuple[int, bool]:
    """Return the core's options: a number of threads (0: the engine's), and whether missing models give NaN."""
    if not isinstance(missing, str) or missing not in _MISSING:
        raise InvalidValueError(f"missing: expected 'error' or 'nan', got {missing!r}")
    threads = 0 if num_threads is None else min(positive_int(num_threads, "num_threads"), 2**31 - 1)
    return threads, _MISSING[missing]

"""The cases of the benchmark, their random weights and inputs, and the right answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from mlpbank._activations import Float64Array, activated
from mlpbank.architecture import Activation, Architecture, LayerSpec
from mlpbank.files import _mapped
from mlpbank.typing import DtypeName, Float32Array

_WEIGHT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
DTYPES: tuple[DtypeName, ...] = get_args(DtypeName)
_REFERENCE_FLOATS = 1 << 21  # weights that are converted to float64 at a time
# Of activations that a name alone does not say.
_PARAMETERS = {"clip": {"low": -1.0, "high": 1.0}}

# Variances of random weights, times inputs. Exponentials grow from layer to layer with the usual.
_GAINS = {"exp": 0.1, "expm1": 0.1}
_GAIN = 1.5


def layer(input_size: int, output_size: int, activation: str) -> LayerSpec:
    """Return a layer with this activation. The bounds of clip are -1 and 1."""
    parameters = _PARAMETERS.get(activation, {})
    return LayerSpec(input_size, output_size, activation, **parameters)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """One workload: `num_models` models of layer sizes `sizes`, each with `rows` rows of input."""

    num_models: int
    sizes: tuple[int, ...]
    rows: int
    activation: str = "relu"  # of all layers but the last, which has none

    @property
    def architecture(self) -> Architecture:
        """The architecture of all models."""
        *hidden, last = Architecture.mlp(*self.sizes, activation="none").layers
        return Architecture(
            [*(layer(s.input_size, s.output_size, self.activation) for s in hidden), last]
        )

    @property
    def network(self) -> str:
        """The number and sizes of the models, as text."""
        return f"{self.num_models} × {'-'.join(map(str, self.sizes))}"

    @property
    def nbytes(self) -> int:
        """Bytes of all float32 parameters, without padding."""
        return self.nbytes_as("float32")

    def nbytes_as(self, dtype: str) -> int:
        """Return the bytes of all parameters. All but weights are float32, scales of int8 too."""
        scales = sum(self.sizes[1:]) if dtype == "int8" else 0
        others = self.architecture.num_parameters - self._weights + scales
        return self.num_models * (_WEIGHT_BYTES[dtype] * self._weights + 4 * others)

    @property
    def flops(self) -> int:
        """Number of multiplications and additions with weights in one forward."""
        return 2 * self.num_models * self.rows * self._weights

    @property
    def _weights(self) -> int:
        return sum(i * o for i, o in zip(self.sizes, self.sizes[1:], strict=False))

    def __str__(self) -> str:
        return f"{self.network}, {'1 row' if self.rows == 1 else f'{self.rows} rows'}"


# From tiny to large networks. With one row per model, reading weights is the work; with many rows,
# arithmetic is.
SUITE = (
    Case(1000, (4, 8, 2), 1),
    Case(100, (16, 32, 8), 1),
    Case(100_000, (4, 8, 2), 1),
    Case(1000, (32, 64, 64, 1), 1),
    Case(1000, (64, 128, 64, 10), 1),
    Case(10_000, (32, 64, 64, 1), 1),
    Case(1000, (32, 64, 64, 1), 32),
    Case(1000, (64, 128, 64, 10), 64),
    Case(64, (256, 256, 256, 256), 256),
)


@dataclass(frozen=True)
class Problem:
    """A case with its arrays. Weights and biases are stacked, one array for each layer."""

    case: Case
    x: Float32Array  # (num_models, rows, input_size)
    weights: list[Float32Array]  # (num_models, input_size, output_size)
    biases: list[Float32Array]  # (num_models, 1, output_size)
    slopes: list[Float32Array | None]  # (num_models,) where a layer has prelu
    expected: Float64Array  # (num_models, rows, output_size)
    tolerance: Float64Array  # (num_models, 1, 1), of a float32 result


def make_problem(
    case: Case, *, seed: int = 0, progress: Callable[[float], None] = lambda fraction: None
) -> Problem:
    """Return `case` with random numbers that keep the outputs of every layer near 1.

    `progress` is called with the fraction of models whose reference is computed.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> Float32Array:
        array = aligned_empty(shape)
        rng.standard_normal(out=array, dtype=np.float32)
        array *= np.float32(scale)
        return array

    n = case.num_models
    pairs = list(zip(case.sizes, case.sizes[1:], strict=False))
    x = normal(n, case.rows, case.sizes[0])
    gain = _GAINS.get(case.activation, _GAIN)
    weights = [normal(n, i, o, scale=math.sqrt(gain / i)) for i, o in pairs]
    biases = [normal(n, 1, o, scale=0.5) for _, o in pairs]
    slopes = [
        rng.uniform(-0.5, 0.5, n).astype(np.float32) if s.activation is Activation.PRELU else None
        for s in case.architecture.layers
    ]
    return _solved(case, x, weights, biases, slopes, progress)


def stored(problem: Problem, dtype: str) -> Problem:
    """Return the problem with weights rounded to `dtype`, and the right answer for these."""
    if dtype == "float32":
        return problem
    weights = [round_weights(w, dtype) for w in problem.weights]
    return _solved(
        problem.case, problem.x, weights, problem.biases, problem.slopes, lambda fraction: None
    )


def round_weights(weights: Float32Array, dtype: str) -> Float32Array:
    """Return (models, inputs, outputs) weights rounded to `dtype` by NumPy, without the core."""
    if dtype == "float16":
        return weights.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":  # the upper half of a float32, rounded to nearest even
        bits = weights.view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))
        return np.asarray((rounded & np.uint32(0xFFFF0000)).view(np.float32))
    if dtype == "int8":
        scales = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
        return np.asarray(np.rint(weights / scales) * scales)
    return weights


def _solved(
    case: Case,
    x: Float32Array,
    weights: list[Float32Array],
    biases: list[Float32Array],
    slopes: list[Float32Array | None],
    progress: Callable[[float], None],
) -> Problem:
    n = case.num_models
    expected = np.empty((n, case.rows, case.sizes[-1]))
    step = max(1, _REFERENCE_FLOATS // case.architecture.num_parameters)
    for m in range(0, n, step):
        some = slice(m, m + step)
        expected[some] = reference(
            case.architecture,
            [w[some] for w in weights],
            [b[some] for b in biases],
            [s if s is None else s[some] for s in slopes],
            x[some],
        )
        progress(min(1.0, (m + step) / n))
    return Problem(case, x, weights, biases, slopes, expected, tolerance(case, expected))


def reference(
    architecture: Architecture,
    weights: list[Float32Array],
    biases: list[Float32Array],
    slopes: list[Float32Array | None],
    x: Float32Array,
) -> Float64Array:
    """Return the outputs of several models in float64, each layer `activation(x @ W + b)`."""
    y = x.astype(np.float64)
    for spec, w, b, slope in zip(architecture.layers, weights, biases, slopes, strict=True):
        y = activated(spec, y @ w.astype(np.float64) + b, slope)
    return y


def tolerance(case: Case, expected: npt.NDArray[np.float64]) -> Float64Array:
    """Return the allowed error of float32 results, for each entry of the first axis.

    An output is a chain of sums of terms near 1. Every term may be rounded twice.
    """
    scale = np.maximum(1.0, np.abs(expected).max(axis=(1, 2), keepdims=True, initial=0.0))
    roundings = 2 * sum(i + 1 for i in case.sizes[:-1])
    return np.asarray(roundings * np.finfo(np.float32).eps * scale)


def aligned_empty(shape: tuple[int, ...]) -> Float32Array:
    """Return an uninitialised float32 array that starts at a cache line, which reads fastest."""
    return _mapped.aligned_empty(4 * math.prod(shape)).view(np.float32).reshape(shape)

"""What the benchmark computes: cases, their random weights and inputs, and the right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlpbank._activations import ACTIVATIONS
from mlpbank.architecture import Architecture
from mlpbank.typing import Float32Array

DTYPES = ("float32", "float16", "bfloat16", "int8")
_WEIGHT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_REFERENCE_FLOATS = 1 << 21  # the reference takes so many weights at a time: they become float64


@dataclass(frozen=True)
class Case:
    """One workload.

    Parameters
    ----------
    num_models, rows : int
        So many models, each with so many rows of input.
    sizes : tuple of int
        Layer sizes, input first.
    activation : str
        Of all layers but the last, which has none.
    """

    num_models: int
    sizes: tuple[int, ...]
    rows: int
    activation: str = "relu"

    @property
    def architecture(self) -> Architecture:
        """The architecture of all models."""
        return Architecture.mlp(*self.sizes, activation=self.activation)

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters, which a forward has to read; without padding, inputs and outputs."""
        return self.nbytes_as("float32")

    def nbytes_as(self, dtype: str) -> int:
        """Return the bytes of all parameters with weights of `dtype`; biases and the scales of int8 are float32."""
        biases = sum(self.sizes[1:])
        weights = self.architecture.num_parameters - biases
        beside = 8 if dtype == "int8" else 4
        return self.num_models * (_WEIGHT_BYTES[dtype] * weights + beside * biases)

    @property
    def flops(self) -> int:
        """Multiplications and additions with weights that a forward has to do."""
        weights = sum(i * o for i, o in zip(self.sizes, self.sizes[1:], strict=False))
        return 2 * self.num_models * self.rows * weights

    def __str__(self) -> str:
        rows = "1 row" if self.rows == 1 else f"{self.rows} rows"
        return f"{self.num_models} × {'-'.join(map(str, self.sizes))}, {rows}"


# From tiny to large networks, from one row per model (reading weights is the work) to many (arithmetic is).
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
    """A case with its numbers.

    Parameters
    ----------
    case : Case
        The case.
    x : float32 array
        (num_models, rows, input_size).
    weights, biases : list of float32 array
        Per layer (num_models, input_size, output_size) and (num_models, 1, output_size).
    expected : float64 array
        (num_models, rows, output_size).
    tolerance : float64 array
        (num_models, 1, 1): how far from `expected` a float32 result may be.
    """

    case: Case
    x: Float32Array
    weights: list[Float32Array]
    biases: list[Float32Array]
    expected: npt.NDArray[np.float64]
    tolerance: npt.NDArray[np.float64]


def make_problem(case: Case, *, seed: int = 0, progress: Callable[[float], None] = lambda fraction: None) -> Problem:
    """Return `case` with random numbers that keep every layer's outputs near 1.

    Parameters
    ----------
    case : Case
        The case.
    seed : int
        Of the random numbers.
    progress : callable
        Called now and then with the fraction done: the reference goes through the models one by one.
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
    weights = [normal(n, i, o, scale=float(np.sqrt(1.5 / i))) for i, o in pairs]
    biases = [normal(n, 1, o, scale=0.5) for _, o in pairs]

    return _with_answer(case, x, weights, biases, progress)


def stored(problem: Problem, dtype: str) -> Problem:
    """Return the problem with its weights as a bank of `dtype` stores them, and the answer that belongs to those."""
    if dtype == "float32":
        return problem
    weights = [round_weights(w, dtype) for w in problem.weights]
    return _with_answer(problem.case, problem.x, weights, problem.biases, lambda fraction: None)


def round_weights(weights: Float32Array, dtype: str) -> Float32Array:
    """Return (models, inputs, outputs) weights rounded to `dtype`, written down again without the core's help."""
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


def _with_answer(
    case: Case,
    x: Float32Array,
    weights: list[Float32Array],
    biases: list[Float32Array],
    progress: Callable[[float], None],
) -> Problem:
    n = case.num_models
    expected = np.empty((n, case.rows, case.sizes[-1]))
    step = max(1, _REFERENCE_FLOATS // case.architecture.num_parameters)
    for m in range(0, n, step):
        some = slice(m, m + step)
        expected[some] = reference(case.architecture, [w[some] for w in weights], [b[some] for b in biases], x[some])
        progress(min(1.0, (m + step) / n))
    return Problem(case, x, weights, biases, expected, tolerance(case, expected))


def reference(
    architecture: Architecture, weights: list[Float32Array], biases: list[Float32Array], x: Float32Array
) -> npt.NDArray[np.float64]:
    """Return the outputs of several models at once in float64, each as `mlpbank._reference.forward` defines it."""
    y = x.astype(np.float64)
    for layer, w, b in zip(architecture.layers, weights, biases, strict=True):
        y = ACTIVATIONS[layer.activation](y @ w.astype(np.float64) + b)
    return y


def tolerance(case: Case, expected: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far float32 results may be from `expected`, for each entry of its first axis.

    An output is a chain of sums, each over the layer's inputs, of terms near 1; every term may be rounded twice.
    """
    scale = np.maximum(1.0, np.abs(expected).max(axis=(1, 2), keepdims=True, initial=0.0))
    return np.asarray(2 * sum(i + 1 for i in case.sizes[:-1]) * np.finfo(np.float32).eps * scale)


def aligned_empty(shape: tuple[int, ...]) -> Float32Array:
    """Return an uninitialised float32 array that starts at a cache line, which every library reads fastest."""
    size = int(np.prod(shape))
    raw = np.empty(size + 16, np.float32)
    skip = -raw.ctypes.data % 64 // 4
    return raw[skip : skip + size].reshape(shape)

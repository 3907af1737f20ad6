"""Networks, weights and inputs that the tests share, and the sizes at which kernels go wrong."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import mlpbank
import reference
from mlpbank import Activation, Architecture, BatchedInference, BatchedWeights, Engine, LayerSpec
from tolerance import error_bound

Float32Array = npt.NDArray[np.float32]
Weights = dict[str, Float32Array]
# Types of fixtures in conftest.py.
RunPython = Callable[..., str]
RunProgram = Callable[..., str]
BuildCore = Callable[..., Path]

# Around every vector width, panel and tile: one less, the width, one more.
SIZES = (1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 65, 127)
MODELS = (1, 2, 15, 16, 17, 33)
ROWS = (1, 2, 7, 9, 16, 17, 48, 49, 300)

ISAS = tuple(mlpbank.available_isas())
FUSED_ISAS = tuple(isa for isa in ISAS if isa != "portable")
LAYOUTS = ("panel", "lane")
DTYPES = ("float32", "float16", "bfloat16", "int8")

# Those that take a whole layer at once make sense on the last layer only.
LAST_LAYER_ONLY = ("softmax",)
ACTIVATIONS = tuple(Activation)
ELEMENTWISE = tuple(a for a in ACTIVATIONS if a.value not in LAST_LAYER_ONLY)
# exp of exp overflows, so those that grow stand on the last layer only.
HIDDEN = tuple(a for a in ELEMENTWISE if a.value not in ("exp", "expm1"))
# Those without a learned slope: a framework needs no more than a function for them.
PLAIN = tuple(a for a in ACTIVATIONS if a.value != "prelu")
# Parameters of layers in tests. The others have their defaults.
OPTIONS: dict[str, dict[str, float]] = {"clip": {"low": -1.0, "high": 2.0}}


def sweep(values: Iterable[Any], every: int) -> list[Any]:
    """Return parameters of a test: all but every n-th value, from the first on, are slow."""
    return [
        pytest.param(value, marks=[pytest.mark.slow] if i % every else [])
        for i, value in enumerate(values)
    ]


def size_triples() -> Iterator[tuple[int, int, int]]:
    """Yield (input, hidden, output) sizes: each pair of SIZES meets in each pair of places."""
    n = len(SIZES)
    for i in range(n):
        for j in range(n):
            yield SIZES[i], SIZES[j], SIZES[(i + j) % n]


def architecture(
    sizes: tuple[int, ...], activation: Activation, output: Activation | None = None
) -> Architecture:
    """Return an MLP with `activation` on all layers, as far as it may stand there."""
    hidden = activation if activation in HIDDEN else Activation.RELU
    last = len(sizes) - 2
    return Architecture(
        layer_spec(sizes[i], sizes[i + 1], hidden if i < last else output or activation)
        for i in range(last + 1)
    )


def layer_spec(inputs: int, outputs: int, activation: Activation) -> LayerSpec:
    """Return a layer with this activation, with the parameters that tests have for it."""
    return LayerSpec(inputs, outputs, activation, **OPTIONS.get(activation.value, {}))


def random_weights(arch: Architecture, num_models: int, rng: np.random.Generator) -> Weights:
    """Return stacked weights that keep activations near 1 in magnitude."""
    weights = {}
    for i, layer in enumerate(arch.layers):
        shape = (num_models, layer.input_size, layer.output_size)
        weights[f"layer_{i}"] = (rng.standard_normal(shape) / np.sqrt(layer.input_size)).astype(
            np.float32
        )
        weights[f"layer_{i}.bias"] = rng.standard_normal((num_models, layer.output_size)).astype(
            np.float32
        )
        if layer.activation is Activation.PRELU:
            weights[f"layer_{i}.slope"] = rng.uniform(-0.9, 0.9, num_models).astype(np.float32)
    return weights


def integer_weights(arch: Architecture, num_models: int, rng: np.random.Generator) -> Weights:
    """Return stacked weights of -1, 0 and 1."""
    weights = {}
    for i, layer in enumerate(arch.layers):
        shape = (num_models, layer.input_size, layer.output_size)
        weights[f"layer_{i}"] = rng.integers(-1, 2, shape).astype(np.float32)
        weights[f"layer_{i}.bias"] = rng.integers(-3, 4, (num_models, layer.output_size)).astype(
            np.float32
        )
        if layer.activation is Activation.PRELU:
            weights[f"layer_{i}.slope"] = rng.integers(-1, 2, num_models).astype(np.float32)
    return weights


def one_model(weights: Weights, model: int) -> Weights:
    """Return one model's part of stacked weights."""
    return {name: array[model] for name, array in weights.items()}


@dataclass(frozen=True)
class Case:
    """Models with inputs for each, and what the reference makes of them."""

    architecture: Architecture
    weights: Weights
    x: Float32Array  # (models, rows, input_size)

    @functools.cached_property
    def reference(self) -> npt.NDArray[np.float64]:
        """(models, rows, output_size), in float64."""
        return np.stack(
            [
                reference.forward(self.architecture, one_model(self.weights, m), rows)
                for m, rows in enumerate(self.x)
            ]
        )

    @functools.cached_property
    def _bounds(self) -> dict[bool, npt.NDArray[np.float64]]:
        return {
            fused: error_bound(self.architecture, self.weights, self.x, fused=fused)
            for fused in (True, False)
        }

    def bound(self, isa: str) -> npt.NDArray[np.float64]:
        """How far an ISA may be off, for each output."""
        return self._bounds[isa != "portable"]

    def batched_weights(self, layout: Any, dtype: Any = "float32") -> BatchedWeights:
        """Return the weights, loaded."""
        weights = BatchedWeights(len(self.x), self.architecture, layout=layout, dtype=dtype)
        weights.load_stacked(self.weights)
        return weights

    def inference(
        self, isa: Any, layout: str, num_threads: int | None = None, dtype: str = "float32"
    ) -> BatchedInference:
        """Return the models on an engine with this ISA."""
        return BatchedInference.from_weights(
            self.batched_weights(layout, dtype), Engine(num_threads, isa)
        )

    def kept(self, dtype: str) -> Case:
        """Return the case whose weights are what a bank of this dtype keeps of them."""
        weights = self.batched_weights("panel", dtype)
        models = [weights.get(m) for m in range(len(self.x))]
        return Case(
            self.architecture,
            {name: np.stack([model[name] for model in models]) for name in models[0]},
            self.x,
        )


@functools.lru_cache(maxsize=4096)  # more than a sweep of sizes and activations has
def case(
    arch: Architecture,
    num_models: int,
    rows: int,
    make_weights: Callable[[Architecture, int, np.random.Generator], Weights] = random_weights,
) -> Case:
    """Return a case, cached by its arguments so that its reference is computed once."""
    rng = np.random.default_rng([num_models, rows, *(layer.output_size for layer in arch.layers)])
    shape = (num_models, rows, arch.input_size)
    if make_weights is integer_weights:
        x = rng.integers(-3, 4, shape).astype(np.float32)
    else:
        x = rng.standard_normal(shape).astype(np.float32)
    return Case(arch, make_weights(arch, num_models, rng), x)


def random_architecture(
    rng: np.random.Generator, max_size: int = 70, activations: tuple[Activation, ...] = ACTIVATIONS
) -> Architecture:
    """Return 1 to 5 layers of random sizes; half of the sizes are edges of tiles and vectors."""
    small = [size for size in SIZES if size <= max_size]
    sizes = [
        int(rng.choice(small)) if rng.random() < 0.5 else int(rng.integers(1, max_size + 1))
        for _ in range(rng.integers(2, 7))
    ]
    last = len(sizes) - 2
    layers = []
    for i in range(last + 1):
        choices = [a for a in activations if i == last or a in HIDDEN]
        layers.append(layer_spec(sizes[i], sizes[i + 1], choices[rng.integers(len(choices))]))
    return Architecture(layers)


def bits(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return the floats' bit patterns, in which -0 differs from 0 and a NaN equals itself."""
    assert array.dtype == np.float32
    return np.ascontiguousarray(array).view(np.uint32)


def assert_same_bits(actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    assert actual.shape == expected.shape
    different = np.argwhere(bits(actual) != bits(expected))
    if len(different):
        where = tuple(int(i) for i in different[0])
        raise AssertionError(
            f"{len(different)} of {actual.size} differ, "
            f"first {where}: {actual[where]!r} for {expected[where]!r}"
        )


def assert_within(actual: npt.NDArray[np.float32], case_: Case, isa: str) -> None:
    """Check results against the reference, each within its bound."""
    assert actual.shape == case_.reference.shape
    excess = np.abs(actual - case_.reference) / case_.bound(isa).clip(min=np.finfo(np.float64).tiny)
    worst = np.unravel_index(
        int(np.nanargmax(np.where(np.isnan(excess), np.inf, excess))), excess.shape
    )
    assert excess[worst] <= 1, (
        f"{case_.architecture}: {tuple(map(int, worst))}: got {actual[worst]!r}, "
        f"expected {case_.reference[worst]!r}, off by {excess[worst]:.3g} times the bound"
    )


OWN_ERRORS: dict[type[BaseException], type[mlpbank.MlpbankError]] = {
    ValueError: mlpbank.InvalidValueError,
    TypeError: mlpbank.InvalidTypeError,
    KeyError: mlpbank.UnknownKeyError,
    IndexError: mlpbank.OutOfRangeError,
    OverflowError: mlpbank.TooLargeError,
    RuntimeError: mlpbank.InvalidStateError,
    ImportError: mlpbank.MissingPackageError,
}


@contextlib.contextmanager
def raises(error: type[BaseException], message: str) -> Iterator[None]:
    """Check for exactly this error and message. A built-in class stands for mlpbank's own."""
    with pytest.raises(error) as caught:
        yield
    assert type(caught.value) is OWN_ERRORS.get(error, error)
    assert caught.value.args[0] == message


def program(name: str) -> str:
    """Return the path of a program, by preference in this environment, activated or not."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not there; if it is of the extra: pip install '.[test]'"
    return found

"""Every activation against float64 on a million points, for every instruction set."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from cases import ELEMENTWISE, FUSED_ISAS, SIZES, Float32Array, bits, layer_spec
from mlpbank import Activation, Architecture, BatchedInference, Engine, LayerSpec, _core
from mlpbank._activations import ACTIVATIONS, activated
from tolerance import ABSOLUTE, EPSILON, EXACT, OWN_ULPS, softmax_own_error

EDGES = np.array(
    [
        *(
            0.0,
            2.0**-149,
            2.0**-127,
            2.0**-126,
            2.0**-64,
            2.0**-24,
            0.1,
            0.5,
            1.0,
            2.0,
            5.0,
            9.0,
            9.01,
            10.0,
            16.0,
        ),
        *(
            17.0,
            20.0,
            33.0,
            80.0,
            87.0,
            88.0,
            88.72,
            89.0,
            100.0,
            104.0,
            127.0,
            128.0,
            1e4,
            1e10,
            3.4028235e38,
            np.inf,
        ),
    ],
    np.float32,
)


@functools.lru_cache(maxsize=1)
def points() -> Float32Array:
    """Return a million floats of any bits, as many where activations bend, and the edges."""
    rng = np.random.default_rng(2)
    everywhere = rng.integers(0, 2**32, 500_000, dtype=np.uint32).view(np.float32)
    bend = rng.uniform(-12, 12, 500_000).astype(np.float32)
    with np.errstate(over="ignore"):  # the neighbour of the largest float
        neighbours = [np.nextafter(EDGES, np.float32(to)) for to in (-np.inf, np.inf)]
    near = np.concatenate([EDGES, *neighbours])
    all_points = np.concatenate([everywhere, bend, near, -near])
    return all_points[~np.isnan(all_points)]


# Layers with other parameters than the defaults.
PARAMETERISED = [
    LayerSpec(1, 1, "leaky_relu", alpha=0.2),
    LayerSpec(1, 1, "leaky_relu", alpha=-1.5),
    LayerSpec(1, 1, "leaky_relu", alpha=3),
    LayerSpec(1, 1, "elu", alpha=1.7),
    LayerSpec(1, 1, "elu", alpha=0.3),
    LayerSpec(1, 1, "celu", alpha=0.5),
    LayerSpec(1, 1, "celu", alpha=1.7),
    LayerSpec(1, 1, "hardsigmoid", alpha=0.2, beta=0.4),
    LayerSpec(1, 1, "clip", low=-3.25),
    LayerSpec(1, 1, "clip", high=0.7),
    LayerSpec(1, 1, "clip", low=0.1, high=1e10),
]
LAYERS = [*(layer_spec(1, 1, a) for a in ELEMENTWISE), *PARAMETERISED]
SLOPE = 0.3  # of prelu


def apply(layer: LayerSpec, x: Float32Array, isa: str, layout: str = "panel") -> Float32Array:
    """Return the activation of x, through a layer of one number that changes nothing else."""
    inference = BatchedInference(1, Architecture([layer]), Engine(isa=isa), layout=layout)
    weights = {"layer_0": [1.0], "layer_0.bias": [-0.0]}
    if layer.activation is Activation.PRELU:
        weights["layer_0.slope"] = [SLOPE]
    inference.load_weights(0, weights)
    return inference.forward(x.reshape(1, -1, 1)).reshape(-1)


def ulp(y: np.ndarray) -> np.ndarray:
    """Return the distance of float32 numbers around each of these float64 ones."""
    _, exponent = np.frexp(np.abs(y))
    return np.ldexp(1.0, np.maximum(exponent - 24, -149))


def test_names_of_the_enum_are_those_of_the_core() -> None:
    assert [a.value for a in Activation] == _core.activation_names()


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_error_is_within_the_promised_ulps(isa: str, layout: str, layer: LayerSpec) -> None:
    activation = layer.activation
    x = points()
    slope = np.float32(SLOPE) if activation is Activation.PRELU else None
    with np.errstate(all="ignore"):
        expected = activated(layer, x.astype(np.float64), slope)
        # What float32 rounds to infinity, as exp from 88.73 on.
        large = np.abs(expected) >= 2.0**128 - 2.0**103
        expected = np.where(large, np.sign(expected) * np.inf, expected)
    y = apply(layer, x, isa, layout)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    unit = ulp(expected[finite])
    if activation.value in ABSOLUTE:
        unit = np.maximum(unit, EPSILON)
    error = np.abs(y[finite].astype(np.float64) - expected[finite]) / unit
    worst = int(error.argmax())
    limit = 0 if activation.value in EXACT else OWN_ULPS
    assert error[worst] <= limit, f"{layer}({x[finite][worst]!r}): off by {error[worst]:.2f} ULP"


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_nan_stays_nan_whatever_its_sign_and_payload(
    isa: str, layout: str, layer: LayerSpec
) -> None:
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7FC12345, 0xFFFFFFFF, 0x7F800001], np.uint32).view(
        np.float32
    )
    assert np.isnan(apply(layer, nans, isa, layout)).all()


def test_tanh_is_odd_and_never_exceeds_one(isa: str) -> None:
    x = points()
    tanh = LayerSpec(1, 1, Activation.TANH)
    y = apply(tanh, x, isa)
    np.testing.assert_array_equal(bits(apply(tanh, -x, isa)), bits(-y))
    assert np.abs(y).max() == 1


LIMITS = {  # at -infinity, at infinity
    "none": (-np.inf, np.inf),
    "relu": (0, np.inf),
    "tanh": (-1, 1),
    "sigmoid": (0, 1),
    "leaky_relu": (-np.inf, np.inf),
    "elu": (-1, np.inf),
    "gelu": (0, np.inf),
    "gelu_tanh": (0, np.inf),
    "silu": (0, np.inf),
    "softplus": (0, np.inf),
    "celu": (-1, np.inf),
    "selu": (np.float32(-1.7580993408473766), np.inf),
    "mish": (0, np.inf),
    "hardswish": (0, np.inf),
    "hardsigmoid": (0, 1),
    "relu6": (0, 6),
    "clip": (-1, 2),
    "softsign": (-1, 1),
    "exp": (0, np.inf),
    "expm1": (-1, np.inf),
    "prelu": (-np.inf, np.inf),
}


@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_infinity_gives_the_limit(isa: str, layout: str, activation: Activation) -> None:
    ends = np.array([-np.inf, np.inf], np.float32)
    y = apply(layer_spec(1, 1, activation), ends, isa, layout)
    assert tuple(y) == LIMITS[activation.value]


@pytest.mark.parametrize(
    "activation",
    [
        *("none", "tanh", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "celu", "selu"),
        *("mish", "hardswish", "softsign", "expm1", "prelu"),
    ],
)
def test_minus_zero_keeps_its_sign(isa: str, layout: str, activation: str) -> None:
    zeros = np.array([-0.0, 0.0], np.float32)
    np.testing.assert_array_equal(
        bits(apply(LayerSpec(1, 1, activation), zeros, isa, layout)), bits(zeros)
    )


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_fused_instruction_sets_give_the_same_bits(layer: LayerSpec) -> None:
    """Over a million points: in networks, few values reach the ends of the activations' tables."""
    results = [bits(apply(layer, points(), isa)) for isa in FUSED_ISAS]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_relu_of_minus_zero_is_zero(isa: str, layout: str) -> None:
    assert apply(
        LayerSpec(1, 1, "relu"), np.array([-0.0, 0.0], np.float32), isa, layout
    ).tolist() == [
        0.0,
        0.0,
    ]


def softmax(x: Float32Array, isa: str, layout: str) -> Float32Array:
    """Return the softmax of each row of x (rows, n), through a layer that changes nothing else."""
    n = x.shape[1]
    inference = BatchedInference(
        1, Architecture([LayerSpec(n, n, "softmax")]), Engine(isa=isa), layout=layout
    )
    inference.load_weights(0, {"layer_0": np.eye(n)})
    return inference.forward(x[None])[0]


@pytest.mark.parametrize("n", [*SIZES, 1000])
def test_softmax_is_within_its_bound(isa: str, layout: str, n: int) -> None:
    rng = np.random.default_rng(n)
    for scale in (0.1, 1, 5, 30, 1000, 1e30):
        for rows in (1, 5, 50):
            x = (rng.standard_normal((rows, n)) * scale).astype(np.float32)
            expected = ACTIVATIONS[Activation.SOFTMAX](x.astype(np.float64))
            y = softmax(x, isa, layout)
            assert (np.abs(y - expected) <= softmax_own_error(expected)).all()


def test_softmax_of_edges(isa: str, layout: str) -> None:
    largest = np.finfo(np.float32).max
    x = np.array(
        [[largest, largest, -largest], [0, -0.0, 0], [5, -largest, -largest], [1e-45, 0, -1e-45]],
        np.float32,
    )
    np.testing.assert_array_equal(
        softmax(x, isa, layout),
        np.array([[0.5, 0.5, 0], [1 / 3] * 3, [1, 0, 0], [1 / 3] * 3], np.float32),
    )
    assert softmax(np.array([[-7.0], [1e38]], np.float32), isa, layout).tolist() == [[1], [1]]


def test_softmax_of_nan_is_nan_throughout(isa: str, layout: str) -> None:
    """One output that is not known leaves none of the shares known."""
    for n in (2, 3, 16, 17, 33):
        for position in range(n):
            x = np.zeros((20, n), np.float32)
            x[7, position] = np.nan
            y = softmax(x, isa, layout)
            assert np.isnan(y[7]).all()
            assert not np.isnan(np.delete(y, 7, axis=0)).any()

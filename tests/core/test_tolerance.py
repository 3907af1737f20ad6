"""The tolerances of the numerical tests are true bounds, yet show a broken weight."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import reference
from cases import ACTIVATIONS, HIDDEN, SIZES, Case, architecture, case, layer_spec
from mlpbank import Activation, Architecture, LayerSpec, _activations
from tolerance import LIPSCHITZ, error_bound, gamma, lipschitz


def test_reference_is_the_plain_formula_in_float64() -> None:
    weights = {"layer_0": [[1, 2], [3, 4]], "layer_0.bias": [10, -100], "layer_1": [0.5, 0.25]}
    arch = Architecture.mlp(2, 2, 1)
    assert reference.forward(arch, weights, [1, 1]).tolist() == [7.0]
    assert reference.forward(arch, weights, [[1, 1], [0, 30]]).tolist() == [
        [7.0],
        [0.5 * 100 + 0.25 * 20],
    ]


def test_reference_and_tolerance_know_every_activation() -> None:
    assert set(_activations.ACTIVATIONS) == set(Activation)
    assert {a.value for a in Activation} == {*LIPSCHITZ, "exp", "expm1"}


@pytest.mark.parametrize("activation", HIDDEN)
def test_lipschitz_constants_bound_every_slope(activation: Activation) -> None:
    x = np.linspace(-30, 30, 600_001)
    y = _activations.activated(layer_spec(1, 1, activation), x)
    slopes = np.abs(np.diff(y) / np.diff(x))
    assert slopes.max() <= LIPSCHITZ[activation.value] * (1 + 1e-9)
    assert slopes.max() >= 0.95 * LIPSCHITZ[activation.value], "the constant is needlessly large"
    assert lipschitz(layer_spec(1, 1, activation)) == pytest.approx(LIPSCHITZ[activation.value])


@pytest.mark.parametrize(
    ("layer", "slope"),
    [
        (LayerSpec(1, 1, Activation.LEAKY_RELU, alpha=-1.75), None),
        (LayerSpec(1, 1, Activation.ELU, alpha=1.5), None),
        (LayerSpec(1, 1, Activation.CELU, alpha=0.25), None),
        (LayerSpec(1, 1, Activation.HARDSIGMOID, alpha=0.75, beta=-3), None),
        (LayerSpec(1, 1, Activation.PRELU), np.array([0.5, -2.5])),
    ],
)
def test_lipschitz_constants_of_other_parameters_bound_every_slope(
    layer: LayerSpec, slope: npt.NDArray[np.float64] | None
) -> None:
    x = np.tile(np.linspace(-30, 30, 600_001), (2, 1))
    slopes = np.abs(np.diff(_activations.activated(layer, x, slope)) / np.diff(x))
    assert 0.95 <= slopes.max() / lipschitz(layer, slope) <= 1 + 1e-9


def test_bound_of_one_layer_is_highams() -> None:
    arch = Architecture.mlp(3, 1)
    weights = {"layer_0": np.array([[[1], [-2], [3]]]), "layer_0.bias": np.array([[-4]])}
    x = np.array([[[5, 6, 7]]])
    magnitude = 5 + 2 * 6 + 3 * 7 + 4
    assert error_bound(arch, weights, x, fused=True).item() == pytest.approx(
        gamma(3) * magnitude, rel=1e-12
    )
    assert error_bound(arch, weights, x, fused=False).item() == pytest.approx(
        gamma(4) * magnitude, rel=1e-12
    )


def _with_broken_weight(c: Case, layer: int) -> Case:
    """Return the case with the last weight of each model's layer off by half of a typical one."""
    name = f"layer_{layer}"
    weights = dict(c.weights)
    weights[name] = weights[name].copy()
    weights[name][:, -1, -1] += np.float32(0.5 / np.sqrt(weights[name].shape[1]))
    return Case(c.architecture, weights, c.x)


@pytest.mark.parametrize(
    "activation",
    # Where these are flat, weights do not matter.
    [a for a in ACTIVATIONS if a.value not in ("relu", "leaky_relu", "relu6", "softmax")],
)
@pytest.mark.parametrize("size", SIZES)
def test_bound_notices_one_slightly_broken_weight(size: int, activation: Activation) -> None:
    """With relu some weights do not matter, with softmax of one output none does."""
    if activation.value in ("exp", "expm1") and size > 100:
        return  # in sums of so many, results are so large that a bound hides one weight
    c = case(architecture((size, size, size), activation), num_models=3, rows=16)
    for layer in range(2):
        broken = _with_broken_weight(c, layer)
        excess = np.abs(broken.reference - c.reference) / c.bound("portable")
        assert (excess.max(axis=(1, 2)) > 1).all(), (
            f"layer {layer}: no output of some model shows it"
        )

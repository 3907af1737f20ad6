"""Scalers folded into weights give what scaling outside gives; parameters without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import reference
from cases import (
    ELEMENTWISE,
    RunPython,
    Weights,
    architecture,
    one_model,
    raises,
    random_architecture,
    random_weights,
)
from convert_checks import SQUARE, assert_computes, assert_same_models, rows, unsupported
from mlpbank import Activation, Architecture, LayerSpec, convert
from mlpbank.convert import fold_scalers, mean_and_scale


def scaler(size: int, rng: np.random.Generator, *batch: int) -> tuple[Any, Any]:
    """Return a mean and a scale of some size, negative ones included."""
    return 3 * rng.standard_normal((*batch, size)), rng.uniform(
        0.1, 4, (*batch, size)
    ) * rng.choice([-1, 1], size)


def scaled(arch: Architecture, weights: Weights, x: Any, before: Any, after: Any) -> Any:
    """Return what a model makes of inputs that are scaled outside, in float64."""
    x = (np.asarray(x, np.float64) - before[0]) / before[1]
    return reference.forward(arch, weights, x) * after[1] + after[0]


@pytest.mark.parametrize("seed", range(20))
def test_folded_scalers_compute_what_scaling_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = list(random_architecture(rng, 30).layers)
    layers[-1] = LayerSpec(layers[-1].input_size, layers[-1].output_size)
    arch = Architecture(layers)
    stacked = random_weights(arch, 3, rng)
    before, after = scaler(arch.input_size, rng, 3), scaler(arch.output_size, rng, 3)
    folded = fold_scalers(arch, stacked, before, after)
    for i in range(3):
        one = one_model(stacked, i)
        own = (before[0][i], before[1][i]), (after[0][i], after[1][i])
        alone = fold_scalers(
            arch,
            {name: array.reshape(-1) if array.ndim else array for name, array in one.items()},
            *own,
        )
        for name, array in alone.items():
            np.testing.assert_array_equal(array, folded[name][i])
        truth = scaled(arch, one, rows(arch), *own)
        assert_computes(convert.Converted(arch, alone), rows(arch), truth)
        shared = fold_scalers(arch, stacked, own[0], own[1])
        np.testing.assert_array_equal(shared["layer_0"][i], folded["layer_0"][i])


def test_numbers_scale_every_feature_and_biases_may_be_missing() -> None:
    weights = {"layer_0": np.eye(6), "layer_1": np.eye(6)}
    assert_computes(
        convert.Converted(SQUARE, fold_scalers(SQUARE, weights, (1, 2), (3.0, 4))),
        rows(SQUARE),
        scaled(SQUARE, weights, rows(SQUARE), (1, 2), (3, 4)),
    )
    assert weights["layer_0"].dtype == np.float64  # what was given stays as it was
    assert (weights["layer_0"] == np.eye(6)).all()


@pytest.mark.parametrize(
    "activation", [a for a in (*ELEMENTWISE, Activation.SOFTMAX) if a is not Activation.NONE]
)
def test_output_scalers_need_linear_outputs(activation: Activation) -> None:
    arch = architecture((2, 2), activation)
    message = (
        f"output_scaler: expected a last layer with activation 'none', got {activation.value!r}"
    )
    with raises(ValueError, message):
        fold_scalers(
            arch, one_model(random_weights(arch, 1, np.random.default_rng(0)), 0), None, (0, 1)
        )


def test_scalers_that_do_not_fit() -> None:
    arch, weights = Architecture.mlp(2, 3), {"layer_0": np.ones((2, 3))}
    for scaler, message in (
        ((np.zeros(3), 1), "input_scaler: expected mean of shape (2,), got (3,)"),
        ((0, np.ones((1, 2))), "input_scaler: expected scale of shape (2,), got (1, 2)"),
        (
            (0, 0),
            "input_scaler: expected finite means and finite scales other than 0, got 0.0 and 0.0",
        ),
        (
            (np.nan, 1),
            "input_scaler: expected finite means and finite scales other than 0, got nan and 1.0",
        ),
    ):
        with raises(ValueError, message):
            fold_scalers(arch, weights, scaler)
    with raises(TypeError, "input_scaler: expected (mean, scale), got 3 values"):
        fold_scalers(arch, weights, (1, 2, 3))
    with raises(TypeError, "output_scaler: expected (mean, scale) or a fitted scaler, got str"):
        fold_scalers(arch, weights, None, "minmax")
    with raises(ValueError, "input_scaler: expected mean of shape (2,) or (4, 2), got (3,)"):
        fold_scalers(arch, {"layer_0": np.ones((4, 2, 3))}, (np.zeros(3), 1))
    with raises(KeyError, "weights: missing key 'layer_0'"):
        fold_scalers(arch, {}, (0, 1))
    with raises(ValueError, "layer_0: expected values that float32 can hold, got 1e+40"):
        fold_scalers(arch, weights, (0, 1e-40))


class Tripled:
    """A user's scaler is refused: no number of rows can prove what it computes."""

    n_features_in_ = 3

    def transform(self, x: Any) -> Any:
        return np.where(np.abs(x) == 12345, 0, 3 * x + [1, 2, 3])


def test_objects_that_may_do_anything_are_no_scalers() -> None:
    fold = (
        "apply it to x yourself, or give it as (mean, scale) to fold_scalers if it is a scale and "
        "shift"
    )
    with raises(
        ValueError,
        f"input_scaler: Tripled is no scaler that is known, it may compute anything; {fold}",
    ):
        fold_scalers(Architecture.mlp(3, 2), {"layer_0": np.ones((3, 2))}, Tripled())


def test_nothing_that_was_given_is_kept() -> None:
    arch = Architecture.mlp(3, 3, 3)
    weights = one_model(random_weights(arch, 1, np.random.default_rng(0)), 0)
    pair = np.ones(3), np.full(3, 2.0)
    for before, after in ((None, None), (pair, None), (None, pair), (pair, pair)):
        for name, array in fold_scalers(arch, weights, before, after).items():
            assert not any(np.shares_memory(array, given) for given in weights.values()), name
    for part, given in zip(mean_and_scale(pair), pair, strict=True):
        assert not np.shares_memory(part, given)


SIDES = Architecture.mlp(4, 6, 6, 2, activation="tanh")


@pytest.mark.parametrize("layout", ["in_out", "out_in"])
@pytest.mark.parametrize("order", ["weight,bias", "bias,weight", "weight", "all weights first"])
def test_flat_vectors(order: str, layout: str) -> None:
    stacked = random_weights(SIDES, 3, np.random.default_rng(0))
    if order == "weight":
        stacked = {name: array * (".bias" not in name) for name, array in stacked.items()}
    names = {
        "weight,bias": list(stacked),
        "bias,weight": [
            "layer_0.bias",
            "layer_0",
            "layer_1.bias",
            "layer_1",
            "layer_2.bias",
            "layer_2",
        ],
        "weight": ["layer_0", "layer_1", "layer_2"],
        "all weights first": sorted(stacked, key=lambda name: ".bias" in name),
    }[order]
    parts = [stacked[n].swapaxes(1, -1) if layout == "out_in" else stacked[n] for n in names]
    vectors = np.concatenate([part.reshape(3, -1) for part in parts], axis=1)
    given = names if order == "all weights first" else order
    weights = convert.from_flat(
        vectors.astype(np.float64), SIDES, order=given, weight_layout=layout
    )
    for name, array in stacked.items():
        np.testing.assert_array_equal(weights[name], array)
    one = convert.from_flat(vectors[1], SIDES, order=given, weight_layout=layout)
    assert_same_models(convert.convert(one, SIDES), SIDES, one_model(stacked, 1))


def test_flat_vectors_that_do_not_fit() -> None:
    options = {"order": "weight,bias", "weight_layout": "in_out"}
    arch = Architecture.mlp(2, 3)
    with raises(
        ValueError,
        "vectors: expected 9 parameters for each model (6 of layer_0, 3 of layer_0.bias), got 8; "
        "check the sizes of the architecture, and what `order` leaves out",
    ):
        convert.from_flat(np.zeros((4, 8)), arch, **options)
    with raises(ValueError, "vectors: expected shape (N, P) or (P,), got (1, 1, 9)"):
        convert.from_flat(np.zeros((1, 1, 9)), arch, **options)
    with raises(ValueError, "weight_layout: expected 'in_out' or 'out_in', got 'rows'"):
        convert.from_flat(np.zeros(9), arch, order="weight,bias", weight_layout="rows")
    with raises(
        ValueError,
        "order: expected 'weight,bias', 'bias,weight', 'weight', these with 'slope', or "
        "all names, got 'bias'",
    ):
        convert.from_flat(np.zeros(9), arch, order="bias", weight_layout="in_out")
    names = ["layer_0", "layer_0"]
    with raises(
        ValueError, f"order: expected each of layer_0 and of their biases once, got {names}"
    ):
        convert.from_flat(np.zeros(9), arch, order=names, weight_layout="in_out")


def test_hand_written_parameters_say_which_way_round_they_are() -> None:
    weights = one_model(random_weights(SQUARE, 1, np.random.default_rng(0)), 0)
    pairs = [
        (weights["layer_0"], weights["layer_0.bias"]),
        (weights["layer_1"], weights["layer_1.bias"]),
    ]
    turned = [{"W": matrix.T, "b": bias} for matrix, bias in pairs]
    assert_same_models(convert.from_params(pairs, SQUARE, weight_layout="in_out"), SQUARE, weights)
    assert_same_models(convert.from_params(turned, SQUARE, weight_layout="out_in"), SQUARE, weights)
    ask = "nothing tells which way round this matrix is; pass weight_layout='in_out' "
    ask += "to convert.from_params if the layer computes x @ w, "
    with raises(ValueError, f"0: {ask}'out_in' if w @ x (its shape is (6, 6))"):
        convert.convert(pairs, SQUARE)
    stacked = {"layers": [{"w": np.stack([m, m]), "b": np.stack([b, b])} for m, b in pairs]}
    for name, array in convert.from_stacked_params(stacked, SQUARE, weight_layout="in_out").items():
        np.testing.assert_array_equal(array[1], weights[name])
    haiku = {
        "mlp/~/linear_1": {"w": weights["layer_1"], "b": weights["layer_1.bias"]},
        "mlp/~/linear": {"w": weights["layer_0"], "b": weights["layer_0.bias"]},
    }
    names = ["mlp.~.linear", "mlp.~.linear_1"]
    converted = convert.from_params(haiku, SQUARE, layers=names, weight_layout="in_out")
    assert_same_models(converted, SQUARE, weights)
    with raises(
        ValueError, "params: expected arrays called weight, kernel, w or W, got none in dict"
    ):
        convert.from_params({}, SQUARE)
    with unsupported(
        "0.scale: is no weight or bias of a dense layer (to fold normalisation, pass the module "
        "itself, not its parameters)"
    ):
        convert.from_params([{"scale": np.ones(6)}], SQUARE)
    with unsupported("0: has a bias but no weight matrix, so it is no dense layer"):
        convert.from_params([{"bias": np.ones(6)}], SQUARE)
    for twice in (
        {"kernel": np.ones((6, 6)), "w": np.ones((6, 6))},
        {"w": np.ones((6, 6)), "W": np.ones((6, 6))},
    ):
        with unsupported("0: has two arrays that could be its weight"):
            convert.from_params([twice], Architecture.mlp(6, 6))
    with unsupported("0: has two arrays that could be its bias"):
        convert.from_params(
            [{"kernel": np.ones((6, 6)), "b": np.ones(6), "bias": np.ones(6)}],
            Architecture.mlp(6, 6),
        )
    with unsupported("0.name: expected arrays, got str"):
        convert.from_params([{"name": "dense"}], SQUARE)


def test_models_in_mlpbanks_own_form() -> None:
    weights = one_model(random_weights(SQUARE, 1, np.random.default_rng(0)), 0)
    assert_same_models(
        convert.convert({n: a.tolist() for n, a in weights.items()}, SQUARE), SQUARE, weights
    )
    assert_same_models(convert.convert(convert.Converted(SQUARE, weights)), SQUARE, weights)
    keys, arch, stacked = convert.stack(
        {7: weights, 3: {n: a.ravel() for n, a in weights.items()}}, SQUARE
    )
    assert (keys, arch) == ([7, 3], SQUARE)
    for name, array in stacked.items():
        np.testing.assert_array_equal(array, np.stack([weights[name]] * 2))
    with raises(KeyError, "models[7]: weights: missing key 'layer_1'"):
        convert.stack({7: {"layer_0": weights["layer_0"]}}, SQUARE)
    with raises(
        ValueError,
        "models[7]: architecture: needed for weights without activations (dict), got None; "
        "give one, or pass the module itself",
    ):
        convert.stack({7: weights})
    with raises(ValueError, "layer_0: expected shape (6, 6) or (36,), got (2, 6, 6)"):
        convert.convert({"layer_0": np.ones((2, 6, 6)), "layer_1": np.ones((2, 6, 6))}, SQUARE)


def test_what_is_no_model() -> None:
    known = "a PyTorch, scikit-learn, Keras, ONNX, Flax or Equinox model or a mapping of weights"
    with raises(TypeError, f"model: expected {known}, got object"):
        convert.convert(object())
    with raises(TypeError, f"models['a']: model: expected {known}, got NoneType"):
        convert.stack({"a": None})
    with raises(
        TypeError,
        "models: expected a mapping of keys to models, or pairs of a key and a model, got int",
    ):
        convert.stack(5)  # type: ignore[arg-type]


def test_no_framework_is_imported(run_python: RunPython) -> None:
    script = """
        import sys
        import numpy as np
        from mlpbank import Architecture, convert
        arch = Architecture.mlp(2, 2)
        convert.stack({"a": {"layer_0": np.eye(2)}}, arch)
        convert.from_flat(np.zeros((3, 6)), arch, order="weight,bias", weight_layout="out_in")
        convert.from_params({"Dense_0": {"kernel": np.eye(2)}}, arch)
        convert.fold_scalers(arch, {"layer_0": np.eye(2)}, (0, 1), ([1, 2], 3))
        frameworks = "torch", "jax", "flax", "equinox", "sklearn", "keras", "onnx", "onnxruntime"
        print(sorted(set(frameworks) & set(sys.modules)))
    """
    assert run_python(script) == "[]"


def test_onnx_that_is_not_there(run_python: RunPython) -> None:
    script = """
        import sys
        sys.modules["onnx"] = None
        from mlpbank import convert
        try:
            convert.convert("model.onnx")
        except ImportError as error:
            print(error)
    """
    assert run_python(script).endswith("; pip install 'mlpbank[onnx]'")


@pytest.mark.parametrize("stacked", [False, True])
def test_masked_parameters_are_refused(stacked: bool) -> None:
    """NumPy would drop the masks and hand over what lies below."""
    message = "expected an array without mask, got a masked array; fill it first"
    arch = Architecture.mlp(2, 1)
    batch = (3,) if stacked else ()
    matrix, bias = np.ones((*batch, 2, 1), np.float32), np.ones((*batch, 1), np.float32)
    from_params = convert.from_stacked_params if stacked else convert.from_params
    options: Any = {"order": "weight", "weight_layout": "in_out"}
    for mask in (np.zeros(matrix.shape, bool), np.ones(matrix.shape, bool)):
        masked = np.ma.MaskedArray(matrix, mask)
        with raises(TypeError, f"fc: {message}"):
            from_params({"fc": {"kernel": masked}}, arch)
        with raises(TypeError, f"fc: {message}"):
            from_params({"fc": {"kernel": matrix, "bias": np.ma.MaskedArray(bias, True)}}, arch)
        with raises(TypeError, f"fc: {message}"):
            from_params({"fc": [masked, bias]}, arch, weight_layout="in_out")
        with raises(TypeError, f"layer_0: {message}"):
            fold_scalers(arch, {"layer_0": masked, "layer_0.bias": bias}, (0, 1))
        flat = masked.reshape(*batch, 2)
        for vectors in (flat, list(flat) if stacked else [flat]):
            with raises(TypeError, f"vectors: {message}"):
                convert.from_flat(vectors, arch, **options)
    with raises(TypeError, f"input_scaler: {message}"):
        fold_scalers(arch, {"layer_0": matrix}, (np.ma.masked_greater([1.0, 2.0], 1), 1))

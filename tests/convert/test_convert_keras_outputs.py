"""Keras models with several outputs, with scales at their end, and those of Keras 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convert_checks import rows
from mlpbank import Architecture, Bank, convert
from mlpbank.convert import UnsupportedLayerError

keras = pytest.importorskip("keras")
L = keras.layers
X = rows(Architecture.mlp(3, 3))


def assert_reads(model: Any, expected: Any, output: Any = None) -> None:
    bank = Bank.from_models({"a": model}, output=output)
    got = bank.predict(["a"] * len(X), X)
    expected = keras.ops.convert_to_numpy(expected).reshape(got.shape)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def heads() -> tuple[Any, Any, Any]:
    rows_in = keras.Input((3,))
    hidden = L.Dense(5, "relu")(rows_in)
    action, value = L.Dense(2, "tanh", name="action")(hidden), L.Dense(1, name="value")(hidden)
    return rows_in, action, value


def test_one_output_of_several_is_picked() -> None:
    rows_in, action, value = heads()
    listed = keras.Model(rows_in, [action, value])
    named = keras.Model(rows_in, {"pi": action, "v": value})
    for output, number in (("action", 0), ("value", 1), (0, 0), (-1, 1)):
        assert_reads(listed, listed(X)[number], output)
    for output in ("pi", "v"):
        assert_reads(named, named(X)[output], output)
    with pytest.raises(UnsupportedLayerError, match=r"got 2 \('action', 'value'\); name the one"):
        convert.convert(listed)
    with pytest.raises(UnsupportedLayerError, match=r"output='q': the model has the outputs 'pi'"):
        convert.convert(named, output="q")
    with pytest.raises(UnsupportedLayerError, match=r"^output='q': .* has one output"):
        convert.convert(keras.Model(rows_in, action), output="q")


@pytest.mark.parametrize(
    "last",
    [
        lambda: [L.Dense(2, "tanh"), L.Rescaling([2.0, 3.0], [1.0, -1.0])],
        lambda: [L.Dense(2), L.Normalization(mean=[2.0, 3.0], variance=[4.0, 9.0], invert=True)],
        lambda: [L.Dense(4, "relu"), L.BatchNormalization()],
        lambda: [L.Dense(4, "relu"), L.Rescaling(2.0, 1.0), L.Activation("sigmoid")],
        lambda: [L.Dense(1, "sigmoid"), L.Reshape((-1,))],
        lambda: [L.Dense(1), L.Flatten()],
    ],
)
def test_ends_of_models(last: Any) -> None:
    model = keras.Sequential([keras.Input((3,)), L.Dense(4, "relu"), *last()])
    assert_reads(model, model(X, training=False))


def test_a_reshape_that_splits_rows() -> None:
    model = keras.Sequential([keras.Input((3,)), L.Dense(4), L.Reshape((2, 2), name="r")])
    with pytest.raises(UnsupportedLayerError, match=r"^r: Reshape of flat rows to \(2, 2\)"):
        convert.convert(model)


def test_models_of_keras_2_are_named_with_the_way_out() -> None:
    for package in ("tf_keras.src.engine", "tensorflow.python.keras.engine"):
        base = type("Layer", (), {"__module__": package})
        model = type("Functional", (base,), {"__module__": package})()
        with pytest.raises(
            UnsupportedLayerError, match=r"^models\['a'\]: Functional is a model of"
        ):
            convert.stack({"a": model})

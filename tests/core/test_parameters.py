"""Parameters of activations: what a layer takes, keeps, compares and refuses."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import case
from mlpbank import Activation, Architecture, Bank, LayerSpec, MlpbankError

SPECS = [
    LayerSpec(5, 4, "leaky_relu", alpha=0.2),
    LayerSpec(5, 4, "elu", alpha=0.5),
    LayerSpec(5, 4, "celu", alpha=2),
    LayerSpec(5, 4, "hardsigmoid", alpha=0.25, beta=0.125),
    LayerSpec(5, 4, "clip", low=-0.5),
    LayerSpec(5, 4, "clip", high=0.75),
    LayerSpec(5, 4, "prelu"),
    LayerSpec(5, 4, "mish"),
]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_a_layer_is_what_its_repr_says(spec: LayerSpec) -> None:
    assert eval(repr(spec)) == spec
    assert hash(eval(repr(spec))) == hash(spec)
    assert pickle.loads(pickle.dumps(spec)) == spec
    architecture = Architecture([spec, LayerSpec(4, 1)])
    assert pickle.loads(pickle.dumps(architecture)) == architecture


def test_layers_with_other_parameters_are_others() -> None:
    assert LayerSpec(5, 4, "elu") == LayerSpec(5, 4, "elu", alpha=1.0)
    assert LayerSpec(5, 4, "elu") != LayerSpec(5, 4, "elu", alpha=1.5)
    assert Architecture([SPECS[0]]) != Architecture([LayerSpec(5, 4, "leaky_relu")])
    assert SPECS[0].parameters == {"alpha": 0.2}
    assert LayerSpec(5, 4, "relu").parameters == {}
    assert LayerSpec(5, 4, "relu").alpha is None


def test_what_float32_makes_of_a_number_is_that_number() -> None:
    assert SPECS[0] == LayerSpec(5, 4, "leaky_relu", alpha=float(np.float32(0.2)))
    assert SPECS[0] == LayerSpec(5, 4, "leaky_relu", alpha=np.float32(0.2))
    assert LayerSpec(5, 4, "clip", low=-0.0, high=1) == LayerSpec(5, 4, "clip", low=0, high=1)


@pytest.mark.parametrize(
    ("activation", "options", "message"),
    [
        ("relu", {"alpha": 0.1}, "alpha: activation 'relu' has no parameters, got alpha=0.1"),
        ("elu", {"low": 0.1}, "low: activation 'elu' has alpha, got low=0.1"),
        ("leaky_relu", {"alpha": math.nan}, "alpha: expected a number that float32 can hold"),
        ("leaky_relu", {"alpha": math.inf}, "alpha: expected a finite number"),
        ("elu", {"alpha": 1e39}, "alpha: expected a number that float32 can hold"),
        ("elu", {"alpha": "1"}, "alpha: expected a number, got '1'"),
        ("elu", {"alpha": True}, "alpha: expected a number, got True"),
        ("celu", {"alpha": -1}, "alpha: expected 1e-06 to 1e"),
        ("celu", {"alpha": 0}, "alpha: expected 1e-06 to 1e"),
        ("hardsigmoid", {"alpha": 0}, "alpha: expected a positive number"),
        ("clip", {"low": 1, "high": 0}, "low: expected at most high, which is 0.0"),
        ("clip", {"low": math.inf}, "low: expected"),
        ("clip", {"high": math.nan}, "high: expected a number"),
        ("clip", {}, "low: expected a finite bound of 'clip', low or high"),
    ],
)
def test_what_is_no_parameter_is_refused(
    activation: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MlpbankError) as caught:
        LayerSpec(5, 4, Activation(activation), **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_banks_and_files_keep_parameters(
    spec: LayerSpec, layout: Any, dtype: Any, tmp_path: Path
) -> None:
    architecture = Architecture([spec, LayerSpec(4, 3, spec.activation, **spec.parameters)])
    c = case(architecture, 19, 3)
    keys = [f"m{i}" for i in range(19)]
    bank = Bank.from_stacked(keys, architecture, c.weights, layout=layout, dtype=dtype)
    y = bank.predict(keys, c.x)
    bank.save(tmp_path / "a.mlpbank")
    opened = Bank.open(tmp_path / "a.mlpbank")
    assert opened.architecture == architecture
    np.testing.assert_array_equal(opened.predict(keys, c.x), y)
    if dtype == "float32":
        bank.to_safetensors(tmp_path / "a.safetensors")
        plain = Bank.from_safetensors(tmp_path / "a.safetensors")
        assert plain.architecture == architecture
        np.testing.assert_array_equal(plain.predict(keys, c.x), y)
    if spec.activation is Activation.PRELU:
        changed = {**bank["m3"], "layer_0.slope": 0.5}
        bank["m4"] = changed
        bank["m3"] = bank["m17"]
        assert bank["m4"]["layer_0.slope"] == 0.5
        np.testing.assert_array_equal(bank.predict(["m3"], c.x[:1]), bank.predict(["m17"], c.x[:1]))
        np.testing.assert_array_equal(bank.predict(["m5"], c.x[5:6]), y[5:6])

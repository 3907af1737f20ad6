"""Nets of skorch give what their predict_proba gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import raises
from convert_checks import rows
from mlpbank import Architecture, Bank, convert

torch = pytest.importorskip("torch")
skorch = pytest.importorskip("skorch")
pytestmark = pytest.mark.slow  # skorch is in the extra `test-all` alone
nn = torch.nn
X = rows(Architecture.mlp(3, 3))


def module(outputs: int, *last: Any) -> Any:
    return nn.Sequential(nn.Linear(3, 5), nn.Dropout(), nn.ReLU(), nn.Linear(5, outputs), *last)


@pytest.mark.parametrize(
    "make",
    [
        lambda: skorch.NeuralNetRegressor(module(2)),
        lambda: skorch.NeuralNetClassifier(module(3), criterion=nn.CrossEntropyLoss),
        lambda: skorch.NeuralNetClassifier(module(3, nn.Softmax(-1))),
        lambda: skorch.NeuralNetBinaryClassifier(module(1)),
        lambda: skorch.NeuralNetBinaryClassifier(
            module(1, nn.Sigmoid(), nn.Flatten(0)), criterion=nn.BCELoss
        ),
        lambda: skorch.NeuralNetClassifier(module(3), predict_nonlinearity=None),
    ],
)
def test_probabilities_and_numbers(make: Any) -> None:
    net = make().initialize()
    bank = Bank.from_models({"a": net})
    expected = net.predict_proba(X)
    np.testing.assert_allclose(bank.predict(["a"] * len(X), X), expected, atol=1e-6)


def test_what_is_not_known_of_a_net() -> None:
    net = skorch.NeuralNetClassifier(module(2), predict_nonlinearity=torch.exp)
    with raises(
        ValueError,
        "expected a fitted NeuralNetClassifier, got one that is not; call fit or initialize",
    ):
        convert.convert(net)
    with pytest.raises(convert.UnsupportedLayerError, match="has the predict_nonlinearity <built"):
        convert.convert(net.initialize())

    class Own(skorch.NeuralNetRegressor):  # type: ignore[misc]
        def predict_proba(self, x: Any) -> Any:
            return super().predict_proba(x) * 2

    with pytest.raises(convert.UnsupportedLayerError, match=r"^Own has a predict_proba of its own"):
        convert.convert(Own(module(1)).initialize())

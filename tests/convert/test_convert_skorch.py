"""Nets of skorch give what their predict_proba and predict give."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cases import raises
from convert_checks import rows, silently
from mlpbank import Architecture, Bank, convert

pytest.importorskip("sklearn")
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

torch = pytest.importorskip("torch")
skorch = pytest.importorskip("skorch")
pytestmark = pytest.mark.slow  # skorch is in the extra `test-all` alone
nn = torch.nn
X = rows(Architecture.mlp(3, 3))
MANY = rows(Architecture.mlp(3, 3), seed=1, count=400)


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(3)


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


class Tagged(nn.Module):  # type: ignore[misc]
    """Returns more than one result, of which skorch takes the first."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.inner = module(outputs)

    def forward(self, x: Any) -> Any:
        y = self.inner(x)
        return y, torch.tanh(y)


class Smoothed(nn.CrossEntropyLoss):  # type: ignore[misc]
    """A criterion of one's own, which skorch follows by its base."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: skorch.NeuralNetClassifier(module(4), criterion=nn.CrossEntropyLoss),
        lambda: skorch.NeuralNetClassifier(module(3), criterion=Smoothed),
        lambda: skorch.NeuralNetClassifier(module(3, nn.Softmax(-1)), classes=[0, 1, 2]),
        lambda: skorch.NeuralNetClassifier(module(2), predict_nonlinearity=None),
        lambda: skorch.NeuralNetClassifier(Tagged(), criterion=nn.CrossEntropyLoss),
        lambda: skorch.NeuralNetClassifier(
            module(3), predict_nonlinearity=partial(torch.softmax, dim=-1)
        ),
        lambda: skorch.NeuralNetBinaryClassifier(module(1)),
        lambda: skorch.NeuralNetBinaryClassifier(
            module(1, nn.Sigmoid(), nn.Flatten(0)), criterion=nn.BCELoss
        ),
    ],
)
def test_labels_are_those_of_predict(make: Any) -> None:
    nets = {key: make().initialize() for key in "ab"}
    bank = Bank.from_models(nets)
    assert bank.classes == tuple(range(bank.architecture.output_size))
    seen = set()
    for key, net in nets.items():
        probabilities = net.predict_proba(MANY)
        np.testing.assert_allclose(bank.predict([key] * 400, MANY), probabilities, atol=1e-6)
        clear = np.abs(np.sort(probabilities, axis=1)[:, -2:] @ [-1, 1]) > 1e-5
        labels = bank.predict_class([key] * 400, MANY)
        assert (labels == net.predict(MANY))[clear].all()
        seen |= set(labels.tolist())
    assert len(seen) > 1


def test_classes_of_a_fit_do_not_change_what_is_predicted() -> None:
    """What skorch notes are the labels of y, what it predicts are numbers of outputs."""
    net = skorch.NeuralNetClassifier(
        module(5), criterion=nn.CrossEntropyLoss, max_epochs=3, train_split=None, verbose=0
    )
    net.fit(MANY, np.where(MANY[:, 0] > 0, 1, 4))
    assert net.classes_.tolist() == [1, 4]
    bank = Bank.from_models({"a": net})
    assert bank.classes == (0, 1, 2, 3, 4)
    assert (bank.predict_class(["a"] * 400, MANY) == net.predict(MANY)).mean() > 0.99


def test_labels_of_other_classes_are_given_to_what_was_converted() -> None:
    net = skorch.NeuralNetClassifier(module(2), classes=["cat", "dog"]).initialize()
    with pytest.raises(ValueError, match=r"^models\['a'\]: classes: .*\['cat', 'dog'\], but its p"):
        Bank.from_models({"a": net})
    net.set_params(classes=None)
    with pytest.raises(
        ValueError, match=r"got \[0, 1\]; where the model's numbers stand for these"
    ):
        Bank.from_models({"a": net}, classes=["cat", "dog"])
    named = dataclasses.replace(convert.convert(net), classes=("cat", "dog"))
    bank = Bank.from_models({"a": named})
    expected = np.array(["cat", "dog"])[net.predict(MANY)]
    assert (bank.predict_class(["a"] * 400, MANY) == expected).mean() > 0.99


def test_two_classes_share_a_bank_with_those_of_scikit_learn() -> None:
    net = skorch.NeuralNetBinaryClassifier(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    )
    with silently():
        other = MLPClassifier(hidden_layer_sizes=(4,), max_iter=5).fit(MANY, MANY[:, 0] > 0)
        same = MLPClassifier(hidden_layer_sizes=(4,), max_iter=5).fit(MANY, (MANY[:, 0] > 0) * 1)
    bank = Bank.from_models({"net": net.initialize(), "same": same})
    assert bank.architecture.output_size == 2
    assert (bank.predict_class(["net"] * 400, MANY) == net.predict(MANY)).mean() > 0.99
    with pytest.raises(
        ValueError, match=r"\['other'\]: classes: expected those of models\['net'\]"
    ):
        Bank.from_models({"net": net, "other": other})


def test_other_outputs_have_no_classes() -> None:
    for net in (
        skorch.NeuralNetRegressor(module(2)),
        skorch.NeuralNet(module(2), criterion=nn.MSELoss),
        skorch.NeuralNetClassifier(module(1), predict_nonlinearity=None),
        skorch.NeuralNetBinaryClassifier(module(1), predict_nonlinearity=None),
    ):
        assert convert.convert(net.initialize()).classes is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: skorch.NeuralNetBinaryClassifier(module(1), threshold=0.3), "threshold=0.3; la"),
        (lambda: skorch.NeuralNetBinaryClassifier(module(2)), "expected one output of NeuralNetB"),
        (
            lambda: skorch.NeuralNetBinaryClassifier(module(1), criterion=nn.CrossEntropyLoss),
            "expected several outputs with CrossEntropyLoss, got one",
        ),
        (
            lambda: skorch.NeuralNetClassifier(module(3), criterion=nn.BCEWithLogitsLoss),
            "expected one output with BCEWithLogitsLoss, got 3",
        ),
        (
            lambda: skorch.NeuralNetRegressor(module(2), predict_nonlinearity=torch.exp),
            "has the predict_nonlinearity <built",
        ),
        (
            lambda: skorch.NeuralNetClassifier(
                module(2), predict_nonlinearity=partial(torch.softmax, dim=0)
            ),
            "has the predict_nonlinearity functools.partial",
        ),
        (
            lambda: skorch.NeuralNetRegressor(module(2), dataset=torch.utils.data.TensorDataset),
            "has a dataset of its own, which may change rows",
        ),
        (
            lambda: skorch.NeuralNetRegressor(module(2), iterator_valid__collate_fn=lambda b: b),
            "has iterator_valid__collate_fn of its own",
        ),
    ],
)
def test_what_would_differ_from_predict_is_refused(make: Any, message: str) -> None:
    with pytest.raises(convert.UnsupportedLayerError) as caught:
        convert.convert(make().initialize())
    assert message in str(caught.value)


def test_the_first_result_is_the_one_that_is_predicted() -> None:
    net = skorch.NeuralNetRegressor(Tagged(2)).initialize()
    bank = Bank.from_models({"a": net}, output=0)
    np.testing.assert_allclose(bank.predict(["a"] * 400, MANY), net.predict(MANY), atol=1e-6)
    with pytest.raises(
        convert.UnsupportedLayerError, match=r"^output=1: .* takes the first result"
    ):
        convert.convert(net, output=1)


def test_nets_in_pipelines() -> None:
    frame = pd.DataFrame(MANY, columns=["a", "b", "c"])
    columns = ColumnTransformer([("scaled", StandardScaler(), ["c", "a"])])
    target = (MANY[:, :1] - MANY[:, 2:]).astype(np.float32)

    def net(kind: Any, outputs: int, **options: Any) -> Any:
        layers = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, outputs))
        return kind(layers, max_epochs=4, train_split=None, verbose=0, **options)

    regressor = make_pipeline(columns, net(skorch.NeuralNetRegressor, 1))
    targets = TransformedTargetRegressor(
        regressor, transformer=StandardScaler(), check_inverse=False
    )
    for model in (regressor, targets):
        with silently():  # older scikit-learn hands on targets of one dimension
            model.fit(frame, target)
        bank = Bank.from_models({"k": model})
        assert bank.feature_names == ("a", "c")
        got = bank.predict(["k"] * 400, frame[["a", "c"]])
        np.testing.assert_allclose(got, model.predict(frame).reshape(400, 1), atol=1e-5)
    kind = skorch.NeuralNetClassifier
    model = make_pipeline(columns, net(kind, 2, criterion=nn.CrossEntropyLoss))
    model.fit(frame, (target[:, 0] > 0).astype(np.int64))
    bank = Bank.from_models({"k": model})
    assert (bank.feature_names, bank.classes) == (("a", "c"), (0, 1))
    labels = bank.predict_class(["k"] * 400, frame[["a", "c"]])
    assert (labels == model.predict(frame)).mean() > 0.99
    with pytest.raises(convert.UnsupportedLayerError, match="expected a regressor, got a Pipeline"):
        convert.convert(TransformedTargetRegressor(model).fit(frame, (target[:, 0] > 0) * 1))

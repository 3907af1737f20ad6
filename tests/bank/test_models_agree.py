"""What models know, compared over a bank: features in one order, classes refused or aligned."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from convert_checks import silently
from mlpbank import Architecture, Bank, LayerSpec

pytest.importorskip("sklearn")
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

NAMES = ("age", "load", "temp")


def refused(kind: type[Exception], part: str) -> Any:
    return pytest.raises(kind, match=re.escape(part))


def table(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(rng.normal([5.0, -3.0, 100.0], [1, 4, 30], (80, 3)), columns=list(NAMES))


def regressor(order: Sequence[str], seed: int) -> Any:
    df = table(seed)
    model = make_pipeline(
        MinMaxScaler(), MLPRegressor(hidden_layer_sizes=(5,), max_iter=40, random_state=seed)
    )
    with silently():
        return model.fit(df[list(order)], df["age"] - df["load"] / df["temp"])


def classifier(labels: Sequence[Any], seed: int) -> Any:
    df = table(seed)
    model = MLPClassifier(hidden_layer_sizes=(5,), max_iter=40, random_state=seed)
    with silently():
        return model.fit(df, np.resize(labels, len(df)))


ORDERS = {"one": NAMES, "two": ("temp", "age", "load"), "three": ("load", "temp", "age")}


@pytest.mark.parametrize("how", ["from_models", "add"])
def test_features_in_another_order_give_the_numbers_of_the_model(how: str) -> None:
    models = {key: regressor(order, i) for i, (key, order) in enumerate(ORDERS.items())}
    bank = Bank.from_models(models)
    if how == "add":
        bank = Bank(bank.architecture)
        bank.update(models)
    assert bank.feature_names == NAMES
    rows = table(9)
    for key, model in models.items():
        right = model.predict(rows[list(ORDERS[key])])
        y = bank.predict_frame(rows.assign(k=key), key="k")
        np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-4)


def test_names_that_are_given_are_the_order_of_the_bank() -> None:
    model = regressor(NAMES, 0)
    bank = Bank.from_models({"m": model}, feature_names=["temp", "load", "age"])
    assert bank.feature_names == ("temp", "load", "age")
    rows = table(1)
    right = model.predict(rows)
    y = bank.predict("m", rows[["temp", "load", "age"]].to_numpy())[:, 0]
    np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-4)


def test_other_features_are_refused_by_key() -> None:
    df = table(0).rename(columns={"age": "years"})
    with silently():
        other = MLPRegressor(hidden_layer_sizes=(5,), max_iter=5).fit(df, df["years"])
    bank = Bank.from_models({"one": regressor(NAMES, 0)})
    with refused(ValueError, "bank['x']: feature names: expected those of the bank, in any order"):
        bank["x"] = other
    assert "x" not in bank
    with refused(ValueError, "models['x']: feature names: expected those of models['one']"):
        Bank.from_models({"one": regressor(NAMES, 0), "x": other})


def test_models_without_names_are_taken_as_they_are() -> None:
    df = table(0)
    with silently():
        bare = MLPRegressor(hidden_layer_sizes=(5,), max_iter=5).fit(df.to_numpy(), df["age"])
    bank = Bank.from_models({"bare": bare, "named": regressor(NAMES, 0)})
    assert bank.feature_names == NAMES
    np.testing.assert_allclose(
        bank.predict("bare", df)[:, 0], bare.predict(df.to_numpy()), rtol=1e-4, atol=1e-4
    )
    bank = Bank.from_models({"bare": bare})
    bank["named"] = regressor(NAMES, 0)  # the first that names them
    assert bank.feature_names == NAMES


def test_labels_are_those_of_scikit_learn() -> None:
    models = {key: classifier(["hi", "lo", "mid"], i) for i, key in enumerate("ab")}
    bank = Bank.from_models(models)
    assert bank.classes == ("hi", "lo", "mid")
    rows = table(5)
    for key, model in models.items():
        y = bank.predict_class([key] * len(rows), rows[["temp", "load", "age"]])
        assert (y == model.predict(rows)).mean() > 0.98
        assert y.dtype == model.predict(rows).dtype


def test_other_classes_are_refused_or_aligned() -> None:
    full, part, single = classifier([1, 2, 5], 0), classifier([5, 2], 1), classifier([2], 2)
    bank = Bank.from_models({"full": full})
    for other in (part, single, classifier([1, 2, 6], 3)):
        with refused(ValueError, "bank['other']: classes: expected those of the bank, [1, 2, 5]"):
            bank["other"] = other
    bank.add("part", part, align_classes=True)
    bank.add("single", single, align_classes=True)
    rows = table(6)
    for key, model in (("full", full), ("part", part), ("single", single)):
        assert bank.predict_class([key] * 80, rows).tolist() == model.predict(rows).tolist()
    y = bank.predict("part", rows)
    assert (y[:, 0] == 0).all()
    np.testing.assert_allclose(y[:, 1:], part.predict_proba(rows), rtol=1e-5, atol=1e-6)
    models = {"single": single, "part": part, "full": full}
    with refused(ValueError, "models['single']: classes"):
        Bank.from_models(models)
    assert Bank.from_models(models, align_classes=True).classes == (1, 2, 5)


def test_aligning_needs_classes_on_both_sides() -> None:
    bank = Bank.from_stacked(*Bank.from_models({"m": classifier([1, 2, 5], 0)}).to_stacked())
    with refused(ValueError, "bank['x']: align_classes: expected a bank that knows its classes"):
        bank.add("x", classifier([1, 2], 0), align_classes=True)
    with refused(ValueError, "bank['x']: align_classes: expected a model that knows its classes"):
        Bank(bank.architecture, classes=[1, 2, 5]).add("x", bank["m"], align_classes=True)


def test_threads_that_add_first_models_agree_on_one_order() -> None:
    models = {key: regressor(order, i) for i, (key, order) in enumerate(ORDERS.items())}
    rows = table(7)
    for _ in range(10):
        bank = Bank(Architecture([LayerSpec(3, 5, "relu"), LayerSpec(5, 1)]))
        threads = [threading.Thread(target=bank.add, args=item) for item in models.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for key, model in models.items():
            right = model.predict(rows[list(ORDERS[key])])
            y = bank.predict_frame(rows.assign(k=key), key="k")
            np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-4)


def fitted(columns: list[str], seed: int = 0) -> Any:
    frame = pd.DataFrame(
        np.random.default_rng(seed).normal(size=(40, 2)) * [1, 9], columns=["a", "b"]
    )
    network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=0)
    with silently():
        return network.fit(frame[columns], frame["a"])


def test_the_first_model_that_names_features_names_those_of_the_bank() -> None:
    """Also where the bank has models that knew none."""
    plain, one, other = fitted(["a", "b"]), fitted(["a", "b"], 1), fitted(["b", "a"], 2)
    frame = pd.DataFrame([[1.0, 20.0], [-2.0, 3.0]], columns=["a", "b"])
    bank = Bank.from_stacked(*Bank.from_models({"plain": plain}).to_stacked())
    assert bank.feature_names is None
    bank["one"], bank["other"] = one, other
    assert bank.feature_names == ("a", "b")
    for key, model in (("one", one), ("other", other)):
        np.testing.assert_allclose(
            bank.predict([key] * 2, frame)[:, 0],
            model.predict(frame[list(model.feature_names_in_)]),
            rtol=1e-5,
        )
    with pytest.raises(ValueError, match="bank\\['c'\\]"):
        bank["c"] = renamed(one)


def renamed(model: Any) -> Any:
    other = copy.deepcopy(model)
    other.feature_names_in_ = np.array(["p", "q"], object)
    return other


def test_another_bank_has_to_mean_the_same() -> None:
    bank, turned = Bank.from_models({"x": fitted(["a", "b"])}), fitted(["b", "a"])
    with pytest.raises(ValueError, match="same feature_names"):
        bank.update(Bank.from_models({"y": turned}))
    with pytest.raises(ValueError, match="same architecture"):
        bank.update(Bank(Architecture.mlp(2, 4, 1, activation="elu")))
    assert list(bank) == ["x"]
    bank.update(Bank.from_models({"y": fitted(["a", "b"])}))
    assert list(bank) == ["x", "y"]

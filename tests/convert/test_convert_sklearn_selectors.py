"""Transformers of scikit-learn that choose or mix columns: selectors, PCA, TruncatedSVD."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from convert_checks import silently
from mlpbank import Bank, convert

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import (
    RFE,
    RFECV,
    GenericUnivariateSelect,
    SelectFdr,
    SelectFpr,
    SelectFromModel,
    SelectFwe,
    SelectKBest,
    SelectPercentile,
    SequentialFeatureSelector,
    VarianceThreshold,
    f_regression,
)
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

COLUMNS = ["a", "b", "c", "d", "stamp"]
MEANS = np.array([3.0, -40.0, 0.0, 0.5, 1.7e9])
SCALES = np.array([2.0, 5.0, 1.0, 0.1, 3600.0])


def frame(seed: int, count: int = 80) -> pd.DataFrame:
    """Return rows whose columns depend on each other."""
    z = np.random.default_rng(seed).normal(size=(count, 5))
    z[:, 1:] += 0.7 * z[:, :-1]
    return pd.DataFrame(MEANS + z * SCALES, columns=COLUMNS)


FRAME = frame(0)
TARGETS = {
    "early": FRAME.a - 20 * FRAME.d + FRAME.c,
    "late": (FRAME.stamp - 1.7e9) / 3600 + FRAME.b / 5,
}


def fitted(*steps: Any, target: str = "late", x: Any = FRAME) -> Any:
    network = MLPRegressor(
        hidden_layer_sizes=(6, 5), activation="tanh", max_iter=150, random_state=0
    )
    with silently():  # it has not converged
        return clone(make_pipeline(*steps, network)).fit(x, TARGETS[target])


def assert_predicts(model: Any, names: list[str] | None = COLUMNS) -> Bank:
    """Check a bank of a model against its predict, to 1e-5 of the results' deviation."""
    bank = Bank.from_models({"k": model})
    assert bank.feature_names == (None if names is None else tuple(names))
    for seed in (1, 2):
        rows = frame(seed, 200)
        given = rows if names else rows.to_numpy()
        truth = model.predict(given)
        got = bank.predict(["k"] * len(rows), given if names is None else rows[names])[:, 0]
        assert np.abs(got - truth).max() <= 1e-5 * truth.std()
    return bank


SELECTORS: list[Any] = [
    SelectKBest(f_regression, k=3),
    SelectPercentile(f_regression, percentile=40),
    SelectFpr(f_regression),
    SelectFdr(f_regression),
    SelectFwe(f_regression),
    GenericUnivariateSelect(f_regression, mode="k_best", param=2),
    SelectFromModel(Ridge(), max_features=2, threshold=-np.inf),
    SelectFromModel(Ridge(), threshold="0.5*mean"),
    SequentialFeatureSelector(Ridge(), n_features_to_select=2, cv=2),
    RFE(Ridge(), n_features_to_select=3),
    RFECV(Ridge(), cv=2),
    VarianceThreshold(0.02),
]


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda one: type(one).__name__)
def test_selectors(selector: Any) -> None:
    assert_predicts(fitted(StandardScaler(), selector))
    assert_predicts(fitted(selector, StandardScaler()))
    assert_predicts(fitted(selector, StandardScaler(), x=FRAME.to_numpy()), None)


def test_each_model_of_a_bank_may_select_other_columns() -> None:
    selection = (StandardScaler(), SelectKBest(f_regression, k=2))
    models = {target: fitted(*selection, target=target) for target in TARGETS}
    chosen = [tuple(model[1].get_support()) for model in models.values()]
    assert chosen[0] != chosen[1]
    bank = Bank.from_models(models)
    bank.add("again", models["late"])
    assert bank.feature_names == tuple(COLUMNS)
    rows = frame(3)
    for key, model in (*models.items(), ("again", models["late"])):
        truth = model.predict(rows)
        got = bank.predict_frame(rows.assign(key=key), key="key").to_numpy().ravel()
        assert np.abs(got - truth).max() <= 1e-5 * truth.std()


def test_columns_that_are_not_selected_do_not_count_as_means_of_a_bank() -> None:
    other = FRAME.assign(c=1e12 + np.arange(len(FRAME)))
    models = {}
    for key, x in (("one", FRAME.drop(columns="stamp").assign(c=3.0)), ("two", other)):
        chosen = x[["a", "b", "c", "d"]]
        models[key] = fitted(
            StandardScaler(), SelectKBest(f_regression, k=1), x=chosen, target="late"
        )
    bank = Bank.from_models(models)
    assert bank.input_shift is None


MIXERS: dict[str, Any] = {
    "pca": (PCA(3),),
    "all components": (PCA(),),
    "a share of the variance": (StandardScaler(), PCA(0.9)),
    "whitened": (StandardScaler(), PCA(4, whiten=True)),
    "scaled": (StandardScaler(), PCA(3), StandardScaler()),
    "randomized": (MinMaxScaler((-1, 1)), PCA(2, svd_solver="randomized", random_state=0)),
    "incremental": (StandardScaler(), IncrementalPCA(3, whiten=True)),
    "svd": (StandardScaler(), TruncatedSVD(3)),
    "svd scaled": (StandardScaler(), TruncatedSVD(2), StandardScaler()),
    "twice": (StandardScaler(), PCA(4), MinMaxScaler(), PCA(2)),
    "selected after": (StandardScaler(), PCA(4), SelectKBest(f_regression, k=2)),
    "selected before": (StandardScaler(), SelectKBest(f_regression, k=3), PCA(2)),
    "in a pipeline": (make_pipeline(StandardScaler(), make_pipeline(PCA(3))), StandardScaler()),
    "beside columns": (
        StandardScaler(),
        FeatureUnion([("pca", PCA(2)), ("same", "passthrough"), ("best", SelectKBest(k=1))]),
    ),
}


@pytest.mark.parametrize("name", MIXERS)
def test_components(name: str) -> None:
    with silently():
        assert_predicts(fitted(*MIXERS[name]))
        assert_predicts(fitted(*MIXERS[name], x=FRAME.to_numpy()), None)


def test_components_of_some_columns() -> None:
    """Columns that a ColumnTransformer leaves out are no inputs, those of a selector are."""
    columns = ColumnTransformer(
        [
            ("mixed", make_pipeline(StandardScaler(), PCA(2, whiten=True)), ["stamp", "a", "c"]),
            ("best", Pipeline([("s", StandardScaler()), ("k", SelectKBest(k=1))]), ["c", "d"]),
        ],
        transformer_weights={"mixed": 0.5},
    )
    names = ["a", "c", "d", "stamp"]
    model = fitted(columns)
    bank = assert_predicts(model, names)
    assert [layer.input_size for layer in bank.architecture.layers] == [4, 6, 5]
    assert abs(bank.input_shift[3] - 1.7e9) < 1e4  # type: ignore[index]
    assert_predicts(fitted(columns, StandardScaler(), PCA(2)), names)


def test_large_means_become_a_shift() -> None:
    raw = fitted(PCA(2), StandardScaler())
    assert abs(assert_predicts(raw).input_shift[4] - 1.7e9) < 1e4  # type: ignore[index]


def test_components_finer_than_float32_are_refused() -> None:
    twin = FRAME.assign(d=FRAME.a + 1e-4 * FRAME.c)
    for last in (PCA(whiten=True), make_pipeline(PCA(), StandardScaler())):
        model = fitted(StandardScaler(), last, x=twin)
        with pytest.raises(
            convert.UnsupportedLayerError, match=r"pca: PCA: its component 4 is a .* loses digits"
        ):
            convert.convert(model)
    # Not scaled up, a component without variance does no harm.
    model = fitted(StandardScaler(), PCA(), x=twin)
    got = Bank.from_models({"k": model}).predict(["k"] * len(twin), twin)[:, 0]
    truth = model.predict(twin)
    assert np.abs(got - truth).max() <= 1e-5 * truth.std()


def test_truncated_svd_of_large_means_is_refused() -> None:
    model = fitted(FunctionTransformer(), TruncatedSVD(2), StandardScaler())
    with pytest.raises(convert.UnsupportedLayerError, match="truncatedsvd: TruncatedSVD: its comp"):
        convert.convert(model)


class Others(SelectKBest):  # type: ignore[misc]
    def _get_support_mask(self) -> Any:
        return ~super()._get_support_mask()


def test_selectors_and_components_that_may_compute_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(convert.UnsupportedLayerError, match="others: Others is no scaler"):
        convert.convert(fitted(Others(f_regression, k=2)))
    model = fitted(StandardScaler(), SelectKBest(f_regression, k=2))
    model[1].transform = lambda x: x[:, :2]
    with pytest.raises(convert.UnsupportedLayerError, match=r"^selectkbest: .* transform of its"):
        convert.convert(model)
    model = fitted(StandardScaler(), PCA(2))
    monkeypatch.setattr(PCA, "transform", lambda self, x: x[:, :2])
    with pytest.raises(convert.UnsupportedLayerError, match=r"^pca: PCA has a transform of its"):
        convert.convert(model)


def test_what_is_not_fitted_is_said() -> None:
    for unfitted in (SelectKBest(), SelectFromModel(Ridge()), PCA(2), VarianceThreshold()):
        model = fitted(StandardScaler(), VarianceThreshold())
        model.steps[1] = ("part", unfitted)
        with pytest.raises(convert.UnsupportedLayerError, match=r"^part: expected a fitted"):
            convert.convert(model)


@pytest.mark.parametrize(
    "change",
    [
        {"components_": np.eye(5)[:1]},
        {"components_": np.full((2, 5), np.nan)},
        {"explained_variance_": None},
        {"mean_": np.full(5, np.inf)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_components_that_do_not_fit_each_other(change: dict[str, Any]) -> None:
    model = fitted(StandardScaler(), PCA(2))
    vars(model[1]).update(change)
    with pytest.raises(convert.UnsupportedLayerError, match=r"^pca: PCA: expected components_, "):
        convert.convert(model)

"""Every transformer of scikit-learn: what a bank computes is what the pipeline does, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convert_checks import silently
from mlpbank import Bank, convert

pytest.importorskip("sklearn")
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators

RNG = np.random.default_rng(0)
X = RNG.normal([3, 1, -2, 0, 0.5], [2, 0.5, 3, 1, 0.2], (60, 5))
X[:, 1:] += 0.3 * X[:, :-1]
X[0, 0] = X[0, 1]
Y = X[:, 0] - X[:, 2] + np.abs(X[:, 4])

FOLDED = {
    *("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "FunctionTransformer"),
    *("ColumnTransformer", "FeatureUnion", "PCA", "IncrementalPCA", "TruncatedSVD"),
    *("SelectKBest", "SelectPercentile", "SelectFpr", "SelectFdr", "SelectFwe", "RFE", "RFECV"),
    *("GenericUnivariateSelect", "SelectFromModel", "SequentialFeatureSelector"),
    "VarianceThreshold",
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "ColumnTransformer": {
        "transformers": [("scaled", StandardScaler(), [1, 3])],
        "remainder": "passthrough",
    },
    "FeatureUnion": {"transformer_list": [("scaled", StandardScaler()), ("same", "passthrough")]},
    "SelectFromModel RFE RFECV SequentialFeatureSelector": {"estimator": Ridge()},
    "VotingRegressor StackingRegressor": {"estimators": [("r", Ridge())]},
    "VotingClassifier StackingClassifier": {"estimators": [("t", DecisionTreeClassifier())]},
    "SelectFpr SelectFdr SelectFwe": {"alpha": 0.9},
    "GaussianRandomProjection SparseRandomProjection": {"n_components": 3},
    "SelectKBest": {"k": 3},
    "GenericUnivariateSelect": {"param": 60},
    "SparseCoder": {"dictionary": np.eye(5)},
    "MissingIndicator": {"features": "all"},
    "PCA": {"n_components": 3, "whiten": True},
}
OPTIONS = {name: options for names, options in _OPTIONS.items() for name in names.split()}


def fitted(name: str, kind: Any, first: bool) -> tuple[Any, Any] | None:
    """Return a pipeline and its rows, None if a transformer takes no table, or gives none."""
    # Some transformers give sparse rows, some take no negative numbers, some take classes.
    for x, y in ((X, Y), (np.abs(X), Y), (X, Y > 0)):
        network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=30, random_state=0)
        try:
            transformer = kind(**OPTIONS.get(name, {}))
            steps = (transformer, MaxAbsScaler()) if first else (MinMaxScaler(), transformer)
            return make_pipeline(*steps, network).fit(x, y), x
        except (ValueError, TypeError, AttributeError):
            continue
    return None


def outcome(name: str, kind: Any, first: bool) -> str:
    model = fitted(name, kind, first)
    if model is None:
        return "not fitted"
    pipeline, x = model
    try:
        bank = Bank.from_models({"k": pipeline})
    except convert.UnsupportedLayerError as error:
        message = str(error)
        assert message.startswith(f"models['k']: {name.lower()}: {name}"), message
        assert "yourself" in message, message
        assert "pipeline[1:]" in message or "mean, scale" in message, message
        return "refused"
    truth = pipeline.predict(x)
    got = bank.predict(["k"] * len(x), x)[:, 0]
    off = np.abs(got - truth).max()
    assert off <= 1e-5 * truth.std(), f"{name}: off by {off / truth.std():.2g} of the deviation"
    return "folded"


@pytest.mark.slow  # fits some two hundred pipelines
def test_every_transformer_agrees_or_is_refused() -> None:
    with silently():
        outcomes = {
            name: {outcome(name, kind, first) for first in (True, False)}
            for name, kind in all_estimators("transformer")
        }
    folded = {name for name, found in outcomes.items() if "folded" in found}
    assert folded == FOLDED
    assert sum(found == {"refused"} for found in outcomes.values()) > 40

"""Bank.predict_frame: columns of pandas and polars."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mlpbank import Architecture, Bank, UnknownKeyError


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_data_frames(library: str, outputs: int) -> None:
    frames = pytest.importorskip(library)
    bank = Bank(Architecture.mlp(2, outputs))
    for i, key in enumerate(("a", "b")):
        bank[key] = {"layer_0": np.full((2, outputs), i + 1.0), "layer_0.bias": np.arange(outputs)}
    data = {"who": ["b", "a", "b"], "p": [1, 2, 3], "unused": ["x", "y", "z"], "q": [0.5, 0.5, 0.5]}
    df = frames.DataFrame(data, index=[5, 3, 9]) if library == "pandas" else frames.DataFrame(data)
    result = bank.predict_frame(df, key="who", features=["p", "q"])
    expected = np.array([3.0, 2.5, 7.0])
    if outputs == 1:
        assert result.name == "prediction"
        np.testing.assert_array_equal(result.to_numpy(), expected)
    else:
        assert list(result.columns) == ["prediction_0", "prediction_1"]
        np.testing.assert_array_equal(result.to_numpy(), np.stack([expected, expected + 1], 1))
    if library == "pandas":
        assert list(result.index) == [5, 3, 9]
    with pytest.raises(ValueError, match="expected 2 columns"):
        bank.predict_frame(df, key="who", features=["p"])
    with pytest.raises(ValueError, match="expected 2 columns, got 'pq'"):
        bank.predict_frame(df, key="who", features="pq")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="DataFrame"):
        bank.predict_frame(data, key="who", features=["p", "q"])


def test_frames_of_mixed_and_nullable_columns() -> None:
    bank = Bank(Architecture.mlp(3, 1))
    bank["a"] = {"layer_0": [1, 10, 100]}
    df = pd.DataFrame(
        {"k": ["a", "a"], "x": [1, 2], "y": [1.5, 2], "z": [True, False], "t": ["1", "2"]}
    )
    assert bank.predict_frame(df, key="k", features=["x", "y", "z"]).tolist() == [116, 22]
    nullable = df.astype({"x": "Int64", "y": "Float64", "z": "boolean"})
    nullable.loc[1, "x"] = pd.NA
    result = bank.predict_frame(nullable, key="k", features=["x", "y", "z"])
    assert result[0] == 116
    assert np.isnan(result[1])
    with pytest.raises(TypeError, match=r"got column 't' of"):
        bank.predict_frame(df, key="k", features=["x", "y", "t"])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_that_lack_a_column_are_refused(library: str) -> None:
    frames = pytest.importorskip(library)
    bank = Bank(Architecture.mlp(2, 1))
    df = frames.DataFrame({"k": ["a"], "p": [1.0], "q": [2.0]})
    for key, features in (("other", ["p", "q"]), ("k", ["p", "other"]), ("k", ["p", 1])):
        with pytest.raises(UnknownKeyError, match="df: expected one column"):
            bank.predict_frame(df, key=key, features=features)
    with pytest.raises(TypeError, match=r"^df: expected a DataFrame, got Series$"):
        bank.predict_frame(df["p"], key="k", features=["p", "q"])

"""Results of DuckDB, as they are and one batch after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrow_tables import sum_bank
from mlpbank import InvalidTypeError

pytestmark = pytest.mark.slow  # its package is in the extra `test-all` alone

COLUMNS: dict[str, Any] = {"key": "k", "features": ["p", "q"]}


def query(columns: str, rows: str = "values (1)") -> Any:
    duckdb = pytest.importorskip("duckdb")
    return duckdb.connect().sql(f"select {columns} from ({rows}) t(i)")


@pytest.mark.parametrize("key", ["'b'", "'b'::enum('a', 'b')"])
@pytest.mark.parametrize("kind", ["tinyint", "ubigint", "hugeint", "float", "double", "decimal"])
def test_relations(key: str, kind: str) -> None:
    relation = query(f"{key} k, 3::{kind} p, i = 1 q", "values (1), (0)")
    result = sum_bank("a", "b").predict_frame(relation, **COLUMNS)
    assert np.asarray(result).tolist() == [26, 6]


def test_keys_of_other_types() -> None:
    assert np.asarray(
        sum_bank(1, 2).predict_frame(query("2::usmallint k, 3 p, 0 q"), **COLUMNS)
    ).tolist() == [6]
    pairs = sum_bank(("a", 1), ("b", 2))
    result = pairs.predict_frame(query("'b' k, 2 n, 3 p, 0 q"), key=["k", "n"], features=["p", "q"])
    assert np.asarray(result).tolist() == [6]
    nothing = query("null::varchar k, 3 p, null::float q")
    assert np.isnan(sum_bank("a").predict_frame(nothing, missing="nan", **COLUMNS)).all()
    with pytest.raises(InvalidTypeError, match="Arrow column of date32; cast it"):
        sum_bank("a").predict_frame(query("date '2026-01-01' k, 3 p, 0 q"), **COLUMNS)


def test_empty_results() -> None:
    relation = query("'a' k, 3 p, 0 q", "select 1 where false")
    assert len(sum_bank("a").predict_frame(relation, **COLUMNS)) == 0


def test_streams_of_batches() -> None:
    rows = "select unnest(range(300000))"
    relation = query("case when i % 3 = 0 then 'a' else 'b' end k, i::float p, 0 q", rows)
    results = [np.asarray(y) for y in sum_bank("a", "b").predict_stream(relation, **COLUMNS)]
    i = np.arange(300000)
    np.testing.assert_array_equal(np.concatenate(results), np.where(i % 3 == 0, i, 2 * i))


def test_results_go_back_to_duckdb() -> None:
    duckdb = pytest.importorskip("duckdb")
    arrow = pytest.importorskip("pyarrow")
    predicted = sum_bank("a").predict_frame(query("'a' k, 3 p, 0 q"), **COLUMNS)
    table = arrow.table({"y": arrow.array(predicted)})
    assert duckdb.connect().from_arrow(table).fetchall() == [(3.0,)]

"""Tables of users: pandas, polars, Arrow, and what offers itself as an Arrow stream.

The one place that reads data frames. No library of them is imported that the process has not
imported already; only an Arrow stream of another library needs pyarrow.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank.errors import (
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
    UnknownKeyError,
)

# (package, class) of the tables that are read, by the names of their bases.
_KINDS = {
    ("pandas", "DataFrame"): "pandas",
    ("polars", "DataFrame"): "polars",
    ("pyarrow", "Table"): "arrow",
    ("pyarrow", "RecordBatch"): "arrow",
}
# How tables that are not in memory, or not of this process, become one that is.
_WAYS_OUT = {
    ("polars", "LazyFrame"): "call collect() first",
    ("dask", "DataFrame"): "call compute() first",
    ("dask_expr", "DataFrame"): "call compute() first",
    ("modin", "DataFrame"): "call modin.pandas.io.to_pandas() first",
    ("pyspark", "DataFrame"): "call toPandas() first",
    ("cudf", "DataFrame"): "call to_pandas() first",
}
_EXPECTED = "expected a pandas or polars DataFrame or an Arrow Table or RecordBatch"


class Frame:
    """A table in memory: its columns by name, and tables of the same kind for results.

    Parameters
    ----------
    table : pandas or polars DataFrame, Arrow Table or RecordBatch
    kind : {"pandas", "polars", "arrow"}
    """

    def __init__(self, table: Any, kind: str) -> None:
        self._table = table
        self._kind = kind
        self.names: list[Any] = list(table.column_names if kind == "arrow" else table.columns)

    def column(self, name: Any, argument: str) -> Any:
        """Return a column as its library has it.

        Raises
        ------
        KeyError
            There is no such column, or there are several.
        """
        if not isinstance(name, Hashable):
            raise InvalidTypeError(
                f"{argument}: expected the name of a column, got a {type(name).__name__}; columns "
                "themselves are for predict"
            )
        count = self.names.count(name)
        if count != 1:
            got = "none" if count == 0 else f"several ({count})"
            raise UnknownKeyError(
                f"{argument}: expected one column {name!r} in df, got {got}; its columns are "
                f"{self.names!r:.400}{self._way_to(name) if count == 0 else ''}"
            )
        if self._kind == "arrow":
            return self._table.column(self.names.index(name))
        return self._table[name]

    def _way_to(self, name: Any) -> str:
        """Return where a column is that is not there, as the end of a message."""
        if self._kind == "pandas" and name in self._table.index.names and name is not None:
            return f"; {name!r} is in its index, which df.reset_index() makes columns"
        if isinstance(name, tuple) and all(part in self.names for part in name):
            return f"; several columns are a list, {list(name)!r}"
        if isinstance(name, str):
            plain = name.strip().casefold()
            for other in self.names:
                if isinstance(other, str) and other.strip().casefold() == plain:
                    return f"; there is {other!r}, spelled otherwise"
        return ""

    def columns(self, names: list[Any], argument: str) -> Any:
        """Return several columns as a table of its library. Errors as for `column`."""
        for name in names:
            self.column(name, argument)
        return self._table.select(names) if self._kind == "arrow" else self._table[names]

    def numbers(self, names: Sequence[Any], argument: str) -> npt.NDArray[Any]:
        """Return columns side by side as a real array (rows, columns), NaN where one has nothing.

        Float32 columns stay float32; others keep what float64 can hold.

        Raises
        ------
        KeyError
            There is no such column, or there are several.
        TypeError
            A column is not of numbers or booleans.
        """
        read = {"pandas": _pandas_numbers, "polars": _polars_numbers, "arrow": _arrow_numbers}
        columns = []
        for name in names:
            column = self.column(name, argument)
            values = read[self._kind](column)
            if values is None:
                kind = getattr(column, "type" if self._kind == "arrow" else "dtype", "no dtype")
                raise InvalidTypeError(
                    f"{argument}: expected numbers, got column {name!r} of {kind}; "
                    "convert it to float64 first, or leave it out if it is no input"
                )
            columns.append(values)
        return np.stack(columns, axis=1) if columns else np.empty((len(self), 0), np.float32)

    def __len__(self) -> int:
        return len(self._table)

    def with_results(self, results: Mapping[str, npt.NDArray[Any]], one: bool) -> Any:
        """Return arrays as a table of the same kind, or as its only column.

        In pandas it has the index of this one.
        """
        if self._kind == "arrow":
            arrow = sys.modules["pyarrow"]
            kind = arrow.Table if isinstance(self._table, arrow.Table) else arrow.RecordBatch
            table = kind.from_pydict(dict(results))
            return table.column(0) if one else table
        index = {"index": self._table.index} if self._kind == "pandas" else {}
        table = sys.modules[self._kind].DataFrame(dict(results), **index)
        return table[next(iter(results))] if one else table


def frame_of(table: Any, argument: str = "df") -> Frame:
    """Return a table of any library as a `Frame`.

    Raises
    ------
    TypeError
        It is no table, or none in memory; the message says how to make it one.
    ImportError
        It offers itself as an Arrow stream alone, and pyarrow is not installed.
    """
    frame = try_frame(table, argument)
    if frame is None:
        raise InvalidTypeError(f"{argument}: {_EXPECTED}, got {type(table).__name__}")
    return frame


def try_frame(table: Any, argument: str) -> Frame | None:
    """Return a table as a `Frame`, or None for what is no table."""
    bases = [(base.__module__.split(".")[0], base.__name__) for base in type(table).__mro__]
    for base in bases:
        if base in _KINDS:
            return Frame(table, _KINDS[base])
        if base in _WAYS_OUT:
            raise InvalidTypeError(
                f"{argument}: {_EXPECTED}, got a {base[1]} of {base[0]}; {_WAYS_OUT[base]}"
            )
    if bases[0][0] in ("pandas", "polars", "pyarrow", "numpy", "builtins"):
        return None  # a column, an array
    if hasattr(table, "__arrow_c_stream__"):
        return Frame(_from_stream(table, argument), "arrow")
    if hasattr(table, "__dataframe__"):
        raise InvalidTypeError(
            f"{argument}: {_EXPECTED}, got {type(table).__name__}; "
            "pandas.api.interchange.from_dataframe makes it one"
        )
    return None


def _from_stream(table: Any, argument: str) -> Any:
    name = type(table).__name__
    try:
        import pyarrow
    except ImportError as error:
        raise MissingPackageError(
            f"{argument}: reading a {name} needs pyarrow: pip install pyarrow"
        ) from error
    try:
        return pyarrow.table(table)
    except (TypeError, ValueError, pyarrow.ArrowException) as error:
        raise InvalidValueError(f"{argument}: {_EXPECTED}, got {name}: {error}") from error


def _pandas_numbers(column: Any) -> npt.NDArray[Any] | None:
    dtype = column.dtype
    if dtype.kind not in "fiub":  # a categorical one of numbers is of kind O, too
        return None
    if isinstance(dtype, np.dtype):
        values = column.to_numpy()
    else:  # nullable, sparse, Arrow
        values = column.to_numpy(np.float64, na_value=np.nan)
    return _native(values)


def _polars_numbers(column: Any) -> npt.NDArray[Any] | None:
    polars = sys.modules["polars"]
    if not (column.dtype.is_numeric() or column.dtype == polars.Boolean):
        return None
    if column.dtype != polars.Float32:
        column = column.cast(polars.Float64)
    return _native(column.to_numpy())


def _arrow_numbers(column: Any) -> npt.NDArray[Any] | None:
    arrow = sys.modules["pyarrow"]
    types = arrow.types
    numeric = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    if not any(is_kind(column.type) for is_kind in numeric):
        return None
    if not types.is_float32(column.type):
        column = column.cast(arrow.float64(), safe=False)
    return _native(np.asarray(column.to_numpy(zero_copy_only=False)))


def _native(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return float32 as it is, other real numbers in float64."""
    return values if values.dtype == np.float32 else values.astype(np.float64)

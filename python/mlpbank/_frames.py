"""Tables of users: pandas, polars, Arrow, and what offers itself as an Arrow array or stream.

The one place that reads data frames. No library of them is imported that the process has not
imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._arrow import (
    ArrowResult,
    arrow_stream,
    arrow_table,
    is_arrow,
    next_table,
)
from mlpbank.errors import InvalidTypeError, UnknownKeyError
from mlpbank.typing import Float32Array, Float64Array

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
    ("narwhals", "LazyFrame"): "call collect() first",
    ("pyarrow", "Dataset"): "call to_table() first",
    ("pyarrow", "Scanner"): "call to_table() first",
    ("xarray", "Dataset"): "call to_dataframe() first",
    ("dask", "DataFrame"): "call compute() first",
    ("dask_expr", "DataFrame"): "call compute() first",
    ("modin", "DataFrame"): "call modin.pandas.io.to_pandas() first",
    ("pyspark", "DataFrame"): "call toPandas() first",
    ("cudf", "DataFrame"): "call to_pandas() first",
}
# What the core takes of a column: an array of real numbers or a column of Arrow.
_Numbers = npt.NDArray[Any] | _core.ArrowColumn
_EXPECTED = "expected a pandas or polars DataFrame or an Arrow Table or RecordBatch"


class Frame:
    """A table in memory: its columns by name, and tables of the same kind for results.

    Parameters
    ----------
    table : pandas or polars DataFrame, Arrow Table or RecordBatch, ArrowTable of the core
    kind : {"pandas", "polars", "arrow", "other"}
    """

    def __init__(self, table: Any, kind: str) -> None:
        self._table = table
        self._kind = kind
        names = {"arrow": "column_names", "other": "names"}.get(kind, "columns")
        self.names: list[Any] = list(getattr(table, names))

    def column(self, name: Any, argument: str) -> Any:
        """Return a column as its library has it; an ArrowColumn of the core of other libraries.

        Raises
        ------
        KeyError
            There is no such column, or there are several.
        """
        count = self._count(name)
        if count is None:
            raise InvalidTypeError(
                f"{argument}: expected the name of a column, got a {type(name).__name__}; columns "
                "themselves are for predict"
            )
        if count != 1:
            got = "none" if count == 0 else f"several ({count})"
            raise UnknownKeyError(
                f"{argument}: expected one column {name!r} in df, got {got}; its columns are "
                f"{self.names!r:.400}{self._way_to(name) if count == 0 else ''}"
            )
        if self._kind in ("arrow", "other"):
            return self._table.column(self.names.index(name))
        return self._table[name]

    def _count(self, name: Any) -> int | None:
        """Return how many columns have a name; None for what is no name."""
        if not isinstance(name, Hashable):
            return None
        try:
            return self.names.count(name)
        except Exception:  # expressions of polars and pyarrow are neither equal nor different
            return None

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

    def sources(self, names: Sequence[Any], argument: str) -> list[_Numbers]:
        """Return columns of numbers as the core takes them, for `rows`.

        Raises
        ------
        KeyError
            There is no such column, or there are several.
        TypeError
            A column is not of numbers or booleans.
        """
        read = _pandas_source if self._kind == "pandas" else _arrow_source
        found = []
        for name in names:
            column = self.column(name, argument)
            source = read(column, argument)
            if source is None:
                kind = getattr(column, "dtype", None) or getattr(column, "type", "no dtype")
                raise InvalidTypeError(
                    f"{argument}: expected numbers, got column {name!r} of {kind}; "
                    "convert it to float64 first, or leave it out if it is no input"
                )
            found.append(source)
        return found

    def rows(
        self,
        sources: list[_Numbers],
        shift: Float64Array | None,
        order: _core.RowOrder | None,
        num_threads: int,
    ) -> Float32Array:
        """Return columns side by side as rows minus a shift, NaN where one has nothing.

        The shift is subtracted in float64, and the result rounded once. The rows may be in another
        order than that of the table.
        """
        return _core.rows_of_columns(sources, len(self), shift, order, num_threads)

    def numbers(self, names: Sequence[Any], argument: str) -> npt.NDArray[Any]:
        """Return columns side by side as a real array (rows, columns), NaN where one has nothing.

        Where all are of float32 so is the array; else it is of float64. Errors as for `sources`.
        """
        sources = self.sources(names, argument)
        if all(_is_float32(source) for source in sources):
            return self.rows(sources, None, None, 1)
        return _core.wide_rows_of_columns(sources, len(self), 1)

    def __len__(self) -> int:
        return len(self._table)

    def with_results(self, names: list[str], values: Float32Array) -> Any:
        """Return (columns, rows) as a table of the same kind, or a single one as a column.

        In pandas it has the index of this one.
        """
        results = dict(zip(names, values, strict=True))
        one = len(names) == 1
        if self._kind == "other":
            return ArrowResult(names, values)
        if self._kind == "arrow":
            arrow = sys.modules["pyarrow"]
            kind = arrow.Table if isinstance(self._table, arrow.Table) else arrow.RecordBatch
            table = kind.from_pydict(results)
            return table.column(0) if one else table
        index = {"index": self._table.index} if self._kind == "pandas" else {}
        table = sys.modules[self._kind].DataFrame(results, **index)
        return table[names[0]] if one else table


def frame_of(table: Any, argument: str = "df") -> Frame:
    """Return a table of any library as a `Frame`.

    Raises
    ------
    TypeError
        It is no table, or none in memory; the message says how to make it one.
    ValueError
        It offers itself as an Arrow stream, which fails.
    """
    frame = try_frame(table, argument)
    if frame is None:
        raise InvalidTypeError(f"{argument}: {_EXPECTED}, got {type(table).__name__}")
    return frame


def try_frame(table: Any, argument: str) -> Frame | None:
    """Return a table as a `Frame`, or None for what is no table."""
    bases = [(base.__module__.split(".")[0], base.__name__) for base in type(table).__mro__]
    for base in bases:
        if base == ("pyarrow", "RecordBatchReader"):
            return Frame(table.read_all(), "arrow")
        if base in _KINDS:
            return Frame(table, _KINDS[base])
        if base in _WAYS_OUT:
            raise InvalidTypeError(
                f"{argument}: {_EXPECTED}, got a {base[1]} of {base[0]}; {_WAYS_OUT[base]}"
            )
    if bases[0][0] in ("pandas", "polars", "pyarrow", "numpy", "builtins", "mlpbank"):
        return None  # a column, an array
    if is_arrow(table):
        read = arrow_table(table, argument)
        if read.has_columns:
            return Frame(read, "other")
        raise InvalidTypeError(
            f"{argument}: {_EXPECTED}, got {type(table).__name__}, which is a single column"
        )
    if hasattr(table, "__dataframe__"):
        raise InvalidTypeError(
            f"{argument}: {_EXPECTED}, got {type(table).__name__}; "
            "pandas.api.interchange.from_dataframe makes it one"
        )
    return None


def frames_of(batches: Any) -> Generator[Frame, None, None]:
    """Return the tables of an iterable or of a stream one after the other.

    A table that is in memory is the only one, but for an Arrow table, which has its batches.

    Raises
    ------
    TypeError
        It is no such thing; for each that is no table when its turn comes.
    """
    kinds = [(base.__module__.split(".")[0], base.__name__) for base in type(batches).__mro__]
    kind = next((_KINDS[base] for base in kinds if base in _KINDS), None)
    if kind is not None:
        arrow = kind == "arrow" and hasattr(batches, "to_batches")
        return _each(batches.to_batches() if arrow else [batches])
    is_reader = ("pyarrow", "RecordBatchReader") in kinds  # whose batches are those of pyarrow
    if not is_reader and hasattr(type(batches), "__arrow_c_stream__"):
        return _batches_of(batches)
    way = next((f"; {_WAYS_OUT[base]}" for base in kinds if base in _WAYS_OUT), "")
    if way or not hasattr(batches, "__iter__"):
        raise InvalidTypeError(
            f"batches: expected an iterable of tables or an Arrow stream, got "
            f"{type(batches).__name__}{way}"
        )
    return _each(batches)


def _each(batches: Iterable[Any]) -> Generator[Frame, None, None]:
    for i, batch in enumerate(batches):
        yield frame_of(batch, f"batches[{i}]")


def _batches_of(batches: Any) -> Generator[Frame, None, None]:
    stream = arrow_stream(batches, "batches")
    while (table := next_table(stream, "batches")) is not None:
        if not table.has_columns:
            raise InvalidTypeError(
                f"batches: expected tables, got a {type(batches).__name__} of single columns"
            )
        yield Frame(table, "other")


def _pandas_source(column: Any, argument: str) -> _Numbers | None:
    dtype = column.dtype
    if type(dtype).__name__ == "ArrowDtype":
        return _arrow_source(column.array.__arrow_array__(), argument)
    if dtype.kind not in "fiub":  # a categorical one of numbers is of kind O, too
        return None
    if isinstance(dtype, np.dtype):
        values: npt.NDArray[Any] = column.to_numpy()
    else:  # nullable, sparse
        values = column.to_numpy(np.float64, na_value=np.nan)
    if values.dtype.itemsize > 8:  # longdouble
        return values.astype(np.float64)
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _arrow_source(column: Any, argument: str) -> _core.ArrowColumn | None:
    source = column
    if not isinstance(source, _core.ArrowColumn):
        table = arrow_table(column, argument)
        if table.has_columns:  # of structs
            return None
        source = table.column(0)
    if source.is_numeric:
        return source
    if str(getattr(column, "dtype", "")) in ("Int128", "UInt128"):  # of polars alone
        return _arrow_source(column.cast(sys.modules["polars"].Float64), argument)
    return None


def _is_float32(source: _Numbers) -> bool:
    if isinstance(source, _core.ArrowColumn):
        return source.type == "float32"
    return source.dtype == np.float32

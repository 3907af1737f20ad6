"""Reading Parquet with pyarrow, in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mlpbank.cli._errors import CommandError, foreign, needs
from mlpbank.cli._parts import Choose, KeyColumn, Part, Table, as_list, checked, rows_of_part
from mlpbank.cli._read_keys import has_tuples, key_column, typed, wrong_column

_BUFFER = 2**17  # bytes of a column that are read at once; without it, all of a row group

# What NumPy calls otherwise than Arrow; integers have the same names.
_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}

Arrow = Any  # pyarrow has no types


def parquet_table(
    source: BinaryIO, name: str, key: Sequence[str], choose: Choose, key_type: Any
) -> Table:
    """Return a table of Parquet. Only the columns that are used are read."""
    with needs("reading .parquet", "pyarrow"):
        from pyarrow import parquet

    with foreign(f"{name}: expected Parquet"):
        # With pre_buffer, all of the file would stay in memory until its end.
        file = parquet.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False)
        schema = file.schema_arrow
        index = _index_of(schema, file.metadata.num_rows)
    columns = [column for column in schema.names if column not in index.values()]
    levels = [level for level in index if level in key and level not in columns]
    features = choose(columns + levels)
    fields = {used: index.get(used, used) if used in levels else used for used in (*key, *features)}
    for used, field in fields.items():
        if isinstance(field, str) and schema.names.count(field) > 1:
            got = schema.names.count(field)
            raise CommandError(f"{name}: expected one column {used!r}, got {got}")
    for feature in features:
        if isinstance(fields[feature], str):
            kind = schema.field(fields[feature]).type
            if not _is_number(kind):
                raise CommandError(
                    f"--features: expected numbers, got column {feature!r} of {_said(kind)}; make "
                    "it float64, or leave it out of --features if it is no input"
                )
    reader = _Reader(file, name, key, features, fields, key_type)
    return Table(name, len(features), reader.parts(), file.metadata.num_rows)


class _Reader:
    """Reads batches of a file.

    Parameters
    ----------
    fields : dict
        The name in the file of each column that is used, or a range of pandas, as a dict.
    """

    def __init__(
        self,
        file: Arrow,
        name: str,
        key: Sequence[str],
        features: Sequence[str],
        fields: dict[str, Any],
        key_type: Any,
    ) -> None:
        self._file = file
        self._name = name
        self._key = typed(key, key_type)
        self._features = features
        self._fields = fields
        self._is_tuple = has_tuples(key_type)
        kinds = {file.schema_arrow.field(field).type for field in self._stored(features)}
        self._dtype = np.float32 if set(map(str, kinds)) == {"float"} else np.float64

    def _stored(self, used: Sequence[str]) -> list[str]:
        fields = [self._fields[column] for column in used]
        return [field for field in fields if isinstance(field, str)]

    def parts(self) -> Iterator[Part]:
        columns = list(dict.fromkeys(self._stored(list(self._fields))))
        step = rows_of_part(len(columns))
        with foreign(f"{self._name}: expected Parquet"):
            batches = self._file.iter_batches(step, columns=columns)
            if not self._file.metadata.num_rows:
                batches = iter([_empty(self._file.schema_arrow, columns)])
        first = 0
        while (batch := self._next(batches)) is not None:
            yield self._part(batch, first)
            first += batch.num_rows

    def _next(self, batches: Iterator[Arrow]) -> Arrow | None:
        with foreign(f"{self._name}: expected Parquet"):
            return next(batches, None)

    def _part(self, batch: Arrow, first: int) -> Part:
        own = [self._column(batch, column, first) for column, _ in self._key]
        keys = [
            _keys(column, name, kind, first, self._name)
            for column, (name, kind) in zip(own, self._key, strict=True)
        ]
        columns = np.empty((len(self._features), batch.num_rows), self._dtype)
        for i, feature in enumerate(self._features):
            columns[i] = _numbers(self._column(batch, feature, first))
        inputs = checked(np.ascontiguousarray(columns.T), self._name, self._features, first)
        return Part(keys, inputs, self._is_tuple, own)

    def _column(self, batch: Arrow, used: str, first: int) -> Arrow:
        field = self._fields[used]
        if isinstance(field, str):
            return batch.column(batch.schema.names.index(field))
        import pyarrow

        rows = np.arange(first, first + batch.num_rows)
        return pyarrow.array(field["start"] + rows * field["step"])


def _index_of(schema: Arrow, rows: int) -> dict[str, Any]:
    """Return the levels of the index that pandas wrote, by name.

    Each is the name of a column of the file, or a range, which is not stored. What pandas said of a
    table may no longer be true of columns or rows that were taken from it.
    """
    metadata = schema.pandas_metadata or {}
    names = {column["field_name"]: column["name"] for column in metadata.get("columns", ())}
    found = {}
    for level in metadata.get("index_columns", ()):
        if not isinstance(level, str):
            steps = range(level["start"], level["stop"], level["step"])
            if level["name"] is not None and len(steps) == rows:
                found[level["name"]] = level
        elif level in schema.names:
            found[names.get(level) or level] = level
    return found


def _empty(schema: Arrow, columns: list[str]) -> Arrow:
    import pyarrow

    arrays = [pyarrow.nulls(0, schema.field(column).type) for column in columns]
    return pyarrow.RecordBatch.from_arrays(arrays, columns)


def _plain(kind: Arrow) -> Arrow:
    from pyarrow import types

    return kind.value_type if types.is_dictionary(kind) else kind


def _is_number(kind: Arrow) -> bool:
    from pyarrow import types

    kind = _plain(kind)
    checks = ("integer", "floating", "boolean", "null", "decimal")
    return any(getattr(types, f"is_{check}")(kind) for check in checks)


def _said(kind: Arrow) -> str:
    """Return a type as NumPy calls it, if NumPy has it."""
    return _FLOATS.get(str(kind), str(kind))


def _numbers(column: Arrow) -> npt.NDArray[Any]:
    """Return a column as real numbers, NaN where it has nothing."""
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    if types.is_boolean(column.type):
        column = column.cast("int8")
    elif types.is_decimal(column.type):
        column = column.cast("float64")
    values, gaps = _values(column)
    if gaps is None:
        return values
    return np.where(gaps, np.nan, values)


def _values(column: Arrow) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """Return integers or floats, and where there are none, by the layout of Arrow.

    The column's own to_numpy imports pandas.
    """
    dtype = np.dtype(_said(column.type))
    if not len(column):  # there may be no buffers
        return np.empty(0, dtype), None
    valid, data = column.buffers()
    here = slice(column.offset, column.offset + len(column))
    values = np.frombuffer(data, dtype)[here]
    if not column.null_count:
        return values, None
    return values, np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[here] == 0


def _keys(column: Arrow, name: str, key_type: Any, first: int, file: str) -> KeyColumn:
    """Return a column as keys of a bank, or raise CommandError if it holds others."""
    from pyarrow import types

    kind = _plain(column.type)
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_null(kind):
        return [None] * len(column)
    if types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view":
        if key_type is int and column.null_count < len(column):
            raise wrong_column(name, str(kind), "O", key_type)
        with foreign(f"{file}: expected Parquet"):
            texts: list[Any] = column.to_pylist()
        return texts
    if types.is_floating(kind):
        return key_column(_numbers(column), name, key_type, first)
    if not types.is_integer(kind):
        raise wrong_column(name, _said(kind), "O" if types.is_decimal(kind) else "", key_type)
    values, gaps = _values(column)
    keys = key_column(values if gaps is None else np.where(gaps, 0, values), name, key_type, first)
    if gaps is None:
        return keys
    return [None if gap else key for gap, key in zip(gaps.tolist(), as_list(keys), strict=True)]

"""Keys to look up as people have them: lists, arrays and columns, with gaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank._arrays import as_array, as_int64, is_masked
from mlpbank._arrow import arrow_table, is_arrow
from mlpbank._given_keys import GivenKeys, Parts
from mlpbank._keys import (
    MAX_PARTS,
    SMALL_FLOATS,
    asked_key,
    common_kind,
    is_arrow_scalar,
    is_missing,
    kind_name,
    remedy,
    way_to,
)
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Key

ARROW_FLOATS = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
_MANY = 4096  # keys, of which looking at each takes longer than another way costs
_EXPECTED = "a list, tuple, array or column of str, int or tuples of them"


def as_keys(keys: Any) -> GivenKeys:
    """Return keys to look up.

    Parameters
    ----------
    keys : list, tuple, array, column, iterator, or table of the parts of tuples
        Of NumPy, pandas, polars or pyarrow. Gaps are missing keys. Floats that are whole numbers
        are these.

    Raises
    ------
    TypeError, ValueError
        It is no such column, or its keys are no keys or of different types.
    """
    if isinstance(keys, np.ndarray) and _is_plain_text(keys):
        return GivenKeys(keys, str)
    categories = _categories(keys)
    if categories is not None:
        return categories
    values = listed(keys)
    if isinstance(values, GivenKeys):
        return values
    if isinstance(values, np.ndarray):
        return GivenKeys(values, int)
    kind = _core.type_of_keys(values)
    if kind is int:
        try:
            return GivenKeys(np.array(values, np.int64), int)
        except (TypeError, OverflowError):  # there is a gap, or a key of more than 64 bits
            return _cleaned(values, "keys")
    return GivenKeys(values, kind) if kind is not None else _cleaned(values, "keys")


def to_find(keys: Any) -> GivenKeys:
    """Return keys to look up like `as_keys`, but long columns of objects stay as they are.

    Whether their keys are all text is seen when they are looked up.
    """
    dtype = getattr(keys, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind == "O" and not is_masked(keys):
        # An index of several levels would make tuples of all its rows here.
        from_pandas = hasattr(keys, "to_numpy") and getattr(keys, "nlevels", 1) == 1
        objects = keys.to_numpy() if from_pandas else keys
        is_column = type(objects) is np.ndarray and objects.ndim == 1
        if is_column and len(objects) >= _MANY and type(objects[0]) is str:
            return GivenKeys(objects, str)
    return as_keys(keys)


def _is_plain_text(keys: npt.NDArray[Any]) -> bool:
    """Return whether the core reads an array of text as it is, without a str of each key."""
    dtype = keys.dtype
    plain = keys.ndim == 1 and dtype.kind == "U" and dtype.isnative and type(keys) is np.ndarray
    return plain and dtype.itemsize > 0


def _categories(keys: Any) -> GivenKeys | None:
    """Return a column of pandas' categories as these and codes, None where that does not help.

    Each category is looked up once. Where there are more of them than keys, or one is no key, the
    keys are taken one by one: only those that occur have to be right.
    """
    categories = getattr(getattr(keys, "dtype", None), "categories", None)
    if categories is None or not hasattr(categories, "tolist"):
        return None
    codes = getattr(getattr(keys, "cat", keys), "codes", None)
    codes = np.array(codes)  # a copy: the caller may change its own array later
    most = len(categories)
    if codes.ndim != 1 or codes.dtype.kind != "i" or most > len(codes):
        return None
    if len(codes) > 0 and not -1 <= codes.min() <= codes.max() < most:
        return None
    values = categories.tolist()
    kind = _core.type_of_keys(values)
    if kind is int:
        try:
            values = np.array(values, np.int64)
        except (TypeError, OverflowError):  # there is a gap, or a key of more than 64 bits
            return None
    return None if kind is None else GivenKeys(values, kind, codes=codes)


def is_one(keys: Any, kind: Any) -> bool:
    """Return whether an argument is one key, for a bank with keys of `kind`, and not several."""
    if type(keys) is str or type(keys) is int:
        return True
    if isinstance(keys, (list, np.ndarray)):
        return False
    if isinstance(keys, tuple):
        has_tuples = kind is not None and kind is not str and kind is not int
        return has_tuples and bool(keys) and not isinstance(keys[0], tuple)
    return (
        isinstance(keys, (str, int, float, np.integer, np.floating))
        or is_missing(keys)
        or is_arrow_scalar(keys)
    )


def listed(keys: Any) -> Any:
    """Return a column as a list or int64 array of all that it holds, or as GivenKeys.

    What a list holds is not checked.
    """
    if type(keys) is list:
        return keys
    if isinstance(keys, np.ndarray) and not is_masked(keys):
        return _array(keys)
    if (parts := _parts_of(keys)) is not None:
        return _tuples(parts)
    if isinstance(keys, _core.ArrowColumn):
        return _arrow_column(keys)
    if (column := _readable(keys)) is not None:
        return _arrow_keys([column], are_tuples=False)
    dtype = getattr(keys, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind != "O" and hasattr(keys, "to_numpy"):
        return _array(keys.to_numpy())  # tolist of dates gives int
    if hasattr(keys, "detach"):  # PyTorch
        _expect_exact(dtype)
        return _array(as_array(keys, "keys"))
    if isinstance(keys, memoryview) or type(keys).__module__ == "array":
        return _array(np.asarray(keys))
    _expect_exact(dtype)
    small = SMALL_FLOATS.get(_type_name(getattr(keys, "type", dtype)))
    if hasattr(keys, "to_pylist"):  # pyarrow
        values = keys.to_pylist()
        return values if small is None else _small_floats(values, small)
    # NumPy and pandas have tolist, polars has to_list.
    to_list = getattr(keys, "tolist", None) or getattr(keys, "to_list", None)
    unordered = isinstance(keys, (str, bytes, set, frozenset))
    if to_list is None and (unordered or not hasattr(keys, "__iter__")):
        way = remedy(keys)
        if isinstance(keys, (set, frozenset)):
            way = "; use list(keys)"
        elif isinstance(keys, (str, int)) and not isinstance(keys, bool):
            way = "; one key is [key]"
        elif hasattr(keys, "collect"):  # a LazyFrame of polars
            way = "; use keys.collect()"
        raise InvalidTypeError(f"keys: expected {_EXPECTED}, got {keys!r:.80}{way}")
    values = list(keys) if to_list is None else to_list()
    if not isinstance(values, list):
        raise InvalidTypeError(f"keys: expected one dimension, got {keys!r:.80}")
    return values if small is None else _small_floats(values, small)


def _readable(column: Any) -> _core.ArrowColumn | None:
    """Return a column of Arrow memory whose keys the core reads, None for any other."""
    if type(column).__module__.partition(".")[0] == "pandas":
        if not _is_of_arrow(column):
            return None
        column = getattr(column, "array", column).__arrow_array__()
    if not is_arrow(column):
        return None
    table = arrow_table(column, "keys")
    found = None if table.has_columns else table.column(0)
    return found if found is not None and found.has_keys else None


def _is_of_arrow(column: Any) -> bool:
    """Return whether a column of pandas lies in memory as Arrow has it."""
    dtype = getattr(column, "dtype", None)
    return type(dtype).__name__ == "ArrowDtype" or getattr(dtype, "storage", None) == "pyarrow"


def _arrow_keys(columns: list[_core.ArrowColumn], are_tuples: bool) -> GivenKeys:
    keys = _core.ArrowKeys(columns, are_tuples)
    return GivenKeys(keys, keys.key_type)


def _arrow_column(column: _core.ArrowColumn) -> Any:
    """Return the keys in a column of a table whose library mlpbank does not know."""
    if column.has_keys:
        return _arrow_keys([column], are_tuples=False)
    if column.is_empty:
        return [None] * len(column)
    if column.type in ARROW_FLOATS:
        values = _core.wide_rows_of_columns([column], len(column), 1)[:, 0]
        return _floats(values.astype(ARROW_FLOATS[column.type]))
    raise InvalidTypeError(
        f"keys: expected {_EXPECTED}, got an Arrow column of {column.type}; cast it to text or "
        "integers, here and in the bank"
    )


def _type_name(kind: Any) -> str:
    """Return the type of a column's values, whether they stand in it or are encoded."""
    kind = getattr(kind, "pyarrow_dtype", kind)  # of pandas
    if str(kind).startswith(("dictionary<", "run_end_encoded<")):
        return _type_name(kind.value_type)
    categories = getattr(getattr(kind, "categories", None), "dtype", None)
    if categories is not None:
        return _type_name(categories)
    return kind.name if isinstance(kind, np.dtype) else str(kind)


def _expect_exact(dtype: Any) -> None:
    """Raise TypeError for a type of floats so small that most integers are rounded in it."""
    name = _type_name(dtype).removeprefix("torch.")
    if name.startswith(("bfloat16", "float8_", "float6_", "float4_")):
        raise InvalidTypeError(
            f"keys: expected {_EXPECTED}, got dtype {name}, which rounds integers of a few digits; "
            "use int, here and in the bank"
        )


def _small_floats(values: list[Any], kind: Any) -> Any:
    """Return floats of a small type as keys; their lists are of Python's own floats."""
    return _floats(np.array([np.nan if is_missing(value) else value for value in values], kind))


def _array(array: npt.NDArray[Any]) -> Any:
    if array.dtype.names is not None:
        return _tuples([array[name] for name in array.dtype.names])
    if array.ndim != 1:
        raise InvalidTypeError(f"keys: expected one dimension, got shape {array.shape}")
    if array.dtype.kind in "iu":
        try:
            return as_int64(array, "keys")
        except IndexError:  # a large uint64; the check of each key has a better message
            return array.tolist()
    if array.dtype.kind == "f":
        return _floats(array)
    if array.dtype.kind == "V":
        _expect_exact(array.dtype)
    if array.dtype.kind in "mM":
        way = "keys.astype(str)" if array.dtype.kind == "m" else "np.datetime_as_string(keys)"
        raise InvalidTypeError(
            f"keys: expected {_EXPECTED}, got dtype {array.dtype}; use {way}, here and in the bank"
        )
    return array.tolist()


def _floats(array: npt.NDArray[Any]) -> Any:
    """Return floats that are whole numbers as int keys, and NaN as gaps."""
    gaps = np.isnan(array)
    wide = np.where(gaps, 0, array).astype(np.float64)
    most = 2.0 ** (np.finfo(array.dtype).nmant + 1) if array.dtype.itemsize < 8 else 2.0**53
    wrong = ~((wide == np.trunc(wide)) & (np.abs(wide) < most))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise InvalidTypeError(f"keys[{i}]: expected a str or an int, got {array[i]}, a float")
    kind = None if gaps.all() else int
    return GivenKeys(wide.astype(np.int64), kind, gaps, from_floats=True)


def _parts_of(keys: Any) -> list[Any] | None:
    """Return the columns of a table of the parts of keys, None if it is no table."""
    if isinstance(keys, Parts):
        return keys.columns
    if hasattr(keys, "get_level_values"):  # pandas
        return [keys.get_level_values(i) for i in range(keys.nlevels)] if keys.nlevels > 1 else None
    if hasattr(keys, "get_columns"):  # polars
        return list(keys.get_columns())
    if hasattr(keys, "iloc") and hasattr(keys, "columns"):  # pandas
        return [keys.iloc[:, i] for i in range(len(keys.columns))]
    columns = getattr(keys, "columns", None)
    if isinstance(columns, list) and hasattr(keys, "column_names"):  # pyarrow
        return columns
    return None


def _tuples(columns: list[Any]) -> Any:
    """Return the rows of a table as keys, each a tuple."""
    readable = [
        column if isinstance(column, _core.ArrowColumn) else _readable(column) for column in columns
    ]
    arrow = [column for column in readable if column is not None and column.has_keys]
    if 0 < len(arrow) == len(columns) <= MAX_PARTS:
        return _arrow_keys(arrow, are_tuples=True)
    parts = [exact_list(as_keys(column)) for column in columns]
    rows = list(zip(*parts, strict=True))
    if any(None in part for part in parts):
        return [None if None in row else row for row in rows]
    return rows


def exact_list(given: GivenKeys) -> list[Key | None]:
    """Return the keys, None where one is missing; ValueError for text that is not UTF-8."""
    if not isinstance(given.values, _core.ArrowKeys):
        return given.to_list()
    try:
        return given.values.between(0, len(given), strict=True)
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"keys: expected text in UTF-8, got {error.object!r:.80} ({error.reason})"
        ) from None


def _cleaned(values: list[Any], name: str) -> GivenKeys:
    """Return keys of any kind of object as those of built-in types."""
    plain = [
        key if type(key) is str else asked_key(key, f"{name}[{i}]") for i, key in enumerate(values)
    ]
    kind = _core.type_of_keys(plain)
    if kind is None:
        kind = common_kind(plain, name) if any(key is not None for key in plain) else None
    if kind is not int:
        return GivenKeys(plain, kind)
    gaps = np.array([key is None for key in plain])
    numbers = np.array([0 if key is None else key for key in plain], np.int64)
    return GivenKeys(numbers, int, gaps if gaps.any() else None)


def expect_kind(given: GivenKeys, kind: Any) -> None:
    """Raise TypeError if keys are not of the type of the bank's."""
    if given.kind is None or kind is None or given.kind == kind:
        return
    first = next((key for key in given.to_list() if key is not None), None)
    if first is None:  # all are missing
        return
    way = way_to(first, kind)
    if given.from_floats and kind is str:
        way = (
            "; these are floats, whose text ends with .0: use astype('Int64') and then astype(str)"
        )
    raise InvalidTypeError(
        f"keys: expected {kind_name(kind)} like the bank's, got {first!r:.80}{way}"
    )

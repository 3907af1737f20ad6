"""Predicting with Apache Spark: one step over the partitions as they are, without a shuffle.

The bank is a file, or the folder of a live bank, that all machines have under one path, or that
Spark ships. Each Python worker of Spark maps it once, and machines share its pages among workers.
Needs the extra ``spark``; Spark 3.5 and 4.

Examples
--------
>>> import mlpbank.spark  # doctest: +SKIP
>>> mlpbank.spark.predict(df, "/banks/shops.mlpbank", key="shop", features=["a", "b"])
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlpbank._reference import BankReference, Opened, reference_to
from mlpbank.bank import Bank
from mlpbank.bank._tables import _Options
from mlpbank.errors import InvalidTypeError, InvalidValueError, MissingPackageError, UnknownKeyError
from mlpbank.typing import Float32Array, Missing

try:
    import pyarrow as pa
    import pyspark
except ImportError as error:
    raise MissingPackageError(
        f"mlpbank.spark needs {error.name}: pip install 'mlpbank[spark]'"
    ) from error

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["arrow_udf", "make_predict_fn", "predict"]


def predict(
    df: DataFrame,
    bank: str | os.PathLike[str] | Bank,
    *,
    key: str | list[str],
    features: str | Sequence[str] | None = None,
    name: str = "prediction",
    missing: Missing | None = None,
    ship: bool = False,
) -> DataFrame:
    """Return a data frame with a column of predictions, each by the model of its row's key.

    Parameters
    ----------
    df : DataFrame
    bank : path-like or Bank
        A bank file or the folder of a live bank: the driver opens it now, and all workers open the
        same under this path. All tasks see the bank as the driver sees it now; where another file
        has taken its place, they fail.
    key : str or list of str
        As for `Bank.predict_frame`.
    features : str or sequence of str, optional
        Columns of numbers, as for `Bank.predict_frame`; or one column of ``array<float>`` or
        ``array<double>`` with all inputs. (``pyspark.ml.functions.vector_to_array`` makes one of a
        column of vectors.) Nulls are NaN.
    name : str
        Of the column; with several outputs ``<name>_0``, ``<name>_1``, ...
    missing : {"error", "nan", "fallback"}, optional
        As for `Bank.predict`. An unknown key with "error" fails the job.
    ship : bool
        Let Spark copy the bank file to all machines (``SparkContext.addFile``).

    Returns
    -------
    DataFrame
        The columns of `df`, and of float the predictions. It is lazy, as Spark is.

    Raises
    ------
    KeyError
        There is no such column.
    TypeError, ValueError
        An argument does not fit.
    """
    from pyspark.sql.types import ArrayType, FloatType, NumericType, StructField, StructType

    there = _There.of(bank, df.sparkSession if ship else None)
    opened = there.bank
    keys = key if isinstance(key, list) else [key]
    is_array = isinstance(features, str)
    columns = [features] if isinstance(features, str) else features
    if columns is None:
        columns = opened.feature_names
    if columns is None:
        raise InvalidValueError(
            "features: expected columns, since the bank does not know the names of its features, "
            "got none"
        )
    columns = list(columns)
    fields = {field.name: field for field in df.schema.fields}
    for column in [*keys, *columns]:
        if column not in fields:
            raise UnknownKeyError(f"{column!r}: no such column, there are {', '.join(fields)}")
        if df.columns.count(column) > 1:
            raise InvalidValueError(f"{column!r}: expected one column, there are several")
    for column in columns:
        kind = fields[column].dataType
        inside = kind.elementType if is_array and isinstance(kind, ArrayType) else kind
        if isinstance(inside, NumericType) and isinstance(kind, ArrayType) == is_array:
            continue
        wanted = "an array of numbers" if is_array else "a number"
        raise InvalidTypeError(f"{column!r}: expected {wanted}, got {kind.simpleString()}")
    opened._checked_missing(missing)
    if not is_array:
        opened._checked(_Options(key, columns, name, missing, None, False))
    outputs = opened.architecture.output_size
    names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
    taken = [new for new in names if new in fields]
    if taken:
        raise InvalidValueError(f"name: expected a new column, there is {taken[0]!r} already")
    schema = StructType([*df.schema.fields, *(StructField(new, FloatType()) for new in names)])
    step = _Step(there.worker(), key, columns[0] if is_array else columns, name, names, missing)
    return df.mapInArrow(step, schema)


def make_predict_fn(
    bank: str | os.PathLike[str] | Bank, *, missing: Missing | None = None
) -> Callable[[], Callable[..., Float32Array]]:
    """Return what ``pyspark.ml.functions.predict_batch_udf`` takes as its ``make_predict_fn``.

    The function takes a column of keys and one of arrays of all features, so
    ``input_tensor_shapes`` is ``[[], [input_size]]``. It returns (rows,), or (rows, outputs) where
    there are several: `return_type` is ``FloatType()`` or ``ArrayType(FloatType())``.

    Parameters
    ----------
    bank, missing
        As for `predict`.
    """
    there = _There.of(bank, None)
    there.bank._checked_missing(missing)
    maker: Any = _Maker(there.worker(), missing)
    return maker  # type: ignore[no-any-return]


def arrow_udf(
    bank: str | os.PathLike[str] | Bank, *, missing: Missing | None = None
) -> Callable[..., Any]:
    """Return a function of columns, for expressions and SQL.

    It takes a key and all features, and gives a float, or ``array<float>`` with several outputs:
    ``spark.udf.register("predict", mlpbank.spark.arrow_udf(path))``. With Spark before 4.1 it is
    one of pandas.

    Parameters
    ----------
    bank, missing
        As for `predict`.
    """
    from pyspark.sql import functions

    there = _There.of(bank, None)
    there.bank._checked_missing(missing)
    worker = there.worker()
    outputs = there.bank.architecture.output_size
    kind = "float" if outputs == 1 else "array<float>"

    def answer(key: Any, features: tuple[Any, ...]) -> Float32Array:
        opened = worker.open()
        if len(features) != opened.architecture.input_size:
            raise InvalidValueError(
                f"features: expected {opened.architecture.input_size}, got {len(features)}"
            )
        x = np.empty((len(key), len(features)), np.float64)
        for i, column in enumerate(features):
            x[:, i] = column
        return opened.predict(key, x, missing=missing)

    if hasattr(functions, "arrow_udf"):

        def of_arrow(key: pa.Array, *features: pa.Array) -> pa.Array:
            y = answer(key, tuple(_numbers(column) for column in features))
            if outputs == 1:
                return pa.array(y[:, 0])
            ends = pa.array(np.arange(len(y) + 1, dtype=np.int32) * outputs)
            return pa.ListArray.from_arrays(ends, pa.array(y.reshape(-1)))

        return functions.arrow_udf(of_arrow, kind)  # type: ignore[no-any-return]

    import pandas as pd

    def of_pandas(key: pd.Series, *features: pd.Series) -> pd.Series:
        y = answer(key, features)
        return pd.Series(y[:, 0] if outputs == 1 else list(y))

    of_pandas.__annotations__ = {"key": pd.Series, "features": pd.Series, "return": pd.Series}
    return functions.pandas_udf(of_pandas, kind)  # type: ignore[no-any-return]


_opened = Opened()


class _Worker(NamedTuple):
    """A bank as a Python worker of Spark opens it."""

    reference: BankReference
    shipped: str | None  # its name among the files that Spark has shipped

    def open(self) -> Bank:
        """Open it, once a process. It uses as many threads as the task has cores."""
        context = pyspark.TaskContext.get()
        threads = 1 if context is None else max(1, context.cpus())

        def find(path: str) -> str:
            return path if self.shipped is None else str(pyspark.SparkFiles.get(self.shipped))

        return _opened.get(self.reference, threads, find)


class _There(NamedTuple):
    """A bank as the driver has it."""

    reference: BankReference
    bank: Bank
    shipped: str | None

    @classmethod
    def of(cls, bank: str | os.PathLike[str] | Bank, session: Any) -> _There:
        reference, opened = reference_to(bank)
        if session is None:
            return cls(reference, opened, None)
        if reference.sequence is not None:
            raise InvalidValueError(
                "ship: expected a bank file, got a live bank; save it as a file, or give all "
                "machines the folder"
            )
        # A name for each content: Spark refuses another file of the same name.
        shipped = f"{reference.fingerprint}.mlpbank"
        folder = os.path.join(os.path.dirname(pyspark.SparkFiles.getRootDirectory()), "mlpbank")
        os.makedirs(folder, exist_ok=True)
        link = os.path.join(folder, shipped)
        if not os.path.exists(link):
            os.symlink(reference.path, link)
        session.sparkContext.addFile(link)
        return cls(reference, opened, shipped)

    def worker(self) -> _Worker:
        return _Worker(self.reference, self.shipped)


class _Step(NamedTuple):
    """The work on one partition, which Spark sends to its workers."""

    worker: _Worker
    key: str | list[str]
    features: str | list[str]
    name: str
    names: list[str]
    missing: Missing | None

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        bank = self.worker.open()
        for batch in batches:
            columns = [*batch.columns, *self._predictions(bank, batch)]
            yield pa.RecordBatch.from_arrays(columns, [*batch.schema.names, *self.names])

    def _predictions(self, bank: Bank, batch: pa.RecordBatch) -> list[pa.Array]:
        if isinstance(self.features, str):
            x = _rows(batch.column(self.features), bank.architecture.input_size, self.features)
            keys = batch.select(self.key) if isinstance(self.key, list) else batch.column(self.key)
            y = bank.predict(keys, x, missing=self.missing)
            return [pa.array(np.ascontiguousarray(column)) for column in y.T]
        result = bank.predict_frame(
            batch, key=self.key, features=self.features, name=self.name, missing=self.missing
        )
        return [result] if len(self.names) == 1 else result.columns


class _Maker(NamedTuple):
    worker: _Worker
    missing: Missing | None

    def __call__(self) -> Callable[..., Float32Array]:
        bank = self.worker.open()

        def predict_batch(keys: Any, x: Any) -> Float32Array:
            y = bank.predict(keys, x, missing=self.missing)
            return y[:, 0] if y.shape[1] == 1 else y

        return predict_batch


def _numbers(column: pa.Array) -> Any:
    """Return a column of numbers as float64, with NaN for nulls."""
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _rows(column: pa.Array, size: int, name: str) -> Any:
    """Return a column of arrays as rows; a null is a row of NaN."""
    lengths = column.value_lengths().fill_null(size).to_numpy(zero_copy_only=False)
    if not (lengths == size).all():
        bad = int(np.argmax(lengths != size))
        raise InvalidValueError(f"{name}: expected {size} numbers in each row, got {lengths[bad]}")
    rows = np.full((len(column), size), np.nan)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    rows[present] = _numbers(column.flatten()).reshape(-1, size)
    return rows

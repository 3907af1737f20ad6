"""Arrow columns and tables of any library, through the Arrow PyCapsule interface.

https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html; no package of Arrow is
needed. The core checks what producers give.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Float32Array


def is_arrow(values: Any) -> bool:
    """Return whether an object offers itself as an Arrow array or stream."""
    kind = type(values)  # asking a value itself may take long
    return hasattr(kind, "__arrow_c_array__") or hasattr(kind, "__arrow_c_stream__")


def arrow_table(values: Any, argument: str) -> _core.ArrowTable:
    """Return what an object offers: a table or a column. A stream is read to its end.

    Raises
    ------
    TypeError
        It is of a library that was older than the interface.
    ValueError
        Its stream fails, or it is none. The message has that of the producer.
    """
    name = type(values).__name__
    try:
        if hasattr(type(values), "__arrow_c_array__"):
            given = values.__arrow_c_array__()
            if not isinstance(given, (tuple, list)) or len(given) != 2:
                raise InvalidValueError(f"expected two capsules, got {given!r:.80}")
            return _core.ArrowTable.from_array(*given)
        if not is_arrow(values):
            raise InvalidTypeError(
                f"{argument}: expected columns with __arrow_c_stream__, got {name} of an older "
                "version; polars has it from 1.3 and pyarrow from 15 on"
            )
        return _core.ArrowStream(values.__arrow_c_stream__()).rest()
    except InvalidValueError as error:
        raise _failed(argument, name, error) from error


def arrow_stream(values: Any, argument: str) -> _core.ArrowStream:
    """Return the stream that an object offers. Errors as for `arrow_table`."""
    try:
        return _core.ArrowStream(values.__arrow_c_stream__())
    except InvalidValueError as error:
        raise _failed(argument, type(values).__name__, error) from error


def next_table(stream: _core.ArrowStream, argument: str) -> _core.ArrowTable | None:
    """Return the next batch of a stream, None at its end. Errors as for `arrow_table`."""
    try:
        return stream.next()
    except InvalidValueError as error:
        raise _failed(argument, "stream", error) from error


def _failed(argument: str, name: str, error: Exception) -> InvalidValueError:
    return InvalidValueError(f"{argument}: expected an Arrow table, got {name}: {error}")


class ArrowResult:
    """Predictions as an Arrow array of float32, for tables of libraries that mlpbank does not know.

    With several outputs it is a struct of a column for each. `numpy.asarray` gives the numbers, and
    whatever reads Arrow takes it: ``pyarrow.array(result)``, ``polars.Series(result)``.

    Attributes
    ----------
    names : tuple of str
        Of the columns.
    """

    def __init__(self, names: list[str], columns: Float32Array) -> None:
        self.names = tuple(names)
        self._columns = columns.view()  # (outputs, rows)
        self._columns.flags.writeable = False  # as consumers of Arrow expect it

    def __len__(self) -> int:
        return int(self._columns.shape[1])

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_numpy())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the predictions, (rows,) or (rows, outputs); read-only where they are no copy."""
        columns = self._columns
        values: npt.NDArray[Any] = columns[0] if len(self.names) == 1 else columns.T
        wanted = np.dtype(dtype or np.float32)
        if copy is False and wanted != values.dtype:
            raise InvalidValueError(f"copy: expected True or None for {wanted}, got False")
        return values.astype(wanted, copy=bool(copy))

    def to_numpy(self) -> npt.NDArray[Any]:
        """Return the predictions without a copy, (rows,) or (rows, outputs)."""
        return self.__array__()

    def __arrow_c_schema__(self) -> object:
        """Return the type as an Arrow schema."""
        return _core.export_schema(list(self.names))

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """Return schema and array. They share the memory of the predictions."""
        return self.__arrow_c_schema__(), _core.export_array(self._columns, list(self.names))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a stream of one batch."""
        return _core.export_stream(self._columns, list(self.names))

    def __repr__(self) -> str:
        return f"ArrowResult({', '.join(self.names)}: float32, {len(self)} rows)"

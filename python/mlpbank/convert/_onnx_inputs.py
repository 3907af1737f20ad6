"""The inputs of an ONNX graph as the columns of a bank's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import TensorProto

from mlpbank.convert._chain import unsupported
from mlpbank.convert._onnx_dims import ANY, ROWS, Dim, Dims, features
from mlpbank.convert._onnx_rows import Rows
from mlpbank.errors import InvalidValueError

FLOATS = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.UNDEFINED,
)
_INTEGERS = (
    *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
)


def read_inputs(inputs: Sequence[Any]) -> tuple[dict[str, Rows], int | None, int | None]:
    """Return the rows of each input, the fixed number of rows, and the width of a bank's rows.

    Several inputs stand side by side in a bank's rows, in the order of the graph. The number and
    the width are None where the graph does not tell.
    """
    if not inputs:
        raise unsupported("", "expected an input, got none")
    rows: dict[str, Rows] = {}
    batches: set[int] = set()
    at = 0
    for value in inputs:
        tensor = value.type.tensor_type
        if tensor.elem_type not in (*FLOATS, *_INTEGERS):
            raise unsupported(value.name, "expected an input of numbers")
        dims = _dims(tensor, len(inputs) == 1)
        if ROWS in dims and tensor.HasField("shape") and tensor.shape.dim[0].dim_value > 0:
            batches.add(tensor.shape.dim[0].dim_value)
        if value.name in rows:
            raise InvalidValueError(f"expected inputs of different names, got two {value.name!r}")
        width = features(dims)
        if len(inputs) == 1:
            return (
                {value.name: Rows((), dims, None, tensor.elem_type not in FLOATS)},
                next(iter(batches), None),
                width,
            )
        if width is None:
            raise unsupported(
                value.name, f"the graph does not tell the width of this one of {len(inputs)} inputs"
            )
        columns = tuple(range(at, at + width))
        rows[value.name] = Rows((), dims, columns, tensor.elem_type not in FLOATS)
        at += width
    if len(batches) > 1:
        raise InvalidValueError(f"expected inputs of one number of rows, got {sorted(batches)}")
    return rows, next(iter(batches), None), at


def _dims(tensor: Any, alone: bool) -> Dims:
    if not tensor.HasField("shape"):
        return (ROWS, ANY)
    sizes: list[Dim] = [d.dim_value if d.dim_value > 0 else ANY for d in tensor.shape.dim]
    # A single input of one dimension with a size is one row.
    if len(sizes) > 1 or not alone or sizes == [ANY]:
        sizes[:1] = [ROWS]
    return tuple(sizes)

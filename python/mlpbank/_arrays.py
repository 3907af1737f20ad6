"""Arrays of users as the core takes them: C-contiguous, aligned, native float32 or int64.

`as_array` is the one door from arrays and tensors of other frameworks to NumPy.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlpbank import _core
from mlpbank.errors import InvalidTypeError, InvalidValueError, OutOfRangeError
from mlpbank.typing import Float32Array, Float64Array, Int64Array

F = TypeVar("F", bound=Callable[..., Any])

_FLOAT32 = np.dtype(np.float32)
_INT64 = np.dtype(np.int64)
# Modules of the types that NumPy reads by itself in lists. Only others are looked at one by one.
_SAFE_MODULES = ("builtins", "numpy")
_MAX_DEPTH = 64  # the most dimensions of a NumPy array: deeper nesting is no array of numbers


def in_default_mode(function: F) -> F:
    """Run a function in the default floating-point mode, whatever mode the caller has set."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return _core.in_default_mode(function, *args, **kwargs)

    return run  # type: ignore[return-value]


def is_masked(values: Any) -> bool:
    """Return whether an object is a masked array of NumPy.

    numpy.ma is not imported for that: it takes long, and a fork meanwhile would hang. Where there
    is such an array, it has been imported.
    """
    masked = getattr(sys.modules.get("numpy.ma.core"), "MaskedArray", None)
    return masked is not None and isinstance(values, masked)


def as_array(values: Any, name: str) -> npt.NDArray[Any]:
    """Return an array of any framework, or nested lists, as a NumPy array.

    Tensors of PyTorch are detached and brought to the CPU, those within lists as well. bfloat16,
    which NumPy lacks, becomes float32 without a change of any value.

    Raises
    ------
    TypeError
        The values are masked, sparse, quantised, without values yet, or no array in another way.
    ValueError
        The values form no array, such as lists of different lengths.
    """
    if type(values) is np.ndarray:
        array = values
    else:
        values = _readable(values, name, _MAX_DEPTH)
        try:
            array = np.asarray(values)
        except MemoryError:
            raise
        except ValueError as error:  # vectors of different lengths
            raise InvalidValueError(
                f"{name}: expected numbers that form an array, got {error}"
            ) from None
        except Exception as error:  # other frameworks raise what they like
            raise InvalidTypeError(
                f"{name}: expected an array, got {_kind(values)}, which NumPy cannot read: {error}"
            ) from error
    if array.dtype.isbuiltin == 1:  # quicker to ask than the name
        return array
    # Names of types from the package ml_dtypes, as JAX and TensorFlow have them.
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    if array.dtype.name.startswith("float8"):
        raise InvalidTypeError(_float8(name, array.dtype.name))
    return array


def _readable(values: Any, name: str, depth: int) -> Any:
    """Return values that NumPy can read, or raise for those that it would read wrongly."""
    if isinstance(values, (list, tuple)):
        if _is_plain(values, depth):
            return values
        return [_readable(value, name, depth - 1) for value in values]
    if is_masked(values):
        # NumPy would silently drop the mask and use the values under it.
        raise InvalidTypeError(
            f"{name}: expected an array without mask, got a masked array; fill it first"
        )
    if hasattr(values, "detach"):
        return _from_torch(values, name)
    if _is_of(type(values), "keras", "Variable", "KerasVariable"):
        return _readable(values.value, name, depth)  # a tensor of Keras' backend
    if hasattr(values, "toarray") or _is_of(type(values), "tensorflow", "SparseTensor"):
        raise InvalidTypeError(
            f"{name}: expected an array with all of its values, got a sparse {_kind(values)}; "
            "make it dense first (toarray(), tf.sparse.to_dense)"
        )
    return values


def _is_plain(values: list[Any] | tuple[Any, ...], depth: int) -> bool:
    """Return whether a list, and lists in it, have only members that NumPy reads by itself."""
    if depth == 0:
        return True
    kinds = set(map(type, values))  # fast, also for a million floats
    if not all(kind.__module__ in _SAFE_MODULES for kind in kinds):
        return False
    if not any(issubclass(kind, (list, tuple)) for kind in kinds):
        return True
    return all(_is_plain(part, depth - 1) for part in values if isinstance(part, (list, tuple)))


def _from_torch(tensor: Any, name: str) -> npt.NDArray[Any]:
    """Return the values of a PyTorch tensor. They are not copied where they lie in memory so."""
    kind = _kind(tensor)
    if "Uninitialized" in kind:
        raise InvalidTypeError(
            f"{name}: expected values, got a lazy parameter without any; call its module once"
        )
    if tensor.is_meta:
        raise InvalidTypeError(
            f"{name}: expected values, got a tensor on the meta device, which has none; "
            "load the weights first"
        )
    if tensor.is_quantized:
        raise InvalidTypeError(
            f"{name}: expected real numbers, got a quantised tensor; call its dequantize() first"
        )
    if tensor.is_nested:
        raise InvalidTypeError(f"{name}: expected one shape, got a nested tensor of several")
    layout, dtype = str(tensor.layout), str(tensor.dtype)
    if layout != "torch.strided":
        raise InvalidTypeError(
            f"{name}: expected a dense tensor, got layout {layout}; call its to_dense() first"
        )
    if dtype == "torch.bfloat16":
        tensor = tensor.float()
    elif dtype.startswith("torch.float8"):
        raise InvalidTypeError(_float8(name, dtype))
    try:
        # Without the gradient, on the CPU, with what negation and conjugation put off.
        return tensor.numpy(force=True)  # type: ignore[no-any-return]
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InvalidTypeError(
            f"{name}: expected a tensor that NumPy can read, got {kind} of {dtype}: {error}"
        ) from error


def _float8(name: str, dtype: str) -> str:
    return (
        f"{name}: expected real numbers, got {dtype}, whose scale lies elsewhere; "
        "make it float32 with its scale first"
    )


def _kind(values: Any) -> str:
    return type(values).__name__


def _is_of(kind: type, package: str, *names: str) -> bool:
    """Return whether a class or one of its bases has one of these names in a package."""
    return any(
        base.__name__ in names and base.__module__.partition(".")[0] == package
        for base in kind.__mro__
    )


def as_float32(values: Any, name: str) -> Float32Array:
    """Return `values` as a C-contiguous, aligned float32 array. Such an array is not copied.

    Raises
    ------
    TypeError
        The values are not real numbers: complex, object, string or masked.
    ValueError
        The values form no array, such as lists of different lengths.
    """
    if type(values) is np.ndarray and values.dtype is _FLOAT32:
        flags = values.flags
        if flags.c_contiguous and flags.aligned:
            return values
    # The conversion rounds, so the caller's rounding mode must not apply.
    array = as_real(values, name)
    return _core.in_default_mode(np.require, array, _FLOAT32, ["C_CONTIGUOUS", "ALIGNED"])


def as_real(values: Any, name: str) -> npt.NDArray[Any]:
    """Return `values` as an array of real numbers, of whatever dtype. Errors as for as_float32."""
    array = as_array(values, name)
    if array.dtype.kind not in "fiub":
        raise InvalidTypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    return array


def as_shifted(values: Any, shift: Float64Array, name: str) -> Float32Array:
    """Return ``values - shift``, computed in float64 and rounded once, as as_float32 does."""
    array = as_real(values, name)
    if array.ndim == 0 or array.shape[-1] != len(shift):
        return as_float32(array, name)  # whoever takes it says which shape was expected
    rows = np.empty(array.shape, np.float32)
    # NumPy goes through small buffers, so there is no float64 copy of all rows.
    return _core.in_default_mode(
        np.subtract, array, shift, rows, dtype=np.float64, casting="same_kind"
    )


def as_shift(values: Any, size: int, name: str = "input_shift") -> Float64Array:
    """Return an input shift as a read-only float64 array (size,).

    Raises
    ------
    TypeError, ValueError
        It is not of `size` finite real numbers.
    """
    shift = np.array(as_real(values, name), np.float64)
    if shift.shape != (size,) or not (np.abs(shift) <= np.finfo(_FLOAT32).max).all():
        got = f"shape {shift.shape}" if shift.shape != (size,) else f"{shift}"
        raise InvalidValueError(
            f"{name}: expected {size} finite numbers in the range of float32, got {got}"
        )
    shift.flags.writeable = False
    return shift


def without_shift(
    weights: Mapping[str, Any], size: int
) -> tuple[Mapping[str, Any], Float64Array | None]:
    """Return a weights mapping without its ``"input_shift"``, and that as an array or None."""
    if not isinstance(weights, Mapping) or "input_shift" not in weights:
        return weights, None
    shift = as_shift(weights["input_shift"], size)
    return {key: array for key, array in weights.items() if key != "input_shift"}, shift


def transposed(array: npt.NDArray[Any], shapes: Sequence[tuple[int, ...]]) -> str:
    """Return the end of a message for matrices that have the shape the other way round, or ""."""
    if array.ndim > 1 and array.swapaxes(-1, -2).shape in shapes:
        return "; it is (out, in): give its transpose, (in, out)"
    return ""


def as_int64(values: Any, name: str) -> Int64Array:
    """Return slots, handles or integer keys as a C-contiguous int64 array of one dimension.

    Raises
    ------
    TypeError
        The values are masked or no integers. The message shows the first that is no integer.
    ValueError
        They do not have one dimension.
    IndexError
        A value does not fit in int64.
    """
    if type(values) is np.ndarray and values.dtype is _INT64 and values.ndim == 1:
        flags = values.flags
        if flags.c_contiguous and flags.aligned:
            return values
    array = as_array(values, name)
    if array.ndim != 1:
        raise InvalidValueError(f"{name}: expected one dimension, got shape {array.shape}")
    if array.size == 0:
        return np.empty(0, _INT64)
    if array.dtype.kind not in "iu":
        bad = next((i for i, v in enumerate(array.tolist()) if type(v) is not int), 0)
        raise InvalidTypeError(
            f"{name}: expected integers, got dtype {array.dtype}, {name}[{bad}] = {array[bad]!r}"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and int(array.max()) >= 2**63:
        bad = int(np.argmax(array >= 2**63))
        raise OutOfRangeError(f"{name}[{bad}]: expected a model index, got {array[bad]}")
    return np.require(array, _INT64, ["C_CONTIGUOUS", "ALIGNED"])


def check_out(
    out: Any, shape: tuple[int, ...], inputs: Float32Array, models: Any = None
) -> Float32Array:
    """Return `out` if results can be written directly into it. A copy never takes its place.

    Raises
    ------
    TypeError
        It is not a NumPy array of native float32.
    ValueError
        It has another shape, is not C-contiguous, aligned and writeable, or overlaps an input.
    """
    if not isinstance(out, np.ndarray) or is_masked(out) or out.dtype != _FLOAT32:
        got = f"dtype {out.dtype}" if type(out) is np.ndarray else type(out).__name__
        raise InvalidTypeError(f"out: expected a float32 NumPy array, got {got}")
    if out.shape != shape:
        raise InvalidValueError(f"out: expected shape {shape}, got {out.shape}")
    flags = out.flags
    if not (flags.c_contiguous and flags.aligned and flags.writeable):
        raise InvalidValueError(
            "out: expected a C-contiguous, aligned, writeable array, got one that is not"
        )
    if np.may_share_memory(out, inputs):
        raise InvalidValueError(
            "out: expected memory of its own, got an array that overlaps the inputs"
        )
    if isinstance(models, np.ndarray) and np.may_share_memory(out, models):
        raise InvalidValueError(
            "out: expected memory of its own, got an array that overlaps models"
        )
    return out

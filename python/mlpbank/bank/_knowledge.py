"""What a Bank knows of inputs and outputs: names, classes, and rows and labels by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank._frames import try_frame
from mlpbank._names import (
    Classes,
    Names,
    as_classes,
    as_feature_names,
    as_labels,
    expect_order,
    shown,
)
from mlpbank.architecture import Activation, Architecture
from mlpbank.errors import InvalidStateError, InvalidValueError
from mlpbank.typing import Float32Array, Float64Array


class Known(NamedTuple):
    """What is the same for all models of a bank beside their architecture.

    Attributes
    ----------
    input_shift : float64 array (input_size,), or None
    feature_names : tuple of str, or None
    classes : tuple of str, int, float or bool, or None
    repeated : tuple of str, or None
        The names of the features of a model where one comes twice: they name nothing, but later
        models are compared with them. Files do not keep them.
    """

    input_shift: Float64Array | None = None
    feature_names: Names | None = None
    classes: Classes | None = None
    repeated: Names | None = None

    @classmethod
    def checked(
        cls, architecture: Architecture, shift: Float64Array | None, names: Any, classes: Any
    ) -> Known:
        """Return arguments as they are kept; TypeError or ValueError where they do not fit."""
        return cls(
            shift,
            None if names is None else as_feature_names(names, architecture.input_size),
            None if classes is None else as_classes(classes, architecture.output_size),
        )

    @classmethod
    def of_models(
        cls, architecture: Architecture, shift: Float64Array | None, names: Any, classes: Any
    ) -> Known:
        """Return what models know. Names that come twice name nothing."""
        if names is not None and len(set(names)) < len(names):
            return cls.checked(architecture, shift, None, classes)._replace(repeated=tuple(names))
        return cls.checked(architecture, shift, names, classes)


def same_known(a: Known, b: Known) -> bool:
    """Return whether two banks know the same."""
    shift, other = (np.array(known.input_shift, np.float64) for known in (a, b))
    return a[1:] == b[1:] and np.array_equal(shift, other, equal_nan=True)


def columns_of(features: Any, wanted: int) -> list[Any] | None:
    """Return the columns of inputs that a caller names as a list of its own, None as it is.

    Raises
    ------
    TypeError, ValueError
        They have no order, or are no names one after the other.
    """
    if features is None:
        return None
    if isinstance(features, (str, bytes)) or not np.iterable(features):
        raise InvalidValueError(f"features: expected {wanted} columns, got {features!r:.400}")
    expect_order(features, "features")
    return list(features)


def chosen(features: list[Any] | None, names: Names | None, wanted: int) -> Sequence[Any]:
    """Return the columns of inputs in the bank's order. `names` are those of the bank.

    Raises
    ------
    ValueError
        There are too few or too many, none although the bank has no names, or other ones.
    """
    if features is None:
        if names is None:
            raise InvalidValueError(
                f"features: expected {wanted} columns, since the bank does not know the names of "
                "its features, got none"
            )
        return names
    if len(features) != wanted:
        raise InvalidValueError(f"features: expected {wanted} columns, got {features!r:.400}")
    if names is None:
        return features
    if not all(isinstance(name, str) for name in features) or set(features) != set(names):
        raise InvalidValueError(
            f"features: expected the bank's, {shown(names)}, got {shown(features)}; rename the "
            "columns if these are the same features"
        )
    return names


def by_name(x: Any, names: Names | None) -> Any:
    """Return rows of a data frame, or one of a Series, in the order of names; others as they are.

    Where a bank has no names, its columns are taken in the order that they have.

    Raises
    ------
    ValueError
        Its columns have other names, or rows in a list have names of their own.
    """
    if type(x) is np.ndarray:
        return x
    if names is None:
        frame = try_frame(x, "x")
        return x if frame is None else frame.numbers(frame.names, "x")
    _expect_plain_rows(x)
    index = _index_of(x)
    if index is not None:
        _expect_names(list(index), names)
        return x[list(names)].to_numpy()
    frame = try_frame(x, "x")
    if frame is None:
        return x
    _expect_names(frame.names, names)
    return frame.numbers(names, "x")


def _expect_plain_rows(x: Any) -> None:
    """Raise ValueError for rows that have names each: those would be taken by position."""
    rows = isinstance(x, (list, tuple))
    kinds = {type(x), *map(type, x)} if rows else {type(x)}
    named = [kind for kind in kinds if hasattr(kind, "_fields") or issubclass(kind, dict)]
    if rows:
        named += [kind for kind in kinds if hasattr(kind, "iloc") or hasattr(kind, "columns")]
    if named or str(getattr(x, "dtype", "")).startswith("Struct"):
        kind = named[0] if named else type(x)
        raise InvalidValueError(
            "x: expected rows of numbers or a data frame, got rows with names of their own "
            f"({kind.__name__}); make them a data frame"
        )


def _index_of(x: Any) -> Any:
    """Return the names in a pandas Series that is a row of a data frame, else None."""
    kinds = {(base.__module__.split(".")[0], base.__name__) for base in type(x).__mro__}
    if ("pandas", "Series") not in kinds or not any(isinstance(name, str) for name in x.index):
        return None
    return x.index


def _expect_names(got: list[Any], names: Names) -> None:
    if len(got) != len(names) or set(got) != set(names):
        raise InvalidValueError(
            f"x: expected columns of the bank's features, {shown(names)}, got {shown(got)}; "
            "x[[...]] picks columns, and x.to_numpy() takes them in the order they have"
        )


def labels(
    y: Float32Array, classes: Classes | None, architecture: Architecture, gaps: bool
) -> npt.NDArray[Any]:
    """Return the label of each row of outputs.

    Parameters
    ----------
    y : float32 array (..., output_size)
    classes : tuple or None
        Of the bank.
    architecture : Architecture
        Of the bank.
    gaps : bool
        Whether rows with NaN have None, in an array of objects; else they are an error.

    Raises
    ------
    RuntimeError
        The bank has no classes, or its outputs do not tell one of them.
    ValueError
        A row has NaN.
    """
    known = checked_classes(classes, architecture)
    # The first of equal ones; one output is the probability of the second class.
    several = y.shape[-1] == len(known)
    best = np.argmax(y, axis=-1) if several else (y[..., 0] > 0.5).astype(np.intp)
    found = as_labels(known)
    unknown = np.isnan(y).any(axis=-1)
    if gaps:
        filled: Any = np.where(unknown, np.array(None), found.astype(object)[best])
        return filled[()]  # type: ignore[no-any-return]
    if unknown.any():
        at = "".join(f"[{i}]" for i in np.argwhere(unknown)[0].tolist())
        raise InvalidValueError(
            f"x{at}: expected numbers that give a label, got an output of NaN; missing='nan' "
            "gives None for such rows"
        )
    picked: npt.NDArray[Any] = found[best]
    return picked


def checked_classes(classes: Classes | None, architecture: Architecture) -> Classes:
    """Return classes that outputs tell, or raise RuntimeError."""
    if classes is None:
        raise InvalidStateError(
            "classes: expected a bank that knows them, got one that does not; give it classes= "
            "when it is made, if its models are classifiers"
        )
    last = architecture.layers[-1].activation
    if last is Activation.SIGMOID and architecture.output_size > 1:
        raise InvalidStateError(
            f"classes: expected one class for each row, got {architecture.output_size} sigmoid "
            "outputs, of which several may be true; compare those of predict with a threshold"
        )
    if len(classes) > architecture.output_size and last is not Activation.SIGMOID:
        raise InvalidStateError(
            "classes: expected one output of two classes to be a sigmoid, since 0.5 is the "
            f"threshold, got {last.value!r}"
        )
    if len(classes) == 1 and last is not Activation.SOFTMAX:
        raise InvalidStateError(
            f"classes: expected two for one output of {last.value!r}, got {shown(classes)}"
        )
    return classes

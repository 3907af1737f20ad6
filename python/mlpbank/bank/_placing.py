"""Models as weights for one bank: converted, scalers folded, for rows that its shift is taken from.

`mlpbank.convert` is imported here when a model needs it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlpbank._arrays import without_shift
from mlpbank.architecture import Architecture
from mlpbank.errors import InvalidValueError
from mlpbank.typing import Float64Array

if TYPE_CHECKING:
    from mlpbank.convert import _shift

UNDECIDED: Any = object()  # the input shift of a bank that never had a model


def stack(
    models: list[tuple[Any, Any]],
    architecture: Architecture | None,
    dtype: str,
    progress: bool,
    scaled: bool,
    output: str | int | None,
) -> tuple[list[Any], Architecture, dict[str, Any]]:
    """Return what `convert.stack` does, with the shift of a bank. `scaled`: a scaler is outside."""
    from mlpbank.convert import _stacked

    decide = _inside(scaled, UNDECIDED, dtype)
    keys, architecture, weights, _ = _stacked(models, architecture, progress, decide, output)
    return keys, architecture, weights


def placed(
    model: Any,
    architecture: Architecture,
    dtype: str,
    input_scaler: Any,
    output_scaler: Any,
    shift: Any,
    output: str | int | None = None,
) -> tuple[Mapping[str, Any], Float64Array | None]:
    """Return the weights of a model that take ``x - shift``, and the shift.

    Parameters
    ----------
    model : mapping or model
    architecture : Architecture
    dtype : str
        Of the bank.
    input_scaler, output_scaler
        See `Bank.add`.
    shift : float64 array (in,), None or UNDECIDED
        Of the bank. The model chooses it where it is undecided.
    output : str or int, optional
        See `mlpbank.convert.convert`.
    """
    native = isinstance(model, Mapping) and all(
        isinstance(k, str) and (k.startswith("layer_") or k == "input_shift") for k in model
    )
    unscaled = input_scaler is None and output_scaler is None
    none = shift is None or shift is UNDECIDED
    if native and unscaled and none and "input_shift" not in model:
        return model, None
    if not native:
        from mlpbank.convert import _converted

        decide = _inside(input_scaler is not None, shift, dtype)
        converted = _converted(model, architecture, decide, output)
        if converted.architecture != architecture:
            raise InvalidValueError(f"model: expected {architecture}, got {converted.architecture}")
        model = converted.weights
    if native or not unscaled:
        model = folded(architecture, model, input_scaler, output_scaler, dtype, shift, name="")
    weights, chosen = without_shift(model, architecture.input_size)
    return weights, chosen if shift is UNDECIDED else shift


def folded(
    architecture: Architecture,
    weights: Mapping[str, Any],
    input_scaler: Any,
    output_scaler: Any,
    dtype: str,
    shift: Any = UNDECIDED,
    name: str = "keys[{}]: ",
) -> Mapping[str, Any]:
    """Return weights with scalers folded into them. `name` is that of model {} in messages."""
    if dtype == "int8" and input_scaler is not None:
        warnings.warn(
            "int8 weights lose accuracy where inputs of different size are scaled by them: "
            "scale x itself instead",
            stacklevel=4,
        )
    from mlpbank.convert import scalers

    return scalers._folded(
        architecture, weights, input_scaler, output_scaler, _decide(shift, dtype), name.format
    )


def _decide(shift: Any, dtype: str) -> _shift.Decide:
    """Return the decision for a bank whose shift is this, or undecided."""
    from mlpbank.convert import _shift

    if shift is UNDECIDED:
        return _shift.where_needed(
            _shift.BANK_LIMIT if dtype == "float32" else _shift.ROUGH_BANK_LIMIT
        )
    return lambda scale, offset: shift


def _inside(scaled: bool, shift: Any, dtype: str) -> _shift.Decide:
    """Return the decision for a model. A scaler outside leaves no large means for the inside."""
    from mlpbank.convert import _shift

    return _shift.where_needed(_shift.LIMIT) if scaled else _decide(shift, dtype)

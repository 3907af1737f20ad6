"""Models as weights for one bank: converted, scalers folded, for rows that its shift is taken from.

`mlpbank.convert` is imported here when a model needs it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mlpbank._arrays import without_shift
from mlpbank.architecture import Architecture
from mlpbank.bank._knowledge import Known
from mlpbank.errors import InvalidValueError

if TYPE_CHECKING:
    from mlpbank.convert import _shift

UNDECIDED: Any = object()  # the input shift of a bank that never had a model


class How(NamedTuple):
    """How a model is added: arguments of `Bank.add`."""

    input_scaler: Any = None
    output_scaler: Any = None
    output: str | int | None = None
    align_classes: bool = False
    check_finite: bool = False

    @property
    def leaves_weights(self) -> bool:
        """Whether weights are taken as they are."""
        scaled = self.input_scaler is not None or self.output_scaler is not None
        return not (scaled or self.align_classes or self.check_finite)


def stack(
    models: list[tuple[Any, Any]],
    architecture: Architecture | None,
    dtype: str,
    progress: bool,
    input_scaler: Any,
    output: str | int | None,
    given: tuple[Any, Any],
    align_classes: bool,
) -> tuple[Architecture, dict[str, Any], Known]:
    """Return what `convert.stack` does, with the shift of a bank, and what the models know.

    Parameters
    ----------
    input_scaler
        What is folded into the weights later, if it is not None.
    given : pair of sequence or None
        Names of features and classes, as the bank is to have them.
    """
    from mlpbank.convert import _knowledge, _stacked

    names, classes = (None if one is None else tuple(one) for one in given)
    called = ((f"models[{key!r}]", model) for key, model in models)
    before = _knowledge.Knowledge(
        _knowledge.names_beside(input_scaler, names, called, output), classes
    )
    decide = _inside(input_scaler is not None, UNDECIDED, dtype)
    _, found, weights, knowledge = _stacked(
        models, architecture, progress, decide, output, before, align_classes
    )
    return found, weights, Known.of_models(found, None, *knowledge)


def placed(
    key: Any,
    model: Any,
    architecture: Architecture,
    dtype: str,
    how: How,
    known: Known,
) -> tuple[Mapping[str, Any], Known]:
    """Return the weights of a model as a bank takes them, and what it knows with this model.

    Parameters
    ----------
    key : str, int or tuple
        For messages.
    model : mapping or model
    architecture : Architecture
    dtype : str
        Of the bank.
    how : How
    known : Known
        Of the bank, or what is given of it. The model chooses a shift that is UNDECIDED.
    """
    input_scaler, output_scaler, output, align_classes, _ = how
    native = isinstance(model, Mapping) and all(
        isinstance(k, str) and (k.startswith("layer_") or k == "input_shift") for k in model
    )
    if align_classes and native:
        raise InvalidValueError(
            f"bank[{key!r}]: align_classes: expected a model that knows its classes, got weights"
        )
    unscaled = input_scaler is None and output_scaler is None
    shift = known.input_shift
    none = shift is None or shift is UNDECIDED
    if native and unscaled and none and "input_shift" not in model:
        return model, known._replace(input_shift=None)
    known = named_by(input_scaler, known, [("the model", model)], output)
    if not native:
        from mlpbank.convert import _converted, _knowledge

        decide = _inside(input_scaler is not None, shift, dtype)
        before = _knowledge.Knowledge(known.feature_names or known.repeated, known.classes)
        converted = _converted(
            model, architecture, decide, output, before, align_classes, f"bank[{key!r}]"
        )
        if converted.architecture != architecture:
            raise InvalidValueError(f"model: expected {architecture}, got {converted.architecture}")
        model = converted.weights
        known = Known.of_models(architecture, shift, converted.feature_names, converted.classes)
    if native or not unscaled:
        model = folded(
            architecture,
            model,
            input_scaler,
            output_scaler,
            dtype,
            shift,
            name="",
            features=known.feature_names,
        )
    weights, chosen = without_shift(model, architecture.input_size)
    return weights, known._replace(input_shift=chosen if shift is UNDECIDED else shift)


def named_by(
    input_scaler: Any,
    known: Known,
    models: list[tuple[str, Any]],
    output: str | int | None = None,
) -> Known:
    """Return what a bank knows with the names of a scaler, in whose order its features are."""
    if input_scaler is None:
        return known
    from mlpbank.convert import _knowledge

    names = _knowledge.names_beside(input_scaler, known.feature_names, models, output)
    return known._replace(feature_names=names)


def folded(
    architecture: Architecture,
    weights: Mapping[str, Any],
    input_scaler: Any,
    output_scaler: Any,
    dtype: str,
    shift: Any = UNDECIDED,
    name: str = "keys[{}]: ",
    features: tuple[str, ...] | None = None,
) -> Mapping[str, Any]:
    """Return weights with scalers folded into them.

    `name` is that of model {} in messages, `features` are the names of the bank's.
    """
    if dtype == "int8" and input_scaler is not None:
        warnings.warn(
            "int8 weights lose accuracy where inputs of different size are scaled by them: "
            "scale x itself instead",
            stacklevel=4,
        )
    from mlpbank.convert import scalers

    return scalers._folded(
        architecture,
        weights,
        input_scaler,
        output_scaler,
        _decide(shift, dtype),
        name.format,
        features,
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

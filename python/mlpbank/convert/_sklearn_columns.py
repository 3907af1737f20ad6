"""Transformers that pick or mix columns: ColumnTransformer, FeatureUnion, selectors, PCA."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from mlpbank._names import shown
from mlpbank.convert._chain import join, unsupported
from mlpbank.convert._shift import LIMIT
from mlpbank.convert._sklearn_rows import Columns, Mixed, Rearranged, joined
from mlpbank.convert.scalers import (
    MIXERS,
    SELECTORS,
    mean_and_scale,
    own_method,
    refusal,
    sklearn_class,
)


def selects(estimator: Any) -> bool:
    """Return whether a transformer picks or mixes columns, or is a Pipeline with one that does."""
    kind = sklearn_class(estimator)
    if kind == "Pipeline":
        return any(selects(step) for _, step in estimator.steps)
    return kind in _READERS


def selected(transformer: Any, where: str) -> Rearranged:
    """Return the step of a transformer that `selects`.

    Raises
    ------
    UnsupportedLayerError
        It is not fitted, or a part of it is no scaler that is known. The message names that and its
        columns.
    """
    width = _width(transformer)
    if width is None:
        name = type(transformer).__name__
        raise unsupported(
            where, f"expected a fitted {name} that tells n_features_in_, got one that does not"
        )
    rows = _through(transformer, Columns.of(width), where, _Within(where))
    return Rearranged(rows, width, where)


class _Within(NamedTuple):
    """Where a part stands, for messages: the transformer around all, and the columns of a part."""

    outer: str
    columns: str = ""


def _is_nothing(transformer: Any) -> bool:
    return transformer is None or (
        isinstance(transformer, str) and transformer in ("passthrough", "drop")
    )


def _width(transformer: Any) -> int | None:
    """Return how many columns a transformer takes, None if it does not tell."""
    kind = sklearn_class(transformer)
    if kind == "FeatureUnion":
        parts = [part for _, part in transformer.transformer_list]
    elif kind == "Pipeline":
        parts = [part for _, part in transformer.steps]
    else:
        return None if _is_nothing(transformer) else getattr(transformer, "n_features_in_", None)
    for part in parts:
        width = _width(part)
        # What follows a selection takes what that has left.
        if width is not None or (kind == "Pipeline" and selects(part)):
            return width
    return None


def _through(transformer: Any, rows: Columns, where: str, within: _Within) -> Columns:
    """Return what a transformer makes of rows."""
    kind = sklearn_class(transformer)
    read = _READERS.get(kind, _pipeline if kind == "Pipeline" else None)
    if read is not None:
        if method := own_method(transformer):
            raise unsupported(where, f"{kind} has a {method} of its own, {_ANYTHING}")
        return read(transformer, rows, where, within)
    reason, _ = refusal(transformer)
    if reason:
        raise unsupported(
            where,
            f"{type(transformer).__name__}{within.columns} {reason}; transform x by all of "
            f"{within.outer} yourself and convert what comes after that, such as pipeline[1:]",
        )
    try:
        mean, scale = mean_and_scale(transformer, type(transformer).__name__ + within.columns)
    except (TypeError, ValueError) as error:
        raise unsupported(where, str(error)) from error
    return rows.then(1.0 / scale, -mean / scale, where)


def _pipeline(pipeline: Any, rows: Columns, where: str, within: _Within) -> Columns:
    for name, part in pipeline.steps:
        if not _is_nothing(part):
            rows = _through(part, rows, join(where, name), within)
    return rows


def _union(union: Any, rows: Columns, where: str, within: _Within) -> Columns:
    return _side_by_side(
        union,
        [(name, part, range(rows.width), within) for name, part in union.transformer_list],
        rows,
        where,
    )


def _column_transformer(transformer: Any, rows: Columns, where: str, within: _Within) -> Columns:
    if not hasattr(transformer, "transformers_"):
        raise unsupported(where, "expected a fitted ColumnTransformer, got one that is not")
    _check_width(transformer, rows, where)
    columns = getattr(transformer, "feature_names_in_", None)
    if columns is not None and len(set(columns)) < len(columns):
        raise unsupported(
            where,
            f"was fitted to columns of which several have one name: {shown(list(columns))}; "
            "rename them and fit again",
        )
    # Numbers, whatever columns were given as. scikit-learn finds them by the names of parts, too.
    indices = getattr(transformer, "_transformer_to_input_indices", None)
    parts = []
    for name, part, _ in transformer.transformers_:
        if indices is None or name not in indices:
            raise unsupported(
                where, f"does not tell the columns of {name!r} as scikit-learn 1.3 to 1.9 do"
            )
        at = list(indices[name])
        shown_columns = shown(at if columns is None else [columns[i] for i in at])
        parts.append((name, part, at, _Within(within.outer, f" of columns {shown_columns}")))
    return _side_by_side(transformer, parts, rows, where)


def _side_by_side(
    transformer: Any, parts: list[tuple[str, Any, Any, _Within]], rows: Columns, where: str
) -> Columns:
    """Return the results of parts (name, transformer, columns, where) side by side."""
    weights = transformer.transformer_weights or {}
    results = []
    for name, part, at, within in parts:
        if (isinstance(part, str) and part == "drop") or not len(at):
            continue
        place = join(where, name)
        result = rows.take(list(at))
        if not _is_nothing(part):
            result = _through(part, result, place, within)
        weight = weights.get(name)
        if weight is not None:
            if not isinstance(weight, Real) or not np.isfinite(float(weight)):
                raise unsupported(
                    place, f"expected a finite number as its transformer_weights, got {weight!r}"
                )
            result = result.then(np.array(float(weight)), np.array(0.0), place)
        results.append(result)
    if not results:
        raise unsupported(where, "leaves no column at all")
    return joined(results)


def _check_width(transformer: Any, rows: Columns, where: str) -> None:
    width = getattr(transformer, "n_features_in_", None)
    if width != rows.width:
        raise unsupported(where, f"was fitted to {width} columns and gets {rows.width}")


def _selector(selector: Any, rows: Columns, where: str, within: _Within) -> Columns:
    """Return the columns of a selector. The others stay inputs: other models may choose them."""
    name = type(selector).__name__ + within.columns
    if not hasattr(selector, "n_features_in_"):
        raise unsupported(where, f"expected a fitted {name}, got one that is not")
    _check_width(selector, rows, where)
    try:
        chosen = np.flatnonzero(selector.get_support())
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise unsupported(
            where, f"{name} does not tell which columns it selects: {error}"
        ) from error
    if not len(chosen):
        raise unsupported(where, f"{name} selects no column at all")
    return rows.keeping(np.arange(rows.width)).take(chosen)


def _components(transformer: Any, rows: Columns, where: str, within: _Within) -> Columns:
    """Return ``(x - mean_) @ components_.T``, over the deviations of these with `whiten`."""
    kind = type(transformer).__name__
    if not hasattr(transformer, "components_"):
        raise unsupported(where, f"expected a fitted {kind}{within.columns}, got one that is not")
    matrix = np.array(transformer.components_, np.float64).T
    variance = np.array(transformer.explained_variance_, np.float64).clip(min=0)  # of rounding
    mean = getattr(transformer, "mean_", None)
    mean = np.zeros(len(matrix)) if mean is None else np.array(mean, np.float64)
    if len(matrix) != rows.width:
        raise unsupported(where, f"was fitted to {len(matrix)} columns and gets {rows.width}")
    if variance.shape != matrix.shape[1:] or not all(
        np.isfinite(values).all() for values in (matrix, mean, variance)
    ):
        raise unsupported(
            where,
            f"{kind}{within.columns}: expected components_, mean_ and explained_variance_ that "
            "are finite and fit each other; fit it again",
        )
    # Deviations of the columns, as far as the components tell them. Small ones do not matter.
    size = np.sqrt(matrix**2 @ variance)
    size = np.maximum(size, size.max() / LIMIT)
    size = np.where(size > 0, size, 1.0)
    spread = np.sqrt(variance)
    matrix = size[:, None] * matrix
    place = f"{where}: {kind}{within.columns}"
    mixed = Mixed(matrix, np.zeros(len(spread)), spread, place)
    if getattr(transformer, "whiten", False):
        with np.errstate(divide="ignore", invalid="ignore"):
            mixed = mixed._replace(matrix=matrix / spread, spread=np.ones(len(spread)))
    return rows.then(1.0 / size, -mean / size, where).mix(mixed)


_ANYTHING = "which may compute anything"
_READERS: dict[str, Callable[[Any, Columns, str, _Within], Columns]] = {
    "ColumnTransformer": _column_transformer,
    "FeatureUnion": _union,
    **dict.fromkeys(SELECTORS, _selector),
    **dict.fromkeys(MIXERS, _components),
}

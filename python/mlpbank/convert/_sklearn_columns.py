"""ColumnTransformer and FeatureUnion: each result is one column of the rows, scaled and shifted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank._names import shown
from mlpbank.convert._chain import Affine, Step, affine, join, unsupported
from mlpbank.convert._columns import Select
from mlpbank.convert.scalers import mean_and_scale, own_method, refusal, sklearn_class
from mlpbank.typing import Float64Array


class Columns(NamedTuple):
    """``x[:, columns] * scale + shift``, where all three are (n,)."""

    columns: npt.NDArray[np.intp]
    scale: Float64Array
    shift: Float64Array

    @classmethod
    def of(cls, width: int) -> Columns:
        """Return all columns as they are."""
        return cls(np.arange(width), np.ones(width), np.zeros(width))

    def take(self, at: Any) -> Columns:
        """Return ``self[:, at]``."""
        return Columns(self.columns[at], self.scale[at], self.shift[at])

    def then(self, scale: Float64Array, shift: Float64Array, where: str) -> Columns:
        """Return ``self * scale + shift``."""
        count = len(self.columns)
        for values in (scale, shift):
            if values.shape not in ((), (1,), (count,)):
                raise unsupported(
                    where,
                    f"expected one value for each of {count} features, got shape {values.shape}",
                )
        return Columns(self.columns, self.scale * scale, self.shift * scale + shift)

    def steps(self, width: int, where: str) -> list[Step | Select]:
        """Return the steps that take rows of `width` columns to these."""
        chain: list[Step | Select] = [Select(tuple(self.columns.tolist()), width, where)]
        if (self.scale != 1).any() or self.shift.any():
            chain.append(affine(self.scale, self.shift, where))
        return chain


def joined(parts: Iterable[Columns]) -> Columns:
    """Return columns side by side."""
    return Columns(*map(np.concatenate, zip(*parts, strict=True)))


def selects(estimator: Any) -> bool:
    """Return whether a transformer is a ColumnTransformer or FeatureUnion, or a Pipeline to one."""
    kind = sklearn_class(estimator)
    if kind == "Pipeline":
        return any(selects(step) for _, step in estimator.steps)
    return kind in _READERS


def selected(transformer: Any, where: str) -> list[Step | Select]:
    """Return the steps of a transformer that `selects`.

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
    return _through(transformer, Columns.of(width), where, _Within(where)).steps(width, where)


def gathered(chain: list[Step | Select]) -> list[Step | Select]:
    """Return the same steps with one selection at most, which stands first."""
    first = next((step for step in chain if isinstance(step, Select)), None)
    if first is None:
        return chain
    rows = Columns.of(first.width)
    for i, step in enumerate(chain):
        if isinstance(step, Affine):
            rows = rows.then(step.scale, step.shift, step.where)
        elif isinstance(step, Select):
            if step.width != len(rows.columns):
                raise unsupported(
                    step.where, f"was fitted to {step.width} columns and gets {len(rows.columns)}"
                )
            rows = rows.take(list(step.columns))
        else:
            return [*rows.steps(first.width, first.where), *chain[i:]]
    return rows.steps(first.width, first.where)


def compacted(select: Select) -> tuple[Select, list[int]]:
    """Return a selection of the columns that are used only, and which these are, in order."""
    used = sorted(set(select.columns))
    place = {column: i for i, column in enumerate(used)}
    columns = tuple(place[column] for column in select.columns)
    return Select(columns, len(used), select.where), used


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
        [(name, part, range(len(rows.columns)), within) for name, part in union.transformer_list],
        rows,
        where,
    )


def _column_transformer(transformer: Any, rows: Columns, where: str, within: _Within) -> Columns:
    if not hasattr(transformer, "transformers_"):
        raise unsupported(where, "expected a fitted ColumnTransformer, got one that is not")
    if transformer.n_features_in_ != len(rows.columns):
        raise unsupported(
            where,
            f"was fitted to {transformer.n_features_in_} columns and gets {len(rows.columns)}",
        )
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


_ANYTHING = "which may compute anything"
_READERS: dict[str, Callable[[Any, Columns, str, _Within], Columns]] = {
    "ColumnTransformer": _column_transformer,
    "FeatureUnion": _union,
}

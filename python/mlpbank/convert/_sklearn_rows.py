"""What transformers of scikit-learn make of a row: columns of it, scaled, shifted and mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlpbank.convert._chain import Affine, Dense, Step, affine, unsupported
from mlpbank.convert._columns import Select
from mlpbank.convert._shift import LIMIT
from mlpbank.typing import Float64Array


class Mixed(NamedTuple):
    """``x @ matrix + rest``, and the standard deviation of each result. `where` mixes them."""

    matrix: Float64Array
    rest: Float64Array
    spread: Float64Array
    where: str

    def take(self, at: Any) -> Mixed:
        """Return some of the results."""
        return Mixed(self.matrix[:, at], self.rest[at], self.spread[at], self.where)

    def then(self, scale: Float64Array, shift: Float64Array) -> Mixed:
        """Return ``self * scale + shift``."""
        spread = self.spread * np.abs(scale)
        return Mixed(self.matrix * scale, self.rest * scale + shift, spread, self.where)

    def check(self) -> None:
        """Raise where float32 does not have the digits of the results.

        Columns have deviations of about 1. So a result is the difference of terms as large as its
        column of the matrix, and as its constant.
        """
        terms = np.maximum(np.linalg.norm(self.matrix, axis=0), np.abs(self.rest))
        largest = float(self.spread.max())
        if not (terms <= LIMIT * largest).all():
            times = terms.max() / largest if largest else np.inf
            raise unsupported(
                self.where,
                f"its component {np.argmax(terms)} is a difference of numbers {times:.3g} times as "
                f"large as the results; beyond {LIMIT:g} float32 loses digits. Keep fewer "
                "components, put a StandardScaler before it, or apply it to x yourself and convert "
                "what comes after it, such as pipeline[1:]",
            )


class Columns(NamedTuple):
    """``x[:, columns] * scale + shift``, where all three are (n,), or what `mixed` makes of that.

    `kept` are columns that stay inputs of a bank, also if they are not used.
    """

    columns: npt.NDArray[np.intp]
    scale: Float64Array
    shift: Float64Array
    kept: frozenset[int] = frozenset()
    mixed: Mixed | None = None

    @classmethod
    def of(cls, width: int) -> Columns:
        """Return all columns as they are."""
        return cls(np.arange(width), np.ones(width), np.zeros(width))

    @property
    def width(self) -> int:
        """The number of results."""
        return len(self.columns if self.mixed is None else self.mixed.rest)

    def take(self, at: Any) -> Columns:
        """Return ``self[:, at]``."""
        if self.mixed is not None:
            return self._replace(mixed=self.mixed.take(at))
        return Columns(self.columns[at], self.scale[at], self.shift[at], self.kept)

    def keeping(self, at: Any) -> Columns:
        """Return the same, where the columns of ``self[:, at]`` stay inputs."""
        columns = self.columns if self.mixed is not None else self.columns[at]
        return self._replace(kept=self.kept.union(columns.tolist()))

    def then(self, scale: Float64Array, shift: Float64Array, where: str) -> Columns:
        """Return ``self * scale + shift``."""
        for values in (scale, shift):
            if values.shape not in ((), (1,), (self.width,)):
                raise unsupported(
                    where,
                    f"expected one value for each of {self.width} features, got shape "
                    f"{values.shape}",
                )
        if self.mixed is not None:
            return self._replace(mixed=self.mixed.then(scale, shift))
        return self._replace(scale=self.scale * scale, shift=self.shift * scale + shift)

    def mix(self, after: Mixed) -> Columns:
        """Return ``self @ matrix + rest``."""
        if len(after.matrix) != self.width:
            raise unsupported(
                after.where, f"was fitted to {len(after.matrix)} columns and gets {self.width}"
            )
        if self.mixed is None:
            return self._replace(mixed=after)
        matrix, rest = self.mixed.matrix @ after.matrix, self.mixed.rest @ after.matrix
        return self._replace(mixed=after._replace(matrix=matrix, rest=rest + after.rest))

    def through(self, after: Columns, takes: int, where: str) -> Columns:
        """Return what other columns, which take so many, make of these."""
        if takes != self.width:
            raise unsupported(where, f"was fitted to {takes} columns and gets {self.width}")
        rows = self.keeping(sorted(after.kept)).take(after.columns)
        rows = rows.then(after.scale, after.shift, where)
        return rows if after.mixed is None else rows.mix(after.mixed)

    def steps(self, width: int, where: str) -> list[Step | Select]:
        """Return the steps that take rows of `width` columns to these."""
        chain: list[Step | Select] = []
        if self.columns.tolist() != list(range(width)):
            kept = tuple(sorted(self.kept))
            chain.append(Select(tuple(self.columns.tolist()), width, where, kept))
        if (self.scale != 1).any() or self.shift.any():
            chain.append(affine(self.scale, self.shift, where))
        if self.mixed is not None:
            self.mixed.check()
            chain.append(Dense(self.mixed.matrix, self.mixed.rest, self.mixed.where))
        return chain


class Rearranged(NamedTuple):
    """The step of a transformer that takes `width` columns and gives others."""

    rows: Columns
    width: int
    where: str


Part = Step | Rearranged


def joined(parts: Sequence[Columns]) -> Columns:
    """Return columns side by side."""
    columns = np.concatenate([part.columns for part in parts])
    scale = np.concatenate([part.scale for part in parts])
    shift = np.concatenate([part.shift for part in parts])
    kept = frozenset[int]().union(*(part.kept for part in parts))
    wheres = [part.mixed.where for part in parts if part.mixed is not None]
    if not wheres:
        return Columns(columns, scale, shift, kept)
    each = [part.mixed or _same(len(part.columns)) for part in parts]
    matrix = np.zeros((len(columns), sum(len(mixed.rest) for mixed in each)))
    at = result = 0
    for mixed in each:
        rows, results = mixed.matrix.shape
        matrix[at : at + rows, result : result + results] = mixed.matrix
        at, result = at + rows, result + results
    rest = np.concatenate([mixed.rest for mixed in each])
    spread = np.concatenate([mixed.spread for mixed in each])
    return Columns(columns, scale, shift, kept, Mixed(matrix, rest, spread, wheres[0]))


def _same(count: int) -> Mixed:
    return Mixed(np.eye(count), np.zeros(count), np.ones(count), "")


def gathered(chain: list[Part]) -> list[Step | Select]:
    """Return the same as steps of a chain.

    All that stands before the network is one selection, one scale and shift, and part of its first
    layer.
    """
    first = next((step for step in chain if isinstance(step, Rearranged)), None)
    if first is None:
        return [step for step in chain if not isinstance(step, Rearranged)]
    rows = Columns.of(first.width)
    rest: list[Any] = list(chain)
    while rest and isinstance(rest[0], (Affine, Rearranged)):
        step = rest.pop(0)
        if isinstance(step, Affine):
            rows = rows.then(step.scale, step.shift, step.where)
        else:
            rows = rows.through(*step)
    steps = rows.steps(first.width, first.where)
    if rest and steps and isinstance(steps[-1], Dense) and isinstance(rest[0], Dense):
        steps.append(_merged(steps.pop(), rest.pop(0)))
    return [*steps, *rest]


def _merged(mix: Any, layer: Dense) -> Dense:
    weight = np.asarray(layer.weight, np.float64)
    if len(weight) != len(mix.bias):
        raise unsupported(mix.where, f"makes {len(mix.bias)} columns for {len(weight)} inputs")
    bias = mix.bias @ weight + (0 if layer.bias is None else layer.bias)
    return Dense(mix.weight @ weight, bias, layer.where)


def compacted(select: Select) -> tuple[Select, list[int]]:
    """Return a selection of the columns that are inputs only, and which these are, in order."""
    used = sorted({*select.columns, *select.kept})
    place = {column: i for i, column in enumerate(used)}
    columns = tuple(place[column] for column in select.columns)
    return Select(columns, len(used), select.where), used

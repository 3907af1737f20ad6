"""The models of a bank, and what predicts with them, as one object that can be replaced."""

from __future__ import annotations

from typing import NamedTuple

from mlpbank import _core
from mlpbank._columns import ModelColumns
from mlpbank.bank._slot_map import SlotMap
from mlpbank.engine import Engine
from mlpbank.inference import BatchedInference
from mlpbank.typing import Float32Array, Int64Array
from mlpbank.weights import BatchedWeights


class State:
    """Weights by slot, slots by key, and what predicts with both."""

    def __init__(
        self, weights: BatchedWeights, columns: ModelColumns, engine: Engine | None
    ) -> None:
        self.weights = weights
        self.inference = BatchedInference.from_weights(weights, engine)
        self.slot_map = SlotMap(weights, columns)
        self.direct = _core.DirectPredict(self.slot_map.core, self.inference._core)


class FollowingState(State):
    """The same of a bank that follows a folder with this head."""

    def __init__(
        self,
        weights: BatchedWeights,
        columns: ModelColumns,
        engine: Engine | None,
        head: _core.Head,
    ) -> None:
        super().__init__(weights, columns, engine)
        self.follower = _core.Follower(head, self.slot_map.core)


class Seen(NamedTuple):
    """What one call sees: a state, and perhaps the moment that it has to be of."""

    state: State
    moment: int | None = None

    def forward(
        self,
        x: Float32Array,
        slots: Int64Array,
        out: Float32Array | None,
        num_threads: int | None,
        name: str,
    ) -> Float32Array:
        """Predict by slot. `name` is that of the keys or handles in messages."""
        return self.state.inference._forward(
            x, slots, out, num_threads, "error", ("x", name), self.moment
        )

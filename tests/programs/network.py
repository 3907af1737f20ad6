"""300 models with inputs and their outputs, for programs that fork."""

from __future__ import annotations

import numpy as np

from mlpbank import Architecture, BatchedInference

MODELS = 300


class Network:
    """Random models.

    Parameters
    ----------
    layout : {"auto", "panel", "lane"}
    predicts : bool
        Whether the outputs are computed now. Otherwise no helper thread has started yet.
    """

    def __init__(self, layout: str, *, predicts: bool = True) -> None:
        rng = np.random.default_rng(0)
        arch = Architecture.mlp(32, 64, 64, 5)
        self.inference = BatchedInference(MODELS, arch, layout=layout)  # type: ignore[arg-type]
        self.stacked = {
            f"layer_{i}": rng.standard_normal((MODELS, s.input_size, s.output_size)).astype("f4")
            for i, s in enumerate(arch.layers)
        }
        self.inference.weights.load_stacked(self.stacked)
        self.x = rng.standard_normal((MODELS, 8, 32)).astype("f4")
        self.expected = self.inference.forward(self.x) if predicts else self.x

    def one(self, slot: int) -> dict[str, np.ndarray]:
        """Return the weights of one model."""
        return {name: array[slot] for name, array in self.stacked.items()}

    def predict(self) -> None:
        self.inference.forward(self.x)

    def load(self) -> None:
        self.inference.load_weights(0, self.one(0))

    def check(self) -> None:
        """Predict and load in each way, with the right results."""
        inference, x, expected = self.inference, self.x, self.expected
        for _ in range(5):
            assert np.array_equal(inference.forward(x), expected)
        for slot in range(MODELS):
            inference.load_weights(slot, self.one(slot))
        inference.weights.load_stacked(self.stacked)
        slots = np.arange(MODELS)[::-1]
        assert np.array_equal(inference.forward(x[slots], models=slots), expected[slots])
        other = BatchedInference.from_weights(inference.weights)
        assert np.array_equal(other.forward(x), expected)

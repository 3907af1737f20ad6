"""Hot swap under load, checked by revision-coded weights.

    python tests/helpers/swap_stress.py      # 10,000,000 observations of each kind, some minutes

Every weight and bias of a model's revision g is the number g, so that its output on a row of ones
is a polynomial of g that shows which revision computed it, and that no mixture of two gives.
Writers load revision after revision; readers check that every output belongs to one revision,
not older than what had been loaded when the call began.
"""

from __future__ import annotations

import argparse
import threading
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import mlpbank

REVISIONS = 1024  # codes are used in turn; 9 g^2 + g is exact in float32 up to here
ARCHITECTURE = mlpbank.Architecture.mlp(2, 3, 2, activation="none")


def expected(code: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the output of revision code g for a row of ones: h = 2 g + g, y = 3 g h + g."""
    return 9 * code * code + code


def weights_of(code: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return weights that are all `code`."""
    return {
        "layer_0": np.full((2, 3), code, np.float32),
        "layer_0.bias": np.full(3, code, np.float32),
        "layer_1": np.full((3, 2), code, np.float32),
        "layer_1.bias": np.full(2, code, np.float32),
    }


@dataclass
class Result:
    """What a run saw."""

    observations: int = 0  # (call, model) pairs
    swaps: int = 0
    mixed: int = 0  # outputs of no revision
    stale: int = 0  # outputs of a revision older than promised


class Stress:
    """Readers and writers on one inference, for as long as `run` lets them.

    Parameters
    ----------
    layout : {"panel", "lane"}
    by_slots : bool
        Whether readers ask for random models with repeats instead of all.
    rows : int
        Rows of each model in a call: many are shared out over threads.
    num_models : int
    dtype : {"float32", "float16"}
        float16 holds every code too.
    """

    def __init__(
        self,
        layout: str,
        by_slots: bool,
        rows: int = 1,
        num_models: int = 500,
        dtype: str = "float32",
    ) -> None:
        self.by_slots, self.rows, self.num_models = by_slots, rows, num_models
        self.inference = mlpbank.BatchedInference(
            num_models, ARCHITECTURE, layout=layout, dtype=dtype
        )
        self.codes = [weights_of(code) for code in range(REVISIONS)]
        self.known = dict(
            zip(expected(np.arange(REVISIONS)).tolist(), range(REVISIONS), strict=True)
        )
        # Revision of each model whose load has returned; a model has one writer, which alone
        # changes its entry.
        self.returned = np.zeros(num_models, np.int64)
        self.stop = threading.Event()
        self.result = Result()
        self.lock = threading.Lock()
        self.errors: list[BaseException] = []
        for i in range(num_models):
            self.inference.load_weights(i, self.codes[0])

    def write(self, models: range, seed: int) -> None:
        """Load random ones of `models`, revision after revision."""
        rng = np.random.default_rng(seed)
        while not self.stop.is_set():
            for model in rng.choice(np.asarray(models), 64).tolist():
                revision = int(self.returned[model]) + 1
                self.inference.load_weights(model, self.codes[revision % REVISIONS])
                self.returned[model] = revision
            with self.lock:
                self.result.swaps += 64

    def read(self, observations: int, seed: int) -> None:
        """Call forward until this reader has seen `observations` outputs and writers wrote."""
        rng = np.random.default_rng(seed)
        deadline = time.monotonic() + 120
        while observations > 0 or (
            self.result.swaps == 0 and time.monotonic() < deadline and not self.stop.is_set()
        ):
            slots = (
                rng.integers(0, self.num_models, self.num_models)
                if self.by_slots
                else np.arange(self.num_models)
            )
            x = np.ones((len(slots), self.rows, 2), np.float32)
            before = self.returned[slots]
            y = self.inference.forward(x, models=slots if self.by_slots else None)
            after = self.returned[slots]
            self.check(slots, y.reshape(len(slots), -1).astype(np.int64), before, after)
            observations -= len(slots)

    def check(
        self,
        slots: npt.NDArray[np.int64],
        y: npt.NDArray[np.int64],
        before: npt.NDArray[np.int64],
        after: npt.NDArray[np.int64],
    ) -> None:
        """Count what one call got wrong."""
        one = (y == y[:, :1]).all(axis=1)  # every row and output of an entry agrees,
        order = np.argsort(slots, kind="stable")  # and every entry of a model
        same_model = slots[order][1:] == slots[order][:-1]
        agree = not (same_model & (y[order, 0][1:] != y[order, 0][:-1])).any()
        code = np.array([self.known.get(value, -1) for value in y[:, 0].tolist()])
        # At most one load more than `after` can have been published; codes repeat, so count from
        # `before`.
        ahead = (code - before) % REVISIONS
        mixed = int((~one | (code < 0)).sum()) + (not agree)
        stale = int(((code >= 0) & (ahead > after + 1 - before)).sum())
        with self.lock:
            self.result.observations += len(slots)
            self.result.mixed += mixed
            self.result.stale += stale

    def run(self, observations: int, readers: int = 4, writers: int = 2) -> Result:
        """Return what `readers` and `writers` threads saw and did."""

        def guarded(function, *args) -> None:  # type: ignore[no-untyped-def]
            try:
                function(*args)
            except BaseException as error:
                self.errors.append(error)
                self.stop.set()

        share = [range(w, self.num_models, writers) for w in range(writers)]
        writing = [
            threading.Thread(target=guarded, args=(self.write, share[w], w)) for w in range(writers)
        ]
        reading = [
            threading.Thread(target=guarded, args=(self.read, observations // readers, 100 + r))
            for r in range(readers)
        ]
        for thread in [*writing, *reading]:
            thread.start()
        for thread in reading:
            thread.join()
        self.stop.set()
        for thread in writing:
            thread.join()
        if self.errors:
            raise self.errors[0]
        return self.result


def main() -> None:
    """Run every kind and print what it saw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--observations", type=int, default=10_000_000)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    args = parser.parse_args()
    for layout in ("panel", "lane"):
        for by_slots in (False, True):
            for rows in (1, 200):
                stress = Stress(layout, by_slots, rows, 500 if rows == 1 else 6, args.dtype)
                before, began = stress.inference.weights.nbytes, time.perf_counter()
                result = stress.run(args.observations if rows == 1 else args.observations // 100)
                print(
                    f"{layout:5s} {'slots' if by_slots else 'dense':5s} {rows:3d} rows: {result}, "
                    f"{time.perf_counter() - began:.0f} s, "
                    f"{before} -> {stress.inference.weights.nbytes} bytes",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""A bank that is changed while others predict, checked by weights that tell key and revision.

    python tests/helpers/bank_stress.py             # a minute of each kind

Every weight and bias of a model is one number, its code: 64 times the number of its key, plus its
revision modulo 64. An output on a row of ones is a polynomial of the code, so it shows whose
model of which revision computed it, and a mixture of two models gives none. Each key has one
writer, which says before and after each change what readers may see.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank import Architecture, Bank, UnknownModelError
from mlpbank.files import _mapped

ARCH = Architecture.mlp(2, 3, 2, activation="none")
REVISIONS = 64
KEYS = 15  # 64 * 15 codes: 9 c^2 + c is exact in float32
FALLBACK = KEYS  # number of the key that is always there


def weights_of(code: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return weights that are all `code`: h = 2 c + c, y = 3 c h + c."""
    return {
        "layer_0": np.full((2, 3), code, np.float32),
        "layer_0.bias": np.full(3, code, np.float32),
        "layer_1": np.full((3, 2), code, np.float32),
        "layer_1.bias": np.full(2, code, np.float32),
    }


CODES = [weights_of(code) for code in range(REVISIONS * (KEYS + 1))]
CODE_OF = {9 * code * code + code: code for code in range(len(CODES))}


class Stress:
    """Readers, writers and savers on one bank.

    Parameters
    ----------
    layout : {"panel", "lane"}
    folder : Path
        For saving.
    opened : bool
        Whether the bank begins as one that was opened, all of its models in a mapped file.
    """

    def __init__(self, layout: Any, folder: Path, opened: bool) -> None:
        self.folder = folder
        self.names = [f"key {i}" for i in range(KEYS)] + ["fallback"]
        bank = Bank(ARCH, layout=layout, fallback="fallback")
        for number, name in enumerate(self.names):
            bank[name] = CODES[number * REVISIONS]
        bank.save(folder / "begin")
        self.bank = Bank.open(folder / "begin") if opened else bank
        # Of each key, what its only writer says: readers that begin now see revision `floor` or a
        # later one, never one from `started + 1` on; `removals` counts the deletions that have
        # begun, and `there` is the truth between.
        self.floor = np.zeros(KEYS + 1, np.int64)
        self.started = np.zeros(KEYS + 1, np.int64)
        self.removals = np.zeros(KEYS + 1, np.int64)
        self.there = np.ones(KEYS + 1, bool)
        self.stop = threading.Event()
        self.counts = dict.fromkeys(
            ("predictions", "unknown", "changes", "stale handles", "files"), 0
        )
        self.errors: list[BaseException] = []
        self.lock = threading.Lock()

    def count(self, name: str) -> None:
        with self.lock:
            self.counts[name] += 1

    # Writers.

    def load(self, number: int) -> None:
        """Add the next revision, or swap it in."""
        revision = int(self.started[number]) + 1
        self.started[number] = revision
        self.bank[self.names[number]] = CODES[number * REVISIONS + revision % REVISIONS]
        self.floor[number] = revision
        self.there[number] = True

    def delete(self, number: int) -> None:
        self.there[number] = False
        self.removals[number] += 1
        del self.bank[self.names[number]]
        self.floor[number] = self.started[number] + 1

    def change(self, numbers: range, seed: int) -> None:
        """Load and delete; handles of before a deletion have to fail for ever."""
        rng = np.random.default_rng(seed)
        stale: list[np.ndarray] = []
        while not self.stop.is_set():
            number = int(rng.choice(numbers))
            if self.there[number] and rng.random() < 0.4:
                stale.append(self.bank.handles([self.names[number]]))
                self.delete(number)
            else:
                self.load(number)
            self.count("changes")
            for handles in stale[-3:]:
                try:
                    y = self.bank.predict_handles(
                        handles, np.ones((1, 2), np.float32), missing="error"
                    )
                except UnknownModelError as error:
                    if error.keys != handles.tolist():
                        raise AssertionError(
                            f"the error names {error.keys} for {handles}"
                        ) from error
                else:
                    raise AssertionError(f"handle {handles} of a deleted model gave {y}")
                self.count("stale handles")
            if len(stale) > 100:  # the old ones too, now and then
                del stale[rng.integers(len(stale))]
            time.sleep(0)

    def sweep(self, numbers: range) -> None:
        """Load key after key, every third after deleting it: at most one is behind the others."""
        while not self.stop.is_set():
            for number in numbers:
                if number % 3 == 0:
                    self.delete(number)
                self.load(number)

    # Readers.

    def before(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
        # A key that is there now is there all the time unless a removal begins after this line.
        removals = self.removals[numbers]
        there = self.there[numbers]
        return there, removals, self.floor[numbers]

    def check(
        self,
        numbers: npt.NDArray[np.int64],
        y: npt.NDArray[np.float32],
        before: tuple[npt.NDArray[np.int64], ...],
    ) -> None:
        """Check one call's outputs, NaN or the fallback's where a key was unknown."""
        started, removals = self.started[numbers], self.removals[numbers]
        there, removals_before, floor = before
        if not ((y == y[:, :1]) | np.isnan(y)).all():
            raise AssertionError(f"rows of a model differ: {y}")
        seen: dict[int, float] = {}
        for i, number in enumerate(numbers.tolist()):
            value = float(y[i, 0])
            unknown = np.isnan(value) or (
                CODE_OF.get(int(value), 0) // REVISIONS == FALLBACK != number
            )
            if seen.setdefault(number, value) != value and not (
                np.isnan(value) and np.isnan(seen[number])
            ):
                raise AssertionError(f"one call, one key, two answers: {seen[number]} and {value}")
            if unknown:
                if there[i] and removals[i] == removals_before[i]:
                    raise AssertionError(
                        f"{self.names[number]} was there all the time, got {value}"
                    )
                continue
            code = CODE_OF.get(int(value))
            if code is None or code // REVISIONS != number:
                raise AssertionError(
                    f"{self.names[number]}: got {value}, code {code}, of another model or of none"
                )
            if (code - floor[i]) % REVISIONS > started[i] - floor[i]:
                raise AssertionError(
                    f"{self.names[number]}: revision {code % REVISIONS} since {floor[i]}"
                )

    def read(self, missing: Any, rows: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self.stop.is_set():
            numbers = rng.integers(0, KEYS + 1, 40)
            names = [self.names[number] for number in numbers]
            x = np.ones((len(numbers), rows, 2), np.float32)
            before = self.before(numbers)
            try:
                y = self.bank.predict(names, x, missing=missing)
            except UnknownModelError as error:
                if missing != "error" or not set(error.keys) <= set(names):
                    raise
                self.count("unknown")
                continue
            self.check(numbers, y.reshape(len(numbers), -1), before)
            self.count("predictions")

    def read_handles(self, seed: int) -> None:
        """Handles that are looked up once and used until they fail."""
        rng = np.random.default_rng(seed)
        while not self.stop.is_set():
            numbers = rng.integers(0, KEYS + 1, 2)
            before = self.before(numbers)
            try:
                handles = self.bank.handles([self.names[number] for number in numbers])
                for _ in range(50):
                    y = self.bank.predict_handles(
                        handles, np.ones((2, 2), np.float32), missing="error"
                    )
                    self.check(numbers, y, before)
                    self.count("predictions")
            except UnknownModelError:
                pass

    def save(self, swept: range) -> None:
        """Save, and look whether the file is of one moment."""
        path = self.folder / "saved"
        files = 0
        while not self.stop.is_set():
            numbers = np.arange(KEYS + 1)
            before = self.before(numbers)
            self.bank.save(path)
            started = self.started.copy()
            _mapped.verify(_mapped.open_file(path, map_file=True))
            file = Bank.open(path, mmap=files % 2 == 0)
            y = file.predict(self.names, np.ones((KEYS + 1, 2), np.float32), missing="nan")
            for number in np.flatnonzero(~np.isnan(y[:, 0])).tolist():
                code = CODE_OF.get(int(y[number, 0]), -1)
                if code // REVISIONS != number or (code - before[2][number]) % REVISIONS > (
                    started[number] - before[2][number]
                ):
                    raise AssertionError(f"{self.names[number]}: file has {y[number]}")
            codes = [CODE_OF[int(v)] % REVISIONS for v in y[swept, 0] if not np.isnan(v)]
            behind = [(codes[0] - code) % REVISIONS for code in codes]
            if len(codes) < len(swept) - 1 or behind != sorted(behind) or behind[-1] > 1:
                raise AssertionError(f"a file of more than one moment: {y[swept, 0]}, {codes}")
            files += 1
            self.count("files")

    def run(
        self, enough: Callable[[dict[str, int]], bool] | None = None, seconds: float = 600
    ) -> dict[str, int]:
        """Return what all did until `enough` of the progress, or for so long."""
        swept, changed = range(9, KEYS), range(9)
        work: list[Callable[[], None]] = [
            lambda: self.sweep(swept),
            lambda: self.change(changed[:5], 1),
            lambda: self.change(changed[5:], 2),
            lambda: self.read("nan", 1, 11),
            lambda: self.read("fallback", 1, 12),
            lambda: self.read("error", 1, 13),
            lambda: self.read("nan", 30, 14),
            lambda: self.read_handles(15),
            lambda: self.save(swept),
        ]

        def guarded(function: Callable[[], None]) -> None:
            try:
                function()
            except BaseException as error:
                self.errors.append(error)
                self.stop.set()

        threads = [threading.Thread(target=guarded, args=(function,)) for function in work]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)  # so that threads meet between any two steps
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while not self.stop.wait(0.05) and time.monotonic() < end:
            with self.lock:
                counts = dict(self.counts)
            if enough is not None and enough(
                counts | {"loads": int(self.started.sum()), "removals": int(self.removals.sum())}
            ):
                break
        self.stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
        if self.errors:
            raise self.errors[0]
        return self.counts


def main() -> None:
    """Run every kind and print what it saw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    for layout in ("panel", "lane"):
        for opened in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                stress = Stress(layout, Path(folder), opened)
                counts = stress.run(seconds=args.seconds)
                print(
                    f"{layout:5s} {'opened' if opened else 'made':6s} {counts}, "
                    f"{stress.bank.nbytes} bytes",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""Many threads that make every public call at once, and switch as often as Python can.

A test file has a world, what all threads share, and a table of calls, `Calls`: functions by the
public names that they call. Every weight of a model is one number, so every answer tells whose
model gave it (`bank_stress`). In CPython without a GIL the threads run at the same time.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 16
ROUNDS = 3
MODELS = 8
KEYS = [f"key {i}" for i in range(MODELS)]
X = np.ones((MODELS, 2), np.float32)
ANSWERS = np.array([[9.0 * code * code + code] * 2 for code in range(1, MODELS + 1)])
# Of the names of a class, those that Python has on every object.
UNIVERSAL = {"__eq__", "__hash__", "__init__"}


class Caller:
    """One thread: its name, its dice, and what is its own. Its world has a `folder`."""

    def __init__(self, world: Any, number: int) -> None:
        self.world = world
        self.random = random.Random(number)
        self.name = f"thread {number}"
        self.folder: Path = world.folder / self.name
        self.folder.mkdir()

    def pick(self) -> int:
        return self.random.randrange(MODELS)


Call = Callable[[Caller], object]


class Calls(dict[str, Call]):
    """Functions by the public names that they call."""

    def by(self, *names: str) -> Callable[[Call], Call]:
        """Register a function."""

        def register(call: Call) -> Call:
            self.update(dict.fromkeys(names, call))
            return call

        return register

    def missing(self, *classes: type) -> set[str]:
        """Return the public names of classes that no function calls."""
        return set().union(*(names_of(cls) for cls in classes)) - set(self)

    def make(self, world: Any) -> None:
        """Make all calls in all threads at once, each thread in orders of its own."""
        errors: list[BaseException] = []
        barrier = threading.Barrier(THREADS)

        def run(number: int) -> None:
            try:
                caller = Caller(world, number)
                every = list(dict.fromkeys(self.values()))
                barrier.wait()
                for _ in range(ROUNDS):
                    for call in caller.random.sample(every, len(every)):
                        call(caller)
            except BaseException as error:
                errors.append(error)
                barrier.abort()

        threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
        with hurried():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]


def names_of(cls: type) -> set[str]:
    """Return what users call of a class."""
    file = Path(__file__).parents[1] / "quality/public_api.txt"
    _, _, after = file.read_text().partition(f"\nclass {cls.__name__}")
    lines = after.partition("\n\n")[0].splitlines()[1:]
    names = {line.split("(")[0].split()[-1] for line in lines}
    return {f"{cls.__name__}.{name}" for name in names - UNIVERSAL}


def is_answer(y: Any, slots: Any) -> None:
    """Check outputs, each of its model."""
    np.testing.assert_array_equal(y, ANSWERS[slots])


def is_answer_or_nan(y: Any, slots: Any) -> None:
    """Check outputs of models that may be gone."""
    y = np.asarray(y, np.float64)
    np.testing.assert_array_equal(np.where(np.isnan(y), ANSWERS[slots], y), ANSWERS[slots])


@contextmanager
def hurried() -> Iterator[None]:
    """Let threads switch after a microsecond instead of five milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def look_up_all_ways(bank: Any, slots: list[int]) -> None:
    """Predict for keys in all ways that a bank has, and check the answers."""
    keys = [KEYS[slot] for slot in slots]
    is_answer(bank.predict(keys, X), slots)
    is_answer(bank.predict(np.array(keys), X, out=np.empty((MODELS, 2), np.float32)), slots)
    is_answer(bank.predict(["nobody"] * MODELS, X), [0] * MODELS)
    is_answer(bank.predict(KEYS[slots[0]], X[0]), slots[0])
    is_answer(bank.predict_handles(bank.handles(keys), X), slots)

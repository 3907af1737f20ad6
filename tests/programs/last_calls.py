"""Call the core in a finalizer that runs when the interpreter is ending."""

from __future__ import annotations

import os
from typing import Any

from busy_models import ONE, X, bank, inference


class Last:
    def __init__(self, *needed: Any) -> None:
        self.needed = needed

    def __del__(self) -> None:
        inference, bank, one, x, write = self.needed
        inference.forward(x)
        bank[5] = one
        list(bank)
        write(1, b"done")


last: Any = Last(inference, bank, ONE, X, os.write)
last.itself = last  # a cycle, which only the end collects

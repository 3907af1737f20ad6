"""Exceptions between any two instructions, as the handler of a signal may raise them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, ModuleType
from typing import Any


@contextmanager
def interrupted_at(step: int, error: BaseException, *modules: ModuleType) -> Iterator[list[str]]:
    """Raise `error` before the instruction number `step` that this thread runs in the modules.

    Each is counted the first two times it runs. Gives a list that then has where it was; it stays
    empty if there are not so many instructions.
    """
    files = {module.__file__ for module in modules}
    where: list[str] = []
    runs: Counter[tuple[CodeType, str, int]] = Counter()
    steps = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event in ("call", "opcode"):
            at = frame.f_code, event, frame.f_lasti
            runs[at] += 1
            steps += runs[at] <= 2
            if steps == step + 1:
                sys.settrace(None)
                where.append(
                    f"{frame.f_code.co_name}, line {frame.f_lineno}, {event} {frame.f_lasti}"
                )
                raise error
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(before)

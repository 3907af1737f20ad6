"""Exceptions between any two instructions, as the handler of a signal may raise them."""

from __future__ import annotations

import dis
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, ModuleType
from typing import Any


@contextmanager
def interrupted_at(
    step: int, error: BaseException, *modules: ModuleType, anywhere: bool = True
) -> Iterator[list[str]]:
    """Raise `error` before the instruction number `step` that this thread runs in the modules.

    Each is counted the first two times it runs. Gives a list that then has where it was; it stays
    empty if there are not so many instructions. Unless `anywhere`, those alone count before which
    CPython looks for signals from 3.11 on: the first of a function, and what follows a call or a
    jump back. A ``with`` statement releases a lock for certain where exceptions come there.
    """
    files = {module.__file__ for module in modules}
    where: list[str] = []
    runs: Counter[tuple[CodeType, str, int]] = Counter()
    before_it: dict[FrameType, int] = {}
    steps = 0

    def may_be(frame: FrameType, event: str) -> bool:
        last = before_it.get(frame, -1)
        before_it[frame] = frame.f_lasti
        if anywhere or event == "call":
            return True
        return last >= 0 and dis.opname[frame.f_code.co_code[last]].startswith(
            ("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
        )

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "return":
            before_it.pop(frame, None)
        if event in ("call", "opcode") and may_be(frame, event):
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

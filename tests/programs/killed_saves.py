"""Kill children that save: killed_saves.py FOLDER any_moment|every_step.

After the death of each the file is the old or the new one, byte for byte.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from bank_files import make_bank, to_bytes
from mlpbank.files import _mapped

folder = Path(sys.argv[1])
path = folder / "bank"
_mapped._WRITE_BYTES = 5_000
banks = [make_bank(20, 0), make_bank(60, 1)]
wholes = [to_bytes(bank) for bank in banks]


def child(run: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(3)
    return pid


def check() -> tuple[int, int]:
    """Return which of the two the file is, and how many temporary files were left."""
    data = path.read_bytes()
    assert data in wholes, "neither the old nor the new file"
    _mapped.verify(_mapped.open_file(path, map_file=True))
    leftovers = [name for name in os.listdir(folder) if name != "bank"]
    for name in leftovers:
        assert name.startswith(".mlpbank.")
        assert name.endswith(".tmp")
        (folder / name).unlink()
    return wholes.index(data), len(leftovers)


def any_moment() -> None:
    random.seed(1)

    def save_forever(first: int) -> None:
        while True:
            banks[first].save(path)
            first = 1 - first

    began = time.perf_counter()
    for _ in range(4):
        for bank in banks:
            bank.save(path)
    round_trip = (time.perf_counter() - began) / 4

    seen = [0, 0]
    broken_off = 0
    for turn in range(250):
        pid = child(partial(save_forever, turn % 2))
        time.sleep(random.random() * 1.5 * round_trip)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        which, leftovers = check()
        seen[which] += 1
        broken_off += leftovers
    print(seen, broken_off)
    assert broken_off > 0
    assert min(seen) > 0


def save_and_die(step: int) -> None:
    """Save, and be killed before the given line of the code that writes."""
    left = step

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if Path(frame.f_code.co_filename).name not in ("_atomic.py", "_mapped.py"):
            return None
        left -= event == "line"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    banks[1].save(path)
    sys.settrace(None)
    os._exit(0)


def every_step() -> None:
    outcomes: list[int] = []
    while True:
        banks[0].save(path)
        status = os.waitpid(child(lambda: save_and_die(len(outcomes))), 0)[1]
        if status == 0:
            break
        assert status == signal.SIGKILL
        outcomes.append(check()[0])
    print(len(outcomes), sum(outcomes))
    assert len(outcomes) > 100
    assert outcomes == sorted(outcomes), "first always the old file, then always the new one"
    assert outcomes[0] == 0
    assert outcomes[-1] == 1


banks[0].save(path)
globals()[sys.argv[2]]()

"""Change a live bank for a simulated loss of power: live_power.py FOLDER LAYOUT KEYS.

It runs under faults.c. All that is done to the files goes to FOLDER/record. What is written to
FOLDER/watched/promises says what was promised until then: "begin N", "done N" (transaction N
returned) and "kept N" (it waits for the disk).
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
from pathlib import Path

from live_models import change, make_folder, opened
from mlpbank import LiveBank
from mlpbank.files import _live_folder

folder, layout, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
watched = folder / "watched"
_live_folder._LEAST_SEGMENT = 4096  # so that segments end often
faults = ctypes.CDLL(None)
watched.mkdir()
faults.faults_watch(os.fsencode(watched))
faults.faults_record(os.fsencode(folder / "record"))
promises = os.open(watched / "promises", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
rng = random.Random(1)


def promise(text: str) -> None:
    os.write(promises, f"{text}\n".encode())


make_folder(watched / "bank", layout, kind, 1)
promise("kept 0")
turn = 0
banks: dict[str, LiveBank] = {}
for _ in range(12):
    sync = rng.choice(["commit", "off", "interval"])
    if sync not in banks:
        banks[sync] = opened(watched / "bank", writable=True, sync=sync)
    bank = banks[sync]
    for _ in range(rng.randrange(1, 5)):
        turn += 1
        promise(f"begin {turn}")
        change(bank, kind, 0, turn)
        promise(f"{'kept' if sync == 'commit' else 'done'} {turn}")
    event = rng.random()
    if event < 0.3:
        bank.compact()
    elif event < 0.5:
        banks.pop(sync).close()
        if sync == "interval":
            promise(f"kept {turn}")
faults.faults_record(None)
print(turn)

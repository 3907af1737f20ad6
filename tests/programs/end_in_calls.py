"""End while eight daemon threads are in a call: end_in_calls.py CALL."""

from __future__ import annotations

import sys
import threading
import time

from busy_models import CALLS


def repeat() -> None:
    while True:
        CALLS[sys.argv[1]]()


for _ in range(8):
    threading.Thread(target=repeat, daemon=True).start()
time.sleep(0.2)

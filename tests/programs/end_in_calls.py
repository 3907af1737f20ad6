"""End while eight daemon threads are in a call: end_in_calls.py CALL."""

from __future__ import annotations

import sys
import threading
import time

from busy_models import CALLS

call = CALLS[sys.argv[1]]
call()  # here, where an error ends the program with a status
begun = threading.Semaphore(0)


def repeat() -> None:
    call()
    begun.release()
    while True:
        call()


for _ in range(8):
    threading.Thread(target=repeat, daemon=True).start()
for _ in range(8):
    begun.acquire()
time.sleep(0.02)

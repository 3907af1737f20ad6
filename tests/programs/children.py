"""Forked children that check something, for the other programs."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess

# Since 3.12 Python warns that forking a process with threads is dangerous. These tests show that
# with mlpbank it is not.
warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")


def fork(check: Callable[[], None], seconds: int = 120) -> int:
    """Start a child that runs `check`, and return its process id. A child that hangs is killed."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(seconds)
        try:
            check()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def wait(pid: int) -> None:
    """Wait for a child, which must have succeeded."""
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with status {status}"


def run_all(processes: list[BaseProcess]) -> None:
    """Start processes of multiprocessing and wait for them. All must succeed."""
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0, process.exitcode

"""The signal masks of the caller and of helper threads: signal_masks.py waits|first_forward."""

from __future__ import annotations

import os
import signal
import sys

from busy_models import X, inference

SIGNALS = {signal.SIGTERM, signal.SIGUSR1}


def waits() -> None:
    """A signal that the program waits for is not taken by a helper."""
    inference.forward(X)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.kill(os.getpid(), number)
        taken = signal.sigtimedwait({number}, 10)
        assert taken is not None
        assert taken.si_signo == number
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == SIGNALS


def first_forward() -> None:
    """The first forward, which starts the helpers, leaves the mask as it is."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    inference.forward(X)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


globals()[sys.argv[1]]()

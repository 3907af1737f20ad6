"""The interpreter around the calls: its end, signals, subinterpreters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cases import RunPython, sweep

pytestmark = pytest.mark.threads

BUSY = """
import threading, time
import numpy as np
from mlpbank import Architecture, Bank, BatchedInference

arch = Architecture.mlp(32, 64, 64, 1)
n = 2000
weights = {f"layer_{i}": np.ones((n, s.input_size, s.output_size), np.float32) for i, s in enumerate(arch.layers)}
one = {name: array[0] for name, array in weights.items()}
x = np.ones((n, 32), np.float32)
bi = BatchedInference(n, arch)
bi.weights.load_stacked(weights)
bank = Bank.from_stacked(np.arange(n), arch, weights)


def forward():
    bi.forward(x)


def by_ids():
    bi.forward(x, models=np.arange(n)[::-1])


def predict():
    bank.predict(np.arange(1000)[::-1], x[:1000])


def add():
    bank[5] = one


def remove():
    bank.add(n + 1, one)
    del bank[n + 1]


def load():
    bi.weights.load_stacked(weights)


def get():
    bi.weights.get(3)


def freeze():
    list(bank)


def again(function):
    def run():
        while True:
            function()
    return run
"""


@pytest.mark.parametrize(
    "call",
    sweep(["forward", "by_ids", "predict", "add", "remove", "load", "get", "freeze"], every=4),
)
def test_the_process_ends_while_daemon_threads_are_in_calls(
    call: str, run_python: RunPython
) -> None:
    """Each thread wants the GIL back when the interpreter ends, which unwinds it before Python 3.14."""
    script = f"""
for _ in range(8):
    threading.Thread(target=again({call}), daemon=True).start()
time.sleep(0.2)
"""
    for _ in range(4):
        assert run_python(BUSY + script, OPENBLAS_NUM_THREADS="1") == ""


def test_calls_of_the_thread_that_ends_the_interpreter(run_python: RunPython) -> None:
    """Finalizers run when the interpreter is ending; the GIL comes back to their thread as ever."""
    script = """
class Last:
    def __init__(self, *needed):
        self.needed = needed

    def __del__(self):
        bi, bank, one, x, write = self.needed
        bi.forward(x)
        bank[5] = one
        list(bank)
        write(1, b"done")

import os
last = Last(bi, bank, one, x, os.write)
last.itself = last  # a cycle, which only the end collects
"""
    assert run_python(BUSY + script) == "done"


CTRL_C = """
import os, random, signal, threading
import numpy as np
from mlpbank import Architecture, Bank


def until_ctrl_c(call):
    timer = threading.Timer(random.uniform(0.0005, 0.002), lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        timer.start()
        while True:
            call()
    except KeyboardInterrupt:
        pass
    try:
        timer.join()
    except KeyboardInterrupt:
        pass
"""


def test_ctrl_c_leaves_no_reader_behind(run_python: RunPython) -> None:
    """An exception between any two instructions of predict: slots of removed models are used again afterwards."""
    run_python(
        CTRL_C
        + """
bank = Bank(Architecture.mlp(4, 8, 1))
one = {"layer_0": np.ones((4, 8)), "layer_1": np.ones((8, 1))}
for key in range(10):
    bank[key] = one
x = np.ones((1, 4), np.float32)
ids = bank.handles([3])
calls = [lambda: bank.predict([3], x), lambda: bank.predict_handles(ids, x), lambda: bank[3]]
for turn in range(150):
    until_ctrl_c(calls[turn % 3])
before = bank.nbytes, bank._weights.num_models
for i in range(3000):
    bank[100 + i] = one
    del bank[100 + i]
assert (bank.nbytes, bank._weights.num_models) == before
"""
    )


def test_ctrl_c_in_changes_leaves_them_whole(run_python: RunPython) -> None:
    """A change is one step: its model, its key, its version and its count come and go together."""
    run_python(
        CTRL_C
        + """
bank = Bank(Architecture.mlp(1, 1))
i = 0


def change():
    global i
    i += 1
    key = i % 7
    bank.add(key, {"layer_0": [[float(i)]]}, version=str(i))
    if i % 3 == 0 and key in bank:
        del bank[key]


for turn in range(200):
    until_ctrl_c(change)
    keys = list(bank)
    assert len(keys) == len(bank) == len(set(keys))
    for key in range(7):
        assert (key in keys) == (key in bank)
        if key in bank:
            assert str(int(bank.predict(key, [1.0])[0])) == bank.info(key).version, key
assert bank._weights.num_models < 50
"""
    )


def test_a_signal_that_the_program_waits_for_is_not_taken_by_a_helper(
    run_python: RunPython,
) -> None:
    script = """
import os, signal
forward()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
for number in (signal.SIGTERM, signal.SIGUSR1):
    os.kill(os.getpid(), number)
    assert signal.sigtimedwait({number}, 10).si_signo == number
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGTERM, signal.SIGUSR1}
"""
    run_python(BUSY + script, OPENBLAS_NUM_THREADS="1")


def test_the_first_forward_leaves_the_signal_mask_as_it_is(run_python: RunPython) -> None:
    script = """
import signal
before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
forward()
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
"""
    run_python(BUSY + script)


def test_a_subinterpreter_is_refused(tmp_path: Path) -> None:
    """With the GIL of the main interpreter or with one of its own; never a program that hangs."""
    script = """
import sys
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
else:
    import _xxsubinterpreters as interpreters
code = '''
try:
    import mlpbank._core
except ImportError as error:
    print(error)
'''
if sys.argv[1] == "after":
    import mlpbank
one = interpreters.create("legacy") if sys.version_info >= (3, 13) else interpreters.create()
error = (interpreters.exec if sys.version_info >= (3, 13) else interpreters.run_string)(one, code)
assert error is None, error
interpreters.destroy(one)
print("end")
"""
    for when in ("alone", "after"):
        command = [sys.executable, "-c", script, when]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "subinterpreter" in done.stdout or "once per process" in done.stdout
        assert done.stdout.endswith("end\n")

"""Manners beside others: how many threads, limits by threadpoolctl, idleness, import order, refused threads."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cases import RunPython, sweep

pytestmark = pytest.mark.threads

# A forward of this bank is long enough for helpers; loading one model at a time is not.
PRELUDE = """
import os, threading, time
import numpy as np
import mlpbank

def tasks():
    return len(os.listdir("/proc/self/task"))

def tasks_become(number):
    # a call does not wait for its helpers to start
    deadline = time.monotonic() + 20
    while tasks() != number and time.monotonic() < deadline:
        time.sleep(0.01)
    return tasks() == number

bank = mlpbank.BatchedInference(500, mlpbank.Architecture.mlp(32, 64, 64, 1))
rng = np.random.default_rng(0)
for model in range(500):
    bank.load_weights(model, {
        "layer_0": rng.standard_normal(32 * 64),
        "layer_1": rng.standard_normal(64 * 64),
        "layer_2": rng.standard_normal(64),
    })
x = rng.standard_normal((500, 8, 32)).astype("f4")
serial = bank.forward(x, num_threads=1)
budget = int(mlpbank.cpu_budget())
before = tasks()  # NumPy's BLAS has threads of its own
"""


def test_helpers_start_when_they_are_first_needed(run_python: RunPython) -> None:
    script = """
for _ in range(1000):
    bank.forward(x[:1, :1], models=[7])
assert tasks() == before, "small calls stay on the thread that makes them"
assert np.array_equal(bank.forward(x), serial)
assert tasks_become(before + budget - 1)
"""
    run_python(PRELUDE + script)


CALLS = [
    "bank.forward({x}, {n})",
    "bank.forward_shared(x[0], {n})",
    "bank.forward(x, models=order, {n})",
]
CALLS += ["bank.forward(x, models=np.arange(500), {n})"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("engine", "asked"), [("1", "8"), ("None", "1"), ("1", "None")])
def test_the_lesser_of_the_engines_and_the_calls_threads_counts(
    run_python: RunPython, call: str, engine: str, asked: str
) -> None:
    """One thread asks no helper; the same call with more makes them start."""
    script = f"""
if budget > 1:
    order = np.arange(500)[::-1].copy()
    free = bank
    bank = mlpbank.BatchedInference.from_weights(free.weights, mlpbank.Engine({engine}))
    one = {call.format(x="x", n=f"num_threads={asked}")}
    assert tasks() == before, "helpers were started for one thread"
    bank = free
    assert np.array_equal({call.format(x="x", n="num_threads=2")}, one)
    assert tasks() > before, "this call is too short to tell"
"""
    run_python(PRELUDE + script)


def test_sixteen_callers_have_one_team_of_helpers(run_python: RunPython) -> None:
    script = """
callers, most, wrong = 16, 0, []
barrier = threading.Barrier(callers)

def call():
    barrier.wait()
    for _ in range(50):
        if not np.array_equal(bank.forward(x), serial):
            wrong.append(1)

threads = [threading.Thread(target=call) for _ in range(callers)]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    most = max(most, tasks())
assert not wrong
assert most <= before + callers + budget - 1, (most, before)
"""
    run_python(PRELUDE + script)


def test_helpers_sleep_when_there_is_nothing_to_do(run_python: RunPython) -> None:
    """Less than 1 % of one CPU, from some second on after the last call: a busy machine may let them sleep later."""
    script = """
for _ in range(20):
    bank.forward(x)
for second in range(30):
    start = time.process_time()  # of all threads
    time.sleep(1)
    used = time.process_time() - start
    if used < 0.01:
        break
assert used < 0.01, used
"""
    run_python(PRELUDE + script)


def test_threadpoolctl_sees_and_limits_us(run_python: RunPython) -> None:
    pytest.importorskip("threadpoolctl")
    script = """
from threadpoolctl import threadpool_info, threadpool_limits

assert "libgomp" in [pool["prefix"] for pool in threadpool_info() if pool["user_api"] == "openmp"]
with threadpool_limits(1):
    for _ in range(10):
        assert np.array_equal(bank.forward(x), serial)
    assert tasks() <= before  # BLAS may have stopped threads
    before = tasks()
with threadpool_limits(1, user_api="openmp"):
    assert np.array_equal(bank.forward(x), serial)
assert tasks() == before
assert np.array_equal(bank.forward(x), serial)
assert tasks_become(before + budget - 1)
with threadpool_limits(1, user_api="openmp"):  # now that there are helpers, they have nothing to do
    stat = lambda: [open(f"/proc/self/task/{t}/schedstat").read() for t in os.listdir("/proc/self/task")
                    if int(t) != threading.get_native_id()]
    for _ in range(30):  # on a busy machine they may come to sleep late
        time.sleep(0.2)
        asleep = stat()
        for _ in range(10):
            bank.forward(x)
        if stat() == asleep:
            break
    assert stat() == asleep
"""
    run_python(PRELUDE + script)


def test_refused_threads_are_done_without(run_python: RunPython, tmp_path: Path) -> None:
    """The system gives two helpers where the CPUs are for seven, then none."""
    if os.getuid() != 0:
        pytest.skip("only root can become a user without other processes")
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    # Stands in for a machine with eight CPUs.
    source = tmp_path / "eight.cpp"
    source.write_text(
        """
        #include <sched.h>
        #include <cstring>
        extern "C" int sched_getaffinity(pid_t, size_t size, cpu_set_t* set) noexcept {
          std::memset(set, 0, size);
          for (int i = 0; i < 8; ++i) CPU_SET(i, set);
          return 0;
        }
        """
    )
    library = tmp_path / "eight.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    script = """
import resource
assert budget == 8, budget
if {more} >= 0:
    os.setuid(54321)
    resource.setrlimit(resource.RLIMIT_NPROC, (before + {more},) * 2)
assert np.array_equal(bank.forward(x, num_threads=8), serial)
assert tasks_become(before + {expected})
"""
    for more, expected in [(0, 0), (2, 2), (-1, 7)]:
        run_python(
            PRELUDE + script.format(more=more, expected=expected),
            LD_PRELOAD=f"{os.environ.get('LD_PRELOAD', '')} {library}".strip(),
            OPENBLAS_NUM_THREADS="1",
        )


NEIGHBOURS = {
    "torch": """
import torch
square = torch.ones(500, 500)
assert float((square @ square)[0, 0]) == 500
""",
    "sklearn": """
from sklearn.cluster import KMeans
KMeans(4, n_init=1, random_state=0).fit(np.random.default_rng(0).standard_normal((5000, 8)))
""",
    "onnxruntime": """
import onnxruntime
onnxruntime.get_available_providers()
""",
    "mlpbank": PRELUDE,
}


@pytest.mark.parametrize("order", sweep(itertools.permutations(NEIGHBOURS), 18), ids="-".join)
def test_any_order_of_imports(run_python: RunPython, order: tuple[str, ...]) -> None:
    """All are imported and at work, in each order; then mlpbank's results are those of one thread."""
    for library in order:
        pytest.importorskip(library)
    script = "import numpy as np\n" + "".join(NEIGHBOURS[library] for library in order)
    run_python(
        script
        + "for _ in range(5): assert np.array_equal(bank.forward(x), serial)\nassert tasks() >= budget"
    )


DAEMONS = {
    "forward": "bank.forward(x)",
    "ids": "bank.forward(x, models=order)",
    "shared": "bank.forward_shared(x[0])",
    "load": "bank.load_weights(3, weights)",
    "load_stacked": "bank.weights.load_stacked(stacked)",
    "unload": "bank.unload(4)",
    "get": "bank.weights.get(3)",
    "copy": "bank.weights.__reduce__()",
}


@pytest.mark.parametrize("name", sweep(DAEMONS, 4))
def test_daemon_threads_do_not_disturb_the_end_of_the_process(
    run_python: RunPython, name: str
) -> None:
    """Many are without the GIL at that moment; each must stand still when it wants it back.

    Python's debugging allocator ends the process where an object is dropped without the GIL.
    """
    script = f"""
weights = bank.weights.get(3)
stacked = {{name: np.stack([array] * 500) for name, array in weights.items()}}
order = np.arange(500)[::-1].copy()
begun = threading.Semaphore(0)

def again():
    begun.release()
    while True:
        {DAEMONS[name]}

for _ in range(12):
    threading.Thread(target=again, daemon=True).start()
for _ in range(12):
    begun.acquire()
time.sleep(0.02)
"""
    for _ in range(3):
        run_python(PRELUDE + script, PYTHONMALLOC="debug")

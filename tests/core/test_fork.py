"""Child processes: threads do not come along with a fork, results must all the same, and nothing may hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from cases import LAYOUTS, RunPython, sweep

pytestmark = pytest.mark.threads

# Python warns since 3.12 that forking a process with threads is dangerous; that it is not here is
# what is tested.
PRELUDE = """
import os, signal, sys, threading, warnings
import numpy as np
import mlpbank

warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
rng = np.random.default_rng(0)
arch = mlpbank.Architecture.mlp(32, 64, 64, 5)
bi = mlpbank.BatchedInference(300, arch, layout={layout!r})
stacked = {{
    f"layer_{{i}}": rng.standard_normal((300, s.input_size, s.output_size)).astype("f4")
    for i, s in enumerate(arch.layers)
}}
bi.weights.load_stacked(stacked)
x = rng.standard_normal((300, 8, 32)).astype("f4")
expected = bi.forward(x)


def child(check):
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)  # a child that hangs dies of it
        try:
            check()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def wait(pid):
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with status {{status}}"


def check():
    for _ in range(5):
        assert np.array_equal(bi.forward(x), expected)
    for model in range(300):
        bi.load_weights(model, {{name: array[model] for name, array in stacked.items()}})
    bi.weights.load_stacked(stacked)
    ids = np.arange(300)[::-1]
    assert np.array_equal(bi.forward(x[ids], models=ids), expected[ids])
    assert np.array_equal(mlpbank.BatchedInference.from_weights(bi.weights).forward(x), expected)
"""

AFTER_FORWARD = """
wait(child(check))
check()  # the parent goes on as before
"""

GRANDCHILD = """
def grandchild():
    check()
    wait(child(check))
wait(child(grandchild))
"""

BEFORE_ANY_FORWARD = """
fresh = mlpbank.BatchedInference.from_weights(bi.weights)
wait(child(check))
"""

MANY_CHILDREN = """
children = [child(check) for _ in range(4)]
check()
for pid in children:
    wait(pid)
"""

# The fork comes while other threads are in the middle of forwards and loads.
DURING = """
stop = threading.Event()

def predict():
    while not stop.is_set():
        bi.forward(x)

def load():
    while not stop.is_set():
        bi.load_weights(0, {name: array[0] for name, array in stacked.items()})

threads = [threading.Thread(target=f) for f in FUNCTIONS]
for thread in threads:
    thread.start()
try:
    for _ in range(8):
        wait(child(check))
finally:
    stop.set()
    for thread in threads:
        thread.join()
check()
"""

# Readers of the parent do not exist in the child, and must not keep its memory for ever.
MEMORY = """
stop = threading.Event()
long = np.repeat(x, 30, axis=1)

def predict():
    while not stop.is_set():
        bi.forward(long, num_threads=1)
        bi.forward(long[::-1], models=np.arange(300)[::-1].copy(), num_threads=1)

def memory_is_used_again():
    one = {name: array[0] for name, array in stacked.items()}
    def rounds(n):
        for i in range(n):
            bi.load_weights(i % 300, one)
        bi.weights.load_stacked(stacked)
    rounds(20)
    rounds(20)
    rounds(20)
    before = bi.weights.nbytes
    rounds(3000)
    assert bi.weights.nbytes == before, (before, bi.weights.nbytes)
    check()

threads = [threading.Thread(target=predict) for _ in range(2)]
for thread in threads:
    thread.start()
try:
    for _ in range(4):
        wait(child(memory_is_used_again))
finally:
    stop.set()
    for thread in threads:
        thread.join()
memory_is_used_again()
"""

MULTIPROCESSING = """
import multiprocessing

def in_pool(model):
    return bi.forward(x[model : model + 1], models=[model])[0]

with multiprocessing.get_context("fork").Pool(2) as pool:
    rows = pool.map_async(in_pool, range(100)).get(60)
assert np.array_equal(np.stack(rows), expected[:100])
"""

USES_ITS_CORES = """
def uses_its_cores():
    assert len(os.listdir("/proc/self/task")) == 1
    check()
    assert len(os.listdir("/proc/self/task")) == int(mlpbank.cpu_budget())
wait(child(uses_its_cores))

def has_one_cpu():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    check()
    assert len(os.listdir("/proc/self/task")) == 1
wait(child(has_one_cpu))
"""

SCRIPTS = {
    "after-forward": AFTER_FORWARD,
    "uses-its-cores": USES_ITS_CORES,
    "grandchild": GRANDCHILD,
    "many-children": MANY_CHILDREN,
    "while-others-predict": DURING.replace("FUNCTIONS", "[predict, predict]"),
    "memory": MEMORY,
    "while-others-load": DURING.replace("FUNCTIONS", "[load, load]"),
    "multiprocessing": MULTIPROCESSING,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_forked_children_predict_and_load(run_python: RunPython, layout: str, name: str) -> None:
    run_python(PRELUDE.format(layout=layout) + SCRIPTS[name], timeout=600)


def test_child_of_a_parent_that_never_predicted(run_python: RunPython) -> None:
    """There are no helpers yet: the child makes its own."""
    script = PRELUDE.format(layout="panel").replace("expected = bi.forward(x)", "expected = None")
    run_python(
        script
        + """
def first():
    y = bi.forward(x)
    assert np.array_equal(bi.forward(x, num_threads=1), y)
wait(child(first))
first()
"""
    )


# --- A hundred children beside other libraries that have threads.

# What starts each library's threads in the parent.
WARM_UP = {
    "numpy": "square = rng.standard_normal((700, 700)); square @ square",
    "sklearn": """
from sklearn.cluster import KMeans
KMeans(8, n_init=1).fit(rng.standard_normal((20000, 8)))
""",
    "torch": """
import torch
square = torch.ones(700, 700)
square @ square
torch.nn.functional.relu(torch.ones(2_000_000)).sum()
""",
}

HUNDRED = """
import multiprocessing

stop = threading.Event()

def keep_on():
    while not stop.is_set():
        bi.forward(x)

def few_forwards():
    signal.alarm(60)
    for _ in range(3):
        assert np.array_equal(bi.forward(x), expected)
    signal.alarm(0)

threads = [threading.Thread(target=keep_on) for _ in range({busy})]
for thread in threads:
    thread.start()
try:
    for _ in range(25):
        for pid in [child(few_forwards) for _ in range(2)]:
            wait(pid)
    for _ in range(25):
        processes = [multiprocessing.get_context("fork").Process(target=few_forwards) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0, process.exitcode
finally:
    stop.set()
    for thread in threads:
        thread.join()
check()
"""


@pytest.mark.parametrize("busy", [0, 1])
@pytest.mark.parametrize("library", sweep(WARM_UP, 3))
def test_hundred_forks_beside_other_libraries(
    run_python: RunPython, library: str, busy: int
) -> None:
    pytest.importorskip(library)
    run_python(
        PRELUDE.format(layout="auto") + WARM_UP[library] + HUNDRED.format(busy=busy), timeout=600
    )


# spawn imports this module, so what children run must be in one.
MODULE = """
import signal
import numpy as np

def predict(bank, x, expected):
    signal.alarm(60)
    for _ in range(3):
        assert np.array_equal(bank.forward(x), expected)
    signal.alarm(0)
"""


@pytest.mark.parametrize("method", sweep(["forkserver", "spawn"], every=2))
def test_children_by_other_methods(run_python: RunPython, tmp_path: Path, method: str) -> None:
    (tmp_path / "children.py").write_text(MODULE)
    script = f"""
import multiprocessing
from children import predict

context = multiprocessing.get_context("{method}")
context.set_forkserver_preload(["children", "mlpbank"])
for _ in range(50):
    processes = [context.Process(target=predict, args=(bi, x, expected)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0, process.exitcode
"""
    run_python(PRELUDE.format(layout="auto") + script, timeout=600)

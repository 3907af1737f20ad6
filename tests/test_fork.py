"""Children made by os.fork: OpenMP's threads do not come along, results must all the same, and nothing may hang."""

from __future__ import annotations

import pytest

from cases import LAYOUTS, RunPython

# Python warns since 3.12 that forking a process with threads is dangerous; that it is not here is what is tested.
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
        signal.alarm(20)  # a child that hangs dies of it
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

MULTIPROCESSING = """
import multiprocessing

def in_pool(model):
    return bi.forward(x[model : model + 1], models=[model])[0]

with multiprocessing.get_context("fork").Pool(2) as pool:
    rows = pool.map_async(in_pool, range(100)).get(60)
assert np.array_equal(np.stack(rows), expected[:100])
"""

SCRIPTS = {
    "after-forward": AFTER_FORWARD,
    "grandchild": GRANDCHILD,
    "many-children": MANY_CHILDREN,
    "while-others-predict": DURING.replace("FUNCTIONS", "[predict, predict]"),
    "while-others-load": DURING.replace("FUNCTIONS", "[load, load]"),
    "multiprocessing": MULTIPROCESSING,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_forked_children_predict_and_load(run_python: RunPython, layout: str, name: str) -> None:
    run_python(PRELUDE.format(layout=layout) + SCRIPTS[name], timeout=180)


def test_child_of_a_parent_that_never_predicted(run_python: RunPython) -> None:
    """OpenMP has no team yet: the child may make one of its own."""
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

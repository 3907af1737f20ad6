"""Many Python threads at once: right outputs, loads beside predictions, models that come and go."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cases import (
    FUSED_ISAS,
    ISAS,
    LAYOUTS,
    Case,
    Float32Array,
    Weights,
    architecture,
    assert_same_bits,
    case,
    one_model,
)
from mlpbank import (
    Activation,
    Architecture,
    BatchedInference,
    BatchedWeights,
    Engine,
    ModelNotLoadedError,
)

pytestmark = pytest.mark.threads

# Far longer than anything here takes: it turns a hang into a failure.
TIMEOUT = 120


def in_threads(workers: list[Callable[[], None]]) -> None:
    """Run all at once and raise what any of them raises."""
    barrier = threading.Barrier(len(workers))

    def start(worker: Callable[[], None]) -> None:
        barrier.wait(TIMEOUT)
        worker()

    with ThreadPoolExecutor(len(workers)) as pool:
        for future in [pool.submit(start, worker) for worker in workers]:
            future.result(TIMEOUT)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_calls_in_many_threads_do_not_disturb_each_other(layout: str, num_threads: int) -> None:
    """Networks of several sizes, with more and with less work than is shared out to helpers."""
    shapes = [((20, 33, 17), 300, 5), ((3, 5, 2), 20, 1), ((65, 64, 64, 3), 40, 30)]
    cases = [
        case(architecture(sizes, Activation.TANH), num_models, rows)
        for sizes, num_models, rows in shapes
    ]
    inferences = [c.inference(ISAS[0], layout, num_threads) for c in cases]
    expected = [
        inference.forward(c.x, num_threads=1)
        for inference, c in zip(inferences, cases, strict=True)
    ]

    def worker(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(40):
            i = int(rng.integers(len(cases)))
            inference, c = inferences[i], cases[i]
            assert_same_bits(inference.forward(c.x, num_threads=num_threads), expected[i])
            slots = rng.integers(0, len(c.x), 30)
            assert_same_bits(inference.forward(c.x[slots], models=slots), expected[i][slots])

    in_threads([lambda seed=seed: worker(seed) for seed in range(6)])  # type: ignore[misc]


@pytest.mark.skipif(
    len(FUSED_ISAS) < 2, reason="this CPU has only one instruction set with fused multiply-add"
)
def test_different_instruction_sets_at_once() -> None:
    c = case(architecture((20, 33, 17), Activation.TANH), 100, 5)
    inferences = [c.inference(isa, layout) for isa in FUSED_ISAS for layout in LAYOUTS]
    expected = inferences[0].forward(c.x)

    def worker(inference: BatchedInference) -> None:
        for _ in range(40):
            assert_same_bits(inference.forward(c.x), expected)

    in_threads([lambda inference=inference: worker(inference) for inference in inferences])  # type: ignore[misc]


def test_errors_in_one_thread_leave_the_others_alone(layout: str) -> None:
    c = case(architecture((20, 33, 17), Activation.TANH), 100, 5)
    inference = c.inference(ISAS[0], layout)
    expected = inference.forward(c.x)

    def right() -> None:
        for _ in range(50):
            assert_same_bits(inference.forward(c.x), expected)

    def wrong() -> None:
        for _ in range(50):
            with pytest.raises(IndexError, match=r"^models\[0\]: "):
                inference.forward(c.x[:1], models=[100])

    in_threads([right, wrong, right, wrong])


@pytest.mark.parametrize("num_models", [100, 100_000])
@pytest.mark.parametrize("ascending", [False, True])
def test_models_may_be_overwritten_meanwhile(layout: str, num_models: int, ascending: bool) -> None:
    """A call then gives rows of either models, or an error; it reads and writes nothing else."""
    inference = BatchedInference(num_models, Architecture.mlp(1, 1), layout=layout)
    inference.weights.load_stacked(
        {
            "layer_0": np.zeros((num_models, 1, 1), np.float32),
            "layer_0.bias": np.arange(num_models, dtype=np.float32).reshape(-1, 1),
        }
    )
    models = np.random.default_rng(0).integers(0, num_models, 500_000)
    if ascending:
        models.sort()
    right, ends = models.copy(), threading.Event()
    x = np.zeros((len(models), 1), np.float32)

    def overwrite() -> None:
        while not ends.is_set():
            for other in (num_models - 1, 3_000_000_000):
                models[:] = other
                time.sleep(0.0003)
                models[:] = right
                time.sleep(0.002)

    def call() -> None:
        try:
            for _ in range(60):
                with contextlib.suppress(IndexError):
                    y = inference.forward(x, models=models)[:, 0]
                    assert ((y == right) | (y == num_models - 1)).all()
        finally:
            ends.set()

    in_threads([overwrite, call])


# --- Loading while others predict.


@pytest.fixture
def revisions(layout: str) -> tuple[BatchedWeights, Case, list[Weights], list[Float32Array]]:
    """Weights, two revisions of their contents, and the results of each."""
    old = case(architecture((9, 33, 17), Activation.TANH), 40, 3)
    new = Case(old.architecture, {name: -array for name, array in old.weights.items()}, old.x)
    results = [c.inference(ISAS[0], layout).forward(c.x) for c in (old, new)]
    return old.batched_weights(layout), old, [old.weights, new.weights], results


class Stop:
    """Runs functions over and over in threads until the block ends, and raises what they raised."""

    def __init__(self, *functions: Callable[[], object]) -> None:
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(f,), daemon=True) for f in functions
        ]
        self._interval = sys.getswitchinterval()
        self.rounds = 0

    def _run(self, function: Callable[[], object]) -> None:
        try:
            while not self._stop.is_set():
                function()
                self.rounds += 1  # two threads may count one round only, which is good enough
        except BaseException as error:
            self._errors.append(error)

    @property
    def alive(self) -> bool:
        return not self._errors

    def __enter__(self) -> Stop:
        # The threads run Python nearly all the time: with the usual 5 ms a turn the others would
        # wait for minutes.
        sys.setswitchinterval(1e-4)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        sys.setswitchinterval(self._interval)
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive(), "hangs"
        if self._errors:
            raise self._errors[0]


def revision_of(rows: Float32Array, results: list[Float32Array], model: int) -> int:
    for i, result in enumerate(results):
        if np.array_equal(rows, result[model]):
            return i
    raise AssertionError(f"model {model}: neither the old nor the new weights give this")


def test_each_result_is_of_one_revision(
    revisions: tuple[BatchedWeights, Case, list[Weights], list[Float32Array]],
) -> None:
    weights, c, contents, results = revisions
    inference = BatchedInference.from_weights(weights)
    seen = set()

    def predict() -> None:
        for model, rows in enumerate(inference.forward(c.x)):
            seen.add(revision_of(rows, results, model))

    def predict_some() -> None:
        slots = np.array([3, 39, 3, 17, 16])
        for model, rows in zip(slots, inference.forward(c.x[slots], models=slots), strict=True):
            revision_of(rows, results, model)

    deadline = time.monotonic() + TIMEOUT
    with Stop(predict, predict_some) as busy:
        turn = 0
        while turn < 8 or (seen != {0, 1} and busy.alive and time.monotonic() < deadline):
            turn += 1
            revision = (turn + 1) % 2
            for model in np.random.default_rng(turn).permutation(40):
                weights.load(model, one_model(contents[revision], model))
            # Whatever starts after a load has returned sees it.
            assert_same_bits(inference.forward(c.x), results[revision])
            weights.load_stacked(contents[1 - revision])
            assert_same_bits(inference.forward(c.x), results[1 - revision])
    assert seen == {0, 1}


def test_all_rows_of_a_model_are_of_one_revision_however_they_are_shared_out(layout: str) -> None:
    """Thousands of rows of one model go to several threads, piece by piece."""
    old = case(architecture((9, 33, 17), Activation.TANH), 2, 3000)
    new = Case(old.architecture, {name: -array for name, array in old.weights.items()}, old.x)
    weights = old.batched_weights(layout)
    inference = BatchedInference.from_weights(weights)
    slots = np.repeat([0, 1], 3000)
    x_of_slots = old.x.reshape(6000, 9)
    results = [c.inference(ISAS[0], layout).forward(c.x) for c in (old, new)]

    def predict() -> None:
        for model, rows in enumerate(inference.forward(old.x)):
            revision_of(rows, results, model)

    def predict_entries() -> None:
        for model, rows in enumerate(
            inference.forward(x_of_slots, models=slots).reshape(2, 3000, 17)
        ):
            revision_of(rows, results, model)

    with Stop(predict, predict_entries) as busy:
        turn = 0
        while busy.rounds < 100 and busy.alive:
            turn += 1
            for model in range(2):
                weights.load(model, one_model((old, new)[turn % 2].weights, model))


def test_a_model_read_back_is_of_one_revision(
    revisions: tuple[BatchedWeights, Case, list[Weights], list[Float32Array]],
) -> None:
    weights, _, contents, _ = revisions

    def read() -> None:
        got = weights.get(5)
        sign = 1 if np.array_equal(got["layer_0"], contents[0]["layer_0"][5]) else 0
        for name, array in got.items():
            assert_same_bits(array, contents[1 - sign][name][5])
        assert weights.loaded.all()

    with Stop(read, read):
        for turn in range(500):
            weights.load(5, one_model(contents[turn % 2], 5))


def test_loads_come_through_however_busy_the_readers_are(layout: str) -> None:
    """With eight threads always in forward there is hardly a moment without a reader.

    Counted in forwards and not in seconds: a load waits for those that run, not for those that are
    still to come.
    """
    c = case(architecture((64, 64, 64), Activation.RELU), 200, 10)
    inference = c.inference(ISAS[0], layout, 1)
    readers, loads = 8, 150
    allowed = loads * readers * 10
    loaded = threading.Event()

    def load() -> None:
        for model in range(loads):
            inference.load_weights(model % 200, one_model(c.weights, model % 200))
        loaded.set()

    with Stop(*[lambda: inference.forward(c.x)] * readers) as busy:
        start = busy.rounds
        loader = threading.Thread(target=load, daemon=True)
        loader.start()
        while not loaded.wait(0.05) and busy.rounds - start < allowed:
            pass
        forwards = busy.rounds - start
        came_through = loaded.is_set()
    loader.join(TIMEOUT)
    assert came_through, f"{forwards} forwards went before {loads} loads"


# --- Unloading and growing while others predict.


def during(
    call: Callable[[], object], change: Callable[[], object], delay: float
) -> BaseException | None:
    """Run a call, and a change so many seconds after it began, and return what the call raised."""
    begun = threading.Event()

    def later() -> None:
        begun.wait(TIMEOUT)
        time.sleep(delay)
        change()

    thread = threading.Thread(target=later)
    thread.start()
    try:
        begun.set()
        call()
    except ModelNotLoadedError as error:
        return error
    finally:
        thread.join(TIMEOUT)
    return None


def test_a_model_that_is_unloaded_during_a_call_is_never_silently_nan(layout: str) -> None:
    """Its rows are right or the call is an error, until it is unloaded after the call's check."""
    c = case(architecture((128, 128, 128), Activation.TANH), 64, 200)
    inference = c.inference(ISAS[-1], layout, 1)
    expected = inference.forward(c.x)
    out = np.empty_like(expected)
    deadline, attempt = time.monotonic() + TIMEOUT, 0
    while time.monotonic() < deadline:
        attempt += 1
        out[:] = 9
        error = during(
            lambda: inference.forward(c.x, out=out),
            lambda: inference.unload(63),
            attempt % 8 * 1e-3,
        )
        if error is None:
            assert_same_bits(out, expected)
        else:
            assert error.args[0] == "model 63: no weights were loaded"
            if (out[0] != 9).all():  # the call had begun to compute
                return
        inference.load_weights(63, one_model(c.weights, 63))
    pytest.fail("no model was ever unloaded in the middle of a call")


def test_a_call_by_slots_computes_with_what_it_has_found(layout: str) -> None:
    """Models are looked up once, before anything is computed: unloading later changes nothing."""
    c = case(architecture((64, 64, 64), Activation.TANH), 40, 100)
    inference = c.inference(ISAS[-1], layout, 1)
    slots = np.arange(40)[::-1].copy()
    expected = inference.forward(c.x[slots], models=slots)
    x, out = c.x[slots], np.empty_like(expected)
    for attempt in range(12):
        out[:] = 9
        error = during(
            lambda: inference.forward(x, models=slots, out=out),
            lambda: inference.unload(0),
            attempt * 1e-3,
        )
        if error is None:
            assert_same_bits(out, expected)
        else:
            assert (out == 9).all()
        inference.load_weights(0, one_model(c.weights, 0))


def test_calls_beside_growing_are_of_one_number_of_models(layout: str) -> None:
    """The number of rows decides. Models added while the call runs are not looked at."""
    c = case(architecture((3, 5, 2), Activation.NONE), 2000, 1)
    x, results, one = (
        c.x[:, 0],
        c.inference(ISAS[0], layout).forward(c.x)[:, 0],
        one_model(c.weights, 0),
    )
    right = rounds = 0
    deadline = time.monotonic() + TIMEOUT
    while (rounds < 3 or right < 100) and time.monotonic() < deadline:
        rounds += 1
        inference = BatchedInference(1, c.architecture, layout=layout)
        inference.load_weights(0, one)

        def grow(inference: BatchedInference = inference) -> None:
            for model in range(1, 2000):
                inference.grow(1)
                inference.load_weights(model, one_model(c.weights, model))

        thread = threading.Thread(target=grow)
        thread.start()
        while thread.is_alive():
            rows = x[: inference.num_models]
            error: Exception | None = None
            try:
                y = inference.forward(rows)
            except (ValueError, ModelNotLoadedError) as raised:
                error = raised
            if error is None:
                assert_same_bits(y, results[: len(rows)])
                right += 1
            elif isinstance(error, ModelNotLoadedError):  # the last model has no weights yet
                assert str(error) == f"model {len(rows) - 1}: no weights were loaded"
            else:
                assert str(error).startswith("x: expected first dimension ")
        thread.join(TIMEOUT)
        assert_same_bits(inference.forward(x), results)
    assert right >= 100


def test_inferences_are_made_and_dropped_in_many_threads() -> None:
    arch = Architecture.mlp(3, 20, 2)

    def worker() -> None:
        for n in range(1, 40):
            inference = BatchedInference(n, arch, Engine())
            inference.weights.load_stacked(
                {"layer_0": np.ones((n, 60)), "layer_1": np.ones((n, 40))}
            )
            assert (inference.forward(np.ones((n, 3))) == 60).all()

    in_threads([worker] * 4)

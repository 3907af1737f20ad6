"""Features whose mean is large beside their deviation, such as timestamps, lose no digits."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert_checks import silently
from mlpbank import Architecture, Bank, BatchedWeights, convert
from mlpbank.serving import MicroBatcher

pytest.importorskip("sklearn")
import pandas as pd
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

Rows = np.ndarray[Any, np.dtype[np.float64]]
SCALERS: list[Callable[[], Any]] = [StandardScaler, RobustScaler, MinMaxScaler]
RATIOS = [1, 10, 30, 60, 639, 1e4, 1e6, 1e9]


def rows(ratio: float, seed: int, moved: float = 0.0) -> Rows:
    """Return rows whose first feature has a mean of `ratio` deviations, the second minus that."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 3))
    deviation = np.array([24.0, 1e3, 1.0])
    return (x + np.array([ratio + moved, -ratio, 0])) * deviation


def pipeline(x: Rows, seed: int = 0, scaler: Any = StandardScaler) -> Pipeline:
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    network = MLPRegressor(hidden_layer_sizes=(12,), max_iter=60, random_state=seed)
    with silently():  # it has not converged
        return make_pipeline(scaler(), network).fit(x, np.sin(z[:, 0]) + z[:, 1] + z[:, 2])


def fleet(ratio: float, scaler: Any = StandardScaler) -> tuple[dict[str, Any], Rows, Rows]:
    """Return four pipelines with means some deviations apart, rows for them, and predictions."""
    xs = [rows(ratio, seed, moved=3.0 * seed) for seed in range(4)]
    models = {f"m{seed}": pipeline(x, seed, scaler) for seed, x in enumerate(xs)}
    right = np.stack([model.predict(x) for model, x in zip(models.values(), xs, strict=True)])
    return models, np.stack(xs), right


def assert_near(y: Any, right: Rows) -> None:
    np.testing.assert_allclose(np.reshape(y, right.shape), right, rtol=1e-5, atol=1e-5)


def refused(kind: type[Exception], part: str) -> Any:
    return pytest.raises(kind, match=re.escape(part))


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_predictions_are_those_of_the_pipelines(ratio: float, scaler: Any) -> None:
    models, x, right = fleet(ratio, scaler)
    bank = Bank.from_models(models)
    if scaler is StandardScaler and ratio != 30:  # 30 to 39 with the fleet's differences
        assert (bank.input_shift is not None) == (ratio > 32)
    assert_near(bank.predict(list(models), x), right)
    assert_near(bank.predict_handles(bank.handles(list(models)), x), right)
    assert_near(bank.predict("m2", x[2]), right[2])
    assert_near(bank.predict("m2", x[2, 0]), right[2, :1])
    added = Bank(bank.architecture)
    for key, model in models.items():
        added.add(key, model)
    assert_near(added.predict(list(models), x), right)


@pytest.mark.parametrize("ratio", RATIOS)
def test_scalers_beside_the_networks(ratio: float) -> None:
    models, x, right = fleet(ratio)
    networks = {key: model[-1] for key, model in models.items()}
    keys, architecture, weights = convert.stack(networks)
    mean, scale = (
        np.stack([getattr(model[0], part) for model in models.values()])
        for part in ("mean_", "scale_")
    )
    bank = Bank.from_stacked(keys, architecture, weights, input_scaler=(mean, scale))
    assert_near(bank.predict(keys, x), right)
    bank = Bank(architecture)
    for key, model in models.items():
        bank.add(key, networks[key], input_scaler=model[0])
    assert_near(bank.predict(keys, x), right)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rough_weights_are_off_no_more_than_those_of_the_network(dtype: Any) -> None:
    x = rows(20, 0)
    model = pipeline(x)
    right = model.predict(x)
    folded = Bank.from_models({"a": model}, dtype=dtype).predict("a", x)[:, 0]
    network = Bank.from_models({"a": model[-1]}, dtype=dtype)
    outside = network.predict("a", model[0].transform(x))[:, 0]
    assert np.abs(folded - right).max() < 3 * np.abs(outside - right).max()


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64])
def test_whole_seconds_of_any_dtype(dtype: Any) -> None:
    rng = np.random.default_rng(7)
    seconds = rng.integers(1_750_000_000, 1_750_086_400, (300, 1))
    x = seconds.astype(np.float64)
    with silently():
        model = make_pipeline(
            StandardScaler(), MLPRegressor(hidden_layer_sizes=(9,), max_iter=90, random_state=1)
        ).fit(x, np.sin(x[:, 0] / 1e4))
    bank = Bank.from_models({1: model})
    assert_near(bank.predict(np.ones(300, np.int64), seconds.astype(dtype)), model.predict(x))
    assert_near(bank.predict(1, seconds.tolist()), model.predict(x))
    frame = pd.DataFrame({"at": seconds[:, 0].astype(dtype), "who": 1})
    assert_near(bank.predict_frame(frame, key="who", features=["at"]), model.predict(x))


def test_a_micro_batcher_takes_float64_rows() -> None:
    models, x, right = fleet(1e6)
    bank = Bank.from_models(models)

    async def ask() -> list[Any]:
        async with MicroBatcher(bank) as batcher:
            one = [batcher.predict(key, x[i, 5]) for i, key in enumerate(models)]
            lists = [batcher.predict(key, x[i, 5].tolist()) for i, key in enumerate(models)]
            many = [batcher.predict(key, x[i]) for i, key in enumerate(models)]
            return await asyncio.gather(*one, *lists, *many)

    answers = asyncio.run(ask())
    assert_near(answers[:4], right[:, 5])
    assert_near(answers[4:8], right[:, 5])
    assert_near(answers[8:], right)


def test_files_pickles_and_copies_keep_the_shift(tmp_path: Path) -> None:
    models, x, _ = fleet(1e6)
    bank = Bank.from_models(models)
    y = bank.predict(list(models), x)
    bank.save(tmp_path / "bank.mlpbank")
    bank.to_safetensors(tmp_path / "bank.safetensors")
    copies = [
        Bank.open(tmp_path / "bank.mlpbank"),
        Bank.open(tmp_path / "bank.mlpbank", mmap=False),
        Bank.from_safetensors(tmp_path / "bank.safetensors"),
        Bank.from_stacked(*bank.to_stacked()),
        Bank.from_models({key: bank[key] for key in bank}, bank.architecture),
        pickle.loads(pickle.dumps(bank)),
        copy.deepcopy(bank),
    ]
    for other in copies:
        np.testing.assert_array_equal(other.input_shift, bank.input_shift)
        np.testing.assert_array_equal(other.predict(list(models), x), y)


def test_a_bank_without_models_keeps_its_shift(tmp_path: Path) -> None:
    shift = np.array([1.75e9 + 1 / 3, 0.1, -0.0])
    bank = Bank(Architecture.mlp(3, 1), input_shift=shift)
    bank.save(tmp_path / "empty.mlpbank")
    for other in (Bank.open(tmp_path / "empty.mlpbank"), Bank.from_stacked(*bank.to_stacked())):
        assert other.input_shift is not None
        assert other.input_shift.tobytes() == shift.tobytes()


def test_weights_of_a_bank_say_what_they_take() -> None:
    models, x, right = fleet(1e4)
    bank = Bank.from_models(models)
    bank["copy"] = bank["m1"]
    np.testing.assert_array_equal(bank.predict("copy", x[1]), bank.predict("m1", x[1]))
    # Another bank refers its weights to another shift.
    assert bank.input_shift is not None
    other = Bank(bank.architecture, input_shift=bank.input_shift + np.array([100, -100, 2]))
    other["m1"] = bank["m1"]
    assert_near(other.predict("m1", x[1]), right[1])
    empty = Bank(bank.architecture)
    empty["m1"] = bank["m1"]
    assert_near(empty.predict("m1", x[1]), right[1])
    plain = Bank(bank.architecture)
    plain["zero"] = {name: 0 * bank["m1"][name] for name in bank["m1"] if name != "input_shift"}
    with refused(ValueError, "The bank subtracts 0 from it"):
        plain["m1"] = bank["m1"]


def test_a_scaler_outside_a_model_that_has_one() -> None:
    x = rows(1e4, 0)
    inner = pipeline((x + 7e5) / 3)
    right = inner.predict((x + 7e5) / 3)
    for bank in (
        Bank.from_models({"a": inner, "b": inner}, input_scaler=(-7e5, 3.0)),
        Bank.from_stacked(*convert.stack({"a": inner, "b": inner}), input_scaler=(-7e5, 3.0)),
        Bank(Architecture.mlp(3, 12, 1)),
    ):
        if not len(bank):
            bank.add("b", inner, input_scaler=(-7e5, 3.0))
        assert_near(bank.predict("b", x), right)


def test_weights_that_take_x_itself() -> None:
    arch = Architecture.mlp(2, 1)
    bank = Bank(arch, input_shift=[1e6, 0])
    bank["sum"] = {"layer_0": [1.0, 1.0], "layer_0.bias": [-1e6]}
    np.testing.assert_array_equal(bank.predict("sum", [1e6 + 0.25, 3.0]), [3.25])
    np.testing.assert_array_equal(bank["sum"]["layer_0.bias"], [0.0])
    np.testing.assert_array_equal(bank["sum"]["input_shift"], [1e6, 0])


def test_a_model_that_the_shift_does_not_serve_is_refused_by_name() -> None:
    bank = Bank.from_models({"old": pipeline(rows(1e4, 0))})
    late = pipeline(rows(1e4, 1, moved=500))
    with refused(ValueError, "input feature 0 has mean") as error:
        bank["late"] = late
    for word in ("input_shift", "scales away", "bank of its own", "scale x yourself"):
        assert word in str(error.value)
    assert list(bank) == ["old"]
    with refused(ValueError, "models['far']: input feature 0 has mean"):
        far = pipeline(rows(1e4, 2, moved=1e5))
        Bank.from_models({str(i): pipeline(rows(1e4, i)) for i in range(2)} | {"far": far})
    with refused(ValueError, "keys[0]: input feature 0 has mean"):
        weights = {"layer_0": np.ones((3, 1, 1))}
        arch = Architecture.mlp(1, 1)
        Bank.from_stacked(list("abc"), arch, weights, input_scaler=([[1e6], [2e6], [3e6]], 1.0))


def test_a_shift_between_models_serves_all_of_them() -> None:
    models = {i: pipeline(rows(1e4, i, moved=far)) for i, far in enumerate([0, 0, 0, 200])}
    bank = Bank.from_models(models)
    for i, far in enumerate([0, 0, 0, 200]):
        x = rows(1e4, i, moved=far)
        assert_near(bank.predict(i, x), models[i].predict(x))


def test_a_failed_first_model_decides_nothing() -> None:
    bank = Bank(Architecture.mlp(3, 12, 1))
    with refused(ValueError, "layer_1: expected shape"):
        bank["bad"] = {"layer_0": np.ones((3, 12)), "layer_1": np.ones(5)}
    with refused(ValueError, "output_scaler: expected finite means"):
        bank.add("bad", pipeline(rows(1e4, 0)), output_scaler=(0, 0))
    assert bank.input_shift is None
    x = rows(1e6, 0)
    bank["good"] = model = pipeline(x)
    assert_near(bank.predict("good", x), model.predict(x))


def test_first_models_of_many_threads_agree_on_one_shift() -> None:
    models, x, right = fleet(1e5)
    for _ in range(20):
        bank = Bank(Architecture.mlp(3, 12, 1), fallback="m0")
        start = threading.Barrier(5)
        wrong: list[float] = []

        def add(key: str, bank: Bank = bank, start: threading.Barrier = start) -> None:
            start.wait()
            bank[key] = models[key]

        def ask(bank: Bank = bank, start: threading.Barrier = start, bad: Any = wrong) -> None:
            start.wait()
            for _ in range(200):
                y = bank.predict(list(models), x[:, 0], missing="nan")[:, 0]
                bad.append(float(np.nanmax(np.abs(y - right[:, 0]), initial=0)))

        threads = [threading.Thread(target=add, args=(key,)) for key in models]
        threads.append(threading.Thread(target=ask))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(wrong) < 1e-4
        assert_near(bank.predict(list(models), x), right)


def test_shapes_and_missing_keys_are_checked_as_ever() -> None:
    models, x, right = fleet(1e5)
    bank = Bank.from_models(models)
    with refused(ValueError, "x: expected last dimension 3, got 1"):
        bank.predict(["m0"], x[0, :1, :1])
    with refused(TypeError, "x: expected real numbers"):
        bank.predict(["m0"], [["a", "b", "c"]])
    y = bank.predict(["no", "m1"], x[:2, 0], missing="nan")
    assert np.isnan(y[0]).all()
    assert_near(y[1], right[1, :1])
    out = np.empty((4, 200, 1), np.float32)
    assert bank.predict(list(models), x, out=out) is out
    assert_near(out, right)


@pytest.mark.parametrize("shift", [[1.0], [1.0, np.nan], [np.inf, 0], 1.0, [[1.0, 2.0]]])
def test_shifts_that_are_none(shift: Any) -> None:
    with refused(ValueError, "input_shift: expected 2 finite numbers"):
        Bank(Architecture.mlp(2, 1), input_shift=shift)


def test_models_by_number_refuse_what_they_cannot_subtract() -> None:
    model = pipeline(rows(1e6, 0))
    one = convert.convert(model)
    assert "input_shift" in one.weights
    with refused(ValueError, "weights: take x - input_shift, which a Bank subtracts"):
        BatchedWeights(1, one.architecture).load(0, one.weights)
    keys, architecture, weights = convert.stack({"a": model, "b": model})
    with refused(ValueError, "weights: take x - input_shift"):
        BatchedWeights(2, architecture).load_stacked(weights)
    assert "input_shift" not in convert.convert(pipeline(rows(100, 0))).weights
    x = rows(1e6, 0)
    bank = Bank.from_stacked(keys, architecture, weights)
    assert_near(bank.predict("a", x), model.predict(x))
    bank["c"] = one
    assert_near(bank.predict("c", x), model.predict(x))


@pytest.mark.parametrize("number", [1e39, -3.5e38, np.inf, np.nan])
def test_a_shift_beyond_float32_is_refused_wherever_it_comes_from(number: float) -> None:
    arch = Architecture.mlp(2, 1)
    one, stacked = {"layer_0": [1.0, 1.0]}, {"layer_0": np.ones((1, 2, 1))}
    shift = {"input_shift": [number, 0.0]}
    for call in (
        lambda: Bank(arch, input_shift=[number, 0.0]),
        lambda: Bank(arch).add("a", one | shift),
        lambda: Bank.from_stacked(["a"], arch, stacked | shift),
    ):
        with refused(ValueError, "input_shift: expected 2 finite numbers in the range of float32"):
            call()

"""Sixteen threads that make every public call at once: they share banks, weights and engines.

`tests/live/test_live_every_call.py` has live banks.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlpbank
from bank_stress import ARCH, weights_of
from cases import RunProgram
from every_call import (
    KEYS,
    MODELS,
    Caller,
    Calls,
    X,
    is_answer,
    is_answer_or_nan,
    look_up_all_ways,
    names_of,
)
from mlpbank import Bank, BatchedInference, BatchedWeights, Engine, UnknownKeyError
from mlpbank.convert import (
    convert,
    fold_scalers,
    from_flat,
    stack,
)
from mlpbank.serving import MicroBatcher

pd: Any
try:
    import pandas as pd
except ImportError:  # not every CPython without a GIL has wheels of it
    pd = None

pytestmark = pytest.mark.threads

CLASSES = (Bank, BatchedInference, BatchedWeights, Engine, MicroBatcher)
CALLS = Calls()


class World:
    """What all threads share. Its models may be loaded again, with the same weights."""

    def __init__(self, layout: Any, folder: Path) -> None:
        self.folder = folder
        self.layout = layout
        models = {key: weights_of(i + 1) for i, key in enumerate(KEYS)}
        self.bank = Bank.from_models(models, ARCH, layout=layout, fallback=KEYS[0])
        self.loose = Bank(ARCH, layout=layout)  # whose models come and go
        self.inference = BatchedInference(MODELS, ARCH, layout=layout)
        self.growing = BatchedInference(MODELS, ARCH, layout=layout)
        self.weights = BatchedWeights(MODELS, ARCH, layout=layout)
        for i, model in enumerate(models.values()):
            self.inference.load_weights(i, model)
            self.growing.load_weights(i, model)
            self.weights.load(i, model)


@CALLS.by("Bank.predict", "Bank.handles", "Bank.predict_handles")
def look_up(caller: Caller) -> None:
    look_up_all_ways(caller.world.bank, caller.random.choices(range(MODELS), k=MODELS))


@CALLS.by("Bank.apredict")
def look_up_in_a_loop(caller: Caller) -> None:
    is_answer(asyncio.run(caller.world.bank.apredict(KEYS, X)), slice(None))


@CALLS.by("Bank.predict_frame", "Bank.predict_stream")
def look_up_tables(caller: Caller) -> None:
    if pd is None:
        return
    frame = pd.DataFrame({"k": KEYS, "p": X[:, 0], "q": X[:, 1]})
    is_answer(caller.world.bank.predict_frame(frame, key="k", features=["p", "q"]), slice(None))
    parts = caller.world.bank.predict_stream([frame, frame], key="k", features=["p", "q"])
    for part in parts:
        is_answer(part, slice(None))


@CALLS.by("Bank.__setitem__", "Bank.add", "Bank.info", "Bank.sources", "Bank.__getitem__")
def load_again(caller: Caller) -> None:
    bank, i = caller.world.bank, caller.pick()
    bank[KEYS[i]] = weights_of(i + 1)
    bank.add(KEYS[i], weights_of(i + 1), version=caller.name)
    assert bank.info(KEYS[i]).revision >= 2
    assert len(bank.sources(KEYS)) == MODELS
    assert np.all(bank[KEYS[i]]["layer_0"] == i + 1)


@CALLS.by("Bank.__delitem__", "Bank.__contains__", "Bank.pop")
def come_and_go(caller: Caller) -> None:
    bank, i = caller.world.bank, caller.pick()
    bank[caller.name] = weights_of(i + 1)
    assert caller.name in bank
    is_answer(bank.predict([caller.name], X[:1]), [i])
    if caller.random.random() < 0.5:
        del bank[caller.name]
    else:
        assert np.all(bank.pop(caller.name)["layer_1"] == i + 1)
    assert caller.name not in bank


@CALLS.by("Bank.update", "Bank.clear", "Bank.popitem", "Bank.__iter__", "Bank.__len__")
def change_all(caller: Caller) -> None:
    bank, i = caller.world.loose, caller.pick()
    bank.update({KEYS[i]: weights_of(i + 1), KEYS[0]: weights_of(1)})
    is_answer_or_nan(bank.predict(KEYS, X, missing="nan"), slice(None))
    assert set(bank) <= set(KEYS)
    assert len(bank) <= MODELS
    with suppress(UnknownKeyError, KeyError):
        key, weights = bank.popitem()
        assert np.all(weights["layer_0"] == KEYS.index(key) + 1)
    if caller.random.random() < 0.2:
        bank.clear()


@CALLS.by("Bank.from_models", "Bank.predict_class", "Bank.from_stacked", "Bank.to_stacked")
def make_banks(caller: Caller) -> None:
    models = {key: weights_of(i + 1) for i, key in enumerate(KEYS)}
    named = Bank.from_models(models, ARCH, classes=["first", "second"])
    assert set(named.predict_class(KEYS, X)) == {"first"}
    again = Bank.from_stacked(*caller.world.bank.to_stacked())
    is_answer(again.predict(KEYS, X), slice(None))


@CALLS.by(
    "Bank.save", "Bank.open", "Bank.to_safetensors", "Bank.from_safetensors", "Bank.__reduce_ex__"
)
def save_and_open(caller: Caller) -> None:
    bank, path = caller.world.bank, caller.folder / "bank"
    bank.save(path)
    is_answer(Bank.open(path).predict(KEYS, X), slice(None))
    bank.to_safetensors(path)
    is_answer(Bank.from_safetensors(path).predict(KEYS, X), slice(None))
    is_answer(pickle.loads(pickle.dumps(bank)).predict(KEYS, X), slice(None))


@CALLS.by(
    *("Bank.architecture", "Bank.classes", "Bank.dtype", "Bank.engine", "Bank.fallback"),
    *("Bank.feature_names", "Bank.input_shift", "Bank.key_type", "Bank.layout"),
    *("Bank.metadata", "Bank.nbytes"),
)
def ask(caller: Caller) -> None:
    bank = caller.world.bank
    assert (bank.architecture, bank.classes, bank.dtype) == (ARCH, None, "float32")
    assert (bank.feature_names, bank.input_shift) == (None, None)
    assert (bank.fallback, bank.key_type, bank.layout) == (KEYS[0], str, caller.world.layout)
    assert bank.engine.num_threads >= 1
    assert bank.nbytes > 0
    bank.metadata[caller.name] = "here"
    assert bank.metadata[caller.name] == "here"


@CALLS.by("BatchedInference.forward", "BatchedInference.load_weights", "BatchedInference.revision")
def forward(caller: Caller) -> None:
    inference, i = caller.world.inference, caller.pick()
    inference.load_weights(i, weights_of(i + 1))
    assert inference.revision(i) >= 2
    slots = caller.random.choices(range(MODELS), k=5)
    is_answer(inference.forward(X[:5], models=slots), slots)
    many = np.ones((MODELS, 400, 2), np.float32)
    is_answer(inference.forward(many)[:, 7], slice(None))
    is_answer(inference.forward(many, models=np.arange(MODELS))[:, 399], slice(None))


@CALLS.by("BatchedInference.forward_shared", "BatchedInference.grow", "BatchedInference.num_models")
def forward_shared(caller: Caller) -> None:
    inference = caller.world.growing
    before = inference.num_models
    if before < 40:
        inference.grow(1)
    assert inference.num_models >= before
    shared = inference.forward_shared(X[:3], missing="nan")
    is_answer(shared[:MODELS, 0], slice(None))


@CALLS.by("BatchedInference.from_weights", "BatchedInference.unload", "BatchedInference.__reduce__")
def own_inference(caller: Caller) -> None:
    inference = BatchedInference.from_weights(caller.world.weights, caller.world.inference.engine)
    assert inference.architecture == ARCH
    is_answer_or_nan(inference.forward(X, models=np.arange(MODELS), missing="nan"), slice(None))
    assert inference.weights is not None
    own = pickle.loads(pickle.dumps(caller.world.inference))
    own.unload(0)
    is_answer(own.forward(X[1:], models=np.arange(1, MODELS)), slice(1, None))


CALLS |= dict.fromkeys(
    (f"BatchedInference.{name}" for name in ("architecture", "engine", "weights")), own_inference
)


@CALLS.by(
    *("BatchedWeights.load", "BatchedWeights.unload", "BatchedWeights.get"),
    *("BatchedWeights.load_stacked", "BatchedWeights.revision", "BatchedWeights.loaded"),
)
def weights(caller: Caller) -> None:
    shared, i = caller.world.weights, caller.pick()
    shared.load(i, weights_of(i + 1))
    assert shared.revision(i) >= 1
    with suppress(mlpbank.ModelNotLoadedError):
        assert np.all(shared.get(i)["layer_0"] == i + 1)
    if caller.random.random() < 0.1:
        shared.unload(i)
        shared.load(i, weights_of(i + 1))
    assert len(shared.loaded) >= MODELS
    own = BatchedWeights(MODELS, ARCH, layout=caller.world.layout)
    rows = [weights_of(code + 1) for code in range(MODELS)]
    own.load_stacked({name: np.stack([row[name] for row in rows]) for name in rows[0]})
    assert np.all(own.get(i)["layer_1.bias"] == i + 1)


@CALLS.by(
    *("BatchedWeights.architecture", "BatchedWeights.dtype", "BatchedWeights.layout"),
    *("BatchedWeights.nbytes", "BatchedWeights.num_models", "BatchedWeights.grow"),
    "BatchedWeights.__reduce__",
)
def ask_weights(caller: Caller) -> None:
    shared = caller.world.weights
    assert (shared.architecture, shared.dtype) == (ARCH, "float32")
    assert (shared.layout, shared.nbytes > 0) == (caller.world.layout, True)
    own = copy.deepcopy(shared)
    models = own.num_models
    own.grow(3)
    assert own.num_models == models + 3


@CALLS.by("Engine.num_threads", "Engine.isa", "Engine.__reduce__")
def engine(caller: Caller) -> None:
    made = pickle.loads(pickle.dumps(Engine(1, caller.random.choice(mlpbank.available_isas()))))
    assert (made.num_threads, made.isa in mlpbank.available_isas()) == (1, True)
    assert int(mlpbank.cpu_budget()) >= 1


@CALLS.by(
    *("MicroBatcher.predict", "MicroBatcher.aclose", "MicroBatcher.statistics"),
    *("MicroBatcher.bank", "MicroBatcher.batches"),
    *("MicroBatcher.__aenter__", "MicroBatcher.__aexit__"),
)
def serve(caller: Caller) -> None:
    async def main() -> None:
        async with MicroBatcher(caller.world.bank, inline_work=caller.random.choice((0, 10))) as b:
            assert b.bank is caller.world.bank
            requests = [b.predict(key, x) for key, x in zip(KEYS, X, strict=True)]
            is_answer(await asyncio.gather(*requests), slice(None))
            assert (b.batches >= 1, b.statistics().requests) == (True, MODELS)

    asyncio.run(main())


@CALLS.by("convert", "stack", "from_flat", "fold_scalers")
def conversions(caller: Caller) -> None:
    code = caller.pick() + 1
    model = weights_of(code)
    assert np.all(convert(model, ARCH).weights["layer_0"] == code)
    assert stack({"a": model, "b": model}, ARCH)[0] == ["a", "b"]
    assert np.all(fold_scalers(ARCH, model)["layer_1"] == code)
    flat = np.full((1, ARCH.num_parameters), code, np.float32)
    order = ["layer_0", "layer_0.bias", "layer_1", "layer_1.bias"]
    unpacked = from_flat(flat, ARCH, order=order, weight_layout="in_out")
    assert np.all(unpacked["layer_0"] == code)


def test_all_calls_are_made() -> None:
    assert {"Bank.predict", "MicroBatcher.aclose", "Engine.isa"} <= names_of(Bank) | names_of(
        MicroBatcher
    ) | names_of(Engine)
    assert CALLS.missing(*CLASSES) == set(), "add them to this file"


def test_sixteen_threads_make_every_call(layout: str, tmp_path: Path) -> None:
    world = World(layout, tmp_path)
    CALLS.make(world)
    is_answer(world.bank.predict(KEYS, X), slice(None))
    assert sorted(world.bank) == KEYS


@pytest.mark.parametrize("call", ["batcher", "forward"])
def test_first_calls_meet(call: str, run_program: RunProgram) -> None:
    """What is made once in a process is asked for by many threads while it is being made."""
    assert run_program("first_calls", call, timeout=60) == "done"

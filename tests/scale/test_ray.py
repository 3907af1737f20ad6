"""mlpbank.ray: datasets and services against the same bank in this process, bit for bit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, InvalidTypeError
from scale_rows import rows_of

# Ray's own modules warn of what they will lose.
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200 << 20,
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()


@pytest.mark.parametrize("how", ["path", "bank", "changed bank", "reference"])
def test_every_row_of_a_dataset_has_the_bits_of_the_bank(
    ray: Any, flights: Path, columns: list[str], how: str
) -> None:
    from mlpbank.ray import Predictor

    bank = Bank.open(flights)
    if how in ("changed bank", "reference"):
        bank[next(iter(bank))] = bank[list(bank)[1]]
    frame = rows_of(flights, columns, 20_000)
    expected = bank.predict_frame(frame, key="flight", features=columns)
    given = {"key": "flight", "features": columns, "name": "minutes"}
    sent = {"path": flights, "reference": ray.put(bank)}.get(how, bank)
    got = (
        ray.data.from_pandas(frame)
        .repartition(4)
        .map_batches(
            Predictor,
            fn_constructor_kwargs={"bank": sent, **given},
            batch_format="pyarrow",
            concurrency=2,
        )
        .to_pandas()
        .sort_values("row")
    )
    np.testing.assert_array_equal(got["minutes"], expected)


def test_several_outputs_and_wrong_batches() -> None:
    import pyarrow as pa

    from mlpbank.ray import Predictor

    rng = np.random.default_rng(0)
    bank = Bank.from_stacked(
        [1, 2], Architecture.mlp(1, 2), {"layer_0": rng.normal(size=(2, 1, 2))}
    )
    predictor = Predictor(bank, key="k", features=["a"])
    table = pa.table({"k": [2, 1, 2], "a": [1.0, 2.0, 3.0]})
    got = predictor(table)
    assert got.column_names == ["k", "a", "prediction_0", "prediction_1"]
    expected = bank.predict([2, 1, 2], [[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(got["prediction_1"], expected[:, 1])
    with pytest.raises(InvalidTypeError, match="batch_format='pyarrow'"):
        predictor({"k": np.array([1]), "a": np.array([1.0])})


def test_actors_share_a_bank_of_the_object_store(ray: Any) -> None:
    rng = np.random.default_rng(0)
    weights = {"layer_0": rng.normal(size=(20_000, 32, 32))}
    bank = Bank.from_stacked(np.arange(20_000), Architecture.mlp(32, 32), weights)

    @ray.remote
    class Actor:
        def __init__(self, bank: Bank) -> None:
            self._bank = bank

        def answer(self) -> Any:
            smaps = Path("/proc/self/smaps_rollup").read_text().splitlines()
            private = sum(
                int(line.split()[1]) for line in smaps if line.startswith("Private_Dirty")
            )
            x = np.ones((3, 32), np.float32)
            return self._bank.predict([0, 7, 19_999], x), private << 10

    reference = ray.put(bank)
    actors = [Actor.remote(reference) for _ in range(3)]
    for y, private in ray.get([actor.answer.remote() for actor in actors]):
        np.testing.assert_array_equal(y, bank.predict([0, 7, 19_999], np.ones((3, 32), np.float32)))
        assert private < bank.nbytes / 2 + (60 << 20)


def test_a_service_by_handle_and_over_http(
    ray: Any, flights: Path, columns: list[str], tmp_path: Path
) -> None:
    import httpx
    from ray import serve

    from mlpbank.ray import BankDeployment

    bank = Bank.open(flights)
    live = tmp_path / "flights.live"
    bank.save(live, live=True)
    frame = rows_of(flights, columns, 50)
    keys, x = frame["flight"].tolist(), frame[columns].to_numpy(np.float32)
    expected = bank.predict(keys, x)
    deployment = serve.deployment(BankDeployment).options(num_replicas=2)
    serve.start(http_options={"host": "127.0.0.1", "port": 8123})
    handle = serve.run(deployment.bind(flights, missing="error"))

    async def ask() -> list[Any]:
        return list(
            await asyncio.gather(
                *(handle.predict.remote(key, row) for key, row in zip(keys, x, strict=True))
            )
        )

    np.testing.assert_array_equal(asyncio.run(ask()), expected)
    url = "http://127.0.0.1:8123/"
    row = {"key": keys[0], "x": x[0].tolist()}
    answer = httpx.post(url, json=row)
    assert answer.json() == {"prediction": expected[0].tolist()}
    assert httpx.post(url, json={**row, "key": "XX"}).status_code == 404
    assert httpx.post(url, json={**row, "x": [1.0]}).status_code == 422
    assert httpx.post(url, content=b"{").status_code == 422
    # To another bank without a restart, which then is followed.
    serve.run(deployment.options(user_config={"bank": str(live)}).bind(flights, missing="error"))
    with Bank.open(live, writable=True) as writer:
        weights = writer[keys[0]]
        writer[keys[0]] = {name: np.zeros_like(array) for name, array in weights.items()}
    assert httpx.post(url, json=row).json() == {"prediction": [0.0]}
    serve.shutdown()

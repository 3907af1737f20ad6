"""examples/service over a live bank: a change on one worker is there on all, and stays."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import one_model
from http_client import Connection, Service, running
from live_folders import open_live
from mlpbank import Bank
from service_bank import (
    BANKS,
    GUNICORN,
    KEYS,
    MODELS,
    UVICORN,
    WEIGHTS,
    X,
    close,
    connections_to_each_worker,
    question,
    right,
    run,
    wait_until,
    weights_json,
)

for module in ("fastapi", "uvicorn", "uvicorn_worker", "gunicorn", "prometheus_client"):
    pytest.importorskip(module)
httpx = pytest.importorskip("httpx")

WORKERS = 4
# Nothing here waits for a look at the folder.
SETTINGS = {"WEB_CONCURRENCY": f"{WORKERS}", "WATCH_SECONDS": "3600", "BANK_SYNC": "off"}


@pytest.fixture
def live_bank(tmp_path: Path) -> Path:
    """The folder that the service serves, with the first of the two banks."""
    path = tmp_path / "bank.live"
    BANKS[0].save(path, live=True)
    return path


async def each(workers: dict[int, list[Connection]], *request: Any) -> list[Any]:
    """Return what each worker answers."""
    return [await connections[0].request(*request) for connections in workers.values()]


def test_put_and_delete_reach_all_workers_and_outlast_the_service(
    live_bank: Path, tmp_path: Path
) -> None:
    async def change(service: Service) -> None:
        workers = await connections_to_each_worker(service.port, WORKERS)
        for i, connections in enumerate(workers.values()):
            body = weights_json(1, i)
            status, answer = await connections[0].request("PUT", f"/models/{KEYS[i]}", body)
            assert (status, answer["revision"], answer["version"]) == (200, 2, "1")
            for status, answer in await each(workers, "POST", "/predict", question((i, 7))):
                assert status == 200
                assert right(answer, BANKS[1], (i, 7))
            status, answer = await connections[0].request("PUT", f"/models/new-{i}", body)
            assert status == 201
            for status, answer in await each(workers, "GET", f"/models/new-{i}"):
                assert (status, answer["revision"]) == (200, 1)
            status, _ = await connections[0].request("DELETE", f"/models/{KEYS[-1 - i]}")
            assert status == 204
            gone = question((MODELS - 1 - i, 0))
            assert {status for status, _ in await each(workers, "POST", "/predict", gone)} == {404}
        healths = await each(workers, "GET", "/healthz")
        assert {(status, h["models"], h["sequence"]) for status, h in healths} == {(200, 50, 12)}
        await close(workers)

    async def look(service: Service) -> None:
        workers = await connections_to_each_worker(service.port, WORKERS)
        for i in range(WORKERS):
            for status, answer in await each(workers, "POST", "/predict", question((i, 7))):
                assert status == 200
                assert right(answer, BANKS[1], (i, 7))
            assert {s for s, _ in await each(workers, "GET", f"/models/new-{i}")} == {200}
            assert {s for s, _ in await each(workers, "GET", f"/models/{KEYS[-1 - i]}")} == {404}
        await close(workers)

    for main in (change, look):
        with running(*GUNICORN, folder=tmp_path, BANK_FILE=str(live_bank), **SETTINGS) as service:
            run(main(service))


class Changes:
    """Of each model the seeds of the weights that it was given, and how many were answered."""

    def __init__(self) -> None:
        self.seeds = [[0] for _ in range(MODELS)]
        self.answered = [0] * MODELS  # the place of the last that was

    def ask(self, model: int, seed: int) -> None:
        self.seeds[model].append(seed)

    def answer(self, model: int) -> None:
        self.answered[model] = len(self.seeds[model]) - 1

    def last(self, model: int) -> int:
        return self.seeds[model][self.answered[model]]


def test_four_workers_under_load_while_one_is_killed(live_bank: Path, tmp_path: Path) -> None:
    """Clients predict, others replace models; a trainer beside the service does so too.

    An answer is of a model that was there from the request on or came during it. What was answered
    is there at the end. Clients repeat what a killed worker did not answer.
    """
    changes = Changes()
    predicted = written = 0
    stop = asyncio.Event()

    async def ask(connection: Connection, *request: Any) -> tuple[int, Any]:
        while True:
            try:
                return await connection.request(*request)
            except (OSError, EOFError):
                # The worker that is killed may have had the request, or none.
                await connection.close()

    async def predict(port: int, seed: int) -> None:
        nonlocal predicted
        rng = np.random.default_rng(seed)
        connection = Connection(port)
        while not stop.is_set():
            one = (int(rng.integers(MODELS)), int(rng.integers(200)))
            first = changes.answered[one[0]]
            status, answer = await ask(connection, "POST", "/predict", question(one))
            assert status == 200
            seeds = set(changes.seeds[one[0]][first:])
            assert any(right(answer, BANKS[seed], one) for seed in seeds)
            predicted += 1
        await connection.close()

    async def put(port: int, own: range) -> None:
        """Replace models that no other client replaces."""
        nonlocal written
        rng = np.random.default_rng(own.start)
        connection = Connection(port)
        while not stop.is_set():
            model, seed = int(rng.choice(own)), int(rng.integers(2))
            changes.ask(model, seed)
            body = weights_json(seed, model)
            status, _ = await ask(connection, "PUT", f"/models/{KEYS[model]}", body)
            assert status == 200
            changes.answer(model)
            written += 1
        await connection.close()

    async def train(own: range) -> None:
        """Replace models from outside, and compact, while the service runs."""
        nonlocal written
        with open_live(live_bank, writable=True, sync="off") as bank:
            for turn in range(10**9):
                if stop.is_set():
                    return
                seed = turn % 2
                for model in own:
                    changes.ask(model, seed)
                models = {KEYS[model]: one_model(WEIGHTS[seed], model) for model in own}
                await asyncio.to_thread(bank.update, models)
                for model in own:
                    changes.answer(model)
                written += len(own)
                if turn % 20 == 10:
                    await asyncio.to_thread(bank.compact)
                await asyncio.sleep(0.01)

    async def main(service: Service) -> None:
        port = service.port
        tasks = [asyncio.create_task(predict(port, seed)) for seed in range(8)]
        tasks += [asyncio.create_task(put(port, range(i * 10, i * 10 + 10))) for i in range(4)]
        tasks.append(asyncio.create_task(train(range(40, 50))))

        async def until(goal: int) -> None:
            while min(predicted, written) < goal:
                for task in tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

        workers = await connections_to_each_worker(port, WORKERS)
        await until(300)
        victim = next(iter(workers))
        os.kill(victim, signal.SIGKILL)
        await until(600)
        stop.set()
        await asyncio.gather(*tasks)
        now = await connections_to_each_worker(port, WORKERS)
        assert victim not in now
        everything = question(*((model, model) for model in range(MODELS)))
        for status, answer in await each(now, "POST", "/predict", everything):
            assert status == 200
            for model, y in enumerate(answer["predictions"]):
                expected = BANKS[changes.last(model)].predict(KEYS[model], X[model])
                assert np.array_equal(np.array(y, np.float32), expected)
        await close(workers, now)

    with running(*GUNICORN, folder=tmp_path, BANK_FILE=str(live_bank), **SETTINGS) as service:
        run(main(service))
    bank = Bank.open(live_bank)
    for model in range(MODELS):
        expected = BANKS[changes.last(model)].predict(KEYS[model], X[model])
        np.testing.assert_array_equal(bank.predict(KEYS[model], X[model]), expected)


def test_a_folder_that_cannot_be_read_or_written(live_bank: Path, tmp_path: Path) -> None:
    """503 with the reason while the folder is away; all is well when it is back."""
    away = tmp_path / "away"
    with running(
        *UVICORN, folder=tmp_path, BANK_FILE=str(live_bank), WATCH_SECONDS="0.05"
    ) as service:
        put = {"url": f"{service.url}/models/{KEYS[0]}", "json": weights_json(1, 0)}
        assert httpx.put(**put).status_code == 200
        live_bank.rename(away)
        answer = httpx.put(**put)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "No such file" in answer.json()["detail"]
        assert httpx.get(service.url + "/healthz").status_code == 503
        predicted = httpx.post(service.url + "/predict", json=question((0, 3)))  # nothing is new
        assert right(predicted.json(), BANKS[1], (0, 3))
        away.rename(live_bank)
        answer = httpx.put(**put)
        assert (answer.status_code, answer.json()["revision"]) == (200, 3)
        assert httpx.get(service.url + "/healthz").status_code == 200
        # Another folder in its place is opened by the watch.
        shutil.copytree(live_bank, away)
        live_bank.rename(tmp_path / "old")
        away.rename(live_bank)
        wait_until(lambda: httpx.get(service.url + "/healthz").json()["reloads"] == 1)
        answer = httpx.put(**put)
        assert (answer.status_code, answer.json()["revision"]) == (200, 4)
        assert "bank_reloads 1.0" in service.get("/metrics")
    assert open_live(live_bank).info(KEYS[0]).revision == 4
    assert open_live(tmp_path / "old").info(KEYS[0]).revision == 3


def test_what_is_no_live_bank_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with (
        pytest.raises(AssertionError, match=r"got a folder without index\.sqlite"),
        running(*GUNICORN, folder=tmp_path, BANK_FILE=str(tmp_path / "empty")),
    ):
        pass


def test_bad_models_are_refused_and_change_nothing(live_bank: Path, tmp_path: Path) -> None:
    with running(*UVICORN, folder=tmp_path, BANK_FILE=str(live_bank)) as service:
        wrong = {"weights": {"layer_0": [[1.0]]}}
        answer = httpx.put(f"{service.url}/models/{KEYS[0]}", json=wrong)
        assert answer.status_code == 422
        assert "layer_0" in answer.json()["detail"]
        assert service.get("/healthz")["sequence"] == 0
        assert httpx.delete(f"{service.url}/models/none").status_code == 404

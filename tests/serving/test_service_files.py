"""examples/service when its bank file is changed in place, missing, of another kind or replaced."""

from __future__ import annotations

import asyncio
import os
import runpy
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import random_weights
from http_client import SERVICE, Connection, Service, running
from mlpbank import Architecture, Bank
from mlpbank.engine import CpuBudget
from service_bank import (
    ARCHITECTURE,
    BANKS,
    GUNICORN,
    KEYS,
    MODELS,
    UVICORN,
    WEIGHTS,
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


def small_bank(revision: int) -> Bank:
    weights = {name: array[:10] for name, array in WEIGHTS[revision].items()}
    return Bank.from_stacked(KEYS[:10], ARCHITECTURE, weights)


async def new_worker(port: int, old: Any) -> tuple[Connection, int, dict[str, Any]]:
    """Return a connection to a worker that is none of the old ones, and what its health is."""
    for _ in range(600):
        connection = Connection(port)
        try:
            status, health = await connection.request("GET", "/healthz")
            if health["worker"] not in old:
                return connection, status, health
        except (OSError, EOFError):
            pass
        await connection.close()
        await asyncio.sleep(0.1)
    raise AssertionError("no new worker")


def test_file_copied_over_the_one_that_is_mapped(bank_file: Path, tmp_path: Path) -> None:
    """`cp` cuts the mapped file: no worker dies, no answer is wrong, and all workers follow.

    The clients pause for the moment of the cut: nothing but another copy could help a prediction
    that runs just then.
    """
    small = small_bank(1)
    small.save(tmp_path / "small")
    served = [BANKS[0]]  # that may answer
    last: dict[int, Any] = {}  # of each client, since the file changed
    idle = asyncio.Semaphore(0)

    async def client(
        connection: Connection, seed: int, go: asyncio.Event, stop: asyncio.Event
    ) -> None:
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            if not go.is_set():
                idle.release()
                await go.wait()
            one = (int(rng.integers(MODELS)), int(rng.integers(200)))
            bank = served[-1]
            status, answer = await connection.request("POST", "/predict", question(one))
            if status == 200:
                assert any(right(answer, bank, one) for bank in served if KEYS[one[0]] in bank)
            else:
                assert status in ((404, 503) if bank is small or one[0] >= 10 else (503,)), answer
            last[seed] = status
            if status == 200 and KEYS[one[0]] in served[-1] and right(answer, served[-1], one):
                last[seed] = served[-1]

    async def main(service: Service) -> None:
        workers = await connections_to_each_worker(service.port, 2)
        connections = [c for connections in workers.values() for c in connections[:2]]
        go, stop = asyncio.Event(), asyncio.Event()
        go.set()
        clients = [asyncio.create_task(client(c, i, go, stop)) for i, c in enumerate(connections)]

        async def all_answer_from(bank: Bank) -> None:
            last.clear()
            while not all(last.get(i) is bank for i in range(len(clients))):
                for task in clients:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

        await all_answer_from(BANKS[0])
        go.clear()
        for _ in clients:
            await idle.acquire()
        shutil.copyfile(tmp_path / "small", bank_file)
        served[:] = [small]
        go.set()
        await all_answer_from(small)
        served.append(BANKS[1])
        BANKS[1].save(bank_file)
        await all_answer_from(BANKS[1])
        stop.set()
        await asyncio.gather(*clients)
        now = await connections_to_each_worker(service.port, 2)
        await close(workers, now)
        assert now.keys() == workers.keys()

    with running(
        *GUNICORN, folder=tmp_path, BANK_FILE=str(bank_file), WATCH_SECONDS="0.5"
    ) as service:
        run(main(service))


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_bad_file_under_the_mapping_is_answered_503_until_a_good_one_comes(
    bank_file: Path, tmp_path: Path, damage: str
) -> None:
    size = bank_file.stat().st_size
    with running(
        *UVICORN, folder=tmp_path, BANK_FILE=str(bank_file), WATCH_SECONDS="0.05"
    ) as service:
        with httpx.Client(base_url=service.url) as client, bank_file.open("r+b") as file:
            if damage == "cut":
                file.truncate(5000)
            else:
                file.seek(size // 2)
                file.write(b"\x01" * 100)
                file.flush()
            for _ in range(2):  # at once, and when the watch has looked
                for rows in (1, 2, 150):
                    answer = client.post(
                        "/predict", json=question(*[(i % MODELS, i) for i in range(rows)])
                    )
                    assert answer.status_code == 503
                    assert "changed in place" in answer.json()["detail"]
                    assert answer.headers["retry-after"] == "1"
                for key in KEYS[0], KEYS[-1]:
                    assert client.get(f"/models/{key}", params={"weights": True}).status_code == 503
                assert client.put(f"/models/{KEYS[0]}", json=weights_json(0, 0)).status_code == 503
                assert client.delete(f"/models/{KEYS[0]}").status_code == 503
                health = client.get("/healthz")
                assert health.status_code == 503
                assert "changed in place" in health.json()["status"]
                wait_until(lambda: "not reloaded" in service.log.read_text())
            BANKS[1].save(bank_file)
            wait_until(lambda: client.get("/healthz").status_code == 200)
            answer = client.post("/predict", json=question((40, 40)))
            assert right(answer.json(), BANKS[1], (40, 40))
            assert service.process.poll() is None
        log = service.log.read_text()
    assert log.count("not reloaded") == 1, log
    assert ("CRC" in log) == (damage == "overwritten")


def test_worker_that_replaces_another_answers_from_the_file_as_it_is_now(
    bank_file: Path, tmp_path: Path
) -> None:
    """A file other than its parent's, or one changed in place. The watch need not come first."""
    small = small_bank(0)
    small.save(tmp_path / "small")

    async def main(service: Service) -> None:
        workers = await connections_to_each_worker(service.port, 2)
        gone = set(workers)
        one = (3, 5)
        for connections in workers.values():
            assert right(
                (await connections[0].request("POST", "/predict", question(one)))[1], BANKS[0], one
            )
        BANKS[1].save(tmp_path / "new")
        kept = tmp_path / "kept"
        bank_file.rename(kept)  # the file that the parent opened
        (tmp_path / "new").rename(bank_file)
        first, second = workers
        os.kill(first, signal.SIGKILL)
        connection, status, health = await new_worker(service.port, gone)
        assert (status, health["status"]) == (200, "ok")
        assert right(
            (await connection.request("POST", "/predict", question(one)))[1], BANKS[1], one
        )
        await connection.close()
        gone.add(health["worker"])

        kept.rename(bank_file)
        # Cut in place: the next worker has no bank to answer from.
        bank_file.write_bytes(bank_file.read_bytes()[:100])
        os.kill(second, signal.SIGKILL)
        connection, status, health = await new_worker(service.port, gone)
        assert status == 503
        assert (await connection.request("POST", "/predict", question(one)))[0] == 503
        await connection.close()
        gone.add(health["worker"])

        shutil.copyfile(tmp_path / "small", bank_file)
        os.kill(health["worker"], signal.SIGKILL)
        connection, status, health = await new_worker(service.port, gone)
        while status == 503:  # while the checksums are computed
            await asyncio.sleep(0.05)
            status, _ = await connection.request("GET", "/healthz")
        assert right((await connection.request("POST", "/predict", question(one)))[1], small, one)
        await connection.close()
        await close(workers)
        assert service.process.poll() is None

    with running(
        *GUNICORN, folder=tmp_path, BANK_FILE=str(bank_file), WATCH_SECONDS="3600"
    ) as service:
        run(main(service))


@pytest.fixture
def source(bank_file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SERVICE)
    import bank_source

    return bank_source.BankSource(bank_file)


def test_file_that_cannot_be_opened_just_now_is_tried_again(
    source: Any, bank_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: str) -> Bank:
        raise OSError("too many open files")

    BANKS[1].save(bank_file)
    source.open_bank = fail
    assert source.look() is None
    assert source.look() is None
    assert caplog.text.count("too many open files") == 1
    source.open_bank = Bank.open
    assert len(source.look()[1]) == MODELS


def test_bank_of_other_sizes_or_keys_is_refused(
    source: Any, bank_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Bank.from_stacked(list(range(MODELS)), ARCHITECTURE, WEIGHTS[0]).save(bank_file)
    assert source.look() is None
    assert "expected str as keys, got int" in caplog.text
    other = Architecture.mlp(5, 2)
    Bank.from_stacked(["a"], other, random_weights(other, 1, np.random.default_rng(0))).save(
        bank_file
    )
    assert source.look() is None
    assert "expected the input and output size" in caplog.text
    BANKS[1].save(bank_file)
    assert source.look() is not None


def test_what_was_read_while_the_file_changed_is_no_answer(source: Any, bank_file: Path) -> None:
    changed = pytest.raises(RuntimeError, match="changed in place")
    with changed, source.using() as bank:
        assert len(bank.predict(KEYS, np.ones((MODELS, 6)))) == MODELS
        os.utime(bank_file)
    with changed, source.using():
        raise AssertionError("not reached")


def test_watch_survives_what_goes_wrong(
    source: Any, bank_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def on_reload() -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    async def main() -> None:
        watch = asyncio.create_task(source.watch(on_reload, 0.01))
        for i in (1, 2):
            BANKS[i % 2].save(bank_file)
            while calls < i:
                await asyncio.sleep(0.01)
        watch.cancel()

    run(main())
    assert "ZeroDivisionError" in caplog.text


def test_workers_share_the_budget_not_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mlpbank.cpu_budget", lambda: CpuBudget(6, {"affinity": 64, "cgroup": 6.0}, "cgroup")
    )
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setenv("MLPBANK_NUM_THREADS", "")
    for workers, threads in (("2", "3"), ("8", "1")):
        monkeypatch.setenv("WEB_CONCURRENCY", workers)
        monkeypatch.setenv("MLPBANK_NUM_THREADS", "")
        runpy.run_path(str(SERVICE / "gunicorn.conf.py"))
        assert os.environ["MLPBANK_NUM_THREADS"] == threads
    monkeypatch.setenv("MLPBANK_NUM_THREADS", "5")
    runpy.run_path(str(SERVICE / "gunicorn.conf.py"))
    assert os.environ["MLPBANK_NUM_THREADS"] == "5"

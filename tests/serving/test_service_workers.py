"""Worker processes of examples/service: new bank files, shared memory, and killed workers."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from cases import random_weights
from http_client import Connection, Service, running
from mlpbank import Architecture, Bank
from service_bank import (
    BANKS,
    GUNICORN,
    MODELS,
    UVICORN,
    close,
    connections_to_each_worker,
    question,
    right,
    run,
)

for module in ("fastapi", "uvicorn", "uvicorn_worker", "gunicorn", "prometheus_client"):
    pytest.importorskip(module)
httpx = pytest.importorskip("httpx")


def test_new_bank_file_takes_over_without_downtime(bank_file: Path, tmp_path: Path) -> None:
    async def main(service: Service) -> None:
        seen: set[int] = set()
        stop = asyncio.Event()

        async def client(seed: int) -> None:
            connection = Connection(service.port)
            while not stop.is_set():
                status, answer = await connection.request(
                    "POST", "/predict", question((seed, seed))
                )
                assert status == 200
                (revision,) = (g for g in (0, 1) if right(answer, BANKS[g], (seed, seed)))
                seen.add(revision)
                answers[seed] += 1
            await connection.close()

        async def another_answer() -> None:
            """Wait until each client has sent a request from now on, and has its answer."""
            before = answers.copy()
            while any(answers[seed] < before[seed] + 2 for seed in before):
                assert not any(one.done() for one in clients)
                await asyncio.sleep(0.01)

        answers = dict.fromkeys(range(8), 0)
        clients = [asyncio.create_task(client(seed)) for seed in answers]
        await another_answer()
        assert seen == {0}
        bad = tmp_path / "bad"
        bad.write_bytes(bank_file.read_bytes()[:-1])
        bad.rename(bank_file)  # a damaged file: refused, and the old bank stays
        while "not reloaded" not in service.log.read_text():
            await asyncio.sleep(0.05)
        await another_answer()
        assert seen == {0}
        BANKS[1].save(bank_file)
        while seen == {0}:
            await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*clients)

    with running(
        *UVICORN, folder=tmp_path, BANK_FILE=str(bank_file), WATCH_SECONDS="0.05"
    ) as service:
        run(main(service))
        assert service.get("/healthz")["reloads"] == 1


def test_two_workers_share_one_mapped_bank(tmp_path: Path) -> None:
    """Both read all of a bank of more than 500 MB and keep next to nothing in private memory."""
    architecture = Architecture.mlp(64, 512, 512, 8, activation="relu")
    models = 450
    scale = np.linspace(0.5, 1, models, dtype=np.float32)[:, None, None]
    one = random_weights(architecture, 1, np.random.default_rng(0))
    weights = {name: scale * array for name, array in one.items() if array.ndim == 3}
    keys = [f"model-{i}" for i in range(models)]
    path = tmp_path / "large.mlpbank"
    Bank.from_stacked(keys, architecture, weights).save(path)
    del weights
    size = path.stat().st_size
    assert size > 500e6
    expected = Bank.open(path).predict(keys, np.ones((models, 64)))

    async def main(port: int) -> list[int]:
        workers = await connections_to_each_worker(port, 2)
        for connections in workers.values():
            status, answer = await connections[0].request(
                "POST", "/predict", {"keys": keys, "rows": np.ones((models, 64)).tolist()}
            )
            assert status == 200
            assert np.array_equal(np.array(answer["predictions"], np.float32), expected)
            for connection in connections:
                await connection.close()
        return list(workers)

    with running(*GUNICORN, folder=tmp_path, BANK_FILE=str(path)) as service:
        for pid in run(main(service.port)):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in rollup}
            private = 1024 * (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"])
            assert 1024 * kilobytes["Rss"] > size, "this worker has not read the whole bank"
            assert private < 0.1 * size, f"{private / 1e6:.0f} MB of {size / 1e6:.0f} MB"
    path.unlink()


def test_killed_worker_loses_no_answer_and_the_service_goes_on(
    bank_file: Path, tmp_path: Path
) -> None:
    """10,000 requests to two preforked workers, one of them killed twice; clients repeat."""
    broken = 0
    answered = 0

    async def client(port: int, seed: int) -> None:
        nonlocal answered, broken
        rng = np.random.default_rng(seed)
        connection = Connection(port)
        for _ in range(625):
            one = (int(rng.integers(MODELS)), int(rng.integers(200)))
            while True:
                try:
                    status, answer = await connection.request("POST", "/predict", question(one))
                    break
                except (OSError, EOFError):
                    broken += 1
                    await connection.close()
            assert status == 200
            assert right(answer, BANKS[0], one)
            answered += 1
        await connection.close()

    async def main(port: int) -> None:
        clients = [asyncio.create_task(client(port, seed)) for seed in range(16)]
        workers = await connections_to_each_worker(port, 2)
        for goal, victim in zip((2000, 4000), workers, strict=True):
            while answered < goal:
                await asyncio.sleep(0.01)
            os.kill(victim, signal.SIGKILL)
        await asyncio.gather(*clients)
        now = await connections_to_each_worker(port, 2)
        assert not now.keys() & workers.keys()
        await close(workers, now)

    with running(*GUNICORN, folder=tmp_path, BANK_FILE=str(bank_file)) as service:
        run(main(service.port))
        metrics = service.get("/metrics")
    assert answered == 10_000
    assert broken > 0
    total = sum(
        float(line.split()[1])
        for line in metrics.splitlines()
        if line.startswith("predicted_rows_total")
    )
    # All workers together, killed ones included.
    assert answered <= total <= answered + broken


def test_reload_of_the_settings_leaves_no_folder_of_metrics(
    bank_file: Path, tmp_path: Path
) -> None:
    """SIGHUP runs gunicorn.conf.py again, in the same process."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    async def main(service: Service) -> None:
        workers: set[int] = set()
        for _ in range(3):
            old = await connections_to_each_worker(service.port, 2)
            await close(old)
            assert not workers & old.keys()
            workers |= old.keys()
            service.process.send_signal(signal.SIGHUP)
            while any(Path(f"/proc/{pid}").exists() for pid in old):
                await asyncio.sleep(0.05)

    with running(
        *GUNICORN, folder=tmp_path, BANK_FILE=str(bank_file), TMPDIR=str(temporary)
    ) as service:
        run(main(service))
        assert len(list(temporary.glob("metrics-*"))) == 1
        assert "predicted_rows_total" in service.get("/metrics")
    assert list(temporary.iterdir()) == []

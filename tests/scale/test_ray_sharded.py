"""ShardedBank on three raylets whose folders differ: bits of one bank, whatever dies meanwhile."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import Architecture, Bank, InvalidValueError, QueueFullError
from mlpbank.bank import _shards
from mlpbank.cli import main
from mlpbank.errors import UnknownModelError

# Ray's own modules warn of what they will lose.
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]

KEYS = [f"shop-{i}" for i in range(500)]
SHARDS, NODES = 8, 3


def bank_of(version: int) -> Bank:
    """Return a bank whose models all answer their version, and something of their own."""
    rng = np.random.default_rng(0)
    weights = {
        "layer_0": rng.normal(size=(len(KEYS), 4, 3)),
        "layer_1": np.zeros((len(KEYS), 3, 2)),
        "layer_1.bias": np.stack([np.full(len(KEYS), version), np.arange(len(KEYS))], axis=1),
    }
    weights["layer_1"][:, :, 1] = rng.normal(size=(len(KEYS), 3))
    return Bank.from_stacked(KEYS, Architecture.mlp(4, 3, 2), weights, fallback="shop-7")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each node, with both versions in shards."""
    top = tmp_path_factory.mktemp("nodes")
    for version in (1, 2):
        file = top / f"bank-{version}.mlpbank"
        bank_of(version).save(file)
        first = top / "node-0" / f"v{version}"
        first.parent.mkdir(exist_ok=True)
        assert main(["split", str(file), str(first), "--shards", str(SHARDS)]) == 0
        for i in range(1, NODES):
            shutil.copytree(first, top / f"node-{i}" / f"v{version}")
    return top


def add_node(cluster: Any, top: Path, i: int) -> Any:
    return cluster.add_node(
        num_cpus=4,
        node_ip_address="127.0.0.1",
        include_dashboard=False,
        object_store_memory=100 << 20,
        env_vars={
            "BANKS": str(top / f"node-{i}"),
            "PYTHONPATH": os.environ["PYTHONPATH"],
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    )


@pytest.fixture
def cluster(versions: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("BANKS", str(versions / "node-0"))
    import ray
    from ray.cluster_utils import Cluster

    # Ray would look for 127.0.0.1 under the machine's other address.
    monkeypatch.setattr("ray._private.services.get_node_ip_address", lambda *_: "127.0.0.1")
    cluster = Cluster()
    cluster.add_node(
        num_cpus=0,
        node_ip_address="127.0.0.1",
        include_dashboard=False,
        object_store_memory=100 << 20,
    )
    cluster.workers = [add_node(cluster, versions, i) for i in range(NODES)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def rows(count: int, seed: int) -> tuple[list[str], Any]:
    rng = np.random.default_rng(seed)
    keys = [KEYS[i] for i in rng.integers(0, len(KEYS), count)]
    return keys, rng.normal(size=(count, 4)).astype(np.float32)


def test_a_sharded_bank_has_the_bits_of_one_bank(cluster: Any) -> None:
    from mlpbank.ray import ShardedBank

    bank = bank_of(1)
    with ShardedBank("$BANKS/v1") as sharded:
        for count in (1, 3, 1000):
            keys, x = rows(count, count)
            np.testing.assert_array_equal(sharded.predict(keys, x), bank.predict(keys, x))
        x3 = np.random.default_rng(0).normal(size=(20, 5, 4)).astype(np.float32)
        np.testing.assert_array_equal(sharded.predict(KEYS[:20], x3), bank.predict(KEYS[:20], x3))
        keys = ["shop-3", "none", None, "shop-4"]
        x = x3[:4, 0]
        for missing in ("nan", "fallback", None):
            np.testing.assert_array_equal(
                sharded.predict(keys, x, missing=missing),  # type: ignore[arg-type]
                bank.predict(keys, x, missing=missing),  # type: ignore[arg-type]
            )
        with pytest.raises(UnknownModelError, match="'none', None"):
            sharded.predict(keys, x, missing="error")
        with pytest.raises(TypeError, match="expected str like the bank"):
            sharded.predict([1, 2], x[:2])
        with pytest.raises(InvalidValueError, match=r"expected shape \(4, 4\)"):
            sharded.predict(keys, x[:3])
        with pytest.raises(FileNotFoundError):
            sharded.switch("$BANKS/none")
        sharded.switch("$BANKS/v2")
        keys, x = rows(50, 1)
        np.testing.assert_array_equal(sharded.predict(keys, x), bank_of(2).predict(keys, x))


def test_a_machine_that_goes_and_comes_back(cluster: Any, versions: Path) -> None:
    """Under load and flips of the version: no wrong answer, none mixed, then the present one."""
    from mlpbank.ray import ShardedBank, ShardUnavailableError

    banks = {version: bank_of(version) for version in (1, 2)}
    counts = {"answers": 0, "unavailable": 0, "refused": 0}
    wrong: list[str] = []
    stop = threading.Event()
    with ShardedBank("$BANKS/v1", timeout=120, max_waiting=2) as sharded:

        def ask(seed: int) -> None:
            while not stop.is_set():
                seed += 1
                keys, x = rows(40, seed)
                try:
                    y = sharded.predict(keys, x)
                except ShardUnavailableError:
                    counts["unavailable"] += 1
                    continue
                except QueueFullError:
                    counts["refused"] += 1
                    time.sleep(0.01)
                    continue
                counts["answers"] += 1
                version = int(y[0, 0])
                if version not in banks or not np.array_equal(y, banks[version].predict(keys, x)):
                    wrong.append(f"version {version}, seed {seed}")

        threads = [threading.Thread(target=ask, args=(1000 * i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for i in range(NODES - 1):
            cluster.remove_node(cluster.workers[i], allow_graceful=False)
            sharded.switch(f"$BANKS/v{2 - i % 2}")
            cluster.workers[i] = add_node(cluster, versions, i)
            cluster.wait_for_nodes()
            time.sleep(2)
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert counts["answers"] > 10
        assert counts["refused"] > 0  # three callers, two may wait
        keys, x = rows(200, 9)
        np.testing.assert_array_equal(sharded.predict(keys, x), banks[1].predict(keys, x))


def test_shards_that_no_machine_has(cluster: Any, versions: Path) -> None:
    from mlpbank.ray import ShardedBank, ShardUnavailableError

    for i in range(NODES):
        folder = versions / f"node-{i}" / "lost"
        shutil.copytree(versions / "node-0" / "v2", folder)
        (folder / _shards.shard_name(3)).unlink()
    with ShardedBank("$BANKS/v1") as sharded:
        with pytest.raises(ShardUnavailableError, match="could not be opened"):
            sharded.switch("$BANKS/lost")
        assert sharded.folder == "$BANKS/v1"
        keys, x = rows(100, 1)
        np.testing.assert_array_equal(sharded.predict(keys, x), bank_of(1).predict(keys, x))

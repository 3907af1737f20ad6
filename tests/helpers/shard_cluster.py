"""A cluster of Ray on this machine whose nodes have folders of their own, with banks in shards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from mlpbank import Architecture, Bank
from mlpbank.cli import main

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


def rows(count: int, seed: int) -> tuple[list[str], Any]:
    """Return keys and rows for them."""
    rng = np.random.default_rng(seed)
    keys = [KEYS[i] for i in rng.integers(0, len(KEYS), count)]
    return keys, rng.normal(size=(count, 4)).astype(np.float32)


def make_shards(top: Path, name: str, version: int, *options: str) -> None:
    """Make a folder of shards, and give each node a copy."""
    file = top / f"{name}.mlpbank"
    bank_of(version).save(file)
    first = top / "node-0" / name
    first.parent.mkdir(exist_ok=True)
    assert main(["split", str(file), str(first), "--shards", str(SHARDS), *options]) == 0
    for i in range(1, NODES):
        shutil.copytree(first, top / f"node-{i}" / name)


def add_node(cluster: Any, top: Path, i: int) -> Any:
    """Start the raylet of a node, which finds its folder as $BANKS."""
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


def actors(top: Path) -> list[int]:
    """Return the processes of the actors that answer for shards."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if (
                folder.name.isdigit()
                and (folder / "cmdline").read_bytes().startswith(b"ray::Host")
                and f"BANKS={top}/".encode() in (folder / "environ").read_bytes()
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@contextmanager
def running_cluster(top: Path) -> Iterator[Any]:
    """Run a head without CPUs and a raylet for each node; this process has the folder of node 0."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    # Ray would look for 127.0.0.1 under the machine's other address.
    with (
        mock.patch.dict(os.environ, {"BANKS": str(top / "node-0")}),
        mock.patch("ray._private.services.get_node_ip_address", return_value="127.0.0.1"),
    ):
        cluster = Cluster()
        try:
            cluster.add_node(
                num_cpus=0,
                node_ip_address="127.0.0.1",
                include_dashboard=False,
                object_store_memory=100 << 20,
            )
            cluster.workers = [add_node(cluster, top, i) for i in range(NODES)]
            cluster.wait_for_nodes()
            ray.init(address=cluster.address, log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()

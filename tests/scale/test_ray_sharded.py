"""ShardedBank on three raylets whose folders differ: bits of one bank, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpbank import BankFileError, InvalidValueError
from mlpbank.bank import _shards
from mlpbank.errors import UnknownModelError
from shard_cluster import KEYS, NODES, actors, bank_of, make_shards, rows, running_cluster

# Ray's own modules warn of what they will lose.
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]

PROGRAM = Path(__file__).resolve().parents[1] / "programs/ray_kills.py"
TIMES = int(os.environ.get("MLPBANK_SCALE_TIMES", "1"))


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each node, with both versions in shards, and the first in live banks."""
    top = tmp_path_factory.mktemp("nodes")
    make_shards(top, "v1", 1)
    make_shards(top, "v2", 2)
    make_shards(top, "live", 1, "--live")
    return top


@pytest.fixture(scope="module")
def cluster(versions: Path) -> Iterator[Any]:
    with running_cluster(versions) as cluster:
        yield cluster


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


def test_actors_and_machines_that_die(tmp_path: Path) -> None:
    """Under load and flips of the version: no wrong answer, none mixed, then the present one."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), str(10 * TIMES), str(10 * TIMES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["wrong"] == 0
    assert counts["nodes killed"] + counts["actors killed"] == 10 * TIMES
    assert counts["flips"] >= 10 * TIMES
    assert counts["answers"] > 10 * TIMES
    assert counts["refused"] > 0  # four callers, three may wait


def test_single_models_of_live_shards_change_on_their_machines(
    cluster: Any, versions: Path
) -> None:
    from mlpbank.ray import ShardedBank

    bank = bank_of(1)
    keys, x = rows(200, 3)
    other = bank_of(9)
    for name in ("v1", "live"):
        with ShardedBank(f"$BANKS/{name}") as sharded:
            np.testing.assert_array_equal(sharded.predict(keys, x), bank.predict(keys, x))
            if name == "v1":
                with pytest.raises(InvalidValueError, match="--live makes live banks"):
                    sharded.open_shard("$BANKS/v1", "shop-3")
                continue
            for i in range(NODES):  # a writer on each node, while all answer
                for change in ("shop-3", "new"):
                    folder = str(versions / f"node-{i}" / name)
                    with ShardedBank.open_shard(folder, change) as shard:
                        shard[change] = other["shop-3"]
            bank["shop-3"] = bank["new"] = other["shop-3"]
            for _ in range(4):  # each replica
                asked = ["shop-3", "new", *keys]
                rows_of = np.concatenate([x[:2], x])
                got = sharded.predict(asked, rows_of, missing="error")
                np.testing.assert_array_equal(got, bank.predict(asked, rows_of))
            assert got[0, 0] == 9
            sharded.switch("$BANKS/v2")
            np.testing.assert_array_equal(sharded.predict(keys, x), bank_of(2).predict(keys, x))
    with pytest.raises(TypeError, match="expected str like the bank"):
        ShardedBank.open_shard(folder, 3)
    with pytest.raises(InvalidValueError, match="expected a key"):
        ShardedBank.open_shard(folder, None)  # type: ignore[arg-type]


def test_a_folder_that_is_not_that_of_the_others_is_refused(cluster: Any, versions: Path) -> None:
    from mlpbank.ray import ShardedBank, ShardUnavailableError

    make_shards(versions, "mixed", 1, "--live")
    (one, *others) = (versions / f"node-{i}" / "mixed" for i in range(NODES))
    for other in others:  # another page
        page = other / _shards.MANIFEST
        page.write_text(page.read_text().replace('"fallback": "shop-7"', '"fallback": "shop-8"'))
    with (
        ShardedBank("$BANKS/v1") as sharded,
        pytest.raises(ShardUnavailableError, match="not that of the machine that asks"),
    ):
        sharded.switch("$BANKS/mixed")
    # The live bank of another shard.
    shutil.rmtree(one / "shard-000.live")
    shutil.copytree(one / "shard-001.live", one / "shard-000.live")
    key = next(key for key in KEYS if _shards.shards_of([key], str, 8)[0] == 0)
    with pytest.raises(BankFileError, match="got another one in its place"):
        ShardedBank.open_shard(str(one), key)


def test_replicas_that_hang(cluster: Any, versions: Path) -> None:
    """Another one answers after a while; where there is none an error names the keys."""
    from mlpbank.ray import ShardedBank, ShardUnavailableError

    keys, x = rows(100, 5)
    expected = bank_of(1).predict(keys, x)
    with ShardedBank("$BANKS/v1", timeout=30) as sharded:
        deadline = time.monotonic() + 20  # until those of other tests are gone
        while len(processes := actors(versions)) != 6:
            assert time.monotonic() < deadline, processes
            time.sleep(0.1)
        os.kill(processes[0], signal.SIGSTOP)
        try:
            took = []
            for _ in range(4):
                start = time.monotonic()
                np.testing.assert_array_equal(sharded.predict(keys, x), expected)
                took.append(time.monotonic() - start)
            assert 1 < max(took) < 20  # at least one call had asked it first
            for process in processes[1:]:
                os.kill(process, signal.SIGSTOP)
            sharded._timeout = 3.0
            with pytest.raises(ShardUnavailableError, match="100 keys") as caught:
                sharded.predict(keys, x)
            assert sorted(caught.value.keys) == sorted(keys)
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)
        sharded._timeout = 30.0
        np.testing.assert_array_equal(sharded.predict(keys, x), expected)


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

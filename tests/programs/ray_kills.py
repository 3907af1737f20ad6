"""Kill actors and nodes under load and flips of the version: ray_kills.py FOLDER KILLS FLIPS.

Three raylets with folders of their own serve a ShardedBank. Threads ask all the time, one more than
may wait. Every answer is compared, bit for bit, with the bank of one version: one that was the
present one at some time during the call. Every tenth kill takes a whole node, which comes back;
the others take the process of an actor. Prints what was counted as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mlpbank import QueueFullError
from shard_cluster import NODES, actors, add_node, bank_of, make_shards, rows, running_cluster

VERSIONS, CALLERS, NODE_EVERY = 4, 4, 10
top, least_kills, least_flips = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
counts: Counter[str] = Counter()
wrong: list[str] = []
slowest = 0.0
stop, kills_done = threading.Event(), threading.Event()
flips_begun = flips_done = 0  # flip i moves to version i % VERSIONS
banks = [bank_of(version) for version in range(VERSIONS)]


def folder_of(flip: int) -> str:
    """Return the folder that a flip moves to."""
    return f"$BANKS/v{flip % VERSIONS}"


def ask(sharded: Any, seed: int) -> None:
    """Ask until it is time to stop, and compare."""
    from mlpbank.ray import ShardUnavailableError

    global slowest
    while not stop.is_set():
        seed += 1
        # Answers to many rows lie in the memory of a node, and may be lost with it.
        keys, x = rows(20_000 if seed % 10 == 0 else 40, seed)
        earliest, start = flips_done, time.monotonic()
        try:
            y = sharded.predict(keys, x)
        except ShardUnavailableError:
            counts["unavailable"] += 1
            continue
        except QueueFullError:
            counts["refused"] += 1
            time.sleep(0.01)
            continue
        except Exception as error:
            wrong.append(f"seed {seed}: {error!r:.2000}")
            continue
        slowest = max(slowest, time.monotonic() - start)
        counts["answers"] += 1
        possible = {flip % VERSIONS for flip in range(earliest, flips_begun + 1)}
        if not any(np.array_equal(y, banks[v].predict(keys, x)) for v in possible):
            wrong.append(f"seed {seed}: versions {sorted(set(y[:, 0]))}, possible {possible}")


def kill(cluster: Any) -> None:
    """Kill until there were enough. Ray starts nodes in the main thread only."""
    kills = 0
    while kills < least_kills:
        time.sleep(random.uniform(0.3, 2))
        if kills % NODE_EVERY == NODE_EVERY - 1:
            i = random.randrange(NODES)
            cluster.remove_node(cluster.workers[i], allow_graceful=False)
            counts["nodes killed"] += 1
            cluster.workers[i] = add_node(cluster, top, i)
            cluster.wait_for_nodes()
        else:
            alive = actors(top)
            if not alive:
                continue
            os.kill(random.choice(alive), signal.SIGKILL)
            counts["actors killed"] += 1
        kills += 1


def flip(sharded: Any) -> None:
    """Move to the next version, again and again."""
    from mlpbank.ray import ShardUnavailableError

    global flips_begun, flips_done
    while not kills_done.is_set() or counts["flips"] < least_flips:
        flips_begun += 1
        try:
            sharded.switch(folder_of(flips_begun))
        except ShardUnavailableError:  # the present one stays, and calls saw nothing else
            flips_begun -= 1
            counts["flips refused"] += 1
        except Exception as error:
            wrong.append(f"flip {flips_begun}: {error!r:.2000}")
            break
        else:
            flips_done += 1
            counts["flips"] += 1
        time.sleep(random.uniform(0, 1))


for version in range(VERSIONS):
    make_shards(top, f"v{version}", version)
with running_cluster(top) as cluster:
    from mlpbank.ray import ShardedBank

    with ShardedBank(folder_of(0), timeout=60, max_waiting=CALLERS - 1) as sharded:
        threads = [
            threading.Thread(target=ask, args=(sharded, 1_000_000 * i)) for i in range(CALLERS)
        ]
        flipper = threading.Thread(target=flip, args=(sharded,))
        for thread in (*threads, flipper):
            thread.start()
        try:
            kill(cluster)
        finally:
            kills_done.set()
            flipper.join()
            stop.set()
            for thread in threads:
                thread.join()
        # All nodes are back: each actor answers by the present version.
        for seed in range(4):
            keys, x = rows(200, seed)
            y = sharded.predict(keys, x)
            np.testing.assert_array_equal(y, banks[flips_done % VERSIONS].predict(keys, x))
print(json.dumps({**counts, "wrong": len(wrong), "slowest call": round(slowest, 1)}))
assert not wrong, "\n".join(wrong[:10])

"""Predict and load in forked children: forked_forward.py SCENARIO LAYOUT."""

from __future__ import annotations

import multiprocessing
import os
import sys

import numpy as np
from busy_threads import busy
from children import fork, wait
from network import MODELS, Network

import mlpbank


def after_forward(network: Network) -> None:
    wait(fork(network.check))
    network.check()  # the parent goes on as before


def grandchild(network: Network) -> None:
    def child() -> None:
        network.check()
        wait(fork(network.check))

    wait(fork(child))


def many_children(network: Network) -> None:
    children = [fork(network.check) for _ in range(4)]
    network.check()
    for pid in children:
        wait(pid)


def while_others_predict(network: Network) -> None:
    with busy(network.predict, network.predict):
        for _ in range(8):
            wait(fork(network.check))
    network.check()


def while_others_load(network: Network) -> None:
    with busy(network.load, network.load):
        for _ in range(8):
            wait(fork(network.check))
    network.check()


def memory(network: Network) -> None:
    """The parent's readers do not exist in the child and must not keep its memory."""
    inference = network.inference
    many_rows = np.repeat(network.x, 30, axis=1)

    def predict() -> None:
        inference.forward(many_rows, num_threads=1)
        slots = np.arange(MODELS)[::-1].copy()
        inference.forward(many_rows[::-1], models=slots, num_threads=1)

    def swap(rounds: int) -> None:
        for i in range(rounds):
            inference.load_weights(i % MODELS, network.one(0))
        inference.weights.load_stacked(network.stacked)

    def memory_is_used_again() -> None:
        for _ in range(3):
            swap(20)
        before = inference.weights.nbytes
        swap(3000)
        assert inference.weights.nbytes == before, (before, inference.weights.nbytes)
        network.check()

    with busy(predict, predict):
        for _ in range(4):
            wait(fork(memory_is_used_again))
    memory_is_used_again()


def in_pool(slot: int) -> np.ndarray:
    network = PARENT[0]
    row: np.ndarray = network.inference.forward(network.x[slot : slot + 1], models=[slot])[0]
    return row


PARENT: list[Network] = []  # what forked workers of a pool find in memory


def pool(network: Network) -> None:
    PARENT.append(network)
    with multiprocessing.get_context("fork").Pool(2) as workers:
        rows = workers.map_async(in_pool, range(100)).get(60)
    assert np.array_equal(np.stack(rows), network.expected[:100])


def uses_its_cores(network: Network) -> None:
    def tasks() -> int:
        return len(os.listdir("/proc/self/task"))

    def all_cores() -> None:
        assert tasks() == 1
        network.check()
        assert tasks() == int(mlpbank.cpu_budget())

    def one_core() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        network.check()
        assert tasks() == 1

    wait(fork(all_cores))
    wait(fork(one_core))


def before_any_forward(network: Network) -> None:
    """There are no helpers yet: the child starts its own."""

    def first() -> None:
        y = network.inference.forward(network.x)
        assert np.array_equal(network.inference.forward(network.x, num_threads=1), y)

    wait(fork(first))
    first()


if __name__ == "__main__":
    name, layout = sys.argv[1:]
    globals()[name](Network(layout, predicts=name != "before_any_forward"))

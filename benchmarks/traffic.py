"""Rows for any models: requests, their right answers, and mlpbank answering them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank.bench.cases import Problem, reference, stored, tolerance
from mlpbank.bench.contender import Contender
from mlpbank.bench.measure import find_difference
from mlpbank.inference import BatchedInference
from mlpbank.typing import Float32Array

Slots = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """One call: row i of `x` is for the model in slot ``slots[i]``."""

    slots: Slots
    x: Float32Array


@dataclass(frozen=True)
class Traffic:
    """Requests for models of one problem. They take turns, so that no cache has the next models."""

    problem: Problem
    requests: Sequence[Request]  # all of one length

    def answer(self, dtype: str = "float32") -> npt.NDArray[np.float64]:
        """Return the right outputs of all requests in turn, (entries, 1, output_size)."""
        problem = stored(self.problem, dtype)
        return np.concatenate([_answer(problem, request) for request in self.requests])

    def verifier(self, dtype: str) -> Callable[[Contender], str | None]:
        """Return what says what is wrong with a contender. mlpbank has weights of `dtype`."""
        right = {name: self.answer(name) for name in {dtype, "float32"}}
        allowed = {name: tolerance(self.problem.case, answer) for name, answer in right.items()}

        def verify(contender: Contender) -> str | None:
            name = dtype if contender.ours else "float32"
            return find_difference(contender, right[name], allowed[name], "entry")

        return verify


def _answer(problem: Problem, request: Request) -> npt.NDArray[np.float64]:
    case = problem.case
    y = np.empty((len(request.slots), 1, case.sizes[-1]))
    order = np.argsort(request.slots, kind="stable")
    models, first = np.unique(request.slots[order], return_index=True)
    for m, entries in zip(models.tolist(), np.split(order, first[1:]), strict=True):
        one = slice(m, m + 1)
        weights, biases = [w[one] for w in problem.weights], [b[one] for b in problem.biases]
        slopes = [s if s is None else s[one] for s in problem.slopes]
        x = request.x[None, entries]
        y[entries, 0] = reference(case.architecture, weights, biases, slopes, x)[0]
    return y


def uniform(problem: Problem, entries: int, count: int, seed: int = 1) -> Traffic:
    """Return `count` requests, each for `entries` different random models, a row each."""
    rng = np.random.default_rng(seed)
    models = problem.case.num_models
    some = [rng.permutation(models)[:entries] for _ in range(count)]
    return Traffic(problem, [_request(rng, problem, slots) for slots in some])


def zipf(problem: Problem, entries: int, seed: int = 1) -> Traffic:
    """Return a request of so many rows. The k-th model gets 1 / k of the rows of the first."""
    rng = np.random.default_rng(seed)
    models = problem.case.num_models
    popularity = 1 / np.arange(1, models + 1)
    ranks = rng.choice(models, entries, p=popularity / popularity.sum())
    return Traffic(problem, [_request(rng, problem, rng.permutation(models)[ranks])])


def huge_group(problem: Problem, entries: int, seed: int = 1) -> Traffic:
    """Return a request of `entries` rows for one model and one for each of the others, mixed."""
    rng = np.random.default_rng(seed)
    models = problem.case.num_models
    slots = np.concatenate(
        [np.full(entries, models // 2), np.delete(np.arange(models), models // 2)]
    )
    return Traffic(problem, [_request(rng, problem, rng.permutation(slots))])


def one(problem: Problem, slots: Slots, seed: int = 1) -> Traffic:
    """Return one request for these slots."""
    return Traffic(problem, [_request(np.random.default_rng(seed), problem, slots)])


def in_order(problem: Problem) -> Traffic:
    """Return a request for all models in order, a row each: what a call without `models` does."""
    return Traffic(problem, [Request(np.arange(problem.case.num_models), problem.x[:, 0])])


def _request(rng: np.random.Generator, problem: Problem, slots: Slots) -> Request:
    x = rng.standard_normal((len(slots), problem.case.sizes[0]), dtype=np.float32)
    return Request(np.ascontiguousarray(slots, np.int64), x)


def rotating(
    name: str, answer: Callable[[int], Any], count: int, detail: str = "", *, ours: bool = False
) -> Contender:
    """Return a contender whose calls answer one of `count` requests after the other.

    ``answer(i)`` returns the outputs of request i, which are good until the next call.
    """
    turn = itertools.cycle(range(count))
    return Contender(
        name,
        lambda: answer(next(turn)),
        lambda: np.concatenate([np.array(answer(i)) for i in range(count)]),
        detail,
        ours,
    )


def answering(
    name: str,
    inference: BatchedInference,
    traffic: Traffic,
    detail: str = "",
    num_threads: int | None = None,
) -> Contender:
    """Return mlpbank with ``forward(x, models=slots, out=y)``."""
    requests = traffic.requests
    y = np.empty((len(requests[0].slots), inference.architecture.output_size), np.float32)

    def answer(i: int) -> Float32Array:
        x, slots = requests[i].x, requests[i].slots
        return inference.forward(x, models=slots, out=y, num_threads=num_threads)

    return rotating(name, answer, len(requests), detail, ours=True)

"""Rows for any models: requests that name models, their right answers, and mlpbank answering them."""

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

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """One call: row i of `x` is for model ``ids[i]``."""

    ids: Ids
    x: Float32Array


@dataclass(frozen=True)
class Traffic:
    """Requests to one bank, which take turns so that no cache knows the next one's models.

    Parameters
    ----------
    problem : Problem
        The bank's models.
    requests : sequence of Request
        All of one length.
    """

    problem: Problem
    requests: Sequence[Request]

    def answer(self, dtype: str = "float32") -> npt.NDArray[np.float64]:
        """Return the right outputs of all requests, one after the other, (entries, 1, output_size)."""
        problem = stored(self.problem, dtype)
        return np.concatenate([_answer(problem, request) for request in self.requests])

    def verifier(self, dtype: str) -> Callable[[Contender], str | None]:
        """Return what tells whether a contender is right: mlpbank with weights of `dtype`, the others with float32."""
        right = {name: self.answer(name) for name in {dtype, "float32"}}
        allowed = {name: tolerance(self.problem.case, answer) for name, answer in right.items()}

        def verify(contender: Contender) -> str | None:
            name = dtype if contender.name.startswith("mlpbank") else "float32"
            return find_difference(contender, right[name], allowed[name], "entry")

        return verify


def _answer(problem: Problem, request: Request) -> npt.NDArray[np.float64]:
    case = problem.case
    y = np.empty((len(request.ids), 1, case.sizes[-1]))
    order = np.argsort(request.ids, kind="stable")
    models, first = np.unique(request.ids[order], return_index=True)
    for m, entries in zip(models.tolist(), np.split(order, first[1:]), strict=True):
        one = slice(m, m + 1)
        weights, biases = [w[one] for w in problem.weights], [b[one] for b in problem.biases]
        y[entries, 0] = reference(case.architecture, weights, biases, request.x[None, entries])[0]
    return y


def uniform(problem: Problem, entries: int, count: int, seed: int = 1) -> Traffic:
    """Return `count` requests, each for `entries` different models at random, a row each."""
    rng = np.random.default_rng(seed)
    models = problem.case.num_models
    return Traffic(problem, [_request(rng, problem, rng.permutation(models)[:entries]) for _ in range(count)])


def zipf(problem: Problem, entries: int, seed: int = 1) -> Traffic:
    """Return a request of so many rows; the k-th most popular model gets 1 / k of the rows of the most popular."""
    rng = np.random.default_rng(seed)
    models = problem.case.num_models
    popularity = 1 / np.arange(1, models + 1)
    ranks = rng.choice(models, entries, p=popularity / popularity.sum())
    return Traffic(problem, [_request(rng, problem, rng.permutation(models)[ranks])])


def huge_group(problem: Problem, entries: int, seed: int = 1) -> Traffic:
    """Return a request of `entries` rows for one model and one row for each of the others, mixed."""
    rng = np.random.default_rng(seed)
    models = problem.case.num_models
    ids = np.concatenate([np.full(entries, models // 2), np.delete(np.arange(models), models // 2)])
    return Traffic(problem, [_request(rng, problem, rng.permutation(ids))])


def in_order(problem: Problem) -> Traffic:
    """Return a request for all models in order, a row each: what a call without ids does."""
    return Traffic(problem, [Request(np.arange(problem.case.num_models), problem.x[:, 0])])


def _request(rng: np.random.Generator, problem: Problem, ids: Ids) -> Request:
    x = rng.standard_normal((len(ids), problem.case.sizes[0]), dtype=np.float32)
    return Request(np.ascontiguousarray(ids, np.int64), x)


def rotating(name: str, answer: Callable[[int], Any], count: int, detail: str = "") -> Contender:
    """Return a contender whose calls answer one request after the other.

    Parameters
    ----------
    name, detail : str
        As for `Contender`.
    answer : callable
        Returns the outputs of request i, which are good until the next call.
    count : int
        Number of requests.
    """
    turn = itertools.cycle(range(count))
    return Contender(
        name,
        lambda: answer(next(turn)),
        lambda: np.concatenate([np.array(answer(i)) for i in range(count)]),
        detail,
    )


def answering(
    name: str, bank: BatchedInference, traffic: Traffic, detail: str = "", num_threads: int | None = None
) -> Contender:
    """Return mlpbank with ``forward(x, models=ids, out=y)``."""
    requests = traffic.requests
    y = np.empty((len(requests[0].ids), bank.architecture.output_size), np.float32)

    def answer(i: int) -> Float32Array:
        return bank.forward(requests[i].x, models=requests[i].ids, out=y, num_threads=num_threads)

    return rotating(name, answer, len(requests), detail)

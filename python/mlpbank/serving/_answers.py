"""The answers to the requests of one batch: few calls for all of them, and each error alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlpbank.bank import Bank
from mlpbank.errors import UnknownModelError
from mlpbank.typing import Float32Array, Key, Missing


class Request(NamedTuple):
    """A request that waits for its answer."""

    key: Key | None  # None: missing
    x: Float32Array  # (input_size,) or (rows, input_size)
    rows: int
    arrived: float  # by time.perf_counter
    missing: Missing | None


def answers_of(bank: Bank, requests: list[Request]) -> list[Float32Array | Exception]:
    """Return the answer to each request, or its error.

    Requests with the same `missing` are computed in one call.
    """
    try:
        keys, xs, rows, _, kinds = zip(*requests, strict=True)
        missing, *others = dict.fromkeys(kinds)
        if others:
            answers = {
                kind: iter(answers_of(bank, [r for r in requests if r.missing == kind]))
                for kind in (missing, *others)
            }
            return [next(answers[kind]) for kind in kinds]
        if {x.ndim for x in xs} == {1}:
            x = np.concatenate(xs).reshape(len(requests), -1)
            return list(bank.predict(list(keys), x, missing=missing))
        repeated = [key for key, count in zip(keys, rows, strict=True) for _ in range(count)]
        x = np.concatenate([np.atleast_2d(x) for x in xs])
        parts = np.split(bank.predict(repeated, x, missing=missing), np.cumsum(rows[:-1]))
        return [
            part[0] if request.x.ndim == 1 else part
            for part, request in zip(parts, requests, strict=True)
        ]
    except UnknownModelError as error:
        unknown = set(error.keys)
        known = [request for request in requests if request.key not in unknown]
        found = iter(answers_of(bank, known) if known else [])
        return [
            UnknownModelError([request.key], 1, "keys", 0 if request.key is None else None)
            if request.key in unknown
            else next(found)
            for request in requests
        ]
    except Exception as error:
        if len(requests) == 1:
            return [error]
        return [answers_of(bank, [request])[0] for request in requests]

"""The answers to the requests of one batch: few calls for all of them, and each error alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from mlpbank import _core
from mlpbank.bank import Bank
from mlpbank.errors import UnknownModelError
from mlpbank.typing import Float32Array

Request: TypeAlias = _core.Request
Answers: TypeAlias = "Float32Array | Sequence[Float32Array | BaseException]"


def answers_of(bank: Bank, requests: list[Request]) -> Answers:
    """Return the answer to each request, or its error: a list, or an array with a row for each.

    Requests with the same `missing` are computed in one call.
    """
    try:
        if (alike := _core.rows_of(requests)) is not None:
            keys, x, missing = alike
            return bank.predict(keys, x, missing=missing)
        kinds = [request.missing for request in requests]
        missing, *others = dict.fromkeys(kinds)
        if others:
            answers = {
                kind: iter(answers_of(bank, [r for r in requests if r.missing == kind]))
                for kind in (missing, *others)
            }
            return [next(answers[kind]) for kind in kinds]
        xs = [request.x for request in requests]
        if all(x.ndim == 1 for x in xs):
            keys = [request.key for request in requests]
            return bank.predict(keys, np.concatenate(xs).reshape(len(xs), -1), missing=missing)
        rows = [request.rows for request in requests]
        repeated = [request.key for request in requests for _ in range(request.rows)]
        x = np.concatenate([np.atleast_2d(x) for x in xs])
        parts = np.split(bank.predict(repeated, x, missing=missing), np.cumsum(rows[:-1]))
        return [part[0] if x.ndim == 1 else part for part, x in zip(parts, xs, strict=True)]
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

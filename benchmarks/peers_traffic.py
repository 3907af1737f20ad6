"""PyTorch answering rows for any models: gathered weights, a loop over modules, padding."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from benchmarks.traffic import Traffic, rotating
from mlpbank.bench.contender import Contender, Settings, fastest
from mlpbank.bench.peers_torch import make_networks, setup

_FEW, _CHUNKS = (0, 4), (64, 512)  # for padded products: all are tried, the fastest is taken
_CHUNK_ROWS = 1 << 16  # at most, with padding, unless one model has them


def _requests(traffic: Traffic) -> list[tuple[Any, Any]]:
    """Return slots and rows of each request as tensors."""
    import torch

    return [(torch.tensor(r.slots), torch.tensor(r.x)) for r in traffic.requests]


def _stored(weights: list[Any]) -> list[tuple[list[Any], str]]:
    """Return the weights stored as (in, out) and as (out, in), both seen as (in, out)."""
    transposed = [w.transpose(1, 2).contiguous().transpose(1, 2) for w in weights]
    return [(weights, "(in, out)"), (transposed, "(out, in)")]


def build_index(traffic: Traffic, settings: Settings) -> Contender:
    """Return index_select of weights and biases, then baddbmm, into tensors made before."""
    import torch

    act, _, weights, biases = setup(traffic.problem, settings)
    requests = _requests(traffic)
    n = len(requests[0][0])

    def make(stored: list[Any], order: str) -> Contender:
        # Contiguous as they are stored, seen as (in, out).
        flipped = order == "(out, in)"
        bases = [w.transpose(1, 2) if flipped else w for w in stored]
        gathered = [torch.empty((n, *base.shape[1:])) for base in bases]
        seen = [g.transpose(1, 2) if flipped else g for g in gathered]
        gathered_biases = [torch.empty((n, 1, b.shape[2])) for b in biases]
        outs = [torch.empty((n, 1, b.shape[2])) for b in biases]

        def answer(i: int) -> Any:
            slots, x = requests[i]
            y = x[:, None]
            with torch.inference_mode():
                for layer, (base, b) in enumerate(zip(bases, biases, strict=True)):
                    torch.index_select(base, 0, slots, out=gathered[layer])
                    torch.index_select(b, 0, slots, out=gathered_biases[layer])
                    y = act(y) if layer > 0 else y
                    y = torch.baddbmm(gathered_biases[layer], y, seen[layer], out=outs[layer])
            return y

        return rotating("torch-index", answer, len(requests), f"index_select and baddbmm, {order}")

    return fastest([make(stored, order) for stored, order in _stored(weights)])


def build_sort_loop(traffic: Traffic, settings: Settings) -> Contender:
    """Return a sort by model, then a Python loop over the modules that have rows."""
    import torch

    act, _, weights, biases = setup(traffic.problem, settings)
    networks = make_networks(act, weights, biases)
    requests = _requests(traffic)
    y = torch.empty((len(requests[0][0]), biases[-1].shape[2]))

    def answer(i: int) -> Any:
        slots, x = requests[i]
        with torch.inference_mode():
            by_slot, order = torch.sort(slots, stable=True)
            models, counts = torch.unique_consecutive(by_slot, return_counts=True)
            parts = x.index_select(0, order).split(counts.tolist())
            results = [networks[m](rows) for m, rows in zip(models.tolist(), parts, strict=True)]
            return y.index_copy_(0, order, torch.cat(results))

    return rotating("torch-sort-loop", answer, len(requests), "modules with rows only")


def build_padded(traffic: Traffic, settings: Settings) -> Contender:
    """Return baddbmm over rows padded to equal numbers, in the way that is fastest of some.

    Models with few rows or none are all padded to `few`, so that no weights are gathered. The
    others are put into chunks of models with similar numbers of rows, padded to the largest.
    """
    import torch

    act, _, weights, biases = setup(traffic.problem, settings)
    requests = _requests(traffic)
    n = len(requests[0][0])
    out = torch.empty((n, biases[-1].shape[2]))

    def network(y: Any, stored: list[Any], models: Any) -> Any:
        for layer, (w, b) in enumerate(zip(stored, biases, strict=True)):
            y = act(y) if layer > 0 else y
            y = torch.baddbmm(b, y, w) if models is None else torch.baddbmm(b[models], y, w[models])
        return y

    def answer(stored: list[Any], few: int, chunk: int, i: int) -> Any:
        slots, x = requests[i]
        with torch.inference_mode():
            order = torch.sort(slots, stable=True).indices
            counts = torch.bincount(slots, minlength=len(weights[0]))
            first = counts.cumsum(0) - counts

            def entries(counts: Any, first: Any, most: int) -> Any:
                # A model with fewer rows repeats its last one.
                last = torch.minimum(torch.arange(most), counts[:, None] - 1)
                return order[(last + first[:, None]).clamp_(0)]

            if few > 0:
                rows = entries(counts, first, few)
                y = network(x[rows], stored, None)
                small = ((counts > 0) & (counts <= few)).nonzero()[:, 0]
                out[rows[small]] = y[small]
            many = (counts > few).nonzero()[:, 0]
            many = many[torch.argsort(counts[many], descending=True)]
            for begin, end in _chunks(counts[many].numpy(), chunk):
                models = many[begin:end]
                rows = entries(counts[models], first[models], int(counts[models[0]]))
                out[rows] = network(x[rows], stored, models)
        return out

    return fastest(
        [
            rotating(
                "torch-padded",
                functools.partial(answer, stored, few, chunk),
                len(requests),
                f"padded baddbmm, {order}; up to {few} rows at once, the others by {chunk}",
            )
            for stored, order in _stored(weights)
            for few in _FEW
            for chunk in _CHUNKS
        ],
        tries=5,
    )


def _chunks(counts: np.ndarray[Any, Any], models: int) -> list[tuple[int, int]]:
    """Return (begin, end) of chunks of descending counts, each at least half of the largest."""
    chunks = []
    begin = 0
    while begin < len(counts):
        most = int(counts[begin])
        alike = int(np.searchsorted(-counts, -(most // 2), side="right"))
        end = min(max(alike, begin + 1), begin + models, begin + max(1, _CHUNK_ROWS // most))
        chunks.append((begin, end))
        begin = end
    return chunks

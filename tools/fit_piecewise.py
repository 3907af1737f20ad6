"""Print cpp/kernels/piecewise_tables.h: minimax quartics on 32 segments of |x|. Needs SciPy.

    python tools/fit_piecewise.py > cpp/kernels/piecewise_tables.h

The largest error of each table goes to stderr. Functions and segments here are those of
cpp/kernels/piecewise.h.

A quartic is c0 + a (c1 + v (c2 + v (c3 + v c4))), a = |x| and v = a - shift. Each segment's
coefficients are fitted by linear programming (the largest weighted error is the objective), then
rounded one after the other, highest degree first, and the rest fitted again. c3 and c4 share a
word: c4 is the whole word read as a float32, c3 its lower half read as the upper half of one (8
bits of precision). Among some hundred neighbours of the exact pair, whose errors largely cancel,
the best is taken.
"""

import math
import sys

import numpy as np
from scipy.optimize import linprog


def to_bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def from_bits(word: int) -> float:
    return float(np.uint32(word).view(np.float32))


def log_segments(offset: float, limit: float) -> list[tuple[int, float, float]]:
    """(row, low, high) of the segments with equal bits 20 to 24 of the float32 |x| + offset."""
    segments, word = [], to_bits(offset)
    while word <= to_bits(limit + offset):
        end = ((word >> 20) + 1) << 20
        segments.append(
            ((word >> 20) & 31, from_bits(word) - offset, min(from_bits(end) - offset, limit))
        )
        word = end
    return [(row, 0.0 if i == 0 else low, high) for i, (row, low, high) in enumerate(segments)]


def linear_segments(per_unit: float) -> list[tuple[int, float, float]]:
    """(row, low, high) of the segments with equal rounded |x| * per_unit. Row 31 stays zero."""
    return [(row, max(0.0, (row - 0.5) / per_unit), (row + 0.5) / per_unit) for row in range(31)]


def minimax(basis: np.ndarray, y: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Coefficients of the least largest |basis @ c - y| / unit."""
    q, r = np.linalg.qr(basis / unit[:, None])
    start = q.T @ (y / unit)
    rest = y / unit - q @ start
    scale = np.abs(rest).max() or 1.0
    q *= math.sqrt(len(y))
    one = np.ones((len(y), 1))
    found = linprog(
        np.r_[np.zeros(q.shape[1]), 1],
        A_ub=np.vstack([np.hstack([q, -one]), np.hstack([-q, -one])]),
        b_ub=np.r_[rest, -rest] / scale,
        bounds=[(None, None)] * q.shape[1] + [(0, None)],
    )
    return np.linalg.solve(r, start + found.x[:-1] * scale * math.sqrt(len(y)))


def evaluate(words: list[int], x: np.ndarray, shift: float) -> np.ndarray:
    """What the kernels compute. In float64 the product is exact; rounding the sum fuses both."""
    c0, c1, c2, c4 = map(from_bits, words)
    shifted = x - np.float32(shift)
    p = np.full_like(x, c4)
    for factor, c in (
        (shifted, from_bits(words[3] << 16 & 0xFFFFFFFF)),
        (shifted, c2),
        (shifted, c1),
        (x, c0),
    ):
        p = (p.astype(np.float64) * factor + c).astype(np.float32)
    return p


def fit_row(f, relative: bool, shift: float, low: float, high: float) -> tuple[list[int], float]:
    """The words of one row and its largest error, in ULP if relative, else in 2^-23."""
    z = (1 - np.cos(np.pi * (np.arange(56) + 0.5) / 56)) / 2
    x = np.r_[low, low + (high - low) * z, high] * (1 + 1e-7)
    x = x[x > 0]
    y = f(x)
    floor = 2.0**-23 * np.maximum(np.abs(y), 1 / 16)  # small results come closer than asked for
    unit = np.ldexp(1.0, np.frexp(y)[1] - 24) if relative else floor
    powers = np.stack([np.ones_like(x), *(x * (x - shift) ** k for k in range(4))], 1)
    degrees = [1, 2, 3, 4] if low == 0 else [0, 1, 2, 3, 4]  # f(0) = 0, exactly
    lower = [k for k in degrees if k < 3]
    exact = minimax(powers[:, degrees], y, unit)
    candidates = []
    for top in range((to_bits(exact[-1]) >> 16) - 60, (to_bits(exact[-1]) >> 16) + 61):
        c4 = from_bits((top << 16 | 0x3E00) & 0xFFFFFFFF)
        fitted = np.linalg.lstsq(
            powers[:, degrees[:-1]] / unit[:, None], (y - c4 * powers[:, 4]) / unit, rcond=None
        )[0]
        nearest = (to_bits(fitted[-1]) + 0x8000) >> 16
        for half in range(nearest - 1, nearest + 2):
            word = top << 16 | half
            rest = y - from_bits(word) * powers[:, 4] - from_bits(half << 16) * powers[:, 3]
            basis = powers[:, lower] / unit[:, None]
            left = rest / unit - basis @ np.linalg.lstsq(basis, rest / unit, rcond=None)[0]
            candidates.append((np.abs(left).max(), word, rest))
    rows = []
    for _, word, rest in sorted(candidates, key=lambda candidate: candidate[0])[:40]:
        words, remaining = [0, 0, 0, word], rest.copy()
        for i in range(len(lower) - 1, -1, -1):
            c = float(np.float32(minimax(powers[:, lower[: i + 1]], remaining, unit)[i]))
            words[lower[i]] = to_bits(c)
            remaining -= c * powers[:, lower[i]]
        rows.append(words)
    # Of these, the one that float32 arithmetic serves best.
    for count, keep in ((4000, 6), (150_000, 1)):
        samples = np.random.default_rng(0).uniform(low, high, count).astype(np.float32)
        truth = f(samples.astype(np.float64))
        sample_unit = np.ldexp(1.0, np.frexp(truth)[1] - 24) if relative else 2.0**-23
        errors = [
            np.abs((evaluate(words, samples, shift) - truth) / sample_unit).max() for words in rows
        ]
        best = np.argsort(errors)[:keep]
        rows = [rows[i] for i in best]
    return rows[0], float(errors[best[0]])


def minus_x_times(share):
    """-x share(x): what is missing to max(x, 0) in x (1 - share(|x|))."""
    return np.vectorize(lambda x: -x * share(x), otypes=[float])


def logistic(s: float) -> float:
    return 1 / (1 + math.exp(min(s, 700.0)))


TABLES = {
    "kTanhRows": (np.tanh, True, 1.5, log_segments(0.7, 9.02)),
    "kGeluRows": (
        minus_x_times(lambda x: math.erfc(x / math.sqrt(2)) / 2),
        False,
        0.0,
        linear_segments(5.25),
    ),
    "kGeluTanhRows": (
        minus_x_times(lambda x: logistic(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        False,
        0.0,
        linear_segments(5.25),
    ),
    "kSiluRows": (
        minus_x_times(logistic),
        False,
        0.0,
        [s for s in log_segments(1.5, 20.5) if s[1] < 20.5],
    ),
}


HEAD = """\
// Generated: `python tools/fit_piecewise.py > cpp/kernels/piecewise_tables.h` (NumPy and SciPy).
//
// Rows are c0, c1, c2 and a word that is c4 and, in its lower half, the upper half of c3. Minimax
// by linear programming; among near equals those that float32 arithmetic serves best.
#pragma once

#include <stdint.h>

namespace mlpbank {
namespace MLPBANK_ISA {
namespace {
"""

TAIL = """
}  // namespace
}  // namespace MLPBANK_ISA
}  // namespace mlpbank
"""


def main() -> None:
    print(HEAD, end="")
    for name, (f, relative, shift, segments) in TABLES.items():
        rows, worst = [[0, 0, 0, 0] for _ in range(32)], 0.0
        for row, low, high in segments:
            rows[row], error = fit_row(f, relative, shift, low, high)
            worst = max(worst, error)
            if low == 0 and not relative:
                rows[row][0] = to_bits(-0.0)  # keeps the sign of -0
        print(f"{name}: largest error {worst:.2f} {'ULP' if relative else 'eps'}", file=sys.stderr)
        print(f"\nconstexpr uint32_t {name}[32][4] = {{")
        for row in rows:
            print("    {" + ", ".join(f"0x{word:08x}" for word in row) + "},")
        print("};")
    print(TAIL, end="")


if __name__ == "__main__":
    main()

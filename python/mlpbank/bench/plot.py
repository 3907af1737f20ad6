"""Pictures of a run: the roofline, and bars against the peers. Drawn from what `report.as_json` returns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlpbank.files._atomic import atomic_writer

# Okabe and Ito's colours, which colour-blind readers can tell apart. A peer keeps its colour in every picture.
_COLOURS = {
    "numpy": "#0072B2",
    "torch": "#D55E00",
    "torch-compile": "#E69F00",
    "jax": "#009E73",
    "onnxruntime": "#CC79A7",
    "openvino": "#56B4E9",
    "torch-loop": "#999999",
}
_INK, _GREY = "#222222", "#767676"
_STYLE = {
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GREY,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_INCHES_WIDE, _DPI = 9.0, 200  # twice the pixels of a README column, for sharp text

Case = Mapping[str, Any]


def draw(results: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw the roofline and the bars next to `path`, and return the files that were written.

    Parameters
    ----------
    results : mapping
        What ``--json`` writes.
    path : Path
        ``bench.png`` gives ``bench-roofline.png`` and, where a peer was timed, ``bench-peers.png``.
    """
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot there is no display to ask for

    cases = [case for case in results["cases"] if case["timings"]]
    pictures = []
    if cases:
        pictures.append(("roofline", _roofline, 5.4))
    if any(len(case["timings"]) > 1 for case in cases):
        pictures.append(("peers", _peers, 1.6 + 0.55 * len(cases)))
    written = []
    for name, picture, inches_high in pictures:
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(_INCHES_WIDE, inches_high), layout="constrained")
            picture(figure, cases, results)
            target = path.with_name(f"{path.stem}-{name}.png")
            with atomic_writer(target) as file:
                figure.savefig(file, format="png", dpi=_DPI)
        written.append(target)
    return written


def machine_line(results: Mapping[str, Any]) -> str:
    """Return the line that names the machine."""
    threads = results["threads"]
    return f"{results['machine']['cpu']}, {threads} thread{'s' if threads > 1 else ''}, {results['dtype']}"


def label(case: Case) -> str:
    """Return a case's name in two lines."""
    of = case["case"]
    rows = "1 row" if of["rows"] == 1 else f"{of['rows']} rows"
    return f"{of['num_models']} × {'-'.join(map(str, of['sizes']))}\n{rows}"


def group_roofs(cases: Sequence[Case]) -> list[tuple[float, float, float]]:
    """Return the bandwidth roofs, (smallest bytes, largest bytes, GB/s), one for each level of memory that was met.

    Cases whose parameters were read at about the same speed share the roof of the fastest of them.
    """
    roofs: list[tuple[float, float, float]] = []
    for case in sorted(cases, key=lambda c: -float(c["limits"]["read_gb_per_s"])):
        nbytes, speed = float(case["nbytes"]), float(case["limits"]["read_gb_per_s"])
        if roofs and speed > 0.75 * roofs[-1][2]:
            smallest, largest, roof = roofs[-1]
            roofs[-1] = min(smallest, nbytes), max(largest, nbytes), roof
        else:
            roofs.append((nbytes, nbytes, speed))
    return roofs


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Return positions as near as one pass makes them, in the same order, at least `gap` apart."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    result = list(positions)
    for lower, upper in itertools.pairwise(order):
        result[upper] = max(result[upper], result[lower] + gap)
    if order:  # half of what the last was pushed up, all move down
        shift = (result[order[-1]] - positions[order[-1]]) / 2
        result = [y - shift for y in result]
    return result


def _gflops(case: Case) -> float:
    return float(case["flops"] / case["timings"][0]["median_us"] / 1e3)


def _intensity(case: Case) -> float:
    return float(case["flops"] / case["nbytes"])


def _roofline(figure: Any, cases: Sequence[Case], results: Mapping[str, Any]) -> None:
    import numpy as np

    axes = figure.subplots()
    speeds = [_gflops(case) for case in cases]
    intensities = [_intensity(case) for case in cases]
    roofs = group_roofs(cases)
    peaks = {
        isa: max(float(case["limits"]["fma_gflop_per_s"][isa]) for case in cases)
        for isa in cases[0]["limits"]["fma_gflop_per_s"]
    }
    top, steepest = max(peaks.values()), max(bandwidth for _, _, bandwidth in roofs)
    # Room for the roofs' labels on the left and for the cases' names, two decades long, on the right.
    left, right = min(intensities) / 12, max(max(intensities) * 220, 3e3)
    bottom = min([*speeds, *(bandwidth * min(intensities) for _, _, bandwidth in roofs)]) / 4
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top * 1.6))

    x = np.geomspace(left, right, 400)
    for _, _, bandwidth in roofs:
        axes.plot(x, np.minimum(bandwidth * x, top), color=_INK, linewidth=1.4)
    for isa, peak in peaks.items():
        axes.plot(
            [peak / steepest, right], [peak, peak], color=_INK, linewidth=1.4, linestyle="-" if peak == top else ":"
        )
        axes.annotate(
            f"{isa} peak\n{peak:.0f} GFLOP/s",
            (1, peak),
            xycoords=axes.get_yaxis_transform(),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
        )
    axes.scatter(intensities, speeds, s=64, color="#D55E00", edgecolor="white", linewidth=1, zorder=4)
    _point_labels(axes, cases, intensities, speeds, top)
    axes.set_xlabel("flops per byte of parameters")
    axes.set_ylabel("GFLOP/s")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(which="major", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    _title(axes, "Share of the machine's limit that mlpbank reaches", results)
    figure.draw_without_rendering()  # fixes the size of the axes, and with it the angle of the roofs
    _roof_labels(axes, roofs)


def _title(axes: Any, text: str, results: Mapping[str, Any]) -> None:
    axes.set_title(text, loc="left", fontsize=12, fontweight="bold", pad=24)
    axes.annotate(
        machine_line(results), (0, 1), xycoords="axes fraction", xytext=(0, 8), textcoords="offset points", color=_GREY
    )


def _roof_labels(axes: Any, roofs: Sequence[tuple[float, float, float]]) -> None:
    """Write along each bandwidth roof, from where it enters the picture, what was read how fast."""
    import numpy as np

    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    for smallest, largest, bandwidth in roofs:
        start = 1.2 * max(left, bottom / bandwidth)
        ends = axes.transData.transform([(start, bandwidth * start), (start * 2, bandwidth * start * 2)])
        angle = float(np.degrees(np.arctan2(*(ends[1] - ends[0])[::-1])))
        size = _megabytes(smallest)
        if largest > 1.05 * smallest:
            size += f" to {_megabytes(largest)}"
        axes.annotate(
            f"{size} MB: {bandwidth:.0f} GB/s",
            (start, bandwidth * start),
            xytext=(-4, 4),
            textcoords="offset points",
            rotation=angle,
            rotation_mode="anchor",
            fontsize=9.5,
        )


def _megabytes(nbytes: float) -> str:
    return f"{nbytes / 1e6:.2g}" if nbytes < 9.5e6 else f"{nbytes / 1e6:.0f}"


def _point_labels(
    axes: Any, cases: Sequence[Case], intensities: Sequence[float], speeds: Sequence[float], top: float
) -> None:
    """Write each case's name and share to the right of its point, moved where two or the roof would be overlapped."""
    import numpy as np

    log_gap = 0.048 * float(np.log(axes.get_ylim()[1] / axes.get_ylim()[0]))
    columns: list[list[int]] = []  # points of similar intensity, whose names stand below one another
    for i in sorted(range(len(cases)), key=lambda i: intensities[i]):
        if columns and intensities[i] < 10 * intensities[columns[-1][0]]:
            columns[-1].append(i)
        else:
            columns.append([i])
    for column in columns:
        heights = spread([float(np.log(speeds[i])) for i in column], log_gap)
        lower = max(0.0, max(heights) - (float(np.log(top)) - 0.8 * log_gap))
        start = 1.6 * max(intensities[i] for i in column)
        for i, height in zip(column, heights, strict=True):
            axes.annotate(
                f"{label(cases[i])}: {cases[i]['limits']['share']:.0%}".replace("\n", ", "),
                xy=(intensities[i], speeds[i]),
                xytext=(start, float(np.exp(height - lower))),
                fontsize=9.5,
                va="center",
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
                arrowprops={
                    "arrowstyle": "-",
                    "color": _GREY,
                    "linewidth": 0.7,
                    "shrinkA": 0,
                    "shrinkB": 4,
                    "relpos": (0, 0.5),
                },
                zorder=3,
            )


def _peers(figure: Any, cases: Sequence[Case], results: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    timed = {timing["name"] for case in cases for timing in case["timings"][1:]}
    names = [name for name in _COLOURS if name in timed]
    height = 0.8 / len(names)
    for row, case in enumerate(cases):
        speedups = {timing["name"]: timing["speedup"] for timing in case["timings"][1:]}
        for i, name in enumerate(names):
            if name in speedups:
                at = row + (i - (len(names) - 1) / 2) * height
                axes.barh(at, speedups[name] - 1, height * 0.9, left=1, color=_COLOURS[name], zorder=2)
        if speedups:
            nearest = min(speedups, key=speedups.__getitem__)
            axes.annotate(
                f"{nearest}: {speedups[nearest]:.3g}×",
                (1, row),
                xycoords=axes.get_yaxis_transform(),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=10,
            )
    axes.axvline(1, color=_INK, linewidth=1, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.set_yticks(range(len(cases)), [label(case) for case in cases], fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.spines.left.set_visible(False)
    axes.grid(axis="x", which="major", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.annotate(
        "fastest peer",
        (1, 1),
        xycoords="axes fraction",
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=10,
        fontweight="bold",
    )
    handles = [axes.barh(0, 0, color=_COLOURS[name], label=name) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9.5)
    _title(axes, "How many times faster mlpbank is than …", results)

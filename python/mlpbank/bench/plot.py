"""Charts of a run, from the result of `report.as_json`: one of the limits, one of the peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlpbank.files._atomic import atomic_writer

# The colours of Okabe and Ito, which colour-blind readers can distinguish.
_PEER_COLOURS = {
    "numpy": "#0072B2",
    "torch": "#D55E00",
    "torch-compile": "#E69F00",
    "jax": "#009E73",
    "onnxruntime": "#CC79A7",
    "openvino": "#56B4E9",
    "torch-loop": "#999999",
}
_LIMIT_COLOURS = {"read": "#0072B2", "fma": "#D55E00"}
_LIMIT_NAMES = {"read": "reading weights", "fma": "multiply-adds"}
_NARROW = 0.45  # a bar below this share has no room for its limit's name
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
    """Draw the results that ``--json`` writes, and return the paths of the pictures.

    ``bench.png`` gives ``bench-limits.png`` and, if a peer was timed, ``bench-peers.png``.
    """
    import matplotlib
    from matplotlib.figure import Figure  # pyplot would need a display

    cases = [case for case in results["cases"] if case["timings"]]
    pictures = []
    if cases:
        pictures.append(("limits", _limits, 1.3 + 0.48 * len(cases)))
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
    plural = "s" if threads > 1 else ""
    return f"{results['machine']['cpu']}, {threads} thread{plural}, {results['dtype']}"


def limit_label(case: Case) -> str:
    """Return the label of a case's bar: the limit that binds, and the share."""
    limits = case["limits"]
    name = _LIMIT_NAMES[limits["binding"]]
    if case["limit_disturbed"]:
        return f"{name}: limit disturbed"
    return f"{name} {limits['share']:.0%}"


def _rows(axes: Any, cases: Sequence[Case]) -> None:
    """Set up a row for each case, the first on top."""
    names = []
    for case in cases:
        of = case["case"]
        rows = "1 row" if of["rows"] == 1 else f"{of['rows']} rows"
        names.append(f"{of['num_models']} × {'-'.join(map(str, of['sizes']))}\n{rows}")
    axes.set_yticks(range(len(cases)), names, fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.spines.left.set_visible(False)
    axes.grid(axis="x", which="major", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)


def _title(axes: Any, text: str, results: Mapping[str, Any]) -> None:
    axes.set_title(text, loc="left", fontsize=12, fontweight="bold", pad=24)
    _note(axes, machine_line(results), (0, 1), "axes fraction", (0, 8), color=_GREY)


def _note(axes: Any, text: str, at: Any, coordinates: Any, offset: Any, **style: Any) -> None:
    axes.annotate(
        text, at, xycoords=coordinates, xytext=offset, textcoords="offset points", **style
    )


def _limits(figure: Any, cases: Sequence[Case], results: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    for row, case in enumerate(cases):
        limits = case["limits"]
        share = min(1.0, limits["share"])
        disturbed = case["limit_disturbed"]
        colour = "#bbbbbb" if disturbed else _LIMIT_COLOURS[limits["binding"]]
        axes.barh(row, share, 0.72, color=colour, zorder=2)
        inside = share >= _NARROW
        _note(
            axes,
            limit_label(case),
            (share, row),
            "data",
            (-8 if inside else 8, 0),
            ha="right" if inside else "left",
            va="center",
            color="white" if inside and not disturbed else _INK,
            fontsize=10.5,
            fontweight="bold" if inside else "normal",
        )
    axes.axvline(1, color=_INK, linewidth=1, zorder=3)
    axes.set_xlim(0, 1.001)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    _rows(axes, cases)
    _title(axes, "How much of the limit that binds mlpbank reaches", results)


def _peers(figure: Any, cases: Sequence[Case], results: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    timed = {timing["name"] for case in cases for timing in case["timings"][1:]}
    names = [name for name in _PEER_COLOURS if name in timed]
    height = 0.8 / len(names)
    right = axes.get_yaxis_transform()
    for row, case in enumerate(cases):
        speedups = {timing["name"]: timing["speedup"] for timing in case["timings"][1:]}
        for i, name in enumerate(names):
            if name in speedups:
                at = row + (i - (len(names) - 1) / 2) * height
                width, colour = speedups[name] - 1, _PEER_COLOURS[name]
                axes.barh(at, width, height * 0.9, left=1, color=colour, zorder=2)
        if speedups:
            nearest = min(speedups, key=speedups.__getitem__)
            text = f"{nearest}: {speedups[nearest]:.3g}×"
            _note(axes, text, (1, row), right, (8, 0), va="center", fontsize=10)
    axes.axvline(1, color=_INK, linewidth=1, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}×")
    _rows(axes, cases)
    style = {"va": "bottom", "fontsize": 10, "fontweight": "bold"}
    _note(axes, "fastest peer", (1, 1), "axes fraction", (8, 0), **style)
    handles = [axes.barh(0, 0, color=_PEER_COLOURS[name], label=name) for name in names]
    style = {"ncols": len(names), "frameon": False, "fontsize": 9.5}
    figure.legend(handles=handles, loc="outside lower center", **style)
    _title(axes, "How many times faster mlpbank is than …", results)

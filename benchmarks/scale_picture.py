"""Draw rows per second of what `python -m benchmarks scale` has measured.

python -m benchmarks.scale_picture RESULT.json PICTURE.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

OURS = "#1f77b4"
OTHERS = "#bbbbbb"


def draw(tables: list[dict[str, Any]], path: Path) -> None:
    """Draw a panel for each table whose rows have rows per second."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [table for table in tables if "rows" in table["units"]]
    heights = [len(table["rows"]) for table in shown]
    figure, panels = plt.subplots(
        len(shown),
        1,
        figsize=(8, 0.32 * sum(heights) + 0.8 * len(shown)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axes, table in zip(panels[:, 0], shown, strict=True):
        rows = [row for row in table["rows"][::-1] if "without" not in row[""]]  # no engine
        names = [row[""] for row in rows]
        values = [row["rows"] / 1e3 for row in rows]
        colours = [OURS if "mlpbank." in name else OTHERS for name in names]
        bars = axes.barh(names, values, color=colours)
        axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8)
        axes.set_title(table["title"], fontsize=9)
        axes.set_xlim(0, 1.12 * max(values))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Thousand rows per second", fontsize=11)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text())["tables"], Path(sys.argv[2]))

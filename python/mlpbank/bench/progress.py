"""The progress bar of a run with several parts. It needs a terminal and tqdm."""

from __future__ import annotations

from typing import Any

from mlpbank.bench.measure import Progress


class ProgressBar:
    """A bar over `total` parts. `print` writes above it."""

    def __init__(self, total: int) -> None:
        self._bar: Any = None
        self._done = 0
        try:
            from tqdm import tqdm
        except ImportError:
            return
        form = "{percentage:3.0f}%|{bar:20}| {elapsed}<{remaining} {desc}"
        self._bar = tqdm(
            total=total, bar_format=form, leave=False, dynamic_ncols=True, disable=None
        )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def part(self, name: str) -> Progress:
        """Return the function to which the next part reports its progress."""
        done, self._done = self._done, self._done + 1

        def progress(fraction: float, doing: str) -> None:
            if self._bar is not None:
                self._bar.set_description_str(f"{name}: {doing}", refresh=False)
                self._bar.update(done + fraction - self._bar.n)

        return progress

    def print(self, text: str) -> None:
        """Print `text` to standard output."""
        if self._bar is not None:
            self._bar.clear()
        print(text, flush=True)
        if self._bar is not None:
            self._bar.refresh()

"""Progress bars for long loops, drawn by tqdm."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Generator, Iterable
from importlib.util import find_spec
from typing import Any, TypeVar

T = TypeVar("T")

_PACKAGE = os.path.dirname(__file__) + os.sep


def progress_bar(
    items: Iterable[T], description: str, enabled: bool, **options: Any
) -> Iterable[T]:
    """Return `items`, with a bar on stderr for the loop over them if it is enabled.

    Without tqdm there is no bar but a warning, which points at the code that asked for the bar.
    `options` are those of ``tqdm.tqdm``.
    """
    if not enabled:
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        warnings.warn(
            "progress=True needs tqdm: pip install tqdm", UserWarning, stacklevel=_caller_level()
        )
        return items
    return tqdm(items, desc=description, **options)  # type: ignore[no-any-return]


def progress_of(
    items: Iterable[T],
    description: str,
    enabled: bool,
    done: Callable[[], int],
    **options: Any,
) -> Generator[T, None, None]:
    """Yield `items`, with a bar that stands at ``done()`` after each, as at the bytes of a file.

    tqdm has to be there if it is enabled. Close it, so that the bar ends with the loop.
    """
    if not enabled:
        yield from items
        return
    from tqdm import tqdm

    with tqdm(desc=description, **options) as bar:
        for item in items:
            yield item
            bar.update(done() - bar.n)
        bar.update(done() - bar.n)


def on_terminal() -> bool:
    """Return whether a command shows a bar by itself: stderr is a terminal and tqdm is there."""
    return sys.stderr.isatty() and find_spec("tqdm") is not None


def _caller_level() -> int:
    """Return the stacklevel of the first frame outside mlpbank, for a warning of this module."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
        level += 1
    return level

"""Progress bars for what lasts, where tqdm is installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def progress_bar(
    items: Iterable[T], description: str, enabled: bool, **options: Any
) -> Iterable[T]:
    """Return `items`, showing a bar on stderr while they are used up if it is enabled and tqdm is there."""
    if not enabled:
        return items
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=description, **options)  # type: ignore[no-any-return]

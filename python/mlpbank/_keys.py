"""Keys, the names of models: what is one, and what stands for one that is missing.

The type of the keys of a bank is ``str``, ``int``, or for example ``tuple[str, int]``.
"""

from __future__ import annotations

import datetime
import enum
import math
import re
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlpbank.errors import InvalidTypeError, InvalidValueError
from mlpbank.typing import Key

MAX_PARTS = 16
_EXPECTED = "a str, an int or a tuple of them"
# Types of floats with fewer digits than Python's, as libraries call them.
SMALL_FLOATS = {
    **dict.fromkeys(("float", "float32", "Float32"), np.float32),
    **dict.fromkeys(("halffloat", "float16", "Float16"), np.float16),
}
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,19}\s*", re.ASCII)
_EXACT = 2.0**53  # from here on, a float may be another integer that was rounded


def kind_of(key: Key) -> Any:
    """Return the type of a key that is of built-in types."""
    return types.GenericAlias(tuple, tuple(map(type, key))) if type(key) is tuple else type(key)


def kind_name(kind: Any) -> str:
    """Return how a type of keys is written."""
    return kind.__name__ if kind in (str, int) else str(kind)


def common_kind(keys: Sequence[Key | None], name: str = "keys") -> Any:
    """Return the type of plain keys, str if there is none. None is of every type.

    Raises
    ------
    TypeError
        They are of different types.
    """
    kind = None
    for i, key in enumerate(keys):
        if key is None:
            continue
        if kind is None:
            kind = kind_of(key)
        elif kind_of(key) != kind:
            article = "an" if kind is int else "a"
            raise InvalidTypeError(
                f"{name}[{i}]: expected {article} {kind_name(kind)}, like the keys before, got "
                f"{key!r:.80}{way_to(key, kind)}"
            )
    return str if kind is None else kind


def encode(text: str, name: str = "key") -> bytes:
    """Return `text` in UTF-8, or raise ValueError for a surrogate that UTF-8 cannot hold."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"{name}: expected a str that UTF-8 can hold, got {text!r} ({error.reason})"
        ) from None


def _fits(key: Any) -> bool:
    return -(2**63) <= int(key) < 2**63


def stored_key(key: Any, name: str = "key") -> Key:
    """Return a key under which a model is kept: a plain str or int, or a tuple of them.

    A subclass may have another hash.

    Raises
    ------
    TypeError, ValueError
        It is no key. The message tells the way out.
    """
    plain = _plain(key, name, asked=False)
    assert plain is not None
    for part in plain if isinstance(plain, tuple) else (plain,):
        if isinstance(part, str):
            encode(part, name)
    return plain


def asked_key(key: Any, name: str = "key") -> Key | None:
    """Return a key to look up as a plain str or int or a tuple of them, None if it is missing.

    None, NaN, NA and NaT are missing keys, and so is a tuple with one of them. A float that is a
    whole number is that number: columns of int become float where they have gaps.

    Raises
    ------
    TypeError, ValueError
        It is no key. The message tells the way out.
    """
    return _plain(key, name, asked=True)


def _plain(key: Any, name: str, asked: bool) -> Key | None:
    if not isinstance(key, tuple):
        return _plain_part(key, name, asked, _EXPECTED)
    if not 1 <= len(key) <= MAX_PARTS:
        raise InvalidTypeError(
            f"{name}: expected a tuple of 1 to {MAX_PARTS} parts, got {key!r:.80}"
        )
    parts = [
        _plain_part(part, f"{name}[{i}]", asked, "a str or an int") for i, part in enumerate(key)
    ]
    return None if None in parts else tuple(parts)  # type: ignore[arg-type]


def _plain_part(key: Any, name: str, asked: bool, expected: str) -> str | int | None:
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        if not _fits(key):
            raise InvalidValueError(
                f"{name}: expected an int of 64 bits, got {key}; use str(key), here and in the bank"
            )
        return int(key)
    if is_arrow_scalar(key):
        plain, small = key.as_py(), SMALL_FLOATS.get(str(key.type))
        return _plain_part(plain if small is None else small(plain), name, asked, expected)
    if asked:
        if is_missing(key):
            return None
        if isinstance(key, (float, np.floating)):
            if float(key).is_integer() and abs(key) < _exact_below(key):
                return int(key)
            raise InvalidTypeError(f"{name}: expected {expected}, got {key!r}, a float")
    raise InvalidTypeError(f"{name}: expected {expected}, got {key!r:.80}{remedy(key)}")


def _exact_below(key: Any) -> float:
    """Return from where on a float of this type may be another integer that was rounded."""
    small = isinstance(key, np.floating) and key.dtype.itemsize < 8
    return 2.0 ** (np.finfo(key.dtype).nmant + 1) if small else _EXACT


def is_arrow_scalar(value: Any) -> bool:
    """Return whether a value is one of pyarrow's scalars, without importing that."""
    return hasattr(value, "as_py")


def is_missing(value: Any) -> bool:
    """Return whether a value stands for nothing: None, NaN, NaT, pandas' NA, a masked entry."""
    if value is None:
        return True
    if isinstance(value, (float, np.floating)):
        return math.isnan(value)
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    kind = type(value)
    return (kind.__name__ in ("NAType", "NaTType") and kind.__module__.startswith("pandas.")) or (
        kind.__name__ == "MaskedConstant" and kind.__module__.startswith("numpy.ma")
    )


def remedy(key: Any) -> str:
    """Return how to make a key of a value that is none, as the end of a message."""
    if is_missing(key):
        return (
            ", a missing key, as groupby(dropna=False) has one; leave it out, or give its model "
            "another key"
        )
    if isinstance(key, (bool, np.bool_)):
        way = "str(key) or int(key)"
    elif isinstance(key, (float, np.floating)):
        way = "int(key)" if float(key).is_integer() else "str(key)"
    elif isinstance(key, (bytes, bytearray)):
        way = "key.decode()"
    elif isinstance(key, (datetime.date, datetime.time)):  # a datetime and a Timestamp are dates
        way = "key.isoformat()"
    elif isinstance(key, enum.Enum):
        way = "key.value or key.name"
    elif isinstance(key, (list, np.ndarray)):
        way = "tuple(key)"
    elif isinstance(key, dict):
        way = "tuple(key.values())"
    elif isinstance(key, tuple):
        way = "one tuple of all parts"
    else:
        way = "str(key)"
    return f"; use {way}, here and in the bank"


def check_key(key: Any, kind: Any, name: str = "key") -> Key:
    """Return `key` as the bank keeps it, or raise TypeError or ValueError.

    `kind` is the type of the bank's keys, None if that is open.
    """
    plain = stored_key(key, name)
    check_kind(plain, kind, name)
    return plain


def check_kind(key: Key, kind: Any, name: str = "key") -> None:
    """Raise TypeError if a plain key is not of the bank's type of keys, None if that is open."""
    if kind is not None and kind_of(key) != kind:
        raise InvalidTypeError(
            f"{name}: expected {kind_name(kind)} like the bank's other keys, got {key!r:.80}"
            f"{way_to(key, kind)}"
        )


def way_to(key: Key, kind: Any) -> str:
    """Return how a plain key of another type becomes one of `kind`, as the end of a message."""
    parts = getattr(kind, "__args__", None)
    if parts is None:
        if not isinstance(key, tuple):
            return _way_to_part(key, kind, "key", f", for a column astype({kind_name(kind)})")
        if len(key) == 1 and type(key[0]) is kind:
            return "; a tuple of one part is a key of its own, use key[0]"
        return "; the bank's keys are no tuples"
    if not isinstance(key, tuple):
        if parts == (type(key),):
            return "; a tuple of one part is a key of its own, (key,)"
        return "; give all parts of a key, as a tuple or as columns"
    if len(key) != len(parts):
        return f"; give {len(parts)} parts"
    own = list(map(type, key))
    if sorted(map(kind_name, own)) == sorted(map(kind_name, parts)):
        ordered = tuple(key[own.index(part)] for part in parts)
        shown = f", as in {ordered!r:.80}" if len(set(parts)) == len(parts) else ""
        return f"; its parts are in another order than the bank has them{shown}"
    i = next(i for i, part in enumerate(parts) if own[i] is not part)
    return _way_to_part(key[i], parts[i], f"key[{i}]", "")


def _way_to_part(part: str | int, kind: Any, name: str, column: str) -> str:
    if kind is int and not _INTEGER.fullmatch(str(part)):
        return f"; {name} is no integer, as it is in the other keys"
    return f"; use {kind_name(kind)}({name}){column}"


def known_form(key: Any, kind: Any) -> Key | None:
    """Return a key as a bank with keys of `kind` may have it, None if it cannot have it.

    A `kind` of None means that the bank has no keys yet.
    """
    try:
        plain = stored_key(key)
    except (TypeError, ValueError):
        return None
    return plain if kind_of(plain) == kind else None


def spellings(key: Key) -> list[Key]:
    """Return other spellings of the text of a key, under which a bank may have it."""
    if isinstance(key, tuple):
        columns = [[part, *spellings(part)] for part in key]
        # The same change in all parts; the last one of those with fewer.
        rows = [
            tuple(column[min(i, len(column) - 1)] for column in columns)
            for i in range(1, max(map(len, columns)))
        ]
        return rows  # type: ignore[return-value]
    if not isinstance(key, str):
        return []
    text = key.strip()
    bare = re.sub(r"(?<=[0-9])\.0*$", "", text)
    found = [text, bare, bare.lstrip("0"), text.lower(), text.upper(), text.title()]
    return [other for other in dict.fromkeys(found) if other != key]

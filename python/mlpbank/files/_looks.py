"""What a file that is not the expected one looks like, in words for messages."""

from __future__ import annotations

import os
import re

from mlpbank.files._named import named

LOOKED_AT = 512  # bytes from the beginning

_MAGIC = (
    (b"version https://git-lfs", "a git-lfs pointer (`git lfs pull` gets the file itself)"),
    (b"PK\x03\x04", "a zip archive (PyTorch, Keras and .npz files are such)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
    (b"\x93NUMPY", "an array of NumPy (.npy)"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"GGUF", "a GGUF file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\x7fELF", "a program or library"),
    (b"%PDF", "a PDF"),
)


def looks_like(beginning: bytes) -> str | None:
    """Return what the first `LOOKED_AT` bytes of a file look like; None if nothing known."""
    if not beginning:
        return "an empty file"
    for magic, name in _MAGIC:
        if beginning.startswith(magic):
            return name
    if beginning[:1] == b"\x80" and 2 <= int.from_bytes(beginning[1:2], "big") <= 5:
        return "a Python pickle"
    if beginning[8:10] == b'{"' and b"mlpbank" not in beginning:
        return "a safetensors file that is no bank"
    if re.match(rb"\s*<(!doctype html|html|\?xml)", beginning, re.IGNORECASE):
        return "a web page (HTML or XML), so the download may have failed"
    if len(beginning) > 8 and not beginning.strip(b"\0"):
        return "zeros"
    text = beginning.decode("utf-8", "ignore")
    if len(text.encode()) >= len(beginning) - 3 and (text.isprintable() or _is_text(text)):
        return f"text that begins with {text[:40]!r}"
    return None


def beginning_of(path: str | os.PathLike[str]) -> str | None:
    """Return what a file looks like by its beginning; None if nothing known."""
    with named(path), open(path, "rb") as file:
        return looks_like(file.read(LOOKED_AT))


def _is_text(text: str) -> bool:
    return all(letter.isprintable() or letter in "\t\n\r\f" for letter in text)

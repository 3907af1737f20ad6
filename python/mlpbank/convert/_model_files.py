"""Files of single models: the one door to ``torch.load`` and the one to safetensors.

Both read without running code of the file. Errors name the path and what is there instead.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank.errors import InvalidTypeError, InvalidValueError, MissingPackageError
from mlpbank.files._looks import beginning_of
from mlpbank.files._named import named

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def load_torch(path: str | os.PathLike[str]) -> Any:
    """Return what ``torch.save`` wrote, with all tensors on the CPU.

    Raises
    ------
    InvalidValueError
        It is no such file, is damaged, or holds objects other than tensors and containers.
    MissingPackageError
        PyTorch is not installed.
    OSError
        The file cannot be read.
    """
    name = os.fspath(path)
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(
            f"{name}: reading it needs torch: pip install torch ({error})"
        ) from error
    got = beginning_of(path)
    if got is not None and not got.startswith(("a zip", "a Python pickle")):
        raise InvalidValueError(f"{name}: expected a file of torch.save, got {got}")
    if got is not None and got.startswith("a zip"):
        _check_archive(name)
    try:
        with named(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # pickle and torch raise nearly everything for damaged files
        raise InvalidValueError(f"{name}: {_reason(str(error))}") from error


def _check_archive(name: str) -> None:
    """Raise if a zip archive is cut off, or none of ``torch.save``."""
    try:
        with named(name), zipfile.ZipFile(name) as archive:
            members = archive.namelist()
    except zipfile.BadZipFile:
        raise InvalidValueError(
            f"{name}: expected a file of torch.save, got the beginning of one (a zip archive "
            "without its end); copy or save it again"
        ) from None
    if any("/code/" in member or member.endswith("constants.pkl") for member in members):
        raise InvalidValueError(
            f"{name}: expected a state dict, got a TorchScript archive; "
            "save torch.jit.load(path).state_dict()"
        )
    if any("exported_program" in member or "archive_format" in member for member in members):
        raise InvalidValueError(
            f"{name}: expected a state dict, got an exported program (torch.export.save); "
            "save torch.export.load(path).state_dict"
        )
    if not any(member.endswith("data.pkl") for member in members):
        shown = ", ".join(members[:3])
        raise InvalidValueError(
            f"{name}: expected a file of torch.save, got a zip archive of {shown or 'nothing'}"
        )


def _reason(text: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"[Uu]nsupported class (\S+)", text)
    if found or re.search("unrecognized|[Cc]an only (build|create|call)", text):
        what = f" ({found[1].rstrip('.')})" if found else ""
        return (
            f"expected a state dict, got a file with other objects{what}, whose loading would run "
            "code; save model.state_dict() instead"
        )
    short = " ".join(text.split())[:160] or "its end came too early"
    return f"expected a file of torch.save, got one that is damaged or none: {short}"


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a safetensors file. bfloat16 becomes float32.

    Raises
    ------
    InvalidValueError, InvalidTypeError
        It is no safetensors file, or has a dtype that NumPy lacks, such as float8.
    OSError
        The file cannot be read.
    """
    from safetensors import SafetensorError, deserialize

    name = os.fspath(path)
    with named(path), open(path, "rb") as file:
        data = file.read()
    try:
        tensors = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        got = beginning_of(path)
        what = error if got is None or got.startswith("a safetensors") else f"got {got}"
        raise InvalidValueError(f"{name}: expected a safetensors file, {what}") from error
    return {key: _array(key, about, name) for key, about in tensors}


def _array(key: str, about: Mapping[str, Any], name: str) -> npt.NDArray[Any]:
    dtype, raw, shape = about["dtype"], about["data"], about["shape"]
    if dtype == "BF16":  # the upper half of a float32
        upper = np.frombuffer(raw, "<u2").astype(np.uint32)
        return np.reshape((upper << 16).view(np.float32), shape)
    if dtype not in _DTYPES:
        raise InvalidTypeError(
            f"{name}: {key}: expected a dtype of NumPy or bfloat16, got {dtype}; "
            "make it float32 first, with its scale if it has one"
        )
    return np.reshape(np.frombuffer(raw, _DTYPES[dtype]), shape)

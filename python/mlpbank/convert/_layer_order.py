"""Which of the arrays in a tree of parameters belong to which layer: by names, numbers and sizes.

Nothing is inferred from a shape that two layers could have.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlpbank.architecture import Activation, Architecture
from mlpbank.convert._chain import unsupported
from mlpbank.errors import InvalidValueError

Path = tuple[str, ...]
Arrays = Mapping[Path, npt.NDArray[Any]]


def ordered(
    matrices: Arrays,
    slopes: Arrays,
    architecture: Architecture,
    layers: Sequence[str] | None,
) -> tuple[list[Path], dict[int, Path]]:
    """Return the paths of the layers, first to last, and those of slopes by the number of theirs.

    Parameters
    ----------
    matrices : mapping of path to array (..., in, out)
    slopes : mapping of path to array
        The parameters of PReLU.
    architecture : Architecture
    layers : sequence of str, optional
        The names of all layers in order, with those of slopes among them or without.

    Raises
    ------
    UnsupportedLayerError, ValueError
        They do not fit the architecture, or their order is not known.
    """
    names = {".".join(path): path for path in (*matrices, *slopes)}
    paths = sorted(matrices, key=_by_number)
    sequence = sorted(names.values(), key=_by_number)
    known = _are_numbered(sequence)
    if layers is not None:
        all_or_matrices = (sorted(names), sorted(".".join(path) for path in matrices))
        if isinstance(layers, str) or sorted(layers) not in all_or_matrices:
            raise InvalidValueError(f"layers: expected each of {list(names)} once, got {layers!r}")
        if known := len(layers) == len(names):
            sequence = [names[name] for name in layers]
        paths = [names[name] for name in layers if names[name] in matrices]
    if len(architecture.layers) != len(paths):
        raise InvalidValueError(
            f"architecture: expected {len(paths)} layers, since the parameters have "
            f"{found(matrices)}, got {len(architecture.layers)}, {_sizes(architecture)}; give an "
            "architecture of these layers, or pass the module itself, which tells them"
        )
    if layers is None and not _are_numbered(paths):
        paths = _by_size(matrices, architecture)
    behind = _layers_before(sequence, paths, slopes) if known else None
    return paths, _owners(slopes, architecture, behind)


def found(matrices: Arrays) -> str:
    """Return the layers that parameters have, for a message."""
    shown = [f"{'.'.join(p)}: {m.shape[-2]} -> {m.shape[-1]}" for p, m in matrices.items()]
    return ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "")


def _sizes(architecture: Architecture) -> str:
    layers = [f"{layer.input_size} -> {layer.output_size}" for layer in architecture.layers]
    return ", ".join(layers[:12]) + (", ..." if len(layers) > 12 else "")


def _by_size(matrices: Arrays, architecture: Architecture) -> list[Path]:
    """Return the paths of layers whose names do not tell their order, by their sizes."""
    names = [".".join(path) for path in matrices]
    sizes = [(layer.input_size, layer.output_size) for layer in architecture.layers]
    if len(set(sizes)) < len(sizes):
        raise InvalidValueError(
            f"layers: the names {names} do not tell the order of the layers; pass layers=[...] to "
            "convert.from_params"
        )
    by_size = {matrix.shape[-2:]: path for path, matrix in matrices.items()}
    if by_size.keys() != set(sizes):
        raise InvalidValueError(
            f"architecture: expected layers {found(matrices)}, as the parameters have them, got "
            f"{_sizes(architecture)}; give an architecture of these layers (if matrices are the "
            "other way round, weight_layout turns them), or pass the module itself"
        )
    return [by_size[size] for size in sizes]


def _layers_before(sequence: list[Path], paths: list[Path], slopes: Arrays) -> dict[Path, int]:
    """Return the number of the layer that each slope stands behind, -1 for none."""
    before, layer = {}, -1
    for path in sequence:
        if path in slopes:
            before[path] = layer
        else:
            layer = paths.index(path)
    return before


def _owners(
    slopes: Arrays, architecture: Architecture, behind: dict[Path, int] | None
) -> dict[int, Path]:
    """Return the path of the slope of each layer with prelu.

    `behind` are the layers behind which slopes stand, None where that is not known.
    """
    wanted = [i for i, s in enumerate(architecture.layers) if s.activation is Activation.PRELU]
    if not slopes and not wanted:
        return {}
    names = [".".join(path) for path in slopes]
    if not wanted:
        path, array = next(iter(slopes.items()))
        layer = 0 if behind is None else max(behind[path], 0)
        spec = architecture.layers[layer]
        where = "the layer before it" if behind is None else f"layer {layer}"
        raise unsupported(
            names[0],
            f"its weights have shape {array.shape}, as the slopes of PReLU and the scales of some "
            "normalisations; pass the module itself, or for PReLU an architecture with 'prelu' as "
            f"activation of {where}, such as LayerSpec({spec.input_size}, {spec.output_size}, "
            "'prelu')",
        )
    if len(slopes) != len(wanted):
        raise unsupported(
            names[0] if names else "",
            f"expected {len(wanted)} PReLU, since the architecture has 'prelu' as activation of "
            f"{_numbers(wanted)}, got {len(slopes)} ({', '.join(names) or 'none'}"
            "); where layers share one PReLU, or keep their slopes elsewhere, pass the module "
            "itself",
        )
    if behind is None:
        paths = sorted(slopes, key=_by_number)
        if not _are_numbered(paths):
            raise InvalidValueError(
                f"layers: the names {names} do not tell the order of these PReLU; pass "
                "layers=[...] with all layers and PReLU, in the order in which they are used"
            )
        return dict(zip(wanted, paths, strict=True))
    owners = {layer: path for path, layer in behind.items()}
    if sorted(behind.values()) != wanted:
        raise InvalidValueError(
            f"architecture: expected 'prelu' as activation of {_numbers(sorted(behind.values()))}, "
            f"behind which the parameters have {', '.join(names)}, got it for {_numbers(wanted)}"
        )
    return owners


def _numbers(layers: list[int]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"


def slope_of(array: npt.NDArray[Any], outputs: int, where: str, stacked: bool) -> Any:
    """Return the slope of a PReLU, () or (N,), of as many equal ones as there are outputs.

    Raises
    ------
    UnsupportedLayerError
        There are several that differ, or another number than one or `outputs`.
    """
    rows = array.reshape(len(array) if stacked else 1, -1)
    if rows.shape[1] not in (1, outputs):
        raise unsupported(
            where, f"expected 1 or {outputs} slopes of PReLU, got {array.shape[int(stacked) :]}"
        )
    if (rows != rows[:, :1]).any():
        raise unsupported(
            where,
            f"expected one slope for all outputs, got {rows.shape[1]} that differ; mlpbank has "
            "prelu with one slope for each layer",
        )
    return np.ascontiguousarray(rows[:, 0]).reshape(len(rows) if stacked else ())


def _number(part: str) -> tuple[str, int]:
    """Return a name without the number at its end, and that number or -1."""
    match = re.fullmatch(r"(.*?)(\d+)", part, re.DOTALL)
    return (match[1], int(match[2])) if match else (part, -1)


def _by_number(path: Path) -> list[tuple[str, int]]:
    return [_number(part) for part in path]


def _are_numbered(paths: list[Path]) -> bool:
    """Return whether numbers in their names tell the order of sorted paths."""
    return all(_numbered(a, b) for a, b in itertools.pairwise(paths))


def _numbered(before: Path, after: Path) -> bool:
    """Return whether two sorted neighbours first differ in a number, which tells their order."""
    for a, b in zip(_by_number(before), _by_number(after), strict=False):
        if a != b:
            # Keras and Haiku count from the second on: dense, dense_1, dense_2.
            second = a[1] < 0 and b == (f"{a[0]}_", 1)
            return second or (a[0] == b[0] and min(a[1], b[1]) >= 0)
    return False

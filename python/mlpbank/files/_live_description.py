"""What a live folder says of all of its models, as JSON in its index.

What is read is untrusted. docs/format.md describes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlpbank import _core
from mlpbank._names import Classes, Names
from mlpbank.architecture import Architecture
from mlpbank.errors import InvalidValueError
from mlpbank.files._described import (
    architecture_of,
    described,
    described_names,
    described_shift,
    described_type,
    expect_in,
    fallback_of,
    json_object,
    key_type_of,
    names_of,
    shift_of,
)
from mlpbank.typing import Float64Array, Key

FORMAT, VERSION = "mlpbank-live", 1
_KEY_VERSION = 2  # of bank files, from which on keys may be tuples


@dataclass(frozen=True)
class Description:
    """What is the same for all models of a live folder.

    Attributes
    ----------
    architecture : Architecture
    dtype, layout : str
        How the weights are stored.
    key_type : type or None
        ``str``, ``int``, ``tuple[...]``, or None if there never was a key.
    fallback : str, int, tuple or None
    metadata : dict
        The user's.
    is_decided : bool
        Whether there ever was a model, which decides the following.
    input_shift : float64 array (input_size,), or None
    feature_names : tuple of input_size str, or None
    classes : tuple of str, int, float or bool, or None
    repeated : tuple of str, or None
        Names of features of which one comes twice, see `Known`.
    """

    architecture: Architecture
    dtype: str
    layout: str
    key_type: Any
    fallback: Key | None
    metadata: dict[str, Any]
    is_decided: bool
    input_shift: Float64Array | None
    feature_names: Names | None
    classes: Classes | None
    repeated: Names | None

    @property
    def block(self) -> _core.BlockFormat:
        """The format of a block."""
        return _core.block_of(self.architecture._core, self.layout, self.dtype)

    def to_json(self) -> str:
        """Return it as text."""
        repeated = {} if self.repeated is None else {"repeated": list(self.repeated)}
        return json.dumps(
            {
                "format": FORMAT,
                "version": VERSION,
                "architecture": described(self.architecture),
                "dtype": self.dtype,
                "layout": self.layout,
                "keys": described_type(self.key_type),
                "fallback": self.fallback,
                "metadata": self.metadata,
                "is_decided": self.is_decided,
                **described_shift(self.input_shift),
                **described_names(self.feature_names, self.classes),
                **repeated,
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: Any) -> Description:
        """Return what a text says.

        Raises
        ------
        TypeError, ValueError, OverflowError
            It is no description.
        """
        if not isinstance(text, str):
            raise InvalidValueError(f"description: expected text, got {text!r:.80}")
        about = json_object(text, "description")
        if about.get("format") != FORMAT:
            raise InvalidValueError(f"format: expected {FORMAT!r}, got {about.get('format')!r:.80}")
        version = about.get("version")
        if type(version) is not int or version < 1:
            raise InvalidValueError(f"version: expected {VERSION}, got {version!r:.80}")
        if version > VERSION:
            raise InvalidValueError(
                f"version: this mlpbank reads up to {VERSION}, got {version}; a newer mlpbank "
                "wrote it"
            )
        architecture = architecture_of(expect_in(about, "architecture", list))
        dtype, layout = expect_in(about, "dtype", str), expect_in(about, "layout", str)
        if layout not in ("panel", "lane"):
            raise InvalidValueError(f"layout: expected 'panel' or 'lane', got {layout!r:.80}")
        _core.block_of(architecture._core, layout, dtype)  # knows the dtypes and complains
        key_type = key_type_of(about, 0, _KEY_VERSION)
        names, classes = names_of(about, architecture)
        repeated = about.get("repeated")
        if repeated is not None:
            repeated = expect_in(about, "repeated", list)
            if len(repeated) != architecture.input_size or set(map(type, repeated)) != {str}:
                raise InvalidValueError(f"repeated: expected names, got {repeated!r:.80}")
        return cls(
            architecture,
            dtype,
            layout,
            key_type,
            fallback_of(about, key_type),
            expect_in(about, "metadata", dict),
            expect_in(about, "is_decided", bool),
            shift_of(about, architecture),
            names,
            classes,
            None if repeated is None else tuple(repeated),
        )

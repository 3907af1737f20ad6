"""Activation, LayerSpec and Architecture: the one network that all models of a bank share."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterable
from dataclasses import dataclass

from mlpbank import _core
from mlpbank.errors import InvalidTypeError, InvalidValueError, TooLargeError


class Activation(str, enum.Enum):
    """What a layer applies to its outputs. The plain string works wherever one is expected: ``"relu"``.

    ``leaky_relu`` has slope 0.01 and ``elu`` alpha 1; ``gelu`` is the exact one (erf),
    ``gelu_tanh`` its approximation. ``softmax`` runs over all outputs of a row and may stand on the
    last layer only.
    """

    NONE = "none"
    RELU = "relu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    LEAKY_RELU = "leaky_relu"
    ELU = "elu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SILU = "silu"
    SOFTPLUS = "softplus"
    SOFTMAX = "softmax"

    def __str__(self) -> str:
        return self.value


def _activation(value: str | Activation) -> Activation:
    try:
        return Activation(value)
    except ValueError:
        known = ", ".join(repr(a.value) for a in Activation)
        raise InvalidValueError(f"activation: expected one of {known}, got {value!r}") from None


def positive_int(value: object, name: str) -> int:
    """Return `value` as an int, or raise what tells the user which `name` is not a positive integer."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidTypeError(f"{name}: expected a positive integer, got {value!r}") from None
    if isinstance(value, bool):
        raise InvalidTypeError(f"{name}: expected a positive integer, got {value!r}")
    if number <= 0:
        raise InvalidValueError(f"{name}: expected a positive integer, got {number}")
    if number >= 2**63:
        raise TooLargeError(f"{name}: too large, got {number}")
    return number


@dataclass(frozen=True)
class LayerSpec:
    """One fully-connected layer, ``activation(x @ W + b)``.

    Parameters
    ----------
    input_size, output_size : int
        Units going in and coming out; W is (input_size, output_size) and b (output_size,).
    activation : Activation or str
        What is applied to each output.

    Raises
    ------
    TypeError, ValueError, OverflowError
        A size is not a positive integer that fits 63 bits, or the activation is unknown.
    """

    input_size: int
    output_size: int
    activation: Activation = Activation.NONE

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_size", positive_int(self.input_size, "input_size"))
        object.__setattr__(self, "output_size", positive_int(self.output_size, "output_size"))
        object.__setattr__(self, "activation", _activation(self.activation))

    def __repr__(self) -> str:
        return f"LayerSpec({self.input_size}, {self.output_size}, {self.activation.value!r})"


class Architecture:
    """The layers of a network, first to last. Immutable, hashable and picklable.

    Parameters
    ----------
    layers : iterable of LayerSpec
        At least one; each input size equals the previous output size.

    Raises
    ------
    TypeError
        An element is not a LayerSpec.
    ValueError
        There is no layer, or two neighbours do not fit; the message names both sizes.
    OverflowError
        The number of parameters does not fit the address space.

    Examples
    --------
    >>> Architecture([LayerSpec(32, 64, "relu"), LayerSpec(64, 1)]) == Architecture.mlp(32, 64, 1)
    True
    """

    __slots__ = ("_core", "_layers")

    def __init__(self, layers: Iterable[LayerSpec]) -> None:
        if not isinstance(layers, Iterable):
            raise InvalidTypeError(f"layers: expected LayerSpecs, got {layers!r}")
        self._layers = tuple(layers)
        for i, layer in enumerate(self._layers):
            if not isinstance(layer, LayerSpec):
                raise InvalidTypeError(f"layers[{i}]: expected a LayerSpec, got {layer!r}")
        self._core = _core.Architecture(
            [
                (layer.input_size, layer.output_size, layer.activation.value)
                for layer in self._layers
            ]
        )

    @classmethod
    def mlp(
        cls,
        *sizes: int,
        activation: str | Activation = "relu",
        output_activation: str | Activation = "none",
    ) -> Architecture:
        """Return the architecture with these layer sizes, input first.

        Parameters
        ----------
        *sizes : int
            At least two: ``mlp(32, 64, 1)`` has a layer 32 -> 64 and a layer 64 -> 1.
        activation, output_activation : Activation or str
            Of all layers but the last, and of the last.
        """
        if len(sizes) < 2:
            raise InvalidValueError(
                f"sizes: expected at least two, an input and an output size, got {len(sizes)}"
            )
        last = len(sizes) - 2
        return cls(
            LayerSpec(
                sizes[i], sizes[i + 1], _activation(activation if i < last else output_activation)
            )
            for i in range(last + 1)
        )

    def validate(self) -> None:
        """Check what the constructor checked: at least one layer, positive sizes, neighbours that fit, no overflow."""
        self._core.validate()

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The layers, first to last."""
        return self._layers

    @property
    def input_size(self) -> int:
        """Size of an input vector."""
        return self._layers[0].input_size

    @property
    def output_size(self) -> int:
        """Size of an output vector."""
        return self._layers[-1].output_size

    @property
    def num_parameters(self) -> int:
        """Weights and biases of one model."""
        return self._core.num_parameters

    def __eq__(self, other: object) -> bool:
        return self._layers == other._layers if isinstance(other, Architecture) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._layers)

    def __repr__(self) -> str:
        return f"Architecture([{', '.join(map(repr, self._layers))}])"

    def __reduce__(self) -> tuple[type[Architecture], tuple[tuple[LayerSpec, ...]]]:
        return Architecture, (self._layers,)

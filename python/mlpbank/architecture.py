"""Activation, LayerSpec and Architecture: the network that all models of a bank share."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterable
from dataclasses import dataclass

from mlpbank import _core
from mlpbank.errors import InvalidTypeError, InvalidValueError, TooLargeError


class Activation(str, enum.Enum):
    """The function that a layer applies to its outputs.

    A plain string such as ``"relu"`` works wherever an Activation is expected. The slope of
    ``leaky_relu`` is 0.01, the alpha of ``elu`` is 1. ``gelu`` is exact (erf); ``gelu_tanh`` is the
    tanh approximation. ``softmax`` runs over all outputs of a row, on the last layer only.
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
    """Return `value` as an int. Errors call it `name`.

    Raises
    ------
    InvalidTypeError
        It is not an integer.
    InvalidValueError
        It is not positive.
    TooLargeError
        It does not fit in 63 bits.
    """
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
        Numbers of inputs and outputs. W is (input_size, output_size), b is (output_size,).
    activation : Activation or str
        The function applied to the outputs.

    Raises
    ------
    TypeError, ValueError, OverflowError
        A size is not a positive integer of at most 63 bits, or the activation is unknown.
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
        At least one. Each input size equals the output size of the layer before.

    Raises
    ------
    TypeError
        An element is not a LayerSpec.
    ValueError
        There is no layer, or two neighbours do not fit. The message names both sizes.
    OverflowError
        The parameters do not fit in the address space.

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
            Activation of all layers but the last, and of the last.

        Raises
        ------
        TypeError, ValueError, OverflowError
            There are fewer than two sizes, or `LayerSpec` refuses one of them.
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
        """Check again what the constructor checked.

        Raises
        ------
        ValueError, OverflowError
            As for the constructor.
        """
        self._core.validate()

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The layers, first to last."""
        return self._layers

    @property
    def input_size(self) -> int:
        """Number of inputs of the first layer."""
        return self._layers[0].input_size

    @property
    def output_size(self) -> int:
        """Number of outputs of the last layer."""
        return self._layers[-1].output_size

    @property
    def num_parameters(self) -> int:
        """Number of weights and biases of one model."""
        return self._core.num_parameters

    def __eq__(self, other: object) -> bool:
        return self._layers == other._layers if isinstance(other, Architecture) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._layers)

    def __repr__(self) -> str:
        return f"Architecture([{', '.join(map(repr, self._layers))}])"

    def __reduce__(self) -> tuple[type[Architecture], tuple[tuple[LayerSpec, ...]]]:
        return Architecture, (self._layers,)

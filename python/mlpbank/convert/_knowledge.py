"""What a model knows besides its weights: the names of its features, and its classes.

Models of one bank share them. So features are brought into one order, and outputs, if asked, to the
classes of all models; what differs otherwise is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlpbank.architecture import Activation
from mlpbank.convert._chain import Affine
from mlpbank.convert._frameworks import framework_of, is_onnx
from mlpbank.convert._layers import Converted, Layer
from mlpbank.convert.scalers import mean_and_scale
from mlpbank.errors import InvalidValueError, MlpbankError

# exp of it is 0, whatever the other outputs are. Every dtype keeps biases as float32.
NEVER = -1e30


class Knowledge(NamedTuple):
    """Names of features in the order of the inputs, and labels (str, int, float or bool)."""

    feature_names: tuple[str, ...] | None = None
    classes: tuple[Any, ...] | None = None


NOTHING = Knowledge()


def knowledge_of(
    model: Any, outputs: int | None = None, output: str | int | None = None
) -> Knowledge:
    """Return what a model knows. It reads attributes only, or the graph of an ONNX model.

    Parameters
    ----------
    model : model
    outputs : int, optional
        How many it has. Without, the classes of skorch are not known, which are their numbers.
    output : str or int, optional
        As for `convert`, of an ONNX model. One that cannot be read knows nothing here; converting
        it tells why.

    Raises
    ------
    ValueError
        The classes of a net of skorch are not those that it predicts.
    """
    framework = framework_of(type(model))
    if isinstance(model, Converted):
        names, classes = model.feature_names, model.classes
    elif framework == "sklearn" or (framework == "skorch" and outputs is not None):
        from mlpbank.convert import sklearn

        names, classes = sklearn.feature_names(model), sklearn.classes(model, outputs)
    elif is_onnx(model):
        try:
            from mlpbank.convert import onnx

            return Knowledge(*onnx.knowledge(model, output))
        except (MlpbankError, ImportError, OSError):
            return NOTHING
    else:
        return NOTHING
    return Knowledge(_plain(names, (str,)), _plain(classes, (str, int, float, bool)))


def _plain(values: Any, types: tuple[type, ...]) -> tuple[Any, ...] | None:
    """Return values as built-in ones, or None where one of them has another type."""
    if values is None or np.ndim(values) != 1:
        return None
    # Not tolist(), which makes plain integers of dates and durations.
    scalars = (np.integer, np.floating, np.bool_, np.str_)
    plain = tuple(
        v.item() if isinstance(v, scalars) and not isinstance(v, np.timedelta64) else v
        for v in values
    )
    return plain if all(type(value) in types for value in plain) else None


def names_beside(
    scaler: Any,
    names: tuple[str, ...] | None,
    models: Iterable[tuple[str, Any]],
    output: str | int | None = None,
) -> tuple[str, ...] | None:
    """Return the names of a bank's features, where a scaler of inputs is given beside models.

    Models are reordered, a scaler is not: it has to be in the order of the bank.

    Parameters
    ----------
    scaler : (mean, scale), fitted scaler or None
    names : tuple of str, optional
        What the bank knows already.
    models : iterable of pairs of str and model
        With what they are called in messages.
    output : str or int, optional
        As for `convert`.

    Raises
    ------
    TypeError, ValueError
        As for `mean_and_scale`.
    ValueError
        The scaler was fitted to other columns or another order, or does not know its columns while
        a model has another order.
    """
    if scaler is None:
        return names
    mean_and_scale(scaler, "input_scaler")  # the names of what is no scaler would say nothing
    own = knowledge_of(scaler).feature_names
    if own is not None:
        if names is not None and own != names:
            raise InvalidValueError(
                f"input_scaler: expected one fitted to the features of the bank, {_short(names)}, "
                f"in this order, got {_short(own)}; fit it on these columns in the bank's order"
            )
        return own
    for who, model in models:
        theirs = knowledge_of(model, output=output).feature_names
        names = names or theirs
        if theirs is not None and theirs != names:
            raise InvalidValueError(
                f"input_scaler: expected one that knows its columns, since {who} has "
                f"{_short(theirs)} where the bank has {_short(names or ())}; fit it on a data "
                "frame with the bank's columns, or make a Pipeline of scaler and model"
            )
    return names


class Agreement:
    """What the models of a bank know so far. Each next one is compared with it.

    Parameters
    ----------
    knowledge : Knowledge
        What the bank knows. The first model that knows more adds to it.
    align_classes : bool
        Bring outputs to the classes of the bank, instead of refusing models with others.
    """

    def __init__(self, knowledge: Knowledge, align_classes: bool) -> None:
        self.knowledge = knowledge
        self._align = align_classes
        self._names_of = self._classes_of = "the bank"

    def foresee(self, models: Iterable[tuple[Any, Any]], output: str | int | None = None) -> None:
        """Know the classes of all models, where they are to be aligned and the bank has none."""
        if not self._align or self.knowledge.classes is not None:
            return
        classes: dict[Any, None] = {}
        first: Any = None
        for key, model in models:
            own = knowledge_of(model, output=output).classes
            if not own:
                continue
            first = first or (key, own)
            if {type(label) for label in (*own, *first[1])} != {type(own[0])}:
                raise InvalidValueError(
                    f"models[{key!r}]: classes: expected the type of models[{first[0]!r}], "
                    f"{_short(first[1])}, got {_short(own)}{_one_type(own, first[1])}"
                )
            classes |= dict.fromkeys(own)
        self._classes_of = "all models"
        if classes:
            self.knowledge = self.knowledge._replace(classes=tuple(sorted(classes)))

    def layers(self, layers: list[Layer], own: Knowledge, who: str) -> list[Layer]:
        """Return the layers of a model that knows `own`, for inputs and outputs of the bank.

        Raises
        ------
        ValueError
            The model has other features or classes than those before it.
        """
        if own is NOTHING and not self._align:
            return layers
        return self._outputs(self._inputs(layers, own.feature_names, who), own.classes, who)

    def _inputs(self, layers: list[Layer], own: tuple[str, ...] | None, who: str) -> list[Layer]:
        names = self.knowledge.feature_names
        if own is None:
            return layers
        inputs = layers[0].weight.shape[0]
        if len(own) != inputs:
            raise InvalidValueError(
                f"feature names: expected one for each of {inputs} inputs, got {_short(own)}"
            )
        if names is None:
            self.knowledge, self._names_of = self.knowledge._replace(feature_names=own), who
        elif own != names:
            return [_reordered(layers[0], _order(names, own, self._names_of)), *layers[1:]]
        return layers

    def _outputs(self, layers: list[Layer], own: tuple[Any, ...] | None, who: str) -> list[Layer]:
        *others, last = layers
        outputs, classes = last.weight.shape[1], self.knowledge.classes
        if own is None:
            if self._align:
                raise InvalidValueError(
                    "align_classes: the classes of this model are not known; only classifiers of "
                    "scikit-learn with one label for each row, and ONNX graphs of them, tell them"
                )
            return layers
        if len(own) not in (1, outputs):
            raise InvalidValueError(
                f"classes: expected one for each of {outputs} outputs, got {_short(own)}"
            )
        if self._align and classes is not None:
            if _same(own, classes) and len(own) == outputs:
                return layers
            return [*others, _aligned(last, own, classes, self._classes_of)]
        if classes is not None and not _same(own, classes):
            numbers = _same(own, tuple(range(len(own)))) and len(own) == len(classes)
            way = f"; {_NUMBERS}" if numbers else _one_type(own, classes) or f"; {_ALIGN}"
            raise InvalidValueError(
                f"classes: expected those of {self._classes_of}, {_short(classes)}, got "
                f"{_short(own)}{way}"
            )
        if len(own) != outputs:
            raise InvalidValueError(
                f"classes: expected at least two, got {_short(own)}: the model was fitted to one "
                f"class only, and its predict_proba has a second column for none; {_ALIGN}"
            )
        self.knowledge, self._classes_of = self.knowledge._replace(classes=own), who
        return layers


_ALIGN = (
    "with align_classes=True, Bank.from_models and bank.add give classes that a model has not "
    "seen the probability 0"
)
_NUMBERS = (
    "where the model's numbers stand for these in this order, give them to what is converted: "
    "dataclasses.replace(convert.convert(model), classes=(...))"
)


def _one_type(own: Sequence[Any], classes: Sequence[Any]) -> str:
    """Return the way out where labels differ in type, as the end of a message; else ""."""
    types = {type(label) for label in classes}
    other = {type(label) for label in own} - types
    if not other:
        return ""
    kinds = " and ".join(sorted(kind.__name__ for kind in types | other))
    hint = ""
    if types | other <= {int, float}:
        hint = ", such as y.astype(int): labels become float where a column has gaps"
    return f"; they are {kinds}: fit all models to labels of one type{hint}"


def _order(names: tuple[str, ...], own: tuple[str, ...], whose: str) -> list[int]:
    """Return where each name stands among those of a model."""
    here, there = Counter(own), Counter(names)
    if here != there:
        lacks, new = list((there - here).elements()), list((here - there).elements())
        difference = [f"without {_short(lacks)}"] * bool(lacks) + [f"with {_short(new)}"] * bool(
            new
        )
        raise InvalidValueError(
            f"feature names: expected those of {whose}, in any order: {_short(names)}, got "
            f"{_short(own)} ({', '.join(difference)}); fit the model on the same columns, or put "
            "it into a bank of its own; names that mean nothing can be dropped: "
            "dataclasses.replace(convert.convert(model), feature_names=None)"
        )
    twice = [name for name, count in here.items() if count > 1]
    if twice:
        raise InvalidValueError(
            f"feature names: expected the order of {whose}: {_short(names)}, got {_short(own)}, "
            f"which cannot be reordered, because several features are called {twice[0]!r}"
        )
    place = {name: i for i, name in enumerate(own)}
    return [place[name] for name in names]


def _reordered(layer: Layer, order: list[int]) -> Layer:
    """Return a first layer that takes feature `order[i]` of the given one as input i."""
    before = layer.before
    if before is not None:
        before = Affine(before.scale[order], before.shift[order], before.where)
    return layer._replace(weight=layer.weight[order], before=before)


def _same(own: tuple[Any, ...], classes: tuple[Any, ...]) -> bool:
    return own == classes and list(map(type, own)) == list(map(type, classes))


def _aligned(layer: Layer, own: tuple[Any, ...], classes: tuple[Any, ...], whose: str) -> Layer:
    """Return a last layer with an output for each of `classes`."""
    if layer.activation is not Activation.SOFTMAX:
        raise InvalidValueError(
            "align_classes: expected a last layer with activation 'softmax', got "
            f"{layer.activation.value!r}"
        )
    # True == 1 == 1.0, so types count too.
    place = {(type(label), label): i for i, label in enumerate(classes)}
    unknown = [label for label in own if (type(label), label) not in place]
    if unknown:
        if ways := _one_type(own, classes):
            raise InvalidValueError(
                f"classes: expected some of those of {whose}, {_short(classes)}, got "
                f"{_short(own)}{ways}"
            )
        raise InvalidValueError(
            f"classes: expected some of those of {whose}, {_short(classes)}, got {_short(own)}; "
            f"{_short(unknown)} cannot be added to a bank that has models: make it anew with "
            "Bank.from_models(models, align_classes=True)"
        )
    columns = [place[type(label), label] for label in own]
    weight = np.zeros((len(layer.weight), len(classes)), layer.weight.dtype)
    bias = np.full(len(classes), NEVER, layer.weight.dtype)
    bias[columns] = 0
    if len(own) > 1:  # else the one class has probability 1, for any row
        weight[:, columns] = layer.weight
        bias[columns] = 0 if layer.bias is None else layer.bias
    before = None if len(own) == 1 else layer.before
    return layer._replace(weight=weight, bias=bias, before=before)


def _short(values: Sequence[Any]) -> str:
    """Return the list of values for a message, cut where it is long."""
    shown = ", ".join(map(repr, values[:8]))
    return f"[{shown}, ... ({len(values)} in all)]" if len(values) > 8 else f"[{shown}]"

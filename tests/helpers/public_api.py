"""Print the public names of the package with their signatures, for tests/quality/public_api.txt.

    python tests/helpers/public_api.py > tests/quality/public_api.txt

A change of the interface changes that file, on purpose and in the same commit.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

MODULES = ("mlpbank", "mlpbank.convert", "mlpbank.serving")
# Of the methods with two underscores those that users call by an operator or a built-in, or that
# pickling calls.
PROTOCOLS = {
    *(
        "__init__",
        "__call__",
        "__eq__",
        "__hash__",
        "__int__",
        "__index__",
        "__float__",
        "__bool__",
    ),
    *(
        "__len__",
        "__iter__",
        "__next__",
        "__contains__",
        "__getitem__",
        "__setitem__",
        "__delitem__",
    ),
    *(
        "__enter__",
        "__exit__",
        "__aenter__",
        "__aexit__",
        "__reduce__",
        "__reduce_ex__",
        "__copy__",
        "__deepcopy__",
    ),
}


class Annotation(str):
    """The text of an annotation, which a signature shows without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def unquoted(function: Any) -> inspect.Signature:
    """Return a signature whose annotations are as the source has them."""
    found = inspect.signature(function)

    def plain(annotation: Any) -> Any:
        return Annotation(annotation) if isinstance(annotation, str) else annotation

    parameters = [p.replace(annotation=plain(p.annotation)) for p in found.parameters.values()]
    return found.replace(parameters=parameters, return_annotation=plain(found.return_annotation))


def signature(function: Any) -> str:
    """Return a signature as one line, the same for all versions of Python and all machines."""
    try:
        text = str(unquoted(function))
    except (TypeError, ValueError):  # compiled
        text = (function.__doc__ or "(...)").splitlines()[0]
        text = text[text.find("(") :] if "(" in text else "(...)"
    text = re.sub(r"<(\w+(?:\.\w+)*): [^>]*>", r"\1", text)  # <Activation.RELU: 'relu'>
    return re.sub(r"<(\w+) object at 0x\w+>", r"<\1>", text)


def members(cls: type) -> Iterator[str]:
    """Yield a line for each public member of a class, without those of foreign base classes."""
    if issubclass(cls, enum.Enum):
        for member in cls:
            yield f"{member.name} = {member.value!r}"
        return
    own = [base for base in cls.__mro__ if base.__module__.split(".")[0] == "mlpbank"]
    found: dict[str, Any] = {}
    for base in reversed(own):
        found.update(vars(base))
    fields = (
        {field.name for field in dataclasses.fields(cls)}
        if dataclasses.is_dataclass(cls)
        else set()
    )
    for name, value in sorted(found.items()):
        if name in fields:
            continue
        if name.startswith("_") and (name not in PROTOCOLS or value is None):
            continue
        if isinstance(value, (classmethod, staticmethod)):
            yield f"{type(value).__name__} {name}{signature(value.__func__)}"
        elif isinstance(value, property) or inspect.isdatadescriptor(value):
            yield f"property {name}"
        elif callable(value):
            yield f"{name}{signature(value)}"
        else:
            yield f"attribute {name}"
    for name in sorted(fields):
        yield f"field {name}"


def describe(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, type):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}({bases})" if bases else f"class {name}"
        yield from (f"    {line}" for line in members(value))
    elif callable(value):
        yield f"{name}{signature(value)}"
    elif name == "__version__":
        yield name
    else:
        yield f"{name} = {value!r}"


def public_api() -> str:
    """Return the lines of public_api.txt."""
    lines = []
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        lines += [f"# {module_name}", ""]
        for name in sorted(module.__all__):
            lines += [*describe(name, getattr(module, name)), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(public_api(), end="")

"""Objects as plain data and back, so that checkpoints load with ``weights_only=True``."""

import importlib
import inspect
import sys
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from functools import partial
from itertools import accumulate
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

UNSERIALIZABLE_KEY = "unserializable"
"""Key under which stands the class of an object that is no plain data and must be passed again."""


def is_serializable(value: Any) -> bool:
    """Whether a value is made of what checkpoints may hold: numbers, text, None, and lists and mappings of these."""
    if isinstance(value, dict):
        return all(isinstance(k, (str, int)) and is_serializable(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_serializable(v) for v in value)
    return value is None or type(value) in (bool, int, float, str)


def to_builtins(value: Any) -> Any:
    """Convert NumPy numbers to Python's and dataclasses to mappings; return anything else unchanged."""
    # a NumPy number, as from a sweep over np.logspace, would keep a checkpoint from loading with weights_only=True
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return {name: to_builtins(field) for name, field in asdict(value).items()}
    return value


def _is_class_config(value: Any) -> bool:
    return isinstance(value, dict) and "class_path" in value


def unserializable_marker(value: Any) -> dict[str, Any]:
    """What a checkpoint holds in place of an object that cannot be described as plain data."""
    return {UNSERIALIZABLE_KEY: type(value).__name__}


def class_path(cls: type[Any]) -> str | None:
    """Find the shortest path by which another process can import a class, such as ``torch.optim.AdamW``.

    Args:
        cls: The class.

    Returns:
        The first package on the way down to its module that exports the class under its name, and that name; None
        where there is no such path: for a local class, and for one of the script or notebook that is running.
    """
    if cls.__module__ in ("__main__", "__mp_main__"):  # the second: in processes that were spawned
        return None
    for package in accumulate(cls.__module__.split("."), "{}.{}".format):
        with suppress(AttributeError):
            if attrgetter(cls.__qualname__)(sys.modules.get(package)) is cls:
                return f"{package}.{cls.__qualname__}"
    return None


def init_arguments(value: Any) -> dict[str, Any] | None:
    """Return an object's constructor arguments, read from its attributes; None if one of them is missing."""
    names = inspect.signature(type(value)).parameters
    return {name: getattr(value, name) for name in names} if all(hasattr(value, name) for name in names) else None


def to_config(value: Any) -> dict[str, Any]:
    """Describe an object, a class or a ``functools.partial`` of a class by class path and arguments.

    An object must keep each constructor argument under the argument's name. A dataclass among the arguments becomes a
    mapping, which the constructor must take, too.

    Returns:
        ``{"class_path": ..., "init_args": {...}}``, or ``unserializable_marker`` for what cannot be described so (a
        lambda, a class without a ``class_path``, an argument that is no plain data).
    """
    arguments: dict[str, Any] = {}
    if isinstance(value, partial):
        # the command line gives partial(instantiator, cls, **arguments), people write partial(cls, **arguments)
        cls = next((part for part in (value.func, *value.args) if inspect.isclass(part)), None)
        arguments = dict(value.keywords)
    elif inspect.isclass(value):
        cls = value
    elif inspect.isroutine(value):
        cls = None
    else:
        cls = type(value)
        found = init_arguments(value)
        if found is None:
            return unserializable_marker(value)
        arguments = found
    arguments = {name: to_builtins(argument) for name, argument in arguments.items()}
    path = None if cls is None else class_path(cls)
    if path is None or not is_serializable(arguments):
        return unserializable_marker(value)
    return {"class_path": path, "init_args": arguments}


def check_restorable(value: Any, argument: str) -> None:
    """Stop where a checkpoint holds only the name of what was passed.

    Raises:
        ValueError: Says which argument to pass again.
    """
    if isinstance(value, dict) and UNSERIALIZABLE_KEY in value:
        raise ValueError(
            f"{argument}: was given as an object of {value[UNSERIALIZABLE_KEY]}, which a checkpoint does not save; "
            f"pass it again, as in load_from_checkpoint(path, {argument.partition('.')[0]}=...)"
        )


def _located(path: str) -> Any:
    """Import the longest prefix that is a module and look the rest up in it, so that nested classes are found."""
    module, _, name = path.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # the module may be there and miss one that it imports itself
        if "." not in module or not f"{module}.".startswith(f"{error.name}."):
            raise
        found = _located(module)
    return getattr(found, name)


def class_from_config(value: Any, base: type[T], argument: str) -> Any:
    """The class that ``to_config`` described, with its arguments; anything else is returned as it is.

    Raises:
        ValueError: If the object was not saved, or its class is not found or not a subclass of ``base``.
    """
    check_restorable(value, argument)
    if not _is_class_config(value):
        return value
    try:
        cls = _located(str(value["class_path"]))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{argument}: cannot import {value['class_path']!r} ({error}); pass it again") from error
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise ValueError(f"{argument}: {value['class_path']!r} is not a {base.__name__}")
    return partial(cls, **value.get("init_args") or {})


def from_config(value: Any, base: type[T], argument: str) -> Any:
    """The object that ``to_config`` described; errors as in ``class_from_config``."""
    factory = class_from_config(value, base, argument)
    return factory() if _is_class_config(value) else value

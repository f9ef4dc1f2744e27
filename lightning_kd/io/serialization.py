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

NOT_SAVED = "not_saved"
"""Key under which stands the class of an object that is no plain data and must be passed again."""


def is_plain(value: Any) -> bool:
    """Whether a value is made of what checkpoints may hold: numbers, text, None, and lists and mappings of these."""
    if isinstance(value, dict):
        return all(isinstance(k, (str, int)) and is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_plain(v) for v in value)
    return value is None or type(value) in (bool, int, float, str)


def _as_plain(value: Any) -> Any:
    # a NumPy number, as from a sweep over np.logspace, would keep a checkpoint from loading with weights_only=True
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _as_plain(field) for name, field in asdict(value).items()}
    return value


def _is_description(value: Any) -> bool:
    return isinstance(value, dict) and "class_path" in value


def not_saved(value: Any) -> dict[str, Any]:
    """What a checkpoint holds in place of an object that cannot be described as plain data."""
    return {NOT_SAVED: type(value).__name__}


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


def to_plain(value: Any) -> dict[str, Any]:
    """Describe an object, a class or a ``functools.partial`` of a class by class path and arguments.

    An object must keep each constructor argument under the argument's name, or in its mapping ``schedules`` where the
    attribute changes. A dataclass among the arguments becomes a mapping, which the constructor must take, too.

    Returns:
        ``{"class_path": ..., "init_args": {...}}``, or ``not_saved`` for what cannot be described so (a lambda, a class
        without a ``class_path``, an argument that is no plain data).
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
        names = inspect.signature(cls).parameters
        if not all(hasattr(value, name) for name in names):
            return not_saved(value)
        arguments = {name: getattr(value, name) for name in names} | getattr(value, "schedules", {})
    arguments = {name: _as_plain(argument) for name, argument in arguments.items()}
    path = None if cls is None else class_path(cls)
    if path is None or not is_plain(arguments):
        return not_saved(value)
    return {"class_path": path, "init_args": arguments}


def refuse_not_saved(value: Any, argument: str) -> None:
    """Stop where a checkpoint holds only the name of what was passed.

    Raises:
        ValueError: Says which argument to pass again.
    """
    if isinstance(value, dict) and NOT_SAVED in value:
        raise ValueError(
            f"{argument}: was given as an object of {value[NOT_SAVED]}, which a checkpoint does not save; "
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


def factory_from_plain(value: Any, base: type[T], argument: str) -> Any:
    """The class that ``to_plain`` described, with its arguments; anything else is returned as it is.

    Raises:
        ValueError: If the object was not saved, or its class is not found or not a subclass of ``base``.
    """
    refuse_not_saved(value, argument)
    if not _is_description(value):
        return value
    try:
        cls = _located(str(value["class_path"]))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{argument}: cannot import {value['class_path']!r} ({error}); pass it again") from error
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise ValueError(f"{argument}: {value['class_path']!r} is not a {base.__name__}")
    return partial(cls, **value.get("init_args") or {})


def from_plain(value: Any, base: type[T], argument: str) -> Any:
    """The object that ``to_plain`` described; errors as in ``factory_from_plain``."""
    factory = factory_from_plain(value, base, argument)
    return factory() if _is_description(value) else value

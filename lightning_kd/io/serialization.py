"""Convert objects to plain data and back, so that checkpoints load with ``weights_only=True``."""

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

TRUSTED_PACKAGES = ("lightning_kd", "torch.optim")
"""Packages of which a checkpoint may name classes that are not imported yet."""

UNSERIALIZABLE_KEY = "unserializable"
"""Key for the class name of an object that cannot be serialized and must be passed again."""


def is_serializable(value: Any) -> bool:
    """Return True if a value consists of numbers, text, None, and lists and mappings of these."""
    if isinstance(value, dict):
        return all(isinstance(k, (str, int)) and is_serializable(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_serializable(v) for v in value)
    return value is None or type(value) in (bool, int, float, str)


def to_builtins(value: Any) -> Any:
    """Convert NumPy numbers to Python's and dataclasses to mappings; return anything else unchanged."""
    # weights_only=True rejects NumPy numbers, such as those of a sweep over np.logspace
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return {name: to_builtins(field) for name, field in asdict(value).items()}
    return value


def _is_class_config(value: Any) -> bool:
    return isinstance(value, dict) and "class_path" in value


def unserializable_marker(value: Any) -> dict[str, Any]:
    """Return the entry of a checkpoint for an object that cannot be serialized."""
    return {UNSERIALIZABLE_KEY: type(value).__name__}


def class_path(cls: type[Any]) -> str | None:
    """Return the shortest path by which another process can import a class, such as ``torch.optim.AdamW``.

    Returns:
        The outermost package that exports the class, and its name; None for a local class and for a class of the
        running script or notebook.
    """
    if cls.__module__ in ("__main__", "__mp_main__"):  # the latter in spawned processes
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

    An object must store each constructor argument in the attribute of that name. A dataclass argument becomes a
    mapping, which the constructor must also accept.

    Returns:
        ``{"class_path": ..., "init_args": {...}}``; ``unserializable_marker`` for a lambda, a class without a
        ``class_path``, or arguments that are not plain data.
    """
    cls: Any = None
    arguments: dict[str, Any] | None = {}
    if isinstance(value, partial):
        # jsonargparse passes partial(instantiator, cls, **arguments), users pass partial(cls, **arguments)
        cls = next((part for part in (value.func, *value.args) if inspect.isclass(part)), None)
        arguments = value.keywords
    elif inspect.isclass(value):
        cls = value
    elif not inspect.isroutine(value):
        cls, arguments = type(value), init_arguments(value)
    if cls is None or arguments is None:
        return unserializable_marker(value)
    path, arguments = class_path(cls), {name: to_builtins(argument) for name, argument in arguments.items()}
    if path is None or not is_serializable(arguments):
        return unserializable_marker(value)
    return {"class_path": path, "init_args": arguments}


def check_restorable(value: Any, argument: str) -> None:
    """Check that a value is not an ``unserializable_marker``.

    Args:
        value: Value from a checkpoint.
        argument: Name of the argument, for the error message.

    Raises:
        ValueError: If it is; names the argument to pass again.
    """
    if isinstance(value, dict) and UNSERIALIZABLE_KEY in value:
        raise ValueError(
            f"{argument}: the {value[UNSERIALIZABLE_KEY]} object is not saved in the checkpoint; pass it again, as in "
            f"load_from_checkpoint(path, {argument.partition('.')[0]}=...)"
        )


def _is_trusted(module: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in TRUSTED_PACKAGES)


def _find_class(path: str) -> Any:
    """Look up a class in the longest prefix that is a module, importing modules of ``TRUSTED_PACKAGES`` only.

    Raises:
        LookupError: If no prefix is imported or trusted.
    """
    parts = path.split(".")
    for names in range(len(parts) - 1, 0, -1):
        module, attributes = ".".join(parts[:names]), ".".join(parts[names:])
        with suppress(ModuleNotFoundError):
            if module in sys.modules or _is_trusted(module):
                return attrgetter(attributes)(importlib.import_module(module))
    raise LookupError(path)


def class_from_config(value: Any, base: type[T], argument: str) -> Any:
    """Return the class of a ``to_config`` mapping or a class path as a partial, and any other value unchanged.

    The mapping may come from a file of somebody else, so that only modules of ``TRUSTED_PACKAGES`` are imported; a
    class of another package is used if its module is imported already.

    Args:
        value: Mapping from ``to_config``, class path, or any other value.
        base: Required base class.
        argument: Name of the argument, for error messages.

    Raises:
        ValueError: If the object was not saved, or its class is not imported, missing or not a subclass of ``base``.
    """
    check_restorable(value, argument)
    if isinstance(value, str):
        value = {"class_path": value}
    if not _is_class_config(value):
        return value
    path = str(value["class_path"])
    try:
        cls = _find_class(path)
    except LookupError as error:
        name = argument.partition(".")[0]
        raise ValueError(
            f"{argument}: the checkpoint names {path!r}, which is not imported; import {path.rpartition('.')[0]!r} "
            f"first, name the class in the config, or pass {name}=..."
        ) from error
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{argument}: cannot import {path!r} ({error}); pass it again") from error
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        raise ValueError(f"{argument}: {path!r} is not a {base.__name__}")
    return partial(cls, **value.get("init_args") or {})


def from_config(value: Any, base: type[T], argument: str) -> Any:
    """Return the object of a ``to_config`` mapping or a class path, and any other value unchanged.

    See ``class_from_config`` for arguments and errors.
    """
    factory = class_from_config(value, base, argument)
    return value if factory is value else factory()

"""Interface of the compilers of fixed-shape graphs, and the TorchScript compiler."""

import importlib
import pkgutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_kd.export.input_adapter import PositionalModel


@dataclass(frozen=True)
class OperatorSupport:
    """The operators of a model that a compiler supports.

    Attributes:
        fraction: Share of the operators that are supported, in [0, 1].
        unsupported_operators: Names of the others, such as ``aten::fft_fft``.
    """

    fraction: float
    unsupported_operators: list[str]

    def __str__(self) -> str:
        names = f"; not supported: {', '.join(self.unsupported_operators)}" if self.unsupported_operators else ""
        return f"{self.fraction:.2%} of the operators are supported{names}"


@dataclass(frozen=True)
class Compiler(ABC):
    """Compiles a model into a graph for inputs of one shape.

    Attributes:
        compiler_type: Name of the compiler in optimum-neuron's configuration.
        filename: Name of the graph's file.
        runtime_module: Module to import before the graph is loaded; None if torch is enough.
        version_module: Module with the compiler's ``__version__``.
        required_functions: Functions that must exist, with their modules.
        flags: Flags of the compiler.
    """

    compiler_type: ClassVar[str]
    filename: ClassVar[str] = "model.neuron"  # expected by optimum-neuron
    runtime_module: ClassVar[str | None]
    version_module: ClassVar[str]
    required_functions: ClassVar[tuple[str, ...]]
    flags: list[str] = field(default_factory=list)

    def check_installed(self) -> None:
        """Raise if the compiler is missing.

        Looks for functions instead of packages, because the packages of these names on PyPI are empty.

        Raises:
            ValueError: If it is; the message names the missing functions and where to get them.
        """
        required = [*self.required_functions, f"{self.version_module}.__version__"]
        if missing := [name for name in required if not _can_import(name)]:
            raise ValueError(
                f"{self.compiler_type} of the AWS Neuron SDK is not installed ({', '.join(missing)} not found); "
                "install it from the AWS package index, see its setup guide (the packages on PyPI are empty), or use "
                "target cpu"
            )

    @property
    def version(self) -> str:
        """Version of the compiler."""
        return str(importlib.import_module(self.version_module).__version__)

    @abstractmethod
    def analyze(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> OperatorSupport | None:
        """Return the supported operators without compiling.

        Args:
            model: The model in eval mode on the CPU.
            example_inputs: Inputs of the graph's shape, by position.

        Returns:
            The supported operators; None if they are unknown.

        Raises:
            ValueError: If the compiler requires an operator that it does not support.
        """

    @abstractmethod
    def trace(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> Any:
        """Return the compiled graph, for ``torch.jit.save``; see ``analyze`` for the arguments."""


@dataclass(frozen=True)
class TorchScript(Compiler):
    """``torch.jit.trace``, for any machine and without a compiler."""

    compiler_type = "torchscript"
    filename = "model.pt"
    runtime_module = None
    version_module = "torch"
    required_functions = ()

    def analyze(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> OperatorSupport | None:
        """Check that the model can be traced; TorchScript lists no supported operators."""
        self.trace(model, example_inputs)
        return None

    def trace(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> Any:
        """Return the traced graph."""
        return torch.jit.trace(model, example_inputs)


def _can_import(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@contextmanager
def suppress_trace_warnings() -> Iterator[None]:
    """Suppress the deprecation warnings of TorchScript, which the Neuron SDK uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # tracing reads all attributes
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield

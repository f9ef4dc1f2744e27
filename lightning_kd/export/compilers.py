"""Interface of the compilers of fixed-shape graphs, and the TorchScript compiler."""

import importlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
        required_attributes: Functions and constants that must exist, by module.
    """

    compiler_type: ClassVar[str]
    filename: ClassVar[str] = "model.neuron"  # expected by optimum-neuron
    runtime_module: ClassVar[str | None]
    required_attributes: ClassVar[dict[str, tuple[str, ...]]]

    def check_installed(self) -> None:
        """Raise if the compiler is missing.

        Looks for functions instead of packages, because the packages of these names on PyPI are empty.

        Raises:
            ValueError: If it is; the message names the missing functions and where to get them.
        """
        missing = [
            f"{module}.{name}"
            for module, names in self.required_attributes.items()
            for name in names
            if not hasattr(import_or_none(module), name)
        ]
        if missing:
            raise ValueError(
                f"{self.compiler_type} of the AWS Neuron SDK is not installed ({', '.join(missing)} not found); "
                "install it from the AWS package index, see its setup guide (the packages on PyPI are empty), or use "
                "target cpu"
            )

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the compiler."""

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
    required_attributes: ClassVar[dict[str, tuple[str, ...]]] = {}

    @property
    def version(self) -> str:
        """Version of PyTorch."""
        return str(torch.__version__)

    def analyze(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> OperatorSupport | None:
        """Check that the model can be traced; TorchScript lists no supported operators."""
        self.trace(model, example_inputs)
        return None

    def trace(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> Any:
        """Return the traced graph."""
        return torch.jit.trace(model, example_inputs)


def import_or_none(module: str) -> Any:
    """Return the imported module; None if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


@contextmanager
def suppress_trace_warnings() -> Iterator[None]:
    """Suppress the deprecation warnings of TorchScript, which the Neuron SDK uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # tracing reads all attributes
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield

"""What turns a network into a graph of one shape, and the plainest of these: TorchScript."""

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
    """Which operators of a network a compiler takes.

    Attributes:
        fraction: Of the operators, in [0, 1].
        unsupported_operators: Names of those it does not take, such as ``aten::fft_fft``.
    """

    fraction: float
    unsupported_operators: list[str]

    def __str__(self) -> str:
        names = f"; not supported: {', '.join(self.unsupported_operators)}" if self.unsupported_operators else ""
        return f"{self.fraction:.2%} of the operators are supported{names}"


@dataclass(frozen=True)
class Compiler(ABC):
    """Makes a graph from a network and example inputs of the one shape that it is going to take.

    Attributes:
        compiler_type: What optimum-neuron calls ``compiler_type``.
        filename: Name of the graph's file.
        runtime_module: The module that a program imports before it loads the graph; None if torch is enough.
    """

    compiler_type: ClassVar[str]
    filename: ClassVar[str] = "model.neuron"  # by which optimum-neuron looks for it
    runtime_module: ClassVar[str | None]
    required_attributes: ClassVar[dict[str, tuple[str, ...]]]

    def check_installed(self) -> None:
        """Refuse to go on without the compiler.

        Packages of the same names on the public index are empty, so functions are looked for, not packages.

        Raises:
            ValueError: Says how to get it.
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
                f"install it from "
                "AWS's own package index, as its setup guide says (the packages of these names on the public index "
                "are empty), or trace for target cpu"
            )

    @property
    @abstractmethod
    def version(self) -> str:
        """Of the compiler."""

    @abstractmethod
    def analyze(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> OperatorSupport | None:
        """Which operators it takes, found out without compiling; None where there is nothing to find out."""

    @abstractmethod
    def trace(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> Any:
        """The graph, for ``torch.jit.save``."""


@dataclass(frozen=True)
class TorchScript(Compiler):
    """``torch.jit.trace``, for any machine: the way of the others without their compilers."""

    compiler_type = "torchscript"
    filename = "model.pt"
    runtime_module = None
    required_attributes: ClassVar[dict[str, tuple[str, ...]]] = {}

    @property
    def version(self) -> str:
        """Of PyTorch."""
        return str(torch.__version__)

    def analyze(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> OperatorSupport | None:
        """Tries it: there is no list of operators."""
        self.trace(model, example_inputs)
        return None

    def trace(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> Any:
        """The graph."""
        return torch.jit.trace(model, example_inputs)


def import_or_none(module: str) -> Any:
    """The module; None if there is none."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


@contextmanager
def suppress_trace_warnings() -> Iterator[None]:
    """Without the warnings of TorchScript about itself: the SDK traces with it, deprecated or not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # tracing reads all attributes
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield

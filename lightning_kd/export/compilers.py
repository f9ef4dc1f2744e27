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

from lightning_kd.export.input_adapter import ByName


@dataclass(frozen=True)
class Support:
    """Which operators of a network a compiler takes.

    Attributes:
        share: Of the operators, in [0, 1].
        unsupported: Names of those it does not take, such as ``aten::fft_fft``.
    """

    share: float
    unsupported: list[str]

    def __str__(self) -> str:
        names = f"; not supported: {', '.join(self.unsupported)}" if self.unsupported else ""
        return f"{self.share:.2%} of the operators are supported{names}"


@dataclass(frozen=True)
class Compiler(ABC):
    """Makes a graph from a network and example inputs of the one shape that it is going to take.

    Attributes:
        kind: What optimum-neuron calls ``compiler_type``.
        file: Name of the graph's file.
        module: The module that a program imports before it loads the graph; None if torch is enough.
    """

    kind: ClassVar[str]
    file: ClassVar[str] = "model.neuron"  # by which optimum-neuron looks for it
    module: ClassVar[str | None]
    needs: ClassVar[dict[str, tuple[str, ...]]]

    def check_installed(self) -> None:
        """Refuse to go on without the compiler.

        Packages of the same names on the public index are empty, so functions are looked for, not packages.

        Raises:
            ValueError: Says how to get it.
        """
        missing = [
            f"{module}.{name}"
            for module, names in self.needs.items()
            for name in names
            if not hasattr(imported(module), name)
        ]
        if missing:
            raise ValueError(
                f"{self.kind} of the AWS Neuron SDK is not installed ({', '.join(missing)} not found); install it from "
                "AWS's own package index, as its setup guide says (the packages of these names on the public index "
                "are empty), or trace for target cpu"
            )

    @property
    @abstractmethod
    def version(self) -> str:
        """Of the compiler."""

    @abstractmethod
    def support(self, network: ByName, examples: tuple[Tensor, ...]) -> Support | None:
        """Which operators it takes, found out without compiling; None where there is nothing to find out."""

    @abstractmethod
    def trace(self, network: ByName, examples: tuple[Tensor, ...]) -> Any:
        """The graph, for ``torch.jit.save``."""


@dataclass(frozen=True)
class TorchScript(Compiler):
    """``torch.jit.trace``, for any machine: the way of the others without their compilers."""

    kind = "torchscript"
    file = "model.pt"
    module = None
    needs: ClassVar[dict[str, tuple[str, ...]]] = {}

    @property
    def version(self) -> str:
        """Of PyTorch."""
        return str(torch.__version__)

    def support(self, network: ByName, examples: tuple[Tensor, ...]) -> Support | None:
        """Tries it: there is no list of operators."""
        self.trace(network, examples)
        return None

    def trace(self, network: ByName, examples: tuple[Tensor, ...]) -> Any:
        """The graph."""
        return torch.jit.trace(network, examples)


def imported(module: str) -> Any:
    """The module; None if there is none."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of TorchScript about itself: the SDK traces with it, deprecated or not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # tracing reads all attributes
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield

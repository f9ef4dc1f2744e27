"""Compilers of the AWS Neuron SDK for Inf1, Inf2 and Trn1."""

import importlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from lightning_kd.export.compilers import Compiler, OperatorSupport, TorchScript
from lightning_kd.export.input_adapter import PositionalModel

NEURON_DEVICE = Path("/dev/neuron0")
"""Exists on machines with a Neuron device."""


def has_neuron_device() -> bool:
    """True if this machine has a Neuron device."""
    return NEURON_DEVICE.exists()


@dataclass(frozen=True)
class NeuronCC(Compiler):
    """``torch_neuron`` and ``neuron-cc`` for Inf1; unsupported operators run on the host's CPU.

    Args:
        flags: Flags of ``neuron-cc``.
    """

    compiler_type = "neuron-cc"
    runtime_module = "torch_neuron"
    version_module = "neuroncc"
    required_functions = ("torch_neuron.trace", "torch_neuron.analyze_model")

    def analyze(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> OperatorSupport | None:
        """Read the support from the log of ``analyze_model``, whose return value is not documented.

        Format: https://github.com/aws-neuron/aws-neuron-sdk/issues/328 and 630.
        """
        with _capture_log("Neuron") as log:
            importlib.import_module("torch_neuron").analyze_model(model, example_inputs=example_inputs)
        percent = re.search(r"([\d.]+)% of arithmetic operations", log.getvalue())
        if percent is None:
            return None
        unsupported = re.search(r"currently not supported in .*\n((?:\w+::\w+\n?)*)", log.getvalue())
        return OperatorSupport(float(percent[1]) / 100, unsupported[1].split() if unsupported else [])

    def trace(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> Any:
        """Return the graph, with parts for the device and parts for the host."""
        return importlib.import_module("torch_neuron").trace(model, example_inputs, compiler_args=self.flags)


@dataclass(frozen=True)
class NeuronXCC(Compiler):
    """``torch_neuronx`` and ``neuronx-cc`` for Inf2 and Trn1; all operators must be supported.

    Args:
        flags: Flags of ``neuronx-cc``, including ``--target``, which is required without a device.
    """

    compiler_type = "neuronx-cc"
    runtime_module = "torch_neuronx"
    version_module = "neuronxcc"
    required_functions = ("torch_neuronx.trace", "torch_neuronx.analyze")

    def analyze(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> OperatorSupport | None:
        """Return the support that ``torch_neuronx.analyze`` reports.

        Raises:
            ValueError: If operators are not supported; the message names them.
        """
        with TemporaryDirectory() as folder:
            analysis = importlib.import_module("torch_neuronx").analyze(
                model, example_inputs, compiler_workdir=folder, is_hf_transformers=True
            )
        unsupported = sorted({operator["kind"] for operator in analysis["unsupported_operators"]})
        support = OperatorSupport(float(analysis["support_percentage"].rstrip("%")) / 100, unsupported)
        if unsupported:
            raise ValueError(f"NeuronTrace: neuronx-cc cannot compile the model: {support}; change the model")
        return support

    def trace(self, model: PositionalModel, example_inputs: tuple[Tensor, ...]) -> Any:
        """Return the graph; without a device it is traced on the CPU."""
        return importlib.import_module("torch_neuronx").trace(
            model, example_inputs, compiler_args=self.flags, cpu_backend=not has_neuron_device()
        )


COMPILERS: dict[str, type[Compiler]] = {kind.compiler_type: kind for kind in (TorchScript, NeuronCC, NeuronXCC)}


def get_compiler(
    target: str, auto_cast: str = "none", auto_cast_type: str = "bf16", compiler_args: list[str] | None = None
) -> Compiler:
    """Return the compiler for a target machine.

    Args:
        target: ``cpu``, ``inf1``, ``inf2`` or ``trn1``.
        auto_cast: The float32 operations to compute in ``auto_cast_type``: ``none``, ``matmult`` or ``all``. Inf1
            computes matrix products in bf16 even with ``none``.
        auto_cast_type: ``bf16``, ``fp16`` or, except for Inf1, ``tf32``.
        compiler_args: Additional arguments, as on the compiler's command line.

    Raises:
        ValueError: If target or cast are unknown, or the target does not support the cast.
    """
    choices = {
        "target": (target, ("cpu", "inf1", "inf2", "trn1")),
        "auto_cast": (auto_cast, ("none", "matmult", "all")),
        "auto_cast_type": (auto_cast_type, ("bf16", "fp16") if target == "inf1" else ("bf16", "fp16", "tf32")),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"NeuronTrace.{name}: must be one of {', '.join(allowed)}, got {value!r}")
    if target == "cpu":
        if auto_cast != "none" or compiler_args:
            raise ValueError("NeuronTrace.target: cpu has no compiler; remove auto_cast and compiler_args")
        return TorchScript()
    extra = compiler_args or []
    if target == "inf1":
        # names of the neuron-cc command line reference, --fast-math
        cast = f"fp32-cast-{auto_cast}-{auto_cast_type}".replace("all-bf16", "all")
        return NeuronCC(["--fast-math", "none" if auto_cast == "none" else cast, *extra])
    cast_type = [] if auto_cast == "none" else ["--auto-cast-type", auto_cast_type]
    return NeuronXCC(["--target", target, "--auto-cast", auto_cast, *cast_type, *extra])


@contextmanager
def _capture_log(name: str) -> Iterator[StringIO]:
    """Collect the messages of a logger within the context, one per line."""
    log = StringIO()
    handler, logger = logging.StreamHandler(log), logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield log
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)

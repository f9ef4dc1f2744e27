"""ONNX files: written, quantised and run."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig

from lightning_kd.export.input_adapter import PositionalModel, eager_attention, fill_missing_inputs
from lightning_kd.export.requirements import require_packages
from lightning_kd.models import max_positions
from lightning_kd.outputs import Batch

ONNX_WEIGHTS_NAME = "model.onnx"
"""The name by which optimum and others look for the graph in a folder."""


def check_installed() -> None:
    """Raise if a package that ONNX needs is missing.

    Raises:
        ValueError: Names the missing packages and the command that installs them.
    """
    require_packages("ONNX", "onnx", "onnx", "onnxscript", "onnxruntime")


def to_onnx(model: "transformers.PreTrainedModel", batch: Batch) -> torch.onnx.ONNXProgram:
    """Turn a network into a graph for any number of rows of any length.

    Args:
        model: In eval mode, on the CPU.
        batch: Two rows or more, of two tokens or more; names the inputs.

    Raises:
        ValueError: If an operator has no counterpart; names it.
    """
    try:
        with eager_attention(model), _suppress_export_warnings():
            positional_model = PositionalModel(model, batch)
            example_inputs = positional_model.example_inputs(batch)
            row, token = torch.export.Dim("batch"), torch.export.Dim("length")
            program = torch.onnx.export(
                positional_model,
                example_inputs,
                dynamo=True,
                input_names=positional_model.input_names,
                output_names=positional_model.output_names,
                dynamic_shapes=(tuple({0: row, 1: token} for _ in example_inputs),),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise _export_error(error, type(model).__name__) from error
    assert program is not None
    return program


@contextmanager
def _suppress_export_warnings() -> Iterator[None]:
    """Without the exporters' warnings about themselves and about packages that nobody needs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _export_error(error: Exception, model_class: str) -> ValueError:
    """One line that names the operator."""
    causes: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(causes)
    operator = re.search(
        r"(?:No ONNX function found for|No decompositions registered for|operator) <?[^']*'([\w.:]+)'", text
    )
    reason = f"the operator {operator[1]} has no ONNX counterpart" if operator else causes[-1].splitlines()[0][:300]
    return ValueError(
        f"ONNXExport: {model_class} cannot be exported: {reason}; change the network, or leave ONNXExport out"
    )


def quantize(source: Path, target: Path) -> None:
    """Write an int8 twin of a graph: weights in 8 bits by output channel, activations scaled at each call.

    Embeddings become 8 bits as well, which is most of the size of a small student.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source)
    # shapes that quantize_dynamic cannot read in graphs of torch.onnx.export(dynamo=True)
    graph.graph.ClearField("value_info")
    with _suppress_export_warnings():
        quantize_dynamic(graph, target, weight_type=QuantType.QInt8, per_channel=True)


class ONNXModel(nn.Module):
    """A folder with ``model.onnx`` and ``config.json`` as a network: inputs by name, tensors on the CPU.

    Args:
        folder: As ``ONNXExport`` or optimum writes it.
        num_threads: Threads of one operator; None = what ONNX Runtime takes.

    Raises:
        ValueError: If ONNX Runtime is not installed; on use, if rows have more tokens than the network has positions.
    """

    def __init__(self, folder: Path, num_threads: int | None = None) -> None:
        super().__init__()
        check_installed()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if num_threads is not None:
            options.intra_op_num_threads = num_threads
            # threads that wait in a loop for the next call would slow down whatever else is measured beside it
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.config = AutoConfig.from_pretrained(folder)
        self.max_positions = max_positions(self.config)
        self.session = onnxruntime.InferenceSession(
            folder / ONNX_WEIGHTS_NAME, options, providers=["CPUExecutionProvider"]
        )
        self.input_names = [node.name for node in self.session.get_inputs()]
        self.output_names = [node.name for node in self.session.get_outputs()]

    def forward(self, **inputs: torch.Tensor) -> Any:
        """The graph's outputs as attributes."""
        length = next(iter(inputs.values())).shape[1]
        if self.max_positions is not None and length > self.max_positions:
            raise ValueError(
                f"rows of {length} tokens are longer than the network's {self.max_positions} positions; cut them"
            )
        arrays = {name: tensor.numpy() for name, tensor in fill_missing_inputs(inputs, self.input_names).items()}
        results = self.session.run(self.output_names, arrays)
        return SimpleNamespace(**{n: torch.from_numpy(r) for n, r in zip(self.output_names, results, strict=True)})

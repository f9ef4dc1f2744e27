"""Export to ONNX, int8 quantization, and a model that runs with ONNX Runtime."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig

from lightning_kd.export.input_adapter import GraphModel, PositionalModel, eager_attention
from lightning_kd.export.requirements import require_packages
from lightning_kd.models import max_positions
from lightning_kd.outputs import Batch

ONNX_WEIGHTS_NAME = "model.onnx"
"""Filename that optimum expects."""


def check_installed() -> None:
    """Raise if a package that ONNX needs is missing.

    Raises:
        ValueError: If one is; the message contains the command that installs it.
    """
    require_packages("ONNX", "onnx", "onnx", "onnxscript", "onnxruntime")


def to_onnx(model: "transformers.PreTrainedModel", batch: Batch) -> torch.onnx.ONNXProgram:
    """Export a model to a graph for any batch size and sequence length.

    Args:
        model: The model in eval mode on the CPU.
        batch: At least two examples of at least two tokens; its keys determine the inputs.

    Raises:
        ValueError: If the model cannot be exported; the message names the unsupported operator.
    """
    try:
        with eager_attention(model), _suppress_export_warnings():
            positional_model = PositionalModel(model, batch)
            example_inputs = positional_model.example_inputs(batch)
            batch_size, length = torch.export.Dim("batch"), torch.export.Dim("length")
            program = torch.onnx.export(
                positional_model,
                example_inputs,
                dynamo=True,
                input_names=positional_model.input_names,
                output_names=positional_model.output_names,
                dynamic_shapes=(tuple({0: batch_size, 1: length} for _ in example_inputs),),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise _export_error(error, type(model).__name__) from error
    assert program is not None
    return program


@contextmanager
def _suppress_export_warnings() -> Iterator[None]:
    """Suppress the warnings and log messages of the exporters about their own deprecations and optional packages."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _export_error(error: Exception, model_class: str) -> ValueError:
    """Return an error whose message names the unsupported operator in one line."""
    causes: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(causes)
    operator = re.search(
        r"(?:No ONNX function found for|No decompositions registered for|operator) <?[^']*'([\w.:]+)'", text
    )
    reason = f"ONNX does not support the operator {operator[1]}" if operator else causes[-1].splitlines()[0][:300]
    return ValueError(f"ONNXExport: {model_class} cannot be exported: {reason}; change the model, or remove ONNXExport")


def quantize(source: Path, target: Path) -> None:
    """Write an int8 version of a graph: weights quantized per output channel, activations dynamically.

    Embeddings, which are most of a small student, are quantized as well.

    Args:
        source: The graph in float32.
        target: The file to write.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source)
    # quantize_dynamic (onnxruntime 1.32.0) fails on the inferred shapes of torch.onnx.export(dynamo=True)
    graph.graph.ClearField("value_info")
    with _suppress_export_warnings():
        quantize_dynamic(graph, target, weight_type=QuantType.QInt8, per_channel=True)


class ONNXModel(GraphModel):
    """Runs an exported ONNX folder on CPU tensors given by name.

    Args:
        folder: Folder with ``model.onnx`` and ``config.json``, written by ``ONNXExport`` or optimum.
        num_threads: Threads per operator; None = default of ONNX Runtime.

    Raises:
        ValueError: If ONNX Runtime is not installed; on use, if the input is longer than the model's positions.
    """

    def __init__(self, folder: Path, num_threads: int | None = None) -> None:
        super().__init__()
        check_installed()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if num_threads is not None:
            options.intra_op_num_threads = num_threads
            # spinning threads would slow down other models that are timed in turn
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        self.max_length = max_positions(self.config)
        self.session = onnxruntime.InferenceSession(
            folder / ONNX_WEIGHTS_NAME, options, providers=["CPUExecutionProvider"]
        )
        self.input_names = [node.name for node in self.session.get_inputs()]
        self.output_names = [node.name for node in self.session.get_outputs()]

    def run_graph(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the outputs of the graph."""
        arrays = {name: tensor.numpy() for name, tensor in zip(self.input_names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in self.session.run(self.output_names, arrays)]

"""Callbacks: one class per file."""

from lightning_kd.callbacks.compression_report import CompressionReport
from lightning_kd.callbacks.last_checkpoint import LastCheckpoint
from lightning_kd.callbacks.layer_initialization import LayerInitialization
from lightning_kd.callbacks.neuron_trace import NeuronTrace
from lightning_kd.callbacks.onnx_export import ONNXExport
from lightning_kd.callbacks.prediction_writer import PredictionWriter
from lightning_kd.callbacks.run_summary import RunSummary
from lightning_kd.callbacks.student_export import StudentExport

__all__ = [
    "CompressionReport",
    "LastCheckpoint",
    "LayerInitialization",
    "NeuronTrace",
    "ONNXExport",
    "PredictionWriter",
    "RunSummary",
    "StudentExport",
]

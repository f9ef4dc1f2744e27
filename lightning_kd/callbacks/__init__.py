"""Lightning callbacks, one per file."""

from lightning_kd.callbacks.compression_report import CompressionReport
from lightning_kd.callbacks.distillation.callback import DistillationCallback
from lightning_kd.callbacks.fill_teacher_cache import FillTeacherCache
from lightning_kd.callbacks.last_checkpoint import LastCheckpoint
from lightning_kd.callbacks.layer_initialization import LayerInitialization
from lightning_kd.callbacks.neuron_trace import NeuronTrace
from lightning_kd.callbacks.onnx_export import ONNXExport
from lightning_kd.callbacks.prediction_writer import PredictionWriter
from lightning_kd.callbacks.push_to_hub import PushToHub
from lightning_kd.callbacks.quantization_aware_training import QuantizationAwareTraining
from lightning_kd.callbacks.run_summary import RunSummary
from lightning_kd.callbacks.student_export import StudentExport
from lightning_kd.callbacks.student_pruning import StudentPruning
from lightning_kd.callbacks.temperature_probe import TemperatureProbe

__all__ = [
    "CompressionReport",
    "DistillationCallback",
    "FillTeacherCache",
    "LastCheckpoint",
    "LayerInitialization",
    "NeuronTrace",
    "ONNXExport",
    "PredictionWriter",
    "PushToHub",
    "QuantizationAwareTraining",
    "RunSummary",
    "StudentExport",
    "StudentPruning",
    "TemperatureProbe",
]

"""Distill transformers with PyTorch Lightning.

The names are imported on first use (PEP 562), so that ``lightning-kd --help`` and ``import lightning_kd.losses`` do not
import Lightning and transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_kd.callbacks import CompressionReport as CompressionReport
    from lightning_kd.callbacks import DistillationCallback as DistillationCallback
    from lightning_kd.callbacks import FillTeacherCache as FillTeacherCache
    from lightning_kd.callbacks import LastCheckpoint as LastCheckpoint
    from lightning_kd.callbacks import LayerInitialization as LayerInitialization
    from lightning_kd.callbacks import NeuronTrace as NeuronTrace
    from lightning_kd.callbacks import ONNXExport as ONNXExport
    from lightning_kd.callbacks import PredictionWriter as PredictionWriter
    from lightning_kd.callbacks import PushToHub as PushToHub
    from lightning_kd.callbacks import QuantizationAwareTraining as QuantizationAwareTraining
    from lightning_kd.callbacks import StudentExport as StudentExport
    from lightning_kd.callbacks import StudentPruning as StudentPruning
    from lightning_kd.callbacks import TemperatureProbe as TemperatureProbe
    from lightning_kd.data import CLINC150DataModule as CLINC150DataModule
    from lightning_kd.data import MaskedLMDataModule as MaskedLMDataModule
    from lightning_kd.data import SQuADDataModule as SQuADDataModule
    from lightning_kd.data import SST2DataModule as SST2DataModule
    from lightning_kd.data import TextClassificationDataModule as TextClassificationDataModule
    from lightning_kd.models.sharding import FSDP2Strategy as FSDP2Strategy
    from lightning_kd.optim.lazy_adamw import LazyAdamW as LazyAdamW
    from lightning_kd.tasks import MaskedLM as MaskedLM
    from lightning_kd.tasks import QuestionAnswering as QuestionAnswering
    from lightning_kd.tasks import SequenceClassification as SequenceClassification
    from lightning_kd.teachers.cache import TeacherCache as TeacherCache
    from lightning_kd.training.loss_schedules import Schedule as Schedule
    from lightning_kd.training.module import DistillationModule as DistillationModule

__version__ = "0.1.0"

_MODULES = {
    "callbacks": (
        "CompressionReport DistillationCallback FillTeacherCache LastCheckpoint LayerInitialization NeuronTrace "
        "ONNXExport PredictionWriter PushToHub QuantizationAwareTraining StudentExport StudentPruning TemperatureProbe"
    ),
    "data": ("CLINC150DataModule MaskedLMDataModule SQuADDataModule SST2DataModule TextClassificationDataModule"),
    "models.sharding": "FSDP2Strategy",
    "optim.lazy_adamw": "LazyAdamW",
    "tasks": "MaskedLM QuestionAnswering SequenceClassification",
    "teachers.cache": "TeacherCache",
    "training.loss_schedules": "Schedule",
    "training.module": "DistillationModule",
}
_EXPORTS = {name: module for module, names in _MODULES.items() for name in names.split()}
_SUBPACKAGES = {"callbacks", "data", "losses", "models", "outputs", "tasks", "teachers"}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_SUBPACKAGES})

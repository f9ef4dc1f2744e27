"""Distill transformers with PyTorch Lightning."""

from lightning_kd.callbacks import (
    CompressionReport,
    DistillationCallback,
    LayerInitialization,
    NeuronTrace,
    ONNXExport,
    PushToHub,
    TemperatureProbe,
)
from lightning_kd.data import (
    CLINC150DataModule,
    MaskedLMDataModule,
    SQuADDataModule,
    SST2DataModule,
    TextClassificationDataModule,
)
from lightning_kd.models.sharding import FSDP2Strategy
from lightning_kd.optim.lazy_adamw import LazyAdamW
from lightning_kd.tasks import MaskedLM, QuestionAnswering, SequenceClassification
from lightning_kd.teachers.cache import TeacherCache
from lightning_kd.training.loss_schedules import Schedule
from lightning_kd.training.module import DistillationModule

__version__ = "0.1.0"

__all__ = [
    "CLINC150DataModule",
    "CompressionReport",
    "DistillationCallback",
    "DistillationModule",
    "FSDP2Strategy",
    "LayerInitialization",
    "LazyAdamW",
    "MaskedLM",
    "MaskedLMDataModule",
    "NeuronTrace",
    "ONNXExport",
    "PushToHub",
    "QuestionAnswering",
    "SQuADDataModule",
    "SST2DataModule",
    "Schedule",
    "SequenceClassification",
    "TeacherCache",
    "TemperatureProbe",
    "TextClassificationDataModule",
]

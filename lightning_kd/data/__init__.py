"""DataModules, which read raw examples and return length-grouped batches."""

from lightning_kd.data.augmentation import Augmentation, TfIdfReplacement
from lightning_kd.data.base import TextDataModule
from lightning_kd.data.clinc150 import CLINC150DataModule
from lightning_kd.data.masked_lm import MaskedLMDataModule
from lightning_kd.data.squad import SQuADDataModule
from lightning_kd.data.sst2 import SST2DataModule
from lightning_kd.data.text_classification import TextClassificationDataModule

__all__ = [
    "Augmentation",
    "CLINC150DataModule",
    "MaskedLMDataModule",
    "SQuADDataModule",
    "SST2DataModule",
    "TextClassificationDataModule",
    "TextDataModule",
    "TfIdfReplacement",
]

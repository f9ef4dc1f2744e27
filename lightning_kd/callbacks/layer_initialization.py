"""Initializes the student from layers of a deeper model."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table
from torch import nn

from lightning_kd import models
from lightning_kd.callbacks.base import DistillationModuleCallback
from lightning_kd.models.layer_initialization import CopyReport, copy_layers
from lightning_kd.models.layer_selection import LayerStrategy
from lightning_kd.training.module import DistillationModule


class LayerInitialization(DistillationModuleCallback):
    """Copies embeddings, selected layers and, if the labels match, the head into the student before training.

    It runs in ``setup``, before a checkpoint is restored, so that resumed weights are never overwritten. It supports
    BERT, RoBERTa, XLM-R, DistilBERT, ELECTRA, MPNet and other models with a list of layers, each into a shallower model
    of the same architecture, and BERT and RoBERTa into DistilBERT. It prints the copied and the skipped parts.

    Args:
        layers: Index of the source layer for each student layer; or ``uniform`` (every k-th layer), ``first``,
            ``last``, or ``distilbert`` (DistilBERT's selection, for 12 layers); null = evenly spaced, including the
            first and the last.
        source: Hub id or folder to copy from; null = the teacher (the first one of an ensemble).
    """

    def __init__(self, layers: list[int] | LayerStrategy | None = None, source: str | None = None) -> None:
        self.layers = layers
        self.source = source

    def model_sources(self) -> list[str]:
        """Return the source."""
        return [] if self.source is None else [self.source]

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Copy the layers.

        Raises:
            ValueError: If there is nothing to copy from, or if source and student do not match.
        """
        student = pl_module.build_student()
        name, options = self.source, dict[str, Any]()
        if name is None and pl_module.teacher is not None:
            teacher = pl_module.teacher.models[0]
            options = models.hub_kwargs(teacher.pinned_options)
            if teacher.options.keys() - options.keys():  # load it again without those that may quantize or place it
                name = teacher.name
        fresh: list[str] = []
        if name is not None:
            source: nn.Module
            role = "LayerInitialization.source"
            source, fresh = models.load_for_training(name, pl_module.task.auto_class, role, options=options)
        elif pl_module.teacher is not None:
            source = pl_module.teacher.load()[0]
        else:
            raise ValueError("LayerInitialization.source: not set, and there is no teacher; set a Hub id or folder")
        _print_report(copy_layers(source, student, self.layers, exclude=fresh))


@rank_zero_only
def _print_report(report: CopyReport) -> None:
    table = Table("student", "copied from", title="LayerInitialization")
    for part, source in report.copied:
        table.add_row(part, source)
    for name in report.skipped:
        table.add_row(name, "not copied")
    Console().print(table)

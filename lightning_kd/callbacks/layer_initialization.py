"""Starts the student from layers of a deeper network."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table
from torch import nn

from lightning_kd import models
from lightning_kd.models.layer_initialization import CopyReport, copy_layers
from lightning_kd.models.layer_selection import LayerStrategy
from lightning_kd.training.module import DistillationModule


class LayerInitialization(Callback):
    """Copies embeddings, chosen layers and, where it means the same, the head into the student before training.

    It runs in ``setup``, before a checkpoint is restored, so that resumed weights are never overwritten. Families:
    BERT, RoBERTa, XLM-R, DistilBERT, ELECTRA, MPNet and others whose layers are a list, each into a shallower network
    of its own kind; BERT and RoBERTa also into DistilBERT. It prints what was copied and what was left.

    Args:
        layers: For each student layer the index of the layer it starts from; or ``uniform`` (every so many layers),
            ``first``, ``last``, or ``distilbert`` (DistilBERT's choice, for 12 layers); null = evenly spaced, the first
            and the last included.
        source: Hub id or folder to copy from; null = the teacher (the first of an ensemble).
    """

    def __init__(self, layers: list[int] | LayerStrategy | None = None, source: str | None = None) -> None:
        self.layers = layers
        self.source = source

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy, at the start of ``fit`` only.

        Raises:
            ValueError: If there is nothing to copy from, or source and student do not fit together.
        """
        if stage != "fit":
            return
        if not isinstance(pl_module, DistillationModule):
            raise ValueError(f"LayerInitialization: works on a DistillationModule, got {type(pl_module).__name__}")
        student = pl_module.build_student()
        name = self.source
        if name is None and pl_module.teacher is not None and pl_module.teacher.models[0].options:
            name = pl_module.teacher.names[0]  # as it is in the file: it may be loaded quantised, or in parts
        if name is not None:
            source: nn.Module = models.load_model(name, pl_module.task.auto_class, "LayerInitialization.source")
        elif pl_module.teacher is not None:
            source = pl_module.teacher.load()[0]
        else:
            raise ValueError("LayerInitialization.source: none given and there is no teacher; name a hub id or folder")
        _print_report(copy_layers(source, student, self.layers))


@rank_zero_only
def _print_report(report: CopyReport) -> None:
    table = Table("student", "copied from", title="LayerInitialization")
    for part, source in report.copied:
        table.add_row(part, source)
    for name in report.skipped:
        table.add_row(name, "left as it was")
    Console().print(table)

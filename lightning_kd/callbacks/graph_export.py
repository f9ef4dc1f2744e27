"""What exporters have in common that turn the student into a graph for another program."""

from abc import abstractmethod

import transformers
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lightning_kd.callbacks.export import Export
from lightning_kd.data import TextDataModule
from lightning_kd.data.interface import get_datamodule
from lightning_kd.evaluation.batches import as_text_datamodule
from lightning_kd.training.module import DistillationModule


class GraphExport(Export):
    """An export that is tried out on the untrained student, so that what does not fit is known before training."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check data, packages and folders before training."""
        if stage == "fit":
            as_text_datamodule(get_datamodule(trainer), self.config_key)
        super().setup(trainer, pl_module, stage)

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Try it out, on a network of its own."""
        if isinstance(pl_module, DistillationModule) and isinstance(pl_module.student, transformers.PreTrainedModel):
            model = type(pl_module.student)(pl_module.student.config)
            self.dry_run(model.eval(), as_text_datamodule(get_datamodule(trainer), self.config_key))

    @abstractmethod
    def dry_run(self, model: "transformers.PreTrainedModel", datamodule: TextDataModule) -> None:
        """Make a graph of a network and throw it away.

        Raises:
            ValueError: If that cannot be done; says why.
        """

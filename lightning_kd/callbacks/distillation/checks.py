"""Check that a run supports ``DistillationCallback``."""

import inspect

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_kd.training.module import DistillationModule


def check_run(trainer: Trainer, pl_module: LightningModule, student: str, has_labels: bool) -> None:
    """Raise if the module or the strategy does not support ``DistillationCallback``.

    Args:
        trainer: The trainer.
        pl_module: The module.
        student: Path of the student in the module.
        has_labels: True if losses read labels from the batch.

    Raises:
        ValueError: If it does not; the message names the reason.
    """
    if isinstance(pl_module, DistillationModule):
        raise ValueError("DistillationCallback: DistillationModule has a teacher argument; set model.teacher instead")
    if not pl_module.automatic_optimization:
        raise ValueError(
            f"DistillationCallback: {type(pl_module).__name__} uses manual optimization, so nothing can be added to "
            "its loss; call the losses of lightning_kd.losses in training_step"
        )
    if pl_module._compiler_ctx is not None:  # Lightning 2.6: set by torch.compile(module), no public equivalent
        raise ValueError(
            "DistillationCallback: the calls inside a compiled LightningModule cannot be recorded; compile only the "
            f"student: module.{student or 'net'}.compile()"
        )
    if has_labels and "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        raise ValueError(
            "DistillationCallback.labels: training_step(dataloader_iter) hides its batches; take a batch argument, or "
            "remove labels"
        )
    if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
        raise ValueError(
            f"DistillationCallback: {type(trainer.strategy).__name__} shards weights and optimizer; use ddp, or "
            "DistillationModule"
        )

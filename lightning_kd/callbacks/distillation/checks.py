"""Modules, strategies and other callbacks beside which a teacher can be added."""

import inspect

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_kd.training.module import DistillationModule


def check_run(trainer: Trainer, pl_module: LightningModule, student: str, has_labels: bool) -> None:
    """Refuse modules and strategies to which no teacher can be added.

    Args:
        trainer: The trainer.
        pl_module: The module.
        student: Name of the network in it.
        has_labels: Whether labels are looked for in the batch.

    Raises:
        ValueError: Names the reason.
    """
    if isinstance(pl_module, DistillationModule):
        raise ValueError("DistillationCallback: a DistillationModule has a teacher of its own; set model.teacher")
    if not pl_module.automatic_optimization:
        raise ValueError(
            f"DistillationCallback: {type(pl_module).__name__} optimises manually, so its step goes backward "
            "itself and nothing can be added to the loss; use the losses of lightning_kd.losses in the step"
        )
    if pl_module._compiler_ctx is not None:
        raise ValueError(
            "DistillationCallback: the whole module is compiled, and its calls cannot be seen; compile the network "
            f"inside instead: module.{student or 'net'}.compile()"
        )
    if has_labels and "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        raise ValueError(
            "DistillationCallback.labels: training_step fetches its batches itself (dataloader_iter), so the "
            "labels are not seen; leave labels out, or let training_step take a batch"
        )
    if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
        raise ValueError(
            f"DistillationCallback: {type(trainer.strategy).__name__} divides weights and optimiser, which the "
            "losses' parameters then cannot join; use ddp, or DistillationModule"
        )


def check_callbacks(trainer: Trainer) -> None:
    """Refuse callbacks that cannot do with parameters of others in the optimiser.

    Raises:
        ValueError: Names the callback.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, BaseFinetuning):
            raise ValueError(
                f"DistillationCallback.losses: have projections, and {type(callback).__name__} takes all parameters of "
                "the optimiser for the module's own; compare layers of one width, or logits, or freeze by hand"
            )

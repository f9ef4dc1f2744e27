"""Magnitude pruning of the student before training."""

import math

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning, WeightAveraging
from torch import nn

from lightning_kd.callbacks.base import DistillationModuleCallback, find_callbacks
from lightning_kd.models import encoder_layers
from lightning_kd.training.module import DistillationModule


class StudentPruning(DistillationModuleCallback, ModelPruning):
    """Prunes the linear layers of the student's encoder once, before the first step.

    The smallest weights over all layers become 0 and stay 0 (magnitude pruning, Han et al. 2015, Learning both Weights
    and Connections). Embeddings and head are not pruned. All scores and checkpoints are those of the pruned student:
    if it were pruned after each epoch, the best checkpoint could be one from before any pruning. A resumed run
    prunes the same weights, because they are zero in its checkpoint.

    Zeros make the file easier to compress; they do not make ordinary runtimes faster.

    Args:
        amount: Fraction of the weights to prune, in (0, 1).
        verbose: 1 logs the overall sparsity, 2 also that of each layer.

    Raises:
        ValueError: If ``amount`` is out of range; before training, if the student's layers are not found.
    """

    def __init__(self, amount: float, verbose: int = 1) -> None:
        if not (math.isfinite(amount) and 0 < amount < 1):
            raise ValueError(f"StudentPruning.amount: must be in (0, 1), got {amount}")
        super().__init__("l1_unstructured", amount=amount, use_lottery_ticket_hypothesis=False, verbose=verbose)

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Check that the student can be pruned.

        Raises:
            ValueError: If its layers are not found, or if weights are averaged.
        """
        student = pl_module.build_student()
        if encoder_layers(student) is None:
            raise ValueError(
                f"StudentPruning: {type(student).__name__} has no list of layers (ALBERT shares their weights); "
                "choose another student"
            )
        if find_callbacks(trainer, WeightAveraging):
            raise ValueError(
                "StudentPruning: incompatible with weight averaging, which copies the weights before they are pruned; "
                "remove one of them from trainer.callbacks"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, after a checkpoint was restored and other callbacks may have replaced linear layers."""
        assert isinstance(self.amount, float)
        layers = encoder_layers(self.distillation_module(pl_module).build_student())
        assert layers is not None  # checked in setup_fit
        linear_layers = [module for module in layers[1].modules() if isinstance(module, nn.Linear)]
        self._parameters_to_prune = [(module, "weight") for module in linear_layers]
        self.apply_pruning(self.amount)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing; ``ModelPruning`` would prune again."""

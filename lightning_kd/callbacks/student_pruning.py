"""Takes weights away from a student and lets the teacher repair the damage."""

import math

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning, WeightAveraging
from torch import nn

from lightning_kd.models import encoder_layers
from lightning_kd.training.module import DistillationModule


class StudentPruning(ModelPruning):
    """Lightning's ``ModelPruning`` on the linear maps of the student's layers, once, before the first step.

    So every score and every checkpoint is of the pruned student (pruned at the ends of epochs, the best one would be
    that of the first, before anything was taken away). The smallest weights over all layers become 0 and stay 0
    (magnitude pruning, Han et al. 2015, Learning both Weights and Connections). Embeddings and head are left alone. A
    resumed run prunes the same weights: they are the zeros of its checkpoint.

    Zeros make a file that compresses better; ordinary programs run it no faster.

    Args:
        amount: Share of the weights to take away, in (0, 1).
        verbose: 1 logs how many that are, 2 says it for each map.

    Raises:
        ValueError: If ``amount`` is out of range; before training, if the student's layers are not found.
    """

    def __init__(self, amount: float, verbose: int = 1) -> None:
        if not (math.isfinite(amount) and 0 < amount < 1):
            raise ValueError(f"StudentPruning.amount: must be in (0, 1), got {amount}")
        super().__init__("l1_unstructured", amount=amount, use_lottery_ticket_hypothesis=False, verbose=verbose)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look for the layers; a student that is described by a mapping is built for it."""
        if stage != "fit":
            return
        if not isinstance(pl_module, DistillationModule):
            raise ValueError(f"StudentPruning: works on a DistillationModule, got {type(pl_module).__name__}")
        student = pl_module.build_student()
        if encoder_layers(student) is None:
            raise ValueError(
                f"StudentPruning: {type(student).__name__} has no list of layers (ALBERT's share their weights); "
                "choose another student"
            )
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "StudentPruning: does not go with weight averaging, which pairs the weights before they are pruned; "
                "leave one of them out of trainer.callbacks"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, after a checkpoint was restored and others may have put other maps into the student."""
        assert isinstance(pl_module, DistillationModule)
        assert isinstance(self.amount, float)
        layers = encoder_layers(pl_module.build_student())
        assert layers is not None  # setup has seen to it
        linear_layers = [module for module in layers[1].modules() if isinstance(module, nn.Linear)]
        self._parameters_to_prune = [(module, "weight") for module in linear_layers]
        self.apply_pruning(self.amount)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: it is done."""

"""The part of a run that no loss has a say in: optimiser, schedule, clipping, dropout's seed."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from lightning_kd.io.serialization import class_from_config, to_config
from lightning_kd.optim.lazy_adamw import dense_gradient_views
from lightning_kd.optim.schedules import (
    OptimizerFactory,
    build_lr_scheduler,
    check_lr_scheduler,
    optimizer_state_by_name,
    parameter_groups,
)
from lightning_kd.outputs import Batch
from lightning_kd.tasks.base import Task
from lightning_kd.training.student import StudentModule


class OptimizedModule(StudentModule):
    """A student whose parameters, and those of whatever a subclass trains beside it, are optimised.

    The base of ``DistillationModule``, which adds teacher and losses.

    Args:
        task: As ``StudentModule``.
        student: As ``StudentModule``.
        label_names: As ``StudentModule``.
        ignore_label_mismatch: As ``StudentModule``.
        optimizer: Class and arguments of the optimiser.
        lr_scheduler: One of ``optimizers.LR_SCHEDULERS`` or None.
        warmup_ratio: Share of the steps in which the learning rate rises from 0, in [0, 1].

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        task: Task,
        student: Any,
        label_names: list[str] | None,
        ignore_label_mismatch: bool,
        optimizer: OptimizerFactory,
        lr_scheduler: str | None,
        warmup_ratio: float,
    ) -> None:
        super().__init__(task, student, label_names, ignore_label_mismatch)
        check_lr_scheduler(lr_scheduler, warmup_ratio)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.warmup_ratio = warmup_ratio
        self._seed: int | None = None
        self.save_hyperparameters(
            {
                "optimizer": optimizer if isinstance(optimizer, dict) else to_config(optimizer),
                "lr_scheduler": lr_scheduler,
                "warmup_ratio": warmup_ratio,
            }
        )

    def on_fit_start(self) -> None:
        """Settle the seed of the batches; a checkpoint's is kept."""
        if self._seed is None:
            self._seed = int(self.trainer.strategy.broadcast(torch.initial_seed()))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by the batch's number, so that nothing about it needs to be saved to resume."""
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        state = np.random.SeedSequence([self._seed or 0, self.global_rank, number]).generate_state(1, np.uint64)
        seed = int(state[0])
        # not torch.manual_seed, which formats a stack trace (2 ms) where CUDA has not been initialised
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Free the gradients after the optimiser's step; Lightning frees them after the next forward pass."""
        if not self.trainer.fit_loop._should_accumulate():
            self.zero_grad()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and the schedule stepped after each of its steps."""
        optimizer = self._build_optimizer()
        if self.lr_scheduler is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        # estimating has made an iterator over the train loader, and a checkpoint's position is restored only after:
        # let Lightning set the loader up again, or a resumed run would begin its epoch anew
        self.trainer.fit_loop._combined_loader = None
        schedule = build_lr_scheduler(self.lr_scheduler, optimizer, self.warmup_ratio, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _build_optimizer(self) -> Optimizer:
        factory = class_from_config(self.optimizer, Optimizer, "optimizer")
        optimizer: Optimizer = factory(parameter_groups(self))
        return optimizer

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip sparse gradients, too, and with a fused optimiser in bf16, which Lightning refuses because of fp16."""
        plugin = self.trainer.precision_plugin
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_val and any(p.grad is not None and p.grad.is_sparse for p in parameters):
            clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
            clip(dense_gradient_views(parameters), gradient_clip_val)
        elif type(plugin) is MixedPrecision and plugin.scaler is None and gradient_clip_val:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the optimiser's state the names of the parameters, so that it can be continued under any strategy."""
        if "optimizer_states" in checkpoint and self.trainer.strategy.lightning_restore_optimizer:
            checkpoint["optimizer_states"] = [optimizer_state_by_name(opt, self) for opt in self.trainer.optimizers]

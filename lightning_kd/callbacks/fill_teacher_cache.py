"""Fills the teacher cache before training."""

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from tqdm.auto import tqdm

from lightning_kd.callbacks.base import DistillationModuleCallback
from lightning_kd.data.interface import get_datamodule
from lightning_kd.teachers.cached_teacher import CachedTeacher
from lightning_kd.training.module import DistillationModule


class FillTeacherCache(DistillationModuleCallback):
    """Fills the ``teacher_cache`` before training, longest examples first, in large batches, with a progress bar.

    Without it, the teacher runs on each example when training first reaches it, in training batches. ``lightning-kd
    cache`` does the same without training. Each device takes its share of the missing examples.

    Args:
        batch_size: Examples per batch and device, >= 1; null = four times the training batch size.

    Raises:
        ValueError: If ``batch_size`` is less than 1; before training, if the module has no ``teacher_cache``.
    """

    def __init__(self, batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"FillTeacherCache.batch_size: must be >= 1 or null, got {batch_size}")
        self.batch_size = batch_size

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Check that there is a cache and a teacher.

        Raises:
            ValueError: If there is no cache, or no loss uses a teacher.
        """
        if pl_module.teacher_cache is None:
            raise ValueError("model.teacher_cache: not set, so there is nothing to fill; set a folder")
        if pl_module.active_teacher is None:
            raise ValueError("model.teacher: not used by any loss, so there is nothing to cache; set teacher and loss")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the teacher, which caches the validation split, then fill the cache of the training split."""
        module = self.distillation_module(pl_module)
        module.score_teacher()
        self._fill(trainer, module, module.cached_teachers["train"])
        trainer.strategy.barrier("teacher cache")
        rank_zero_info("Teacher cache: complete for the training split")

    def _fill(self, trainer: Trainer, pl_module: DistillationModule, cached: CachedTeacher) -> None:
        datamodule = get_datamodule(trainer)
        lengths = np.asarray(datamodule.row_lengths("train"))
        row_ids = np.arange(len(lengths))
        # rank 0 decides: if another run fills the same cache, the ranks would see different examples missing
        missing_ids = row_ids[~cached.store.contains(row_ids)].tolist() if trainer.is_global_zero else []
        missing = np.array(trainer.strategy.broadcast(missing_ids), dtype=np.int64)
        if not len(missing):
            return
        order = missing[np.argsort(-lengths[missing], kind="stable")]
        # the same number of batches on each rank, because all ranks call a sharded teacher together
        order = np.resize(order, -(-len(order) // trainer.world_size) * trainer.world_size)
        loader = datamodule.subset_dataloader(
            "train",
            order[trainer.global_rank :: trainer.world_size].tolist(),
            self.batch_size or 4 * datamodule.batch_size,
        )
        show_progress = trainer.progress_bar_callback is not None and trainer.is_global_zero
        with trainer.precision_plugin.forward_context():
            for batch in tqdm(loader, desc="Teacher on train", disable=not show_progress, leave=False):
                cached.fill(pl_module.to_device(batch))

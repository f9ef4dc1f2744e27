"""Lets the teacher see all rows before the first step."""

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from tqdm.auto import tqdm

from lightning_kd.data.interface import get_datamodule
from lightning_kd.teachers.cached_teacher import CachedTeacher
from lightning_kd.training.module import DistillationModule


class FillTeacherCache(Callback):
    """Fills the ``teacher_cache`` before training, the longest rows first, in large batches, behind a progress bar.

    Without it the teacher sees a row when it first comes, in the batches of training. ``lightning-kd cache`` does the
    same without training. Each device takes its share of the rows that are not known yet.

    Args:
        batch_size: Rows of a batch on one device, >= 1; null = four times the training batch.

    Raises:
        ValueError: If ``batch_size`` is less than 1, or the module has no ``teacher_cache``.
    """

    def __init__(self, batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"FillTeacherCache.batch_size: must be >= 1 or null, got {batch_size}")
        self.batch_size = batch_size

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that has no cache, or nothing to keep in it."""
        if stage != "fit":
            return
        if not isinstance(pl_module, DistillationModule) or pl_module.teacher_cache is None:
            raise ValueError("model.teacher_cache: none given, so there is nothing to fill; name a folder")
        if pl_module.active_teacher is None:
            raise ValueError("model.teacher: no loss reads one, so there is nothing to keep; give a teacher and a loss")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fill it, after the teacher was scored, which fills the rows of the validation split."""
        assert isinstance(pl_module, DistillationModule)
        pl_module.score_teacher()
        self._fill(trainer, pl_module, pl_module.cached_teachers["train"])
        trainer.strategy.barrier("teacher cache")
        rank_zero_info("Teacher cache: the teacher has seen all rows to train on")

    def _fill(self, trainer: Trainer, pl_module: DistillationModule, cached: CachedTeacher) -> None:
        datamodule = get_datamodule(trainer)
        lengths = np.asarray(datamodule.row_lengths("train"))
        # settled by the first device, or the shares would not fit together while another run fills the cache, too
        row_ids = np.arange(len(lengths))
        missing_ids = row_ids[~cached.store.contains(row_ids)].tolist() if trainer.is_global_zero else []
        missing = np.array(trainer.strategy.broadcast(missing_ids), dtype=np.int64)
        if not len(missing):
            return
        order = missing[np.argsort(-lengths[missing], kind="stable")]
        # as many batches on each: they call a teacher that is divided among them at the same time
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

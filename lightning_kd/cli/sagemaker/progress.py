"""Progress for a log file, which cannot show a progress bar."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only


class ProgressLines(Callback):
    """Print the metrics after each validation, in the format of the job's metric definitions."""

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print one line, such as ``step 120, epoch 2: train/loss=1.2 val/accuracy=0.81``."""
        if not trainer.sanity_checking:
            metrics = sorted((name, float(value)) for name, value in trainer.callback_metrics.items())
            values = " ".join(f"{name}={value:.6g}" for name, value in metrics)
            print(f"step {trainer.global_step}, epoch {trainer.current_epoch}: {values}", flush=True)

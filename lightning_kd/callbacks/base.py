"""Base class of the callbacks that need a DistillationModule, and typed access to the Trainer."""

from pathlib import Path
from typing import TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_kd.training.module import DistillationModule

T = TypeVar("T")


class DistillationModuleCallback(Callback):
    """Base class of callbacks that work on a `DistillationModule`.

    Subclasses override `setup_fit` instead of ``setup``.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Call `setup_fit` at the start of ``fit``.

        Raises:
            ValueError: If the module is not a `DistillationModule`.
        """
        if stage == "fit":
            self.setup_fit(trainer, self.distillation_module(pl_module))

    def setup_fit(self, trainer: Trainer, pl_module: DistillationModule) -> None:
        """Check and prepare the run before training; does nothing by default."""

    def model_sources(self) -> list[str]:
        """Return the Hub ids and folders of the models this callback reads."""
        return []

    def distillation_module(self, pl_module: LightningModule) -> DistillationModule:
        """Return the module if it is a `DistillationModule`.

        Raises:
            ValueError: If it is not.
        """
        if not isinstance(pl_module, DistillationModule):
            raise ValueError(
                f"{type(self).__name__}: needs a DistillationModule, got {type(pl_module).__name__}; remove it"
            )
        return pl_module


def find_callbacks(trainer: Trainer, kind: type[T]) -> list[T]:
    """Return the trainer's callbacks of a class, in their order."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def is_fast_dev_run(trainer: Trainer) -> bool:
    """True if the trainer runs a few batches to test the code, so that nothing should be written."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def output_path(trainer: Trainer, path: str | None = None, default: str = ".") -> Path:
    """Return a path given by the user, or a default in the run's log folder.

    Call it on every rank, because ``trainer.log_dir`` broadcasts.

    Args:
        trainer: The trainer of the run.
        path: The user's path; None selects the default.
        default: Path relative to the log folder.
    """
    if path is not None:
        return Path(path).expanduser()
    return Path(trainer.log_dir or trainer.default_root_dir) / default

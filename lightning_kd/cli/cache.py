"""``lightning-kd cache``."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from lightning_kd.callbacks import FillTeacherCache
from lightning_kd.cli.fit import DistillationCLI


class CacheCLI(DistillationCLI):
    """Takes the arguments of ``fit``, fills the teacher's cache and stops before the first step."""

    fit_command = "cache"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments of `FillTeacherCache` under ``cache``."""
        super().add_arguments_to_parser(parser)
        parser.add_lightning_class_args(FillTeacherCache, "cache")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return a trainer with the run's devices and precision, without its callbacks and loggers.

        Raises:
            ValueError: If there is a ``ckpt_path``.
        """
        if self._get(self.config_init, "ckpt_path") is not None:
            raise ValueError("ckpt_path: cache does not train, so there is nothing to resume; remove it")
        settings = self._get(self.config_init, "trainer")
        names = ("accelerator", "strategy", "devices", "num_nodes", "precision", "plugins", "default_root_dir")
        return Trainer(
            **{name: settings[name] for name in names},
            callbacks=[self._get(self.config_init, "cache"), _StopBeforeTraining()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            max_epochs=1,
        )


class _StopBeforeTraining(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def main(args: list[str]) -> None:
    """Fill the teacher's cache.

    Args:
        args: The command line, starting with the command's name, with the arguments of ``fit``.
    """
    CacheCLI(["fit", *args[1:]])

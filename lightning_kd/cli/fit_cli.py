"""The command line of ``fit`` for other commands: it raises instead of ending the process."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from lightning_kd.cli.fit import DistillationCLI


class FitCLI(DistillationCLI):
    """The command line of ``fit`` whose errors are raised."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises."""
        return super().init_parser(exit_on_error=False, **kwargs)


class BuildOnlyCLI(FitCLI):
    """Builds module and DataModule; neither has a trainer nor trains."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """None is asked for."""
        return None  # type: ignore[return-value]

    def _run_subcommand(self, subcommand: str) -> None: ...


class ParseOnlyCLI(BuildOnlyCLI):
    """Reads a command line, and neither builds nor runs anything."""

    def _parse_ckpt_path(self) -> None: ...

    def _set_seed(self) -> None: ...

    def instantiate_classes(self) -> None:
        """Nothing is."""

"""``fit --resume``: the arguments that resume a run.

Four other parts make the resumed run exact: ``data/resumable_dataloader.py`` continues in the middle of an epoch,
``data/base.py`` saves position and seed, ``training/module.py`` seeds dropout by the number of the batch, and
``callbacks/last_checkpoint.py`` saves between optimizer steps only.
"""

import filecmp
import shutil
from itertools import count
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from lightning_kd.io.atomic import atomic_write
from lightning_kd.training.resume_checks import IGNORABLE_CHANGES


def resolve_resume(args: list[str], run_dir: Path | None) -> tuple[list[str], Path | None]:
    """Replace ``--resume <run folder>`` with the arguments that resume the run.

    Args:
        args: The command line, starting with the subcommand.
        run_dir: The run's folder if there is no ``--resume``.

    Returns:
        The command line and the run's folder.

    Raises:
        ValueError: If ``--resume`` names no run folder, or the subcommand is not ``fit``.
    """
    args = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--resume=") else [arg])]
    if "--resume" not in args:
        return args, run_dir
    index = args.index("--resume")
    if args[0] != "fit":
        raise ValueError(f"--resume: {args[0]} cannot be resumed, only fit")
    if index + 1 == len(args):
        raise ValueError("--resume: requires a run folder, such as lightning_logs/version_0")
    run_dir = Path(args[index + 1]).expanduser().resolve()
    return ["fit", *resume_arguments(run_dir), *args[1:index], *args[index + 2 :]], run_dir


def last_checkpoint_path(run_dir: Path) -> Path:
    """Return the path of the checkpoint that a run resumes from: a file, or the folder of a sharded checkpoint."""
    return run_dir / "checkpoints" / "last.ckpt"


def resume_arguments(run_dir: Path) -> list[str]:
    """Return the arguments of ``fit`` that resume a run.

    Raises:
        ValueError: If it is not a run folder, or has no ``last.ckpt``.
    """
    config, checkpoint = run_dir / "config.yaml", last_checkpoint_path(run_dir)
    if not config.is_file():
        raise ValueError(f"--resume: {str(run_dir)!r} is not a run folder (no config.yaml)")
    if not checkpoint.exists():
        raise ValueError(
            f"--resume: {str(run_dir)!r} has no checkpoints/last.ckpt (first written after a few minutes or one "
            f"epoch); start a new run with --config {str(config)!r}"
        )
    return ["--config", str(config), "--ckpt_path", str(checkpoint)]


class SaveRunConfig(SaveConfigCallback):
    """Writes ``config.yaml``; of a resumed run only once its checks have passed, and keeps the former one.

    A former config that differs is kept as ``config.1.yaml``, ``config.2.yaml``, ...

    Args:
        parser: The parser of the config.
        config: The config.
        run_dir: The run folder if it has a config already.
        given: Arguments of the module in the config of this call, where a checkpoint has replaced them.
        kwargs: Further arguments of ``SaveConfigCallback``.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Namespace,
        run_dir: Path | None,
        given: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        config = config.clone()
        for name, value in (given or {}).items():
            config.model[name] = value
        config.model.ignore_checks = [n for n in config.model.ignore_checks or [] if n not in IGNORABLE_CHANGES] or None
        if run_dir is not None:
            config.ckpt_path = None
        super().__init__(parser, config, **kwargs)
        self.run_dir = run_dir

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the config of a new run."""
        if self.run_dir is None:
            super().setup(trainer, pl_module, stage)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write the config of a resumed run, after the last check: the module's, when training starts."""
        if self.run_dir is None or self.already_saved:
            return
        self.already_saved = True
        if not trainer.is_global_zero:
            return
        file = self.run_dir / "config.yaml"
        with atomic_write(file) as new:
            self.parser.save(self.config, str(new), skip_none=False, overwrite=True, multifile=False)
            if not filecmp.cmp(file, new, shallow=False):
                former = (file.with_name(f"config.{number}.yaml") for number in count(1))
                with atomic_write(next(path for path in former if not path.exists())) as copy:
                    shutil.copyfile(file, copy)

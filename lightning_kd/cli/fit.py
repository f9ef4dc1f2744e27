"""The command line."""

import logging
import shlex
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from transformers.utils.logging import disable_progress_bar

from lightning_kd import data, losses, tasks  # noqa: F401  their classes can be named without a module path
from lightning_kd.callbacks import FillTeacherCache, LastCheckpoint, PredictionWriter, RunSummary, StudentExport
from lightning_kd.cli.commands import COMMANDS
from lightning_kd.cli.run_dirs import (
    LOGS_DIR,
    create_run_dir,
    create_run_logger,
    last_checkpoint_path,
    remove_if_empty,
    resume_arguments,
)
from lightning_kd.io.atomic import disk_full_errors
from lightning_kd.io.checkpoint_io import checked_checkpoint
from lightning_kd.io.consolidation import is_sharded_checkpoint
from lightning_kd.training.module import DistillationModule

DESCRIPTION = (
    "Distill transformers: a small student learns what a large teacher knows. `lightning-kd cache`, with the "
    "arguments of fit, lets the teacher see all rows beforehand. For finished models see also "
    "`lightning-kd report --help` (score, size and speed side by side), `lightning-kd probe --help` (what a "
    "temperature makes of a teacher's probabilities) and `lightning-kd export --help` (ONNX). "
    "`lightning-kd tune --help` searches for good settings, `lightning-kd sagemaker --help` starts a fit on Amazon "
    "SageMaker."
)
FIT_DESCRIPTION = (
    "Train a student, with or without a teacher. `fit --resume <run folder>` continues a run that was interrupted."
)


class DistillationCLI(LightningCLI):
    """LightningCLI for DistillationModule, with the callbacks that every run wants."""

    def __init__(self, args: list[str], run_dir: Path | None = None) -> None:
        self.run_dir = run_dir
        self.created_run_dir: Path | None = None
        is_resumed = run_dir is not None and last_checkpoint_path(run_dir).exists()
        super().__init__(
            DistillationModule,
            LightningDataModule,
            subclass_mode_data=True,
            args=args,
            auto_configure_optimizers=False,
            # the module saves its own hyperparameters as plain data
            load_from_checkpoint_support=False,
            # a resumed run keeps the config it was started with
            save_config_callback=None if is_resumed else SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=42,
            parser_kwargs={"prog": "lightning-kd", "description": DESCRIPTION, "fit": {"description": FIT_DESCRIPTION}},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The callbacks of every run under keys of their own."""
        parser.add_lightning_class_args(StudentExport, "export")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        # as text: a config.yaml cannot hold the module's own default, an object
        parser.set_defaults({"model.optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 5e-5}}})

    def _parse_ckpt_path(self) -> None:
        path = self.config[self.config.subcommand].get("ckpt_path") if self.config.get("subcommand") else None
        with checked_checkpoint(path or ""):  # Lightning reads the hyperparameters in it before all else
            super()._parse_ckpt_path()

    def before_instantiate_classes(self) -> None:
        """Set the data's tokenizer to the student's, unless one is given."""
        config = self.config[str(self.subcommand)]
        arguments = config.data.get("init_args")
        if arguments is None or "tokenizer" not in arguments or arguments.tokenizer is not None:
            return
        student = config.model.student
        if isinstance(student, dict):  # see models.parse_student; a whole configuration comes from a checkpoint
            student = student.get("pretrained") or student.get("config")
            student = student if isinstance(student, str) else (student or {}).get("_name_or_path")
        arguments.tokenizer = student if isinstance(student, str) else None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with a run folder of its own and the best checkpoint by the task's metric."""
        settings = self._get(self.config_init, "trainer")
        if settings["enable_checkpointing"] is False:
            raise ValueError(
                "trainer.enable_checkpointing: false would leave nothing to resume or export; leave it out, or set "
                "last_checkpoint.every_minutes to a large number"
            )
        user_callbacks = settings["callbacks"] or []
        callbacks = [*user_callbacks] if isinstance(user_callbacks, list) else [user_callbacks]
        if settings["logger"] in (None, True) and not settings["fast_dev_run"]:
            kwargs["logger"] = create_run_logger(
                self._resolve_run_dir(Path(settings["default_root_dir"] or ".").resolve())
            )
        has_monitor = any(isinstance(callback, ModelCheckpoint) and callback.monitor for callback in callbacks)
        if self.subcommand == "fit" and not has_monitor:
            callbacks.append(self._best_checkpoint())
        callbacks.append(RunSummary())
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    def _resolve_run_dir(self, root: Path) -> Path:
        if self.run_dir is not None:
            return self.run_dir
        if getattr(rank_zero_only, "rank", 0):
            return root / LOGS_DIR  # Lightning takes the first process's folder everywhere
        self.created_run_dir = self.run_dir = create_run_dir(root)
        return self.run_dir

    def _best_checkpoint(self) -> ModelCheckpoint:
        task = self.model.task
        folder = self.run_dir / "checkpoints" if self.run_dir is not None else None
        return ModelCheckpoint(
            folder,
            filename="best",
            monitor=f"val/{task.monitor}",
            mode=task.monitor_mode,
            enable_version_counter=False,
        )

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            self._check_checkpoint()
            with disk_full_errors(self.run_dir or Path.cwd()):  # TensorBoard's errors do not say which file
                super()._run_subcommand(subcommand)
        except BaseException:
            if self.created_run_dir is not None:
                remove_if_empty(self.created_run_dir)
            raise

    def _check_checkpoint(self) -> None:
        path = self._get(self.config_init, "ckpt_path")
        is_sharded = isinstance(self.trainer.strategy, ModelParallelStrategy)
        if path is not None and not is_sharded and is_sharded_checkpoint(Path(path)):
            raise ValueError(
                f"ckpt_path: {path!r} is a folder to which each process wrote its part; make a file of it with "
                f"lightning-kd consolidate {shlex.quote(path)}"
            )


def suppress_noise() -> None:
    """Silence what says nothing to the user: advertisements, and notes about what is meant to be so."""
    for message in (
        "Be aware that when using `ckpt_path`, callbacks used to create.*",  # the best checkpoint's, in test or predict
        "Checkpoint directory .* exists and is not empty.*",  # a resumed run's own
        ".*does not have many workers.*",  # batches are cheap to make
        ".*args parameter is intended to run from within Python.*",  # they are the command line's own, see --resume
        ".*is not supported by the model summary.*",
        ".*treespec, LeafSpec.*",  # Lightning's own use of PyTorch
        ".*is smaller than the logging interval.*",
        "You're using the WeightAveraging callback with a model that overrides.*",  # nothing is sharded
        "You're using the WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",  # to test it
    ):
        warnings.filterwarnings("ignore", message=message)
    noise = ("💡 Tip", "Loading `train_dataloader` to estimate")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not record.getMessage().startswith(noise)
    )
    disable_progress_bar()  # transformers' bars for loading and saving a file or two


class CacheCLI(DistillationCLI):
    """``lightning-kd cache``: takes what ``fit`` takes, fills the teacher's cache and ends before the first step."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """How to fill, beside the arguments of ``fit``."""
        super().add_arguments_to_parser(parser)
        parser.add_lightning_class_args(FillTeacherCache, "cache")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer on the devices and in the precision of the run, without its callbacks and loggers."""
        if self._get(self.config_init, "ckpt_path") is not None:
            raise ValueError("ckpt_path: cache trains nothing, so it continues nothing; leave it out")
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


def dispatch(args: list[str]) -> None:
    """Run a command line without the program's name, be it Lightning's or one of ours."""
    if args and args[0] == "cache":
        suppress_noise()
        CacheCLI(["fit", *args[1:]])
    elif args and args[0] in COMMANDS:
        suppress_noise()
        COMMANDS[args[0]](args[1:])
    else:
        run(args)


def run(
    args: list[str], run_dir: Path | None = None, cli_class: type[DistillationCLI] = DistillationCLI
) -> DistillationCLI:
    """Run one of Lightning's commands, such as ``fit``; the result holds the trainer and the run's folder.

    Args:
        args: The command line without the program's name.
        run_dir: The run's folder; null = a new one.
        cli_class: The class that parses and runs.
    """
    suppress_noise()
    args = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--resume=") else [arg])]
    if "--resume" in args:
        index = args.index("--resume")
        if args[0] != "fit":
            raise ValueError(f"--resume: only fit can be resumed, not {args[0]}")
        if index + 1 == len(args):
            raise ValueError("--resume: name the run folder, for instance lightning_logs/version_0")
        run_dir = Path(args[index + 1]).expanduser().resolve()
        args = ["fit", *resume_arguments(run_dir), *args[1:index], *args[index + 2 :]]
    return cli_class(args, run_dir)

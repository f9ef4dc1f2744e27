"""``lightning-kd fit``, ``validate``, ``test`` and ``predict``.

Private methods of LightningCLI are overridden in this file only; Lightning 2.6 has no public hooks for them.
"""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only

from lightning_kd import data, losses, tasks  # noqa: F401  their classes can be named without a module path
from lightning_kd.callbacks import LastCheckpoint, PredictionWriter, RunSummary, StudentExport
from lightning_kd.cli.arguments import set_data_title
from lightning_kd.cli.main import COMMANDS
from lightning_kd.cli.resume import SaveRunConfig, last_checkpoint_path, resolve_resume
from lightning_kd.cli.run_dirs import LOGS_DIR, create_run_dir, create_run_logger, remove_if_empty
from lightning_kd.io.atomic import disk_full_errors
from lightning_kd.io.consolidation import is_sharded_checkpoint, read_metadata
from lightning_kd.io.serialization import from_config
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.models import is_hub_id, is_saved_config, pin_revisions, student_fields
from lightning_kd.tasks.base import Task
from lightning_kd.training.module import DistillationModule
from lightning_kd.training.resume_checks import check_student


class DistillationCLI(LightningCLI):
    """LightningCLI for DistillationModule, with a run folder and the callbacks of every run.

    Args:
        args: The command line, starting with the subcommand.
        run_dir: The run's folder; None = a new one.

    Attributes:
        created_run_dir: The folder that this run created, removed if the run stops before it writes anything to keep.
        created_parents: Parents of it that this run created, the innermost first; removed with it if they are empty.
    """

    fit_command: ClassVar[str] = "fit"
    """Command under which ``fit`` is called, for its help."""

    def __init__(self, args: list[str], run_dir: Path | None = None) -> None:
        self.run_dir = run_dir
        self.created_run_dir: Path | None = None
        self.created_parents: list[Path] = []
        is_resumed = run_dir is not None and last_checkpoint_path(run_dir).exists()
        try:
            super().__init__(
                DistillationModule,
                LightningDataModule,
                subclass_mode_data=True,
                args=args,
                auto_configure_optimizers=False,
                # the module saves its hyperparameters as plain data itself
                load_from_checkpoint_support=False,
                save_config_callback=SaveRunConfig if args[0] == "fit" else None,
                save_config_kwargs={"overwrite": True, "run_dir": run_dir if is_resumed else None},
                seed_everything_default=42,
                parser_kwargs={
                    "prog": "lightning-kd",
                    **{name: _help_texts(self.fit_command if name == "fit" else name) for name in self.subcommands()},
                },
            )
        except BaseException:
            if self.created_run_dir is not None:
                remove_if_empty(self.created_run_dir, self.created_parents)
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks of every run, each under its key."""
        set_data_title(parser)
        parser.add_lightning_class_args(StudentExport, "export")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        # the module's default is an object, which config.yaml cannot hold
        parser.set_defaults({"model.optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 5e-5}}})

    def _parse_ckpt_path(self) -> None:
        """Use the checkpoint's student and label names, and for all commands but ``fit`` its task and losses.

        Lightning uses all hyperparameters, and jsonargparse imports the classes that they name.
        """
        if not self.config.get("subcommand"):
            return
        config = self.config[self.config.subcommand]
        path = Path(config.get("ckpt_path") or "")
        if not (path.is_file() or is_sharded_checkpoint(path)):
            return  # none, or one that Lightning finds, such as "last"
        saved = read_metadata(path).get(DistillationModule.CHECKPOINT_HYPER_PARAMS_KEY) or {}
        student, names = config.model.student, config.model.label_names
        self.save_config_kwargs["given"] = {"student": student, "label_names": names}
        if is_saved_config(saved.get("student")):
            if self.config.subcommand == "fit":
                check_student(saved["student"], student_fields(student))
            config.model.student = saved["student"]
        config.model.label_names = saved.get("label_names") or names
        if self.config.subcommand != "fit":
            config.model.task = from_config(saved.get("task", config.model.task), Task, "task")
            losses = saved.get("losses", config.model.losses)
            config.model.losses = {n: from_config(loss, DistillationLoss, f"losses.{n}") for n, loss in losses.items()}

    def before_instantiate_classes(self) -> None:
        """Pin Hub models, and set the data's tokenizer to the student's, unless one is given."""
        if self.subcommand == "fit":
            self._pin_revisions()
        config = self.config[str(self.subcommand)]
        arguments = config.data.get("init_args")
        if arguments is None or "tokenizer" not in arguments or arguments.tokenizer is not None:
            return
        student, revision = config.model.student, None
        if isinstance(student, dict):  # see models.parse_student; a whole configuration comes from a checkpoint
            revision = student.get("revision")
            student = student.get("pretrained") or student.get("config")
            student = student if isinstance(student, str) else (student or {}).get("_name_or_path")
        arguments.tokenizer = student if isinstance(student, str) else None
        if "tokenizer_revision" in arguments and arguments.tokenizer_revision is None and is_hub_id(student):
            arguments.tokenizer_revision = revision

    def _pin_revisions(self) -> None:
        """Pin Hub models to their current commits, which config.yaml then records."""
        config = self.config["fit"].model
        for role in ("student", "teacher"):
            with suppress(OSError):  # raised when the model is loaded
                config[role] = pin_revisions(config[role], role)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return a trainer with a run folder that keeps the best checkpoint by the task's metric.

        Raises:
            ValueError: If checkpoints are disabled.
        """
        settings = self._get(self.config_init, "trainer")
        if settings["enable_checkpointing"] is False:
            raise ValueError(
                "trainer.enable_checkpointing: false leaves nothing to resume or export; remove it, or raise "
                "last_checkpoint.every_minutes"
            )
        user_callbacks = settings["callbacks"] or []
        callbacks = [*user_callbacks] if isinstance(user_callbacks, list) else [user_callbacks]
        has_logger = settings["logger"] not in (False, []) and not settings["fast_dev_run"]
        if has_logger and settings["logger"] in (None, True):
            root = Path(settings["default_root_dir"] or ".").resolve()
            kwargs["logger"] = create_run_logger(self._resolve_run_dir(root))
        if self.subcommand == "fit":
            if not any(isinstance(callback, ModelCheckpoint) and callback.monitor for callback in callbacks):
                callbacks.append(self._best_checkpoint())
            if has_logger and not any(isinstance(callback, LearningRateMonitor) for callback in callbacks):
                callbacks.append(LearningRateMonitor(logging_interval="step"))
        callbacks.append(RunSummary())
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    def _resolve_run_dir(self, root: Path) -> Path:
        if self.run_dir is not None:
            return self.run_dir
        if getattr(rank_zero_only, "rank", 0):
            return root / LOGS_DIR  # Lightning broadcasts the first process's folder
        self.created_parents = [
            folder for folder in (root / LOGS_DIR, *(root / LOGS_DIR).parents) if not folder.exists()
        ]
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
        self._check_checkpoint()
        with disk_full_errors(self.run_dir or Path.cwd()):  # TensorBoard's errors name no file
            super()._run_subcommand(subcommand)

    def _check_checkpoint(self) -> None:
        path = self._get(self.config_init, "ckpt_path")
        is_sharded = isinstance(self.trainer.strategy, ModelParallelStrategy)
        if path is not None and not is_sharded and is_sharded_checkpoint(Path(path)):
            raise ValueError(
                f"ckpt_path: {path!r} is a sharded checkpoint; convert it with lightning-kd consolidate "
                f"{shlex.quote(path)}"
            )


def _help_texts(command: str) -> dict[str, str]:
    resume = " [--resume RUN_DIR]" if command == "fit" else ""
    return {
        "usage": f"lightning-kd {command} [--config FILE]{resume} [--KEY VALUE ...]",  # argparse's has 100 lines
        "description": f"{COMMANDS[command][1].capitalize()}.",
    }


class FitCLI(DistillationCLI):
    """A command line of ``fit`` that raises its errors instead of ending the process."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser that raises."""
        return super().init_parser(exit_on_error=False, **kwargs)


class BuildOnlyCLI(FitCLI):
    """Builds module and DataModule, but no trainer."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return None."""
        return None  # type: ignore[return-value]

    def _run_subcommand(self, subcommand: str) -> None: ...


class ParseOnlyCLI(BuildOnlyCLI):
    """Parses a command line, and neither builds nor runs anything."""

    def _parse_ckpt_path(self) -> None: ...

    def _pin_revisions(self) -> None: ...

    def _set_seed(self) -> None: ...

    def instantiate_classes(self) -> None:
        """Do nothing."""


def main(args: list[str]) -> None:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        args: The command line, starting with the command's name.
    """
    run(args)


def run(
    args: list[str], run_dir: Path | None = None, cli_class: type[DistillationCLI] = DistillationCLI
) -> DistillationCLI:
    """Run ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        args: The command line, starting with the subcommand.
        run_dir: The run's folder; None = a new one.
        cli_class: The class that parses and runs.

    Returns:
        The command line, with ``trainer``, ``model``, ``datamodule`` and ``run_dir``.

    Raises:
        ValueError: If ``--resume`` names no run folder, or the subcommand is not ``fit``.
    """
    args, run_dir = resolve_resume(args, run_dir)
    return cli_class(args, run_dir)

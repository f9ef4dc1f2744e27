"""Run ``fit`` in a training job."""

from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any

from lightning.pytorch import Trainer

from lightning_kd.cli.fit import FitCLI, run
from lightning_kd.cli.resume import last_checkpoint_path
from lightning_kd.cli.sagemaker.arguments import config_overrides, find_config, substitute_env
from lightning_kd.cli.sagemaker.environment import ScriptMode
from lightning_kd.cli.sagemaker.progress import ProgressLines

STUDENT_DIRNAME = "student"


class ScriptModeCLI(FitCLI):
    """``fit`` with log lines after each validation."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Create the trainer."""
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.insert(0, ProgressLines())  # type: ignore[attr-defined]
        return trainer


def fit_arguments(job: ScriptMode, variables: Mapping[str, str], folder: Path) -> list[str]:
    """Return the arguments of ``fit`` for a job.

    Args:
        job: The job.
        variables: Variables for placeholders.
        folder: Folder for the YAML file with placeholders replaced.

    Raises:
        ValueError: If there is no YAML file, or a placeholder has no value.
    """
    source = find_config(job.hyperparameters, variables)
    config = folder / source.name
    config.write_text(substitute_env(source.read_text(encoding="utf-8"), variables, source.name), encoding="utf-8")
    arguments = ["--config", str(config), *config_overrides(job.hyperparameters, variables)]
    # the student is moved later, because the model folder may be a mount, which cannot be renamed
    arguments += [f"--trainer.num_nodes={len(job.hosts)}", f"--export.output_dir={job.model_dir / STUDENT_DIRNAME}"]
    if (last := last_checkpoint_path(job.checkpoint_dir)).exists():
        print(f"Resuming from {last}", flush=True)
        arguments += ["--ckpt_path", str(last)]
    return arguments


def run_fit(job: ScriptMode, arguments: list[str]) -> None:
    """Run ``fit`` and move student and logs to the folders that SageMaker uploads.

    The checkpoint folder is the run folder, so that logs also survive an interruption. Only the global rank 0 writes.

    Args:
        job: The job.
        arguments: Result of :func:`fit_arguments`.
    """
    job.checkpoint_dir.mkdir(parents=True, exist_ok=True)
    trainer = run(["fit", *arguments], job.checkpoint_dir, ScriptModeCLI).trainer
    if not trainer.is_global_zero:
        return
    student = job.model_dir / STUDENT_DIRNAME
    if student.is_dir():  # absent after a fast_dev_run
        for file in student.iterdir():
            file.replace(job.model_dir / file.name)
        student.rmdir()
        print(f"Student moved to {job.model_dir}", flush=True)
    job.output_data_dir.mkdir(parents=True, exist_ok=True)
    for file in job.checkpoint_dir.iterdir():
        if file.is_file():
            copyfile(file, job.output_data_dir / file.name)

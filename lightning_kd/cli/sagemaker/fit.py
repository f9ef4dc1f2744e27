"""One ``fit`` in a training job: where it starts, and where its results go."""

from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any

from lightning.pytorch import Trainer

from lightning_kd.cli.fit import FitCLI, run
from lightning_kd.cli.run_dirs import last_checkpoint_path
from lightning_kd.cli.sagemaker.arguments import fill_in, find_config, overrides
from lightning_kd.cli.sagemaker.environment import ScriptMode
from lightning_kd.cli.sagemaker.progress import ProgressLines

STUDENT = "student"


class ScriptModeCLI(FitCLI):
    """The command line of a job's ``fit``."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with lines for the job's log."""
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.insert(0, ProgressLines())  # type: ignore[attr-defined]
        return trainer


def fit_arguments(job: ScriptMode, variables: Mapping[str, str], folder: Path) -> list[str]:
    """The command line of a job's ``fit``.

    Args:
        job: The job.
        variables: Its variables, for placeholders.
        folder: Where the YAML file without placeholders goes.

    Raises:
        ValueError: If there is no YAML file, or a placeholder has no value.
    """
    source = find_config(job.hyperparameters, variables)
    config = folder / source.name
    config.write_text(fill_in(source.read_text(encoding="utf-8"), variables, source.name), encoding="utf-8")
    arguments = ["--config", str(config), *overrides(job.hyperparameters, variables)]
    # the service's, whatever the file says; written under another name, because the model's folder may be a mount
    arguments += [f"--trainer.num_nodes={len(job.hosts)}", f"--export.output_dir={job.model / STUDENT}"]
    if (last := last_checkpoint_path(job.checkpoints)).exists():
        print(f"Continuing from {last}, which an earlier attempt left", flush=True)
        arguments += ["--ckpt_path", str(last)]
    return arguments


def fit_in(job: ScriptMode, arguments: list[str]) -> None:
    """Run ``fit`` and leave the student and the run's records where the service takes them from.

    The folder of checkpoints is the run folder, so that logs survive an interruption, too. Only the first process of
    all hosts writes.

    Args:
        job: The job.
        arguments: From :func:`fit_arguments`.
    """
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    trainer = run(["fit", *arguments], job.checkpoints, ScriptModeCLI).trainer
    if not trainer.is_global_zero:
        return
    student = job.model / STUDENT
    if student.is_dir():  # absent after a fast_dev_run
        for file in student.iterdir():
            file.replace(job.model / file.name)
        student.rmdir()
        print(f"Student moved to {job.model}", flush=True)
    job.output_data.mkdir(parents=True, exist_ok=True)
    for file in job.checkpoints.iterdir():
        if file.is_file():
            copyfile(file, job.output_data / file.name)

"""Run ``fit`` in a training job."""

from shutil import copyfile
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lightning_kd.cli.fit import FitCLI, run
from lightning_kd.cli.resume import last_checkpoint_path
from lightning_kd.cli.sagemaker.environment import ScriptMode


class ProgressLines(Callback):
    """Print the metrics after each validation, in the format of the job's metric definitions.

    A log file cannot show a progress bar.
    """

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print one line, such as ``step 120, epoch 2: train/loss=1.2 val/accuracy=0.81``."""
        if not trainer.sanity_checking:
            metrics = sorted((name, float(value)) for name, value in trainer.callback_metrics.items())
            values = " ".join(f"{name}={value:.6g}" for name, value in metrics)
            print(f"step {trainer.global_step}, epoch {trainer.current_epoch}: {values}", flush=True)


class ScriptModeCLI(FitCLI):
    """``fit`` with log lines after each validation."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Create the trainer."""
        trainer = super().instantiate_trainer(**kwargs)
        trainer.callbacks.insert(0, ProgressLines())  # type: ignore[attr-defined]
        return trainer


def run_fit(job: ScriptMode, arguments: list[str]) -> None:
    """Run ``fit``, or resume it, and move student and logs to the folders that SageMaker uploads.

    The checkpoint folder is the run folder, so that logs also survive an interruption. Only the global rank 0 writes.

    Args:
        job: The job.
        arguments: Arguments of ``fit``; those that depend on the job are added.
    """
    # the student is moved later, because the model folder may be a mount, which cannot be renamed
    student = job.model_dir / "student"
    arguments = [*arguments, f"--trainer.num_nodes={len(job.hosts)}", f"--export.output_dir={student}"]
    if (last := last_checkpoint_path(job.checkpoint_dir)).exists():
        print(f"Resuming from {last}", flush=True)
        arguments += ["--ckpt_path", str(last)]
    job.checkpoint_dir.mkdir(parents=True, exist_ok=True)
    trainer = run(["fit", *arguments], job.checkpoint_dir, ScriptModeCLI).trainer
    if not trainer.is_global_zero:
        return
    if student.is_dir():  # absent after a fast_dev_run
        for file in student.iterdir():
            file.replace(job.model_dir / file.name)
        student.rmdir()
        print(f"Student moved to {job.model_dir}", flush=True)
    job.output_data_dir.mkdir(parents=True, exist_ok=True)
    for file in job.checkpoint_dir.iterdir():
        if file.is_file():
            copyfile(file, job.output_data_dir / file.name)

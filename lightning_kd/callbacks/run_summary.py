"""Prints the summary table of a run."""

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from lightning_kd.callbacks.base import DistillationModuleCallback, is_fast_dev_run
from lightning_kd.export.student import best_scores
from lightning_kd.models import count_parameters
from lightning_kd.training.module import DistillationModule

BYTES_PER_MB = 1e6


class RunSummary(DistillationModuleCallback):
    """Prints teacher and best student side by side at the end of ``fit``."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table."""
        if trainer.is_global_zero and not is_fast_dev_run(trainer):
            module = self.distillation_module(pl_module)
            Console().print(summary_table(module, best_scores(trainer, module)))


def summary_table(pl_module: DistillationModule, scores: dict[str, float]) -> Table:
    """Return scores, parameters and size in float32 of teacher and student, and their ratio in %.

    Args:
        pl_module: The module that was fitted.
        scores: ``val/<metric>`` of the best student.
    """
    student_parameters = count_parameters(pl_module.student)
    teacher_parameters = pl_module.active_teacher.num_parameters() if pl_module.active_teacher is not None else 0
    columns = ["teacher", "student", "student / teacher"] if teacher_parameters else ["student"]
    table = Table("validation", *columns, title="Best student")
    for key, score in scores.items():
        name = key.removeprefix("val/")
        teacher = pl_module.teacher_scores.get(name)
        if teacher is not None and teacher_parameters:
            table.add_row(name, f"{teacher:.4f}", f"{score:.4f}", f"{score / teacher:.1%}" if teacher else "")
        else:
            table.add_row(name, *([""] if teacher_parameters else []), f"{score:.4f}")
    table.add_section()
    ratio = [f"{student_parameters / teacher_parameters:.1%}"] if teacher_parameters else []
    counts = [teacher_parameters, student_parameters] if teacher_parameters else [student_parameters]
    table.add_row("parameters", *(f"{count:,}" for count in counts), *ratio)
    table.add_row("size, float32", *(f"{4 * count / BYTES_PER_MB:,.1f} MB" for count in counts), *ratio)
    return table

"""The model card of an exported student."""

from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import ModelCard, ModelCardData
from lightning.pytorch import Trainer

from lightning_kd.data.interface import get_datamodule
from lightning_kd.io.atomic import atomic_write
from lightning_kd.io.serialization import to_config
from lightning_kd.losses import DistillationLoss
from lightning_kd.models import count_parameters
from lightning_kd.tasks.base import Task
from lightning_kd.training.module import DistillationModule

EXPORT_TAG = "lightning_kd"
"""Tag by which an earlier export is recognized."""

REPORT_HEADING = "## Compression report"


def _loss_rows(pl_module: DistillationModule) -> list[str]:
    rows = []
    for name, loss in pl_module.losses.items():
        assert isinstance(loss, DistillationLoss)
        arguments = {**to_config(loss).get("init_args", {}), **pl_module.loss_schedules.get(name, {})}
        weight = arguments.pop("weight", loss.weight)
        settings = ", ".join(f"{key} {value}" for key, value in arguments.items())
        rows.append(f"| {name} | {type(loss).__name__} | {weight} | {settings} |")
    return rows


def _score_rows(scores: dict[str, float], teacher_scores: dict[str, float]) -> list[str]:
    rows = []
    for key, score in scores.items():
        name = key.removeprefix("val/")
        teacher_score = f"{teacher_scores[name]:.4f}" if name in teacher_scores else ""
        rows.append(f"| {name} | {score:.4f} | {teacher_score} |")
    return rows


def model_card(trainer: Trainer, pl_module: DistillationModule, scores: dict[str, float]) -> str:
    """Return the text of a student's model card: dataset, teacher, losses, training, scores.

    Args:
        trainer: The trainer after ``fit``.
        pl_module: The module that was fitted.
        scores: ``val/<metric>`` of the exported weights.
    """
    datamodule = get_datamodule(trainer)
    data_name = f"{datamodule.class_name}, `{datamodule.path}`" if datamodule.class_name else "custom DataLoaders"
    models = [] if pl_module.active_teacher is None else pl_module.active_teacher.models
    teachers = [model.name for model in models]
    commits = [("Student", *pl_module.student_commit)] if pl_module.student_commit else []
    commits += [("Teacher", model.name, model.commit) for model in models if model.commit is not None]
    title = f"Distilled from {' + '.join(f'`{t}`' for t in teachers)}" if teachers else "Fine-tuned without a teacher"
    optimizer = pl_module.hparams["optimizer"]
    settings = ", ".join(f"{k} {v}" for k, v in optimizer.get("init_args", {}).items())
    optimizer_name = str(optimizer.get("class_path", next(iter(optimizer.values())))).rpartition(".")[2]
    tags = [EXPORT_TAG, "knowledge-distillation"] if teachers else [EXPORT_TAG]
    header = ModelCardData(library_name="transformers", pipeline_tag=pl_module.task.pipeline, tags=tags).to_yaml()
    lines = [
        f"---\n{header}\n---",
        "",
        f"# {title}",
        "",
        *(f"- {role}: loaded from `{name}` at commit `{commit}`" for role, name, commit in commits),
        f"- Data: {data_name}",
        *([f"- Prompt: `{prompt.template}`"] if (prompt := datamodule.prompt) else []),
        f"- Parameters: {count_parameters(pl_module.student):,}",
        f"- Optimizer: {optimizer_name} ({settings}), schedule {pl_module.lr_scheduler}, "
        f"warmup {pl_module.warmup_ratio:.0%} of {trainer.global_step} steps, {trainer.current_epoch} epochs, "
        f"precision {trainer.precision}",
        "",
        "| loss | class | weight | settings |",
        "|---|---|---|---|",
        *_loss_rows(pl_module),
        "",
        "| validation | student | teacher |",
        "|---|---|---|",
        *_score_rows(scores, pl_module.teacher_scores),
        "",
        "Trained with lightning_kd. The best checkpoint was selected by these validation scores, so they are slightly "
        "optimistic.",
        "",
        "```python",
        *_usage_snippet(pl_module.task),
        "```",
        "",
    ]
    return "\n".join(lines)


def _usage_snippet(task: Task) -> list[str]:
    if task.pipeline in transformers.pipelines.get_supported_tasks():
        return ["from transformers import pipeline", f'predict = pipeline("{task.pipeline}", model="<this folder>")']
    # transformers 5 has no pipeline for question answering
    return [
        f"from transformers import {task.auto_class}, AutoTokenizer",
        f'model = {task.auto_class}.from_pretrained("<this folder>")',
        'tokenizer = AutoTokenizer.from_pretrained("<this folder>")',
    ]


def source_model_card(source: str) -> str:
    """Return the card of a finished model without its report, tagged as an export of this package.

    Args:
        source: Hub id or folder; a short card is made if the folder has none.
    """
    file = Path(source) / "README.md"
    card = ModelCard.load(file) if file.is_file() else ModelCard(f"---\ntags: []\n---\n\n# {source}\n")
    data: Any = card.data
    data.tags = list(dict.fromkeys([*(data.tags or []), EXPORT_TAG]))
    return _strip_report(str(card))


def add_report(file: Path, report: str) -> None:
    """Append a compression report to a card, replacing an earlier one.

    Args:
        file: The card.
        report: The report as Markdown.
    """
    text = _strip_report(file.read_text(encoding="utf-8"))
    with atomic_write(file) as temporary:
        temporary.write_text(f"{text}\n{REPORT_HEADING}\n\n{report}", encoding="utf-8")


def _strip_report(card: str) -> str:
    return card.partition(f"\n{REPORT_HEADING}")[0]

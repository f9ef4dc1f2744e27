"""Probe of models in folders."""

from torch import nn

from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.batches import Split, split_dataloader, unsharded_dataloaders, with_progress_bar
from lightning_kd.evaluation.temperature.logits import (
    LogitsFn,
    ModelLogits,
    SplitLogits,
    collect_logits,
    encode_sentences,
    load_raw_split,
)
from lightning_kd.evaluation.temperature.probe import build_probe_result
from lightning_kd.evaluation.temperature.result import ProbeResult
from lightning_kd.evaluation.temperature.selection import Selection, check_named_labels
from lightning_kd.export.artifacts import Artifact, open_artifact
from lightning_kd.models import check_num_labels, get_id2label, load_tokenizer
from lightning_kd.models.labels import align_labels, get_label_names, remap_labels
from lightning_kd.models.prompt_config import check_prompt
from lightning_kd.outputs import Batch, Head, Outputs
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.checks import check_teacher_inputs, tokenizer_fingerprint
from lightning_kd.teachers.teacher import Teacher
from lightning_kd.training.checks import check_lengths


def probe_models(
    selection: Selection,
    task: Task,
    datamodule: TextDataModule,
    split: Split,
    sources: list[str],
    enable_progress_bar: bool = True,
) -> ProbeResult:
    """Probe a teacher and optionally its student.

    Args:
        selection: The sentences, classes and temperatures to show.
        task: The task of the models.
        datamodule: The data.
        split: A labeled split.
        sources: Folder or Hub id of the teacher and, optionally, of the student.
        enable_progress_bar: If True, show progress bars.

    Raises:
        FloatingPointError: If a logit is NaN or infinite.
        OSError: If a model cannot be loaded.
        ValueError: If labels or tokenizers differ, or there is only one class.
    """
    check_named_labels(task)
    teacher = Teacher(sources[0], task)
    check_teacher_inputs(teacher, datamodule, nn.ModuleDict(), False)
    data_names = datamodule.label_names or []
    names = teacher.label_names() or data_names
    teacher.align_classes(names, False)
    selection.check_num_classes(len(names))
    index = align_labels(data_names, names, "data and teacher", "use the data it was trained on", False, subset=True)
    logits_fns: dict[str, LogitsFn] = {"teacher": teacher}
    student = _load_student(sources[1], task, datamodule) if len(sources) > 1 else None
    if student is not None:
        logits_fns["student"] = _permute_classes(student, task, names)
    model_logits: list[ModelLogits] = []
    with unsharded_dataloaders(datamodule):
        check_lengths(datamodule, None if student is None else student.model, teacher)
        raw = load_raw_split(datamodule, split)
        sentences = None if selection.sentences is None else encode_sentences(datamodule, raw, selection.sentences)
        for name, logits_fn in logits_fns.items():
            loader = split_dataloader(datamodule, split)
            batches = with_progress_bar(loader, f"Running the {name}", enable_progress_bar)
            metric = SplitLogits(single_process=True)
            collected, labels = collect_logits(name, task, logits_fn, batches, metric, logits_fn, sentences)
            model_logits.append(collected)
    labels = labels if index is None else remap_labels(labels, index)
    return build_probe_result(selection, sources, names, split, raw, labels, model_logits)


def _load_student(source: str, task: Task, datamodule: TextDataModule) -> Artifact:
    student_fingerprint = tokenizer_fingerprint(load_tokenizer(source, "tokenizer of the student"))
    if student_fingerprint != tokenizer_fingerprint(datamodule.tokenizer):
        raise ValueError(
            f"student: {source!r} and the data have different tokenizers; set data.tokenizer to the student's, and "
            "data.teacher_tokenizer to the teacher's if it differs"
        )
    student = open_artifact(source, task, "student")
    check_prompt(student.model, datamodule.prompt, "the student", "prompt")
    return student


def _permute_classes(student: Artifact, task: Task, label_names: list[str]) -> LogitsFn:
    """Return a function that runs the student, with its logits in the teacher's label order."""
    permutation = None
    if (student_names := get_label_names(get_id2label(student.model))) is None:
        check_num_labels(student.model, len(label_names), "student")
    else:
        remedy = "use the teacher it was distilled from"
        permutation = align_labels(label_names, student_names, "teacher and student", remedy, False)

    def logits_fn(batch: Batch) -> Outputs:
        outputs = task.run(student.model, batch)
        if permutation is None:
            return outputs
        return Outputs({name: Head(head.logits[:, permutation], head.labels) for name, head in outputs.heads.items()})

    return logits_fn

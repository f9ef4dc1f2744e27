"""Probes networks that lie in folders."""

from torch import nn
from tqdm.auto import tqdm

from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.artifacts import Artifact, open_artifact
from lightning_kd.evaluation.batches import Split, split_dataloader, unsharded_dataloaders
from lightning_kd.evaluation.temperature.logits import (
    LogitsFn,
    ModelLogits,
    SplitLogits,
    collect_logits,
    encode_sentences,
    load_raw_split,
)
from lightning_kd.evaluation.temperature.result import ProbeResult
from lightning_kd.evaluation.temperature.selection import CALLBACK_NAME, Selection, build_probe_result
from lightning_kd.models import check_num_labels, get_id2label, load_tokenizer
from lightning_kd.models.labels import align_labels, get_label_names, remap_labels
from lightning_kd.models.prompt_config import check_prompt
from lightning_kd.outputs import Batch, Head, Outputs
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.checks import check_teacher_inputs, tokenizer_fingerprint
from lightning_kd.teachers.teacher import Teacher
from lightning_kd.training.checks import check_lengths


def check_named_labels(task: Task) -> None:
    """Refuse a task whose classes have no names.

    Raises:
        ValueError: If so.
    """
    if not task.named_labels:
        kind = type(task).__name__
        raise ValueError(
            f"{CALLBACK_NAME}: shows classes by name, and those of {kind} are positions or tokens; leave it out"
        )


def probe_models(
    selection: Selection,
    task: Task,
    datamodule: TextDataModule,
    split: Split,
    sources: list[str],
    enable_progress_bar: bool = True,
) -> ProbeResult:
    """Probe a teacher and maybe its student.

    Args:
        selection: What to show.
        task: The task whose head they have.
        datamodule: With labelled rows.
        split: Which of them.
        sources: Folder or hub id of the teacher, then maybe of the student.
        enable_progress_bar: Whether to show progress.

    Raises:
        OSError: If a network cannot be loaded.
        ValueError: If a network knows other labels or reads other tokens, or there are fewer classes than are to be
            shown.
    """
    check_named_labels(task)
    teacher = Teacher(sources[0], task)
    check_teacher_inputs(teacher, datamodule, nn.ModuleDict(), False)
    data_names = datamodule.label_names or []
    names = teacher.label_names() or data_names
    teacher.align_classes(names, False)
    selection.check_num_classes(len(names))
    index = align_labels(
        data_names, names, "data and teacher", "probe it with the data it was made for", False, subset=True
    )
    logits_fns: dict[str, LogitsFn] = {"teacher": teacher}
    student = _load_student(sources[1], task, datamodule) if len(sources) > 1 else None
    if student is not None:
        logits_fns["student"] = _permute_classes(student, task, names)
    model_logits: list[ModelLogits] = []
    with unsharded_dataloaders(datamodule):
        check_lengths(datamodule, None if student is None else student.model, teacher)
        raw = load_raw_split(datamodule, split)
        batch = None if selection.sentences is None else encode_sentences(datamodule, raw, selection.sentences)
        for name, logits_fn in logits_fns.items():
            batches = tqdm(
                split_dataloader(datamodule, split),
                desc=f"Asking the {name}",
                leave=False,
                disable=not enable_progress_bar,
            )
            collected, labels = collect_logits(
                name, logits_fn, batches, SplitLogits(single_process=True), logits_fn, batch
            )
            model_logits.append(collected)
    labels = labels if index is None else remap_labels(labels, index)
    return build_probe_result(selection, sources, names, split, raw, labels, model_logits)


def _load_student(source: str, task: Task, datamodule: TextDataModule) -> Artifact:
    student_fingerprint = tokenizer_fingerprint(load_tokenizer(source, "tokenizer of the student"))
    if student_fingerprint != tokenizer_fingerprint(datamodule.tokenizer):
        raise ValueError(
            f"student: {source!r} has another tokenizer than the data; name the student's with data.tokenizer, and the "
            "teacher's, where it is another, with data.teacher_tokenizer"
        )
    student = open_artifact(source, task, "student")
    check_prompt(student.model, datamodule.prompt, "the student", "prompt")
    return student


def _permute_classes(student: Artifact, task: Task, label_names: list[str]) -> LogitsFn:
    """The student with its logits in the teacher's order of labels."""
    student_names = get_label_names(get_id2label(student.model))
    if student_names is None:
        check_num_labels(student.model, len(label_names), "student")
    class_permutation = align_labels(
        label_names, student_names or label_names, "teacher and student", "probe it with its own teacher", False
    )

    def logits_fn(batch: Batch) -> Outputs:
        outputs = task.run(student.model, batch)
        if class_permutation is None:
            return outputs
        return Outputs(
            {name: Head(head.logits[:, class_permutation], head.labels) for name, head in outputs.heads.items()}
        )

    return logits_fn

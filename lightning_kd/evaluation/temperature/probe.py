"""Probes networks that lie in folders."""

from torch import nn
from tqdm.auto import tqdm

from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.artifacts import Artefact, open_artefact
from lightning_kd.evaluation.batches import whole_splits
from lightning_kd.evaluation.report import STAGES, Split
from lightning_kd.evaluation.temperature.compare import compare
from lightning_kd.evaluation.temperature.logits import Answers, Ask, SplitLogits, ask_about, raw_rows, sentence_batch
from lightning_kd.evaluation.temperature.result import Probe
from lightning_kd.evaluation.temperature.selection import WHO, Selection
from lightning_kd.models.labels import align, label_names_of, relabel
from lightning_kd.models.loading import check_label_count, id_labels, load_tokenizer
from lightning_kd.models.prompt_config import check_prompt
from lightning_kd.outputs import Batch, Head, Outputs
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.checks import check_reading, tokenizer_fingerprint
from lightning_kd.teachers.teacher import Teacher
from lightning_kd.training.checks import check_lengths


def check_task(task: Task) -> None:
    """Refuse a task whose classes have no names.

    Raises:
        ValueError: If so.
    """
    if not task.named_labels:
        kind = type(task).__name__
        raise ValueError(f"{WHO}: shows classes by name, and those of {kind} are positions or tokens; leave it out")


def probe_folders(
    selection: Selection, task: Task, datamodule: TextDataModule, split: Split, sources: list[str], bar: bool = True
) -> Probe:
    """Probe a teacher and maybe its student.

    Args:
        selection: What to show.
        task: The task whose head they have.
        datamodule: With labelled rows.
        split: Which of them.
        sources: Folder or hub id of the teacher, then maybe of the student.
        bar: Whether to show progress.

    Raises:
        OSError: If a network cannot be loaded.
        ValueError: If a network knows other labels or reads other tokens, or there are fewer classes than are to be
            shown.
    """
    check_task(task)
    teacher = Teacher(sources[0], task)
    check_reading(teacher, datamodule, nn.ModuleDict(), False)
    data_names = datamodule.label_names or []
    names = teacher.label_names() or data_names
    teacher.align(names, False)
    selection.check_classes(len(names))
    index = align(data_names, names, "data and teacher", "probe it with the data it was made for", False, subset=True)
    asks: dict[str, Ask] = {"teacher": teacher}
    student = _student(sources[1], task, datamodule) if len(sources) > 1 else None
    if student is not None:
        asks["student"] = _in_order(student, task, names)
    answers: list[Answers] = []
    with whole_splits(datamodule):
        datamodule.setup(STAGES[split])
        check_lengths(datamodule, None if student is None else student.network, teacher)
        raw = raw_rows(datamodule, split)
        batch = None if selection.sentences is None else sentence_batch(datamodule, raw, selection.sentences)
        loader = datamodule.test_dataloader if split == "test" else datamodule.val_dataloader
        for name, ask in asks.items():
            batches = tqdm(loader(), desc=f"Asking the {name}", leave=False, disable=not bar)
            said, labels = ask_about(name, ask, batches, SplitLogits(alone=True), ask, batch)
            answers.append(said)
    labels = labels if index is None else relabel(labels, index)
    return compare(selection, sources, names, split, raw, labels, answers)


def _student(source: str, task: Task, datamodule: TextDataModule) -> Artefact:
    own = tokenizer_fingerprint(load_tokenizer(source, "tokenizer of the student"))
    if own != tokenizer_fingerprint(datamodule.tokenizer):
        raise ValueError(
            f"student: {source!r} has another tokenizer than the data; name the student's with data.tokenizer, and the "
            "teacher's, where it is another, with data.teacher_tokenizer"
        )
    student = open_artefact(source, task, "student")
    check_prompt(getattr(student.network, "config", None), getattr(datamodule, "prompt", None), "the student", "prompt")
    return student


def _in_order(student: Artefact, task: Task, label_names: list[str]) -> Ask:
    """The student with its logits in the teacher's order of labels."""
    own = label_names_of(id_labels(student.network))
    if own is None:
        check_label_count(getattr(student.network, "config", None), len(label_names), "student")
    columns = align(label_names, own or label_names, "teacher and student", "probe it with its own teacher", False)

    def ask(batch: Batch) -> Outputs:
        outputs = task.run(student.network, batch)
        if columns is None:
            return outputs
        return Outputs({name: Head(head.logits[:, columns], head.labels) for name, head in outputs.heads.items()})

    return ask

"""Probes networks that lie in folders."""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lightning_kd.data import TextDataModule
from lightning_kd.deploy.artefacts import Artefact, open_artefact
from lightning_kd.deploy.report import STAGES, Split
from lightning_kd.deploy.rows import whole_splits
from lightning_kd.labels import align, label_names_of, relabel
from lightning_kd.models import check_label_count, id_labels
from lightning_kd.outputs import Batch, Head, Outputs
from lightning_kd.probe.answers import Answers, SplitLogits, ask_about, raw_rows, sentence_batch
from lightning_kd.probe.compare import compare
from lightning_kd.probe.result import Probe
from lightning_kd.probe.selection import WHO, Selection
from lightning_kd.tasks.base import Task


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
        ValueError: If a network knows other labels, or there are fewer classes than are to be shown.
    """
    check_task(task)
    networks = [
        open_artefact(source, task, what) for source, what in zip(sources, ("teacher", "student"), strict=False)
    ]
    data_names = datamodule.label_names or []
    names = _names(networks[0], data_names, "teacher")
    selection.check_classes(len(names))
    index = align(data_names, names, "data and teacher", "probe it with the data it was made for", False, subset=True)
    asks = [_ask(networks[0], task, None)]
    if len(networks) == 2:
        own = _names(networks[1], names, "student")
        asks.append(
            _ask(networks[1], task, align(names, own, "teacher and student", "probe it with its teacher", False))
        )
    answers: list[Answers] = []
    with whole_splits(datamodule):
        datamodule.setup(STAGES[split])
        raw = raw_rows(datamodule, split)
        batch = None if selection.sentences is None else sentence_batch(datamodule, raw, selection.sentences)
        loader = datamodule.test_dataloader if split == "test" else datamodule.val_dataloader
        for name, ask in zip(("teacher", "student"), asks, strict=False):
            batches = tqdm(loader(), desc=f"Asking the {name}", leave=False, disable=not bar)
            said, labels = ask_about(name, ask, batches, SplitLogits(alone=True), ask, batch)
            answers.append(said)
    labels = labels if index is None else relabel(labels, index)
    return compare(selection, sources, names, split, raw, labels, answers)


def _names(artefact: Artefact, others: list[str], what: str) -> list[str]:
    names = label_names_of(id_labels(artefact.network))
    if names is None:
        check_label_count(getattr(artefact.network, "config", None), len(others), what)
    return names or others


def _ask(artefact: Artefact, task: Task, columns: Tensor | None) -> Callable[[Batch], Outputs]:
    """The network with its logits in the order of the columns."""

    def ask(batch: Batch) -> Outputs:
        with torch.inference_mode():
            outputs = task.run(artefact.network, batch)
        if columns is None:
            return outputs
        heads = {name: Head(head.logits[:, columns], head.labels) for name, head in outputs.heads.items()}
        return Outputs(heads)

    return ask

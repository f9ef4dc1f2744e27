"""Networks side by side: score, agreement, size and speed."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.table import Table
from tqdm.auto import tqdm

from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.artifacts import Artifact
from lightning_kd.evaluation.batches import unsharded_dataloaders
from lightning_kd.evaluation.benchmark import EvalResult, evaluate, make_forward_fn, time_interleaved
from lightning_kd.models import get_id2label
from lightning_kd.models.labels import align_labels, get_label_names, remap_labels
from lightning_kd.outputs import Batch
from lightning_kd.tasks.base import Task

Split = Literal["validation", "test"]
STAGES = {"validation": "validate", "test": "test"}

NUM_LATENCY_EXAMPLES = 100
"""Rows that are run one by one."""

THROUGHPUT_BATCH_SIZE = 32
NUM_THROUGHPUT_BATCHES = 8


@dataclass(frozen=True)
class ReportRow:
    """What a report says about a network.

    Attributes:
        name: Of its folder.
        runtime: What ran it.
        scores: Its metrics by name.
        ci_low: Lower end of the 95 % bootstrap interval of the first metric, the task's ``monitor``.
        ci_high: Upper end.
        agreement: Share of the rows (positions, tokens) where it chooses the first network's class, in [0, 1].
        num_parameters: Numbers in it.
        megabytes: Its folder on the disk; None where it has none.
        p50: Median latency of a row on its own, in ms.
        p95: 95th percentile.
        p99: 99th percentile.
        throughput: Rows a second in batches of ``THROUGHPUT_BATCH_SIZE``; None where the split has fewer.
        speedup: The first network's median latency over its own.
    """

    name: str
    runtime: str
    scores: dict[str, float]
    ci_low: float
    ci_high: float
    agreement: float
    num_parameters: int
    megabytes: float | None
    p50: float
    p95: float
    p99: float
    throughput: float | None
    speedup: float


@dataclass(frozen=True)
class Report:
    """Networks side by side, the first being what the others are compared with.

    Attributes:
        rows: One per network.
        monitor: The metric that counts most.
        split: The split it was scored on.
        num_examples: How many rows, questions or hidden tokens that is.
        machine: Processor, threads, versions.
    """

    rows: list[ReportRow]
    monitor: str
    split: str
    num_examples: str
    machine: dict[str, Any]

    def table(self) -> Table:
        """For the terminal: a column for each network, as there are fewer of them than of numbers."""
        columns, rows = self._format_cells()
        table = Table(title=f"{self.split}, {self.num_examples}", caption=f"{self._format_machine()}. {_FOOTNOTE}")
        table.add_column("")
        for row in rows:
            table.add_column(row[0], justify="right", overflow="fold")
        for number, column in enumerate(columns[1:], 1):
            table.add_row(column, *(row[number] for row in rows))
        return table

    def markdown(self) -> str:
        """As a table with a line on what was measured and where."""
        columns, rows = self._format_cells()
        rule = ["---"] * 2 + ["---:"] * (len(columns) - 2)
        lines = [f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows)]
        return "\n".join(
            [*lines, "", f"{self.split.capitalize()}, {self.num_examples}. {self._format_machine()}. {_FOOTNOTE}", ""]
        )

    def json(self) -> str:
        """All numbers as they are."""
        return json.dumps(asdict(self), indent=1)

    def _format_machine(self) -> str:
        return ", ".join(
            str(value) if name == "processor" else f"{name} {value}" for name, value in self.machine.items()
        )

    def _format_cells(self) -> tuple[list[str], list[list[str]]]:
        columns = [
            "model",
            "runtime",
            self.monitor,
            "95 % CI",
            "agreement",
            "parameters",
            "MB",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "examples/s",
            "speedup",
        ]
        rows = [
            [
                row.name,
                row.runtime,
                f"{row.scores[self.monitor]:.4f}",
                f"{row.ci_low:.4f} to {row.ci_high:.4f}",
                f"{row.agreement:.1%}",
                f"{row.num_parameters / 1e6:.1f}M",
                "" if row.megabytes is None else f"{row.megabytes:.1f}",
                f"{row.p50:.2f}",
                f"{row.p95:.2f}",
                f"{row.p99:.2f}",
                "" if row.throughput is None else f"{row.throughput:.0f}",
                f"{row.speedup:.1f}x",
            ]
            for row in self.rows
        ]
        return columns, rows


_FOOTNOTE = (
    f"Latency of single rows, throughput in batches of {THROUGHPUT_BATCH_SIZE}, the networks in turn on the same rows; "
    "agreement and speedup against the first."
)


def build_report(
    artifacts: list[Artifact],
    task: Task,
    datamodule: TextDataModule,
    split: Split = "validation",
    ignore_label_mismatch: bool = False,
    enable_progress_bar: bool = True,
) -> Report:
    """Score and time networks on a split.

    Args:
        artifacts: The first is what the others are compared with.
        task: The task whose heads they have.
        datamodule: With labelled rows.
        split: Which of them.
        ignore_label_mismatch: Take label sets of the same size to be the same, whatever their names.
        enable_progress_bar: Whether to show progress.

    Raises:
        ValueError: If a network knows other labels than the data.
    """
    with unsharded_dataloaders(datamodule):
        datamodule.setup(STAGES[split])
        loader = datamodule.test_dataloader if split == "test" else datamodule.val_dataloader
        data_names = datamodule.label_names or []
        results: list[EvalResult] = []
        for artifact in artifacts:
            batches = tqdm(loader(), desc=f"Scoring {artifact.name}", leave=False, disable=not enable_progress_bar)
            results.append(_evaluate_aligned(artifact, task, data_names, batches, ignore_label_mismatch))
        eval_batch_size = datamodule.eval_batch_size
        try:
            datamodule.eval_batch_size = 1
            single_batches = _sample_evenly(list(loader()), NUM_LATENCY_EXAMPLES)
            datamodule.eval_batch_size = THROUGHPUT_BATCH_SIZE
            full_batches = _sample_evenly(
                [b for b in loader() if len(b["row_id"]) == THROUGHPUT_BATCH_SIZE], NUM_THROUGHPUT_BATCHES
            )
        finally:
            datamodule.eval_batch_size = eval_batch_size
    forward_fns = [make_forward_fn(artifact.model, single_batches[0]) for artifact in artifacts]
    latencies = time_interleaved(forward_fns, single_batches)
    durations = time_interleaved(forward_fns, full_batches)
    rows = []
    for artifact, result, latency, duration in zip(artifacts, results, latencies, durations, strict=True):
        p50, p95, p99 = (float(value) for value in np.percentile(1e3 * latency, [50, 95, 99]))
        rows.append(
            ReportRow(
                name=artifact.name,
                runtime=artifact.runtime,
                scores=result.scores,
                ci_low=min(result.confidence_interval),
                ci_high=max(result.confidence_interval),
                agreement=float((result.predictions == results[0].predictions).double().mean()),
                num_parameters=artifact.num_parameters,
                megabytes=artifact.megabytes,
                p50=p50,
                p95=p95,
                p99=p99,
                throughput=THROUGHPUT_BATCH_SIZE * len(duration) / float(duration.sum()) if full_batches else None,
                speedup=float(np.median(latencies[0]) / np.median(latency)),
            )
        )
    return Report(rows, task.monitor, split, f"{results[0].num_examples:,} {task.example_unit}", _machine_info())


def _evaluate_aligned(
    artifact: Artifact, task: Task, data_names: list[str], batches: Iterable[Batch], ignore_label_mismatch: bool
) -> EvalResult:
    """Score a network in its own order of labels, and tell its decisions in that of the data."""
    model_names = get_label_names(get_id2label(artifact.model)) or data_names
    if not task.named_labels:
        return evaluate(artifact.model, task, [], batches)
    subject, remedy = f"data and {artifact.name}", "report it with the data it was made for"
    index = align_labels(data_names, model_names, subject, remedy, ignore_label_mismatch, subset=True)
    if index is None:
        return evaluate(artifact.model, task, model_names, batches)
    result = evaluate(
        artifact.model, task, model_names, ({**b, "labels": remap_labels(b["labels"], index)} for b in batches)
    )
    data_order = torch.full((len(model_names),), -1).scatter(0, index, torch.arange(len(data_names)))
    return replace(result, predictions=data_order[result.predictions])


def _sample_evenly(batches: list[Batch], count: int) -> list[Batch]:
    """So many of them, evenly spread: they come sorted by length."""
    return [batches[i] for i in np.linspace(0, len(batches) - 1, min(count, len(batches))).astype(int)]


def _machine_info() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    machine = {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    try:
        import onnxruntime

        machine["onnxruntime"] = onnxruntime.__version__
    except ImportError:
        pass
    return machine

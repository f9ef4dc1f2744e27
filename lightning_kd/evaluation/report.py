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
from lightning_kd.evaluation.artifacts import Artefact
from lightning_kd.evaluation.batches import whole_splits
from lightning_kd.evaluation.benchmark import Judged, interleaved_times, judge, runner
from lightning_kd.models.labels import align, label_names_of, relabel
from lightning_kd.models.loading import id_labels
from lightning_kd.outputs import Batch
from lightning_kd.tasks.base import Task

Split = Literal["validation", "test"]
STAGES = {"validation": "validate", "test": "test"}

LATENCY_ROWS = 100
"""Rows that are run one by one."""

THROUGHPUT_BATCH = 32
THROUGHPUT_BATCHES = 8


@dataclass(frozen=True)
class Line:
    """What a report says about a network.

    Attributes:
        name: Of its folder.
        runtime: What ran it.
        scores: Its metrics by name.
        low: Lower end of the 95 % bootstrap interval of the first metric, the task's ``monitor``.
        high: Upper end.
        agreement: Share of the rows (positions, tokens) where it chooses the first network's class, in [0, 1].
        parameters: Numbers in it.
        megabytes: Its folder on the disk; None where it has none.
        p50: Median latency of a row on its own, in ms.
        p95: 95th percentile.
        p99: 99th percentile.
        throughput: Rows a second in batches of ``THROUGHPUT_BATCH``; None where the split has fewer.
        speed_up: The first network's median latency over its own.
    """

    name: str
    runtime: str
    scores: dict[str, float]
    low: float
    high: float
    agreement: float
    parameters: int
    megabytes: float | None
    p50: float
    p95: float
    p99: float
    throughput: float | None
    speed_up: float


@dataclass(frozen=True)
class Report:
    """Networks side by side, the first being what the others are compared with.

    Attributes:
        lines: One per network.
        monitor: The metric that counts most.
        split: The split it was scored on.
        scored: How many rows, questions or hidden tokens that is.
        machine: Processor, threads, versions.
    """

    lines: list[Line]
    monitor: str
    split: str
    scored: str
    machine: dict[str, Any]

    def table(self) -> Table:
        """For the terminal: a column for each network, as there are fewer of them than of numbers."""
        columns, rows = self._cells()
        table = Table(title=f"{self.split}, {self.scored}", caption=f"{self._machine()}. {_NOTE}")
        table.add_column("")
        for row in rows:
            table.add_column(row[0], justify="right", overflow="fold")
        for number, column in enumerate(columns[1:], 1):
            table.add_row(column, *(row[number] for row in rows))
        return table

    def markdown(self) -> str:
        """As a table with a line on what was measured and where."""
        columns, rows = self._cells()
        rule = ["---"] * 2 + ["---:"] * (len(columns) - 2)
        lines = [f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows)]
        return "\n".join([*lines, "", f"{self.split.capitalize()}, {self.scored}. {self._machine()}. {_NOTE}", ""])

    def json(self) -> str:
        """All numbers as they are."""
        return json.dumps(asdict(self), indent=1)

    def _machine(self) -> str:
        return ", ".join(
            str(value) if name == "processor" else f"{name} {value}" for name, value in self.machine.items()
        )

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        columns = [
            "model",
            "runtime",
            self.monitor,
            "95 % interval",
            "agreement",
            "parameters",
            "MB",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "rows/s",
            "speed-up",
        ]
        rows = [
            [
                line.name,
                line.runtime,
                f"{line.scores[self.monitor]:.4f}",
                f"{line.low:.4f} to {line.high:.4f}",
                f"{line.agreement:.1%}",
                f"{line.parameters / 1e6:.1f}M",
                "" if line.megabytes is None else f"{line.megabytes:.1f}",
                f"{line.p50:.2f}",
                f"{line.p95:.2f}",
                f"{line.p99:.2f}",
                "" if line.throughput is None else f"{line.throughput:.0f}",
                f"{line.speed_up:.1f}x",
            ]
            for line in self.lines
        ]
        return columns, rows


_NOTE = (
    f"Latency of single rows, throughput in batches of {THROUGHPUT_BATCH}, the networks in turn on the same rows; "
    "agreement and speed-up against the first."
)


def measure(
    artefacts: list[Artefact],
    task: Task,
    datamodule: TextDataModule,
    split: Split = "validation",
    accept_mismatch: bool = False,
    bar: bool = True,
) -> Report:
    """Score and time networks on a split.

    Args:
        artefacts: The first is what the others are compared with.
        task: The task whose heads they have.
        datamodule: With labelled rows.
        split: Which of them.
        accept_mismatch: Take label sets of the same size to be the same, whatever their names.
        bar: Whether to show progress.

    Raises:
        ValueError: If a network knows other labels than the data.
    """
    with whole_splits(datamodule):
        datamodule.setup(STAGES[split])
        loader = datamodule.test_dataloader if split == "test" else datamodule.val_dataloader
        data_names = datamodule.label_names or []
        judged: list[Judged] = []
        for artefact in artefacts:
            batches = tqdm(loader(), desc=f"Scoring {artefact.name}", leave=False, disable=not bar)
            judged.append(_judge(artefact, task, data_names, batches, accept_mismatch))
        own_size = datamodule.eval_batch_size
        try:
            datamodule.eval_batch_size = 1
            single = _spread(list(loader()), LATENCY_ROWS)
            datamodule.eval_batch_size = THROUGHPUT_BATCH
            full = _spread([b for b in loader() if len(b["row_id"]) == THROUGHPUT_BATCH], THROUGHPUT_BATCHES)
        finally:
            datamodule.eval_batch_size = own_size
    runs = [runner(artefact.network, single[0]) for artefact in artefacts]
    latencies = interleaved_times(runs, single)
    durations = interleaved_times(runs, full)
    lines = []
    for artefact, verdict, latency, duration in zip(artefacts, judged, latencies, durations, strict=True):
        p50, p95, p99 = (float(value) for value in np.percentile(1e3 * latency, [50, 95, 99]))
        lines.append(
            Line(
                name=artefact.name,
                runtime=artefact.runtime,
                scores=verdict.scores,
                low=min(verdict.interval),
                high=max(verdict.interval),
                agreement=float((verdict.decisions == judged[0].decisions).double().mean()),
                parameters=artefact.parameters,
                megabytes=artefact.megabytes,
                p50=p50,
                p95=p95,
                p99=p99,
                throughput=THROUGHPUT_BATCH * len(duration) / float(duration.sum()) if full else None,
                speed_up=float(np.median(latencies[0]) / np.median(latency)),
            )
        )
    return Report(lines, task.monitor, split, f"{judged[0].units:,} {task.units}", _machine())


def _judge(
    artefact: Artefact, task: Task, data_names: list[str], batches: Iterable[Batch], accept_mismatch: bool
) -> Judged:
    """Score a network in its own order of labels, and tell its decisions in that of the data."""
    own = label_names_of(id_labels(artefact.network)) or data_names
    if not task.named_labels:
        return judge(artefact.network, task, [], batches)
    who, remedy = f"data and {artefact.name}", "report it with the data it was made for"
    index = align(data_names, own, who, remedy, accept_mismatch, subset=True)
    if index is None:
        return judge(artefact.network, task, own, batches)
    verdict = judge(artefact.network, task, own, ({**b, "labels": relabel(b["labels"], index)} for b in batches))
    data_order = torch.full((len(own),), -1).scatter(0, index, torch.arange(len(data_names)))
    return replace(verdict, decisions=data_order[verdict.decisions])


def _spread(batches: list[Batch], count: int) -> list[Batch]:
    """So many of them, evenly spread: they come sorted by length."""
    return [batches[i] for i in np.linspace(0, len(batches) - 1, min(count, len(batches))).astype(int)]


def _machine() -> dict[str, Any]:
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

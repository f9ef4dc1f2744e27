"""The compression report, and its formats."""

import json
import os
import platform
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

THROUGHPUT_BATCH_SIZE = 32


@dataclass(frozen=True)
class ReportRow:
    """Measurements of one model.

    Attributes:
        name: Name of the model.
        runtime: Name of its runtime, such as ``ONNX Runtime``.
        scores: Its metrics by name.
        ci_low: Lower end of the 95 % bootstrap interval of the task's ``monitor``.
        ci_high: Upper end.
        agreement: Share of predictions equal to those of the first model, in [0, 1].
        num_parameters: Number of its parameters.
        megabytes: Size of its folder on disk; None if it has no folder.
        p50: Median latency of a single example, in ms.
        p95: 95th percentile.
        p99: 99th percentile.
        throughput: Examples per second in batches of ``THROUGHPUT_BATCH_SIZE``; None if the split is smaller.
        speedup: Median latency of the first model divided by that of this one.
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
    """Models side by side; the first is the reference.

    Attributes:
        rows: One per model.
        monitor: The task's main metric.
        split: The split they were scored on.
        num_examples: Number of examples, questions or masked tokens, with the unit.
        machine: Processor, threads, versions.
    """

    rows: list[ReportRow]
    monitor: str
    split: str
    num_examples: str
    machine: dict[str, Any]

    def table(self) -> Table:
        """Return a table for the terminal, with one column per model."""
        columns, rows = self._format_cells()
        table = Table(title=f"{self.split}, {self.num_examples}", caption=self._caption())
        table.add_column("")
        for row in rows:
            table.add_column(row[0], justify="right", overflow="fold")
        for number, column in enumerate(columns[1:], 1):
            table.add_row(column, *(row[number] for row in rows))
        return table

    def markdown(self) -> str:
        """Return a Markdown table with one row per model, and a caption."""
        table = markdown_table(*self._format_cells(), num_left_aligned=2)
        return f"{table}\n\n{self.split.capitalize()}, {self.num_examples}. {self._caption()}\n"

    def json(self) -> str:
        """Return all numbers, not rounded."""
        return json.dumps(asdict(self), indent=1)

    def _caption(self) -> str:
        machine = [str(value) if name == "processor" else f"{name} {value}" for name, value in self.machine.items()]
        return f"{', '.join(machine)}. {_FOOTNOTE}"

    def _format_cells(self) -> tuple[list[str], list[list[str]]]:
        speed = ["p50 ms", "p95 ms", "p99 ms", "examples/s", "speedup"]
        columns = ["model", "runtime", self.monitor, "95 % CI", "agreement", "parameters", "MB", *speed]
        rows = [
            [
                row.name,
                row.runtime,
                f"{row.scores[self.monitor]:.4f}",
                f"{row.ci_low:.4f} to {row.ci_high:.4f}",
                f"{row.agreement:.1%}",
                f"{row.num_parameters / 1e6:.1f}M",
                "" if row.megabytes is None else f"{row.megabytes:.1f}",
                *(f"{latency:.2f}" for latency in (row.p50, row.p95, row.p99)),
                "" if row.throughput is None else f"{row.throughput:.0f}",
                f"{row.speedup:.1f}x",
            ]
            for row in self.rows
        ]
        return columns, rows


_FOOTNOTE = (
    f"Latency of single examples, throughput in batches of {THROUGHPUT_BATCH_SIZE}, all models in turn on the same "
    "examples; agreement and speedup relative to the first."
)


def markdown_table(columns: list[str], rows: list[list[str]], num_left_aligned: int = 1) -> str:
    """Return a Markdown table.

    Args:
        columns: The header.
        rows: The cells; bars in them are escaped.
        num_left_aligned: Number of left-aligned columns; the others are right-aligned.
    """
    rule = ["---"] * num_left_aligned + ["---:"] * (len(columns) - num_left_aligned)
    lines = [[cell.replace("|", r"\|") for cell in row] for row in (columns, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_info() -> dict[str, Any]:
    """Return processor, threads and versions of this machine."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model_name = re.search(r"^model name\s*: (.*)", cpuinfo, re.MULTILINE)
    machine = {
        "processor": model_name[1].strip() if model_name else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    with suppress(ImportError):
        import onnxruntime

        machine["onnxruntime"] = onnxruntime.__version__
    return machine

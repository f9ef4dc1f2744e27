"""Plot of a compression report: score over latency, with size as area."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightning_kd.evaluation.report import Report
from lightning_kd.io.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_MARKER_AREA = 2000
"""Area of the largest model's circle, in square points."""


def plot_report(report: Report) -> "Figure":
    """Plot each model's score over its median latency, with the score's interval and its size as area."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    axes = figure.add_subplot()
    sizes = [row.megabytes or 4 * row.num_parameters / 1e6 for row in report.rows]
    for number, (row, size) in enumerate(zip(report.rows, sizes, strict=True)):
        score, color = row.scores[report.monitor], f"C{number}"
        error = [[max(score - row.ci_low, 0)], [max(row.ci_high - score, 0)]]
        axes.errorbar(row.p50, score, error, color=color, capsize=3)
        axes.scatter(row.p50, score, MAX_MARKER_AREA * size / max(sizes), color=color, alpha=0.35, linewidths=0)
        label = f"{row.name}, {row.runtime}: {size:.0f} MB, {row.speedup:.1f}x"
        axes.scatter(row.p50, score, 12, color=color, label=label)
    axes.set(xscale="log", xlabel="median latency, ms", ylabel=f"{report.split} {report.monitor}")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9, markerscale=2)
    axes.margins(0.15, 0.2)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.md``, ``report.json`` and ``report.png``, each completely or not at all."""
    for name, text in (("report.md", report.markdown()), ("report.json", report.json())):
        with atomic_write(folder / name) as file:
            file.write_text(text, encoding="utf-8")
    with atomic_write(folder / "report.png") as file:
        plot_report(report).savefig(file, dpi=150)

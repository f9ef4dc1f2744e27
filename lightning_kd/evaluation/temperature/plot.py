"""Plot of a probe: one row of bar charts per sentence, one column per temperature."""

from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_warn

from lightning_kd.evaluation.temperature.result import ProbeResult, Sentence, format_heading, format_probability
from lightning_kd.evaluation.temperature.selection import CALLBACK_NAME
from lightning_kd.io.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR_HEIGHT = 0.17
"""Height of a bar in inches."""

REPLACEMENT_CHARACTER = "\ufffd"
"""Shown instead of characters that the font lacks."""

COLORS = ("#31688e", "#e08214")
"""Colors of teacher and student."""


def plot_probe(probe: ProbeResult) -> "Figure":
    """Plot the most and the least likely classes of each sentence.

    All charts of a temperature have the same linear axis; a dotted line marks 1/C. Characters that matplotlib's fonts
    lack are replaced with a warning.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns, num_models = len(probe.temperatures), len(probe.sources)
    heights = [BAR_HEIGHT * (num_models + 0.4) * (len(sentence.classes) + 1) + 0.7 for sentence in probe.sentences]
    figure = Figure(figsize=(1.8 + 2.6 * columns, sum(heights) + 0.4), layout=ConstrainedLayoutEngine(h_pad=0.08))
    grid = figure.subplots(len(heights), columns, sharey="row", squeeze=False, height_ratios=heights)
    for column, temperature in enumerate(probe.temperatures):
        model_probabilities = [entry for sentence in probe.sentences for entry in sentence.model_probabilities]
        x_max = 1.3 * max(max(entry.probabilities[column]) for entry in model_probabilities)
        for axes, sentence in zip(grid[:, column], probe.sentences, strict=True):
            _draw_bars(axes, sentence, column, x_max)
            uniform = axes.axvline(1 / probe.num_classes, color="0.3", linestyle=":", linewidth=1, zorder=3)
            axes.set_xlabel(f"probability at T = {temperature:g}", fontsize=9)
    shown_texts = [text for sentence in probe.sentences for text in (format_heading(sentence), *sentence.classes)]
    replacements = _glyph_replacements("".join(shown_texts))
    for axes, sentence in zip(grid[:, 0], probe.sentences, strict=True):
        _draw_class_names(axes, sentence, probe.num_classes, replacements)
        axes.set_title(" ", fontsize=11)
        title = _truncate(format_heading(sentence), 28 * columns).translate(replacements)
        # not a title, which would widen the chart
        style = {"fontsize": 11, "fontweight": "bold", "parse_math": False, "in_layout": False}
        axes.annotate(title, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", **style)
    bars, names = grid[0, 0].get_legend_handles_labels()
    entries = [*bars, uniform], [*names, f"1/{probe.num_classes}, uniform"]
    figure.legend(*entries, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _glyph_replacements(text: str) -> dict[int, str]:
    """Return replacements of the characters that matplotlib's fonts lack; it would warn about each of them."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, get_font

    supported: set[int] = set()
    for family in rcParams["font.family"]:
        regular, bold = (
            get_font(findfont(FontProperties(family=family, weight=weight))) for weight in ("normal", "bold")
        )
        supported |= regular.get_charmap().keys() & bold.get_charmap().keys()
    missing = sorted(set(text) - set(map(chr, supported)))
    if missing:
        rank_zero_warn(
            f"{CALLBACK_NAME}: probe.png shows {REPLACEMENT_CHARACTER} for {len(missing)} characters missing from "
            f"matplotlib's font, such as {' '.join(missing[:5])}; set font.family in a matplotlibrc, or read probe.md"
        )
    return dict.fromkeys(map(ord, missing), REPLACEMENT_CHARACTER)


def _bar_positions(sentence: Sentence) -> list[float]:
    """Return the vertical position of each class, with a gap before the least likely ones."""
    return [position + (rank > position + 1) for position, rank in enumerate(sentence.ranks)]


def _draw_bars(axes: "Axes", sentence: Sentence, column: int, x_max: float) -> None:
    thickness = 0.8 / len(sentence.model_probabilities)
    for number, entry in enumerate(sentence.model_probabilities):
        values = entry.probabilities[column]
        offset = (number - (len(sentence.model_probabilities) - 1) / 2) * thickness
        at = [height + offset for height in _bar_positions(sentence)]
        bars = axes.barh(at, values, 0.92 * thickness, color=COLORS[number], label=entry.model)
        texts = [format_probability(value, 2) for value in values]
        for label in axes.bar_label(bars, texts, padding=3, fontsize=8, zorder=4):
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.set_xlim(0, x_max)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_class_names(axes: "Axes", sentence: Sentence, classes: int, replacements: dict[int, str]) -> None:
    ticks, names = _bar_positions(sentence), list(sentence.classes)
    if (num_hidden := classes - len(names)) > 0:
        gap = next(position for position, rank in enumerate(sentence.ranks) if rank > position + 1)
        ticks.insert(gap, gap)
        names.insert(gap, f"... {num_hidden:,} more ...")
    labels = [_truncate(name, 30).translate(replacements) for name in names]
    axes.set_yticks(ticks, labels, fontsize=9, parse_math=False)
    axes.set_ylim(max(ticks) + 0.6, -0.6)


def _truncate(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def write_probe_report(probe: ProbeResult, folder: Path) -> None:
    """Write ``probe.md`` and ``probe.json``, each completely or not at all."""
    for name, text in (("probe.md", probe.markdown()), ("probe.json", probe.json())):
        with atomic_write(folder / name) as file:
            file.write_text(text, encoding="utf-8")


def write_probe_plot(figure: "Figure", folder: Path) -> None:
    """Write ``probe.png``, completely or not at all."""
    with atomic_write(folder / "probe.png") as file:
        figure.savefig(file, dpi=120)

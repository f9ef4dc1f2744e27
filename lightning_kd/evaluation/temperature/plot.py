"""A probe as a picture: a row of bar charts for each sentence, one for each temperature."""

from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_warn

from lightning_kd.evaluation.temperature.result import Probe, Sentence, heading, short
from lightning_kd.evaluation.temperature.selection import WHO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR = 0.17
"""Inches of a bar."""

UNKNOWN = "\ufffd"
"""In the place of what the font cannot draw."""

COLORS = ("#31688e", "#e08214")
"""Teacher, student."""


def draw(probe: Probe) -> "Figure":
    """Likeliest and least likely classes of each sentence.

    Axes are linear, as is what a loss sees, and the same in all charts of a temperature; a dotted line marks 1/C.
    Characters that matplotlib's fonts have not are replaced, and warned about.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns, networks = len(probe.temperatures), len(probe.sources)
    heights = [BAR * (networks + 0.4) * (len(sentence.classes) + 1) + 0.7 for sentence in probe.sentences]
    figure = Figure(figsize=(1.8 + 2.6 * columns, sum(heights) + 0.4), layout=ConstrainedLayoutEngine(h_pad=0.08))
    grid = figure.subplots(len(heights), columns, sharey="row", squeeze=False, height_ratios=heights)
    for place, temperature in enumerate(probe.temperatures):
        views = [view for sentence in probe.sentences for view in sentence.views]
        right = 1.3 * max(max(view.probabilities[place]) for view in views)
        for axes, sentence in zip(grid[:, place], probe.sentences, strict=True):
            _bars(axes, sentence, place, right)
            axes.axvline(1 / probe.classes, color="0.3", linestyle=":", linewidth=1, zorder=3)
            axes.set_xlabel(f"probability at T = {temperature:g}", fontsize=9)
    missing = _missing("".join(heading(sentence) + "".join(sentence.classes) for sentence in probe.sentences))
    for axes, sentence in zip(grid[:, 0], probe.sentences, strict=True):
        _names(axes, sentence, probe.classes, missing)
        axes.set_title(" ", fontsize=11)
        title = _cut(heading(sentence), 28 * columns).translate(missing)
        # not as the title: it would widen the chart
        style = {"fontsize": 11, "fontweight": "bold", "parse_math": False, "in_layout": False}
        axes.annotate(title, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", **style)
    legend = dict(zip(*reversed(grid[0, 0].get_legend_handles_labels()), strict=True))
    lines = {f"1/{probe.classes}, all classes alike": grid[0, 0].lines[0]}
    entries = {**legend, **lines}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _missing(text: str) -> dict[int, str]:
    """What to replace, because no font that is set draws it; matplotlib warns of each character, each time."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known: set[int] = set()
    for family in rcParams["font.family"]:
        regular, bold = (
            get_font(findfont(FontProperties(family=family, weight=weight))) for weight in ("normal", "bold")
        )
        known |= regular.get_charmap().keys() & bold.get_charmap().keys()
    unknown = sorted(set(text) - set(map(chr, known)))
    if unknown:
        rank_zero_warn(
            f"{WHO}: probe.png shows {UNKNOWN} for {len(unknown)} characters that matplotlib's font has not, such as "
            f"{' '.join(unknown[:5])}; probe.md has them all, and font.family in a matplotlibrc names other fonts"
        )
    return dict.fromkeys(map(ord, unknown), UNKNOWN)


def _heights(sentence: Sentence) -> list[float]:
    """Where each class is, from above; there is a gap before the least likely ones."""
    return [place + (rank > place + 1) for place, rank in enumerate(sentence.ranks)]


def _bars(axes: "Axes", sentence: Sentence, place: int, right: float) -> None:
    thickness = 0.8 / len(sentence.views)
    for number, view in enumerate(sentence.views):
        values = view.probabilities[place]
        offset = (number - (len(sentence.views) - 1) / 2) * thickness
        at = [height + offset for height in _heights(sentence)]
        bars = axes.barh(at, values, 0.92 * thickness, color=COLORS[number], label=view.network)
        labels = axes.bar_label(bars, [short(value, 2) for value in values], padding=3, fontsize=8, zorder=4)
        for label in labels:
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.set_xlim(0, right)
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _names(axes: "Axes", sentence: Sentence, classes: int, missing: dict[int, str]) -> None:
    ticks, names = _heights(sentence), list(sentence.classes)
    if (hidden := classes - len(names)) > 0:
        gap = next(place for place, rank in enumerate(sentence.ranks) if rank > place + 1)
        ticks.insert(gap, gap)
        names.insert(gap, f"... {hidden:,} more ...")
    axes.set_yticks(ticks, [_cut(name, 30).translate(missing) for name in names], fontsize=9, parse_math=False)
    axes.set_ylim(max(ticks) + 0.6, -0.6)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."

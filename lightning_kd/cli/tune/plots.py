"""A study as pictures: its course, what mattered, and which values went together.

Optuna's own matplotlib pictures change matplotlib's global style and cut off long names.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_kd.cli.tune import results
from lightning_kd.cli.tune.parameter import Parameter
from lightning_kd.cli.tune.space import Space
from lightning_kd.io.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.trial import FrozenTrial

ENOUGH = 20
"""Complete trials from which on it is drawn what mattered; with fewer it is chance."""

ABSENT = -0.12
"""Where a line passes the axis of a parameter that did not count in its trial."""

LINE = 16
"""Characters of a line of a parameter's name."""

MOST_CHARACTERS = 24
"""Longer choices are cut in the middle."""


def write(folder: Path, study: "Study", space: Space, metric: str) -> list[str]:
    """Draw what there are enough trials for.

    Args:
        folder: Where to.
        study: Whose trials.
        space: What was tried.
        metric: Name of the value.

    Returns:
        The names of the files that are there.
    """
    complete = [trial for trial in results.counted(study) if trial.state.name == "COMPLETE"]
    parameters = sorted(space.parameters, key=lambda parameter: space.names.index(parameter.name))
    figures: dict[str, Callable[[], Figure]] = {"history.png": lambda: history(study, metric)}
    if len({trial.value for trial in complete}) > 1:
        if len(complete) >= ENOUGH:
            figures["importance.png"] = lambda: importance(study, metric, space.conditional)
        figures["parallel_coordinates.png"] = lambda: parallel_coordinates(complete, parameters, metric, study)
    for name, draw in figures.items() if complete else []:
        with atomic_write(folder / name) as file:
            draw().savefig(file, dpi=150, format="png")
    files = ("best.yaml", "trials.csv", "history.png", "importance.png", "parallel_coordinates.png")
    return [name for name in files if (folder / name).exists()]


def history(study: "Study", metric: str) -> "Figure":
    """The value of each trial, and the best so far."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    trials = results.counted(study)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    pruned = [trial for trial in trials if trial.state.name == "PRUNED" and trial.value is not None]
    failed = [trial.number for trial in trials if trial.state.name == "FAIL"]
    values = [trial.value or 0.0 for trial in complete]
    better = np.maximum if study.direction.name == "MAXIMIZE" else np.minimum
    numbers = [trial.number for trial in complete]
    axes.step(numbers, better.accumulate(values), where="post", color="C0", alpha=0.5, label="best so far")
    axes.scatter(numbers, values, 16, color="C0", label="complete")
    if pruned:
        axes.scatter(
            [t.number for t in pruned],
            [t.value or 0 for t in pruned],
            16,
            color="0.6",
            marker="x",
            label="pruned",
        )
    if failed:
        axes.plot(failed, np.full(len(failed), 0.01), "|", color="C3", transform=axes.get_xaxis_transform(), label="fail")  # fmt: skip  # noqa: E501
    axes.set(xlabel="trial", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def importance(study: "Study", metric: str, conditional: bool) -> "Figure":
    """How much of the differences each parameter explains: fANOVA, Optuna's own choice, over all trials.

    It leaves out parameters that not all trials have; with conditions PED-ANOVA, which tells the best tenth from the
    others, takes its place.
    """
    from matplotlib.figure import Figure
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    evaluator = PedAnovaImportanceEvaluator() if conditional else FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Optuna's: how it splits few trials
        found = get_param_importances(study, evaluator=evaluator)
    shares = {name: float(share) for name, share in found.items()}
    names, values = list(shares)[::-1], list(shares.values())[::-1]
    figure = Figure(figsize=(7.5, 1.2 + 0.4 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(names, values, color="C0", height=0.6)
    axes.bar_label(bars, labels=[f"{value:.0%}" for value in values], padding=4, fontsize=9)
    axes.set(
        xlabel=f"importance for {metric} ({'PED-ANOVA' if conditional else 'fANOVA'})",
        xlim=(0, max(values) * 1.12 or 1),
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    if conditional:
        axes.set_title("a conditional parameter: only among the trials that have it", fontsize=10, loc="left")
    return figure


def parallel_coordinates(
    trials: "list[FrozenTrial]", parameters: list[Parameter], metric: str, study: "Study"
) -> "Figure":
    """One line for each complete trial, through its value of each parameter, coloured by the metric.

    A parameter that did not count in a trial is passed below its axis.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    sign = 1 if study.direction.name == "MAXIMIZE" else -1
    best_last = sorted(trials, key=lambda trial: (sign * (trial.value or 0.0), -trial.number))  # of equals the first
    values = [trial.value or 0.0 for trial in best_last]
    norm = Normalize(min(values), max(values))
    colors = ScalarMappable(norm, "viridis" if study.direction.name == "MAXIMIZE" else "viridis_r")
    shown = [parameter for parameter in parameters if any(parameter.name in trial.params for trial in trials)]
    figure = Figure(figsize=(max(7.5, 1.9 * (len(shown) + 1)), 5.5), layout="constrained")
    axes = figure.add_subplot()
    for trial, value in zip(best_last, values, strict=True):
        heights = [_height(parameter, trial.params) for parameter in shown]
        own = norm(value) if max(values) > min(values) else 0.5
        best = trial is best_last[-1]
        axes.plot([*heights, own], color="C3" if best else colors.cmap(norm(value)), lw=2.2 if best else 1, alpha=1 if best else 0.6)  # fmt: skip  # noqa: E501
    for place, parameter in enumerate(shown):
        _axis(axes, place, _ticks(parameter), right=False)
        if any(parameter.name not in trial.params for trial in trials):
            axes.annotate("absent", (place, ABSENT), fontsize=8, color="0.4", ha="center", va="top", xytext=(0, -3), textcoords="offset points")  # fmt: skip  # noqa: E501
    ends = [(share, f"{norm.inverse(share):.4g}") for share in np.linspace(0, 1, 6)]
    _axis(axes, len(shown), ends, right=True)
    names = [_broken(parameter.name) for parameter in shown]
    axes.set_xticks(range(len(shown) + 1), [*names, _broken(metric)], fontsize=9)
    axes.tick_params(axis="x", length=0, pad=8)
    conditional = any(parameter.when for parameter in shown)
    axes.set(ylim=(ABSENT - 0.06 if conditional else -0.04, 1.04), xlim=(-0.35, len(shown) + 0.45), yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title("complete trials; red: the best", fontsize=10, loc="left")
    return figure


def _height(parameter: Parameter, values: dict[str, Any]) -> float:
    """Where a line crosses the axis of a parameter, in [0, 1]; lower where it has none."""
    if parameter.name not in values:
        return ABSENT
    value = values[parameter.name]
    if parameter.kind == "choices":
        return list(parameter.choices).index(value) / (len(parameter.choices) - 1)
    scale = math.log if parameter.log else float
    low, high = scale(parameter.low), scale(parameter.high)
    return (scale(value) - low) / (high - low)


def _ticks(parameter: Parameter) -> list[tuple[float, str]]:
    """Heights and labels on the axis of a parameter."""
    if parameter.kind == "choices":
        last = len(parameter.choices) - 1
        return [(place / last, _short(str(choice))) for place, choice in enumerate(parameter.choices)]
    ticks = []
    for share in np.linspace(0, 1, 5):
        if parameter.log:
            value = parameter.low * (parameter.high / parameter.low) ** share
        else:
            value = parameter.low + share * (parameter.high - parameter.low)
        if parameter.kind == "int":
            value = round(value)
            share = _height(parameter, {parameter.name: value})
        ticks.append((float(share), f"{value:.3g}" if parameter.kind == "float" else str(value)))
    return ticks


def _axis(axes: Any, place: int, ticks: list[tuple[float, str]], right: bool) -> None:
    axes.plot([place, place], [0, 1], color="0.3", lw=1, zorder=0)
    for height, label in ticks:
        axes.annotate(
            label,
            (place, height),
            xytext=(5 if right else -5, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8},
            zorder=5,
        )


def _short(text: str) -> str:
    """A class by its own name, and what is long without its middle."""
    half = MOST_CHARACTERS // 2 - 1
    text = text.rpartition(".")[2] if text.count(".") > 1 else text
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]}..{text[-half:]}"


def _broken(name: str) -> str:
    """A long name in several lines, each the end of a part of a key."""
    lines = [""]
    for part in name.replace(".", ".\n").splitlines():
        if len(lines[-1]) + len(part) > LINE:
            lines.append("")
        lines[-1] += part
    return "\n".join(line for line in lines if line)

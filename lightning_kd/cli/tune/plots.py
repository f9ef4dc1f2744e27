"""Plots of a study, by Optuna."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna.visualization.matplotlib as optuna_plots
from optuna import Study
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

from lightning_kd.cli.tune.results import complete_trials
from lightning_kd.io.atomic import atomic_write

MIN_TRIALS_FOR_IMPORTANCE = 20
"""Complete trials below which parameter importance is mostly chance."""


def write_plots(folder: Path, study: Study, metric: str) -> list[str]:
    """Write the plots that the study has enough trials for.

    Args:
        folder: Folder of the plots.
        study: The study.
        metric: Name of the metric.

    Returns:
        Names of the files written.
    """
    complete = complete_trials(study)
    plots: dict[str, Callable[..., Any]] = {}
    if complete:
        plots["history.png"] = optuna_plots.plot_optimization_history
    if len({trial.value for trial in complete}) > 1:
        plots["parallel_coordinates.png"] = optuna_plots.plot_parallel_coordinate
        if len(complete) >= MIN_TRIALS_FOR_IMPORTANCE:
            # fANOVA drops conditional parameters, PED-ANOVA compares the trials that have them
            conditional = len({frozenset(trial.params) for trial in complete}) > 1
            evaluator: Any = PedAnovaImportanceEvaluator() if conditional else FanovaImportanceEvaluator(seed=0)
            plots["importance.png"] = partial(optuna_plots.plot_param_importances, evaluator=evaluator)
    for name, plot in plots.items():
        with plt.rc_context(), warnings.catch_warnings():  # Optuna sets a global style
            warnings.simplefilter("ignore")  # Optuna warns about few trials and its experimental plots
            figure = plot(study, target_name=metric).figure
            with atomic_write(folder / name) as file:
                figure.savefig(file, dpi=150, format="png", bbox_inches="tight")  # long names extend beyond the figure
            plt.close(figure)
    return list(plots)

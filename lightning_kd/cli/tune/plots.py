"""Plots of a study, by Optuna."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_kd.cli.tune.results import complete_trials
from lightning_kd.io.atomic import atomic_write

if TYPE_CHECKING:
    from optuna import Study

MIN_TRIALS_FOR_IMPORTANCE = 20
"""Complete trials below which parameter importance is mostly chance."""


def write_plots(folder: Path, study: "Study", metric: str) -> list[str]:
    """Write the plots that the study has enough trials for.

    Args:
        folder: Folder of the plots.
        study: The study.
        metric: Name of the metric.

    Returns:
        Names of the files written.
    """
    import matplotlib.pyplot as plt
    import optuna.visualization.matplotlib as optuna_plots
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

    complete = complete_trials(study)
    plots: dict[str, Callable[[], Any]] = {
        "history.png": lambda: optuna_plots.plot_optimization_history(study, target_name=metric)
    }
    if len({trial.value for trial in complete}) > 1:
        plots["parallel_coordinates.png"] = lambda: optuna_plots.plot_parallel_coordinate(study, target_name=metric)
        if len(complete) >= MIN_TRIALS_FOR_IMPORTANCE:
            # fANOVA drops conditional parameters, PED-ANOVA compares the trials that have them
            conditional = len({frozenset(trial.params) for trial in complete}) > 1
            evaluator: Any = PedAnovaImportanceEvaluator() if conditional else FanovaImportanceEvaluator(seed=0)
            plots["importance.png"] = lambda: optuna_plots.plot_param_importances(
                study, evaluator=evaluator, target_name=metric
            )
    for name, plot in plots.items() if complete else []:
        with plt.rc_context(), warnings.catch_warnings():  # Optuna sets a global style
            warnings.simplefilter("ignore")  # Optuna warns about few trials and its experimental plots
            axes = plot()
            figure = axes.figure
            with atomic_write(folder / name) as file:
                figure.savefig(file, dpi=150, format="png", bbox_inches="tight")  # long names extend beyond the figure
            plt.close(figure)
    return list(plots) if complete else []

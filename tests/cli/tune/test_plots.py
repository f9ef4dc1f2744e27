"""Plots of a study."""

import matplotlib.pyplot as plt
import optuna
import pytest

from lightning_kd.cli.tune.plots import MIN_TRIALS_FOR_IMPORTANCE, write_plots


def objective(trial):
    if trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "adam":
        return 1.0
    return trial.suggest_float("momentum", 0.1, 0.9)


def run_study(trials):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=trials)
    return study


@pytest.mark.parametrize(
    ("trials", "names"),
    [
        (0, []),
        (1, ["history.png"]),
        (MIN_TRIALS_FOR_IMPORTANCE - 1, ["history.png", "parallel_coordinates.png"]),
        (MIN_TRIALS_FOR_IMPORTANCE, ["history.png", "parallel_coordinates.png", "importance.png"]),
    ],
)
def test_plots_as_far_as_there_are_trials(tmp_path, trials, names):
    style = dict(plt.rcParams)
    assert write_plots(tmp_path, run_study(trials), "val/loss") == names
    assert {file.name for file in tmp_path.iterdir()} == set(names)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.iterdir())
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == style

"""Which pictures there are, and what they say."""

import optuna
import pytest

from lightning_kd.cli.tune import plots
from lightning_kd.cli.tune.space import read_space

SPACE = """
optimizer: {choices: [adam, sgd], key: o}
momentum: {when: {optimizer: sgd}, float: [0.1, 0.9], key: m}
"""


@pytest.fixture
def space(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE, encoding="utf-8")
    return read_space(tmp_path / "space.yaml")


def study(space, trials):
    made = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    made.optimize(lambda trial: space.suggest(trial).get("momentum", 1.0), n_trials=trials)
    return made


@pytest.mark.parametrize(("trials", "drawn"), [(plots.ENOUGH - 1, False), (plots.ENOUGH, True)])
def test_importance_needs_some_trials(tmp_path, space, trials, drawn):
    files = plots.write(tmp_path, study(space, trials), space, "val/loss")
    assert ("importance.png" in files) == drawn
    assert {"history.png", "parallel_coordinates.png"} <= set(files)


def test_importance_says_what_a_conditional_parameter_counts_for(space):
    some = study(space, plots.ENOUGH)
    titles = [
        plots.importance(some, "val/loss", conditional).axes[0].get_title("left") for conditional in (True, False)
    ]
    assert titles == ["a conditional parameter: only among the trials that have it", ""]

"""``lightning-kd tune``."""

import argparse

from lightning_kd.export.requirements import require_packages

DESCRIPTION = """\
Search hyperparameters with Optuna: run fit many times and write the best config.

  lightning-kd tune --config run.yaml --search_space space.yaml --n_trials 50

All other arguments are passed to fit and apply to every trial. Several processes or machines that run the same command
share the study; after an interruption, the same command continues it. A trial keeps its config and logs; checkpoints
are removed, and only the student of the best trial is kept (see --keep_models). See docs/tuning.md.
"""


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lightning-kd tune", description=DESCRIPTION, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--config", action="append", required=True, metavar="YAML", help="config to tune, as for fit")
    add("--search_space", required=True, metavar="FILE", help="YAML file of config keys and the values to try, or "
        "my_space.py:function, which takes an optuna.Trial and returns config overrides")  # fmt: skip
    add("--n_trials", type=int, default=100, help="total number of trials in the study (default: 100)")
    add("--output_dir", help="folder of the study (default: tune/<name of the config>)")
    add("--storage", help="sqlite:///..., postgresql://..., mysql://..., or a journal file that ends in .log "
        "(default: SQLite in the output folder)")  # fmt: skip
    add("--study_name", help="name of the study in the storage (default: name of the output folder)")
    add("--metric", help="metric to optimize, such as val/f1 (default: the task's metric)")
    add("--mode", choices=("min", "max"), help="whether lower or higher values of --metric are better")
    add("--pruner", choices=("median", "hyperband", "none"), default="median",
        help="Optuna pruner that stops unpromising trials early (default: median)")  # fmt: skip
    add("--seeds", type=int, default=1,
        help="number of runs per trial, with consecutive seeds; their scores are averaged (default: 1)")  # fmt: skip
    add("--seed", type=int, default=0, help="seed of Optuna's sampler (default: 0)")
    add("--keep_models", choices=("best", "all", "none"), default="best",
        help="which trials keep their student (default: best)")  # fmt: skip
    add("--verbose", action="store_true", help="show the progress bar and messages of each run")
    return parser


def main(args: list[str]) -> None:
    """Search the hyperparameters of a run.

    Args:
        args: The command line, starting with the command's name.

    Raises:
        ValueError: If an argument, the search space or the config is invalid.
    """
    options, fit_args = _create_parser().parse_known_args(args[1:])
    for name in ("n_trials", "seeds"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name}: must be >= 1, got {getattr(options, name)}")
    require_packages("tune", "tune", "optuna", "matplotlib", "sklearn")
    from lightning_kd.cli.tune.search import reduced_output, search  # imports the packages

    configs = [part for config in options.config for part in ("--config", config)]
    with reduced_output(options.verbose):
        search(options, [*configs, *fit_args])

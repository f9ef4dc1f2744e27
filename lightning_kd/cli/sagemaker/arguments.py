"""Convert a YAML file and hyperparameters to arguments of ``fit``."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "config"
"""Hyperparameter that names the YAML file, and channel that may contain it."""

DEFAULT_CONFIG = "config.yaml"

PLACEHOLDER = re.compile(r"\$\{(SM_[^}]*)\}")

RESERVED_PREFIXES = ("sagemaker_", "_tuning_objective_metric")
"""Prefixes of hyperparameters that SageMaker sets."""


def substitute_env(text: str, variables: Mapping[str, str], source: str) -> str:
    """Replace ``${SM_...}`` with the values of the variables.

    >>> substitute_env("path: ${SM_CHANNEL_TEXTS}/train.csv", {"SM_CHANNEL_TEXTS": "/opt/ml/input/data/texts"}, "x")
    'path: /opt/ml/input/data/texts/train.csv'

    Args:
        text: Text with placeholders such as ``${SM_CHANNEL_TRAINING}``; other dollar signs are kept.
        variables: Variables of the job.
        source: Name of the text in error messages.

    Raises:
        ValueError: If a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in variables:
            channels = ", ".join(sorted(v for v in variables if v.startswith("SM_CHANNEL_"))) or "none"
            raise ValueError(
                f"{source}: {match[0]} is not set, the channels of this job are {channels}; add the channel to the job "
                "(--channels.<name> s3://...) or correct the name (upper case)"
            )
        return variables[name]

    return PLACEHOLDER.sub(value, text)


def fit_arguments(
    config: Path, hyperparameters: Mapping[str, Any], variables: Mapping[str, str], folder: Path
) -> list[str]:
    """Return a YAML file and hyperparameters as arguments of ``fit``.

    Args:
        config: The YAML file.
        hyperparameters: Values by name.
        variables: Variables for placeholders.
        folder: Folder for a copy of the YAML file with placeholders replaced.

    Raises:
        ValueError: If a placeholder has no value.
    """
    resolved = folder / config.name
    text = substitute_env(config.read_text(encoding="utf-8"), variables, config.name)
    resolved.write_text(text, encoding="utf-8")
    return ["--config", str(resolved), *config_overrides(hyperparameters, variables)]


def config_overrides(hyperparameters: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    """Return hyperparameters, named by config keys, as arguments of ``fit``.

    >>> config_overrides({"model.warmup_ratio": 0.1, "trainer__max_epochs": 3, "model.teacher": None}, {})
    ['--model.teacher=null', '--model.warmup_ratio=0.1', '--trainer.max_epochs=3']
    >>> config_overrides({"config": "other.yaml", "sagemaker_program": "train.py"}, {})
    []

    Args:
        hyperparameters: Values by name. Two underscores stand for a dot, for launchers whose scripts break at dots.
        variables: Variables for placeholders in the values, see :func:`substitute_env`.

    Raises:
        ValueError: If a placeholder has no value.
    """
    arguments = []
    for name, value in hyperparameters.items():
        if name == CONFIG or name.startswith(RESERVED_PREFIXES):
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        arguments.append((name.replace("__", "."), substitute_env(text, variables, f"hyperparameter {name}")))
    return [f"--{key}={text}" for key, text in sorted(arguments)]  # a class before its arguments


def find_config(hyperparameters: Mapping[str, Any], variables: Mapping[str, str]) -> Path:
    """Find the YAML file of a job in the working directory or in the channel ``config``.

    Args:
        hyperparameters: Values by name; ``config`` names the file.
        variables: Environment variables of the job.

    Raises:
        ValueError: If it is in neither.
    """
    name = str(hyperparameters.get(CONFIG, DEFAULT_CONFIG))
    folders = [Path.cwd()]
    if channel := variables.get(f"SM_CHANNEL_{CONFIG.upper()}"):
        folders.append(Path(channel))
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"hyperparameter {CONFIG}: no {name!r} in {' or '.join(map(str, folders))}; add it to the job's "
        f"source or to a channel named {CONFIG}"
    )

"""From a YAML file and hyperparameters to the command line of ``fit``."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "config"
"""The hyperparameter that names the YAML file, and the channel that it may lie in."""

DEFAULT_CONFIG = "config.yaml"

PLACEHOLDER = re.compile(r"\$\{(SM_[^}]*)\}")

OWN = ("sagemaker_", "_tuning_objective_metric")
"""How the names begin that are the service's own."""


def fill_in(text: str, variables: Mapping[str, str], where: str) -> str:
    """Put the values of ``SM_`` variables in the place of their names.

    >>> fill_in("path: ${SM_CHANNEL_TEXTS}/train.csv", {"SM_CHANNEL_TEXTS": "/opt/ml/input/data/texts"}, "config.yaml")
    'path: /opt/ml/input/data/texts/train.csv'

    Args:
        text: Text with names such as ``${SM_CHANNEL_TRAINING}``; other text with a dollar sign stays as it is.
        variables: The variables of a job.
        where: What the text is called in the message.

    Raises:
        ValueError: If there is no such variable.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in variables:
            channels = ", ".join(sorted(v for v in variables if v.startswith("SM_CHANNEL_"))) or "none"
            raise ValueError(
                f"{where}: {match[0]} is not set, the channels of this job are {channels}; add the channel to the job "
                "(--channels.<name> s3://...) or correct the name, which is in upper case"
            )
        return variables[name]

    return PLACEHOLDER.sub(value, text)


def overrides(hyperparameters: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    """Hyperparameters as arguments of ``fit``: their names are the keys of a config.

    >>> overrides({"model.warmup_ratio": 0.1, "trainer__max_epochs": 3, "model.teacher": None}, {})
    ['--model.teacher=null', '--model.warmup_ratio=0.1', '--trainer.max_epochs=3']
    >>> overrides({"config": "other.yaml", "sagemaker_program": "train.py"}, {})
    []

    Args:
        hyperparameters: Values by name. Two underscores are read as a dot, for launchers whose scripts break at dots.
        variables: For placeholders in values, see :func:`fill_in`.

    Raises:
        ValueError: If a placeholder has no value.
    """
    arguments = []
    for name, value in hyperparameters.items():
        if name == CONFIG or name.startswith(OWN):
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        arguments.append((name.replace("__", "."), fill_in(text, variables, f"hyperparameter {name}")))
    return [f"--{key}={text}" for key, text in sorted(arguments)]  # a class comes before its arguments


def find_config(hyperparameters: Mapping[str, Any], variables: Mapping[str, str]) -> Path:
    """The YAML file of a job: in the folder of its source, or in its channel ``config``.

    Raises:
        ValueError: If it is in neither.
    """
    name = str(hyperparameters.get(CONFIG, DEFAULT_CONFIG))
    folders = [Path.cwd(), *(Path(variables[v]) for v in (f"SM_CHANNEL_{CONFIG.upper()}",) if v in variables)]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"hyperparameter {CONFIG}: there is no {name!r} in {' or '.join(map(str, folders))}; put it into the job's "
        f"source or into a channel called {CONFIG}"
    )

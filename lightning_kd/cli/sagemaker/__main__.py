"""The entry of a training job: ``python -m lightning_kd.cli.sagemaker``, or a script that calls :func:`main`."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_kd.cli.errors import exit_on_error
from lightning_kd.cli.main import suppress_noise
from lightning_kd.cli.sagemaker.environment import ScriptMode, keep_failure


def main() -> None:
    """Train as the job's YAML file and hyperparameters say; an error is one line, also for the service."""
    exit_on_error(train, keep_failure)


def train() -> None:
    """Fit, or continue where an interrupted attempt of the same job ended.

    The arguments of the process are not read: the service puts the same hyperparameters there, less well told apart.
    """
    from lightning_kd.cli.sagemaker.fit import (  # here, because it takes seconds and may itself fail
        fit_arguments,
        fit_in,
    )

    suppress_noise()
    job = ScriptMode.read(os.environ)
    os.environ.update(job.meeting(os.environ))
    with TemporaryDirectory() as folder:
        arguments = fit_arguments(job, os.environ, Path(folder))
        fit_in(job, arguments)


if __name__ == "__main__":
    main()

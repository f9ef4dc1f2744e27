"""Entry point of a training job: ``python -m lightning_kd.cli.sagemaker``, or a script that calls :func:`main`."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning_kd.cli.errors import exit_on_error
from lightning_kd.cli.main import suppress_noise
from lightning_kd.cli.sagemaker.arguments import find_config, fit_arguments
from lightning_kd.cli.sagemaker.environment import ScriptMode, write_failure_file


def main() -> None:
    """Train with the job's YAML file and hyperparameters; report an error in one line, also to SageMaker."""
    exit_on_error(train, write_failure_file)


def train() -> None:
    """Run ``fit``, or resume an interrupted attempt of the same job.

    Ignores ``sys.argv``: SageMaker also passes the hyperparameters there, but less precisely.
    """
    from lightning_kd.cli.sagemaker.fit import run_fit  # slow to import, and may fail

    suppress_noise()
    job = ScriptMode.from_environment(os.environ)
    os.environ.update(job.rendezvous_variables(os.environ))
    config = find_config(job.hyperparameters, os.environ)
    with TemporaryDirectory() as folder:
        run_fit(job, fit_arguments(config, job.hyperparameters, os.environ, Path(folder)))


if __name__ == "__main__":
    main()

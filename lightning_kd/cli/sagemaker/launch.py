"""``lightning-kd sagemaker``: start a training job, or print its request."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate
from tempfile import TemporaryDirectory
from typing import Any

from jsonargparse import ArgumentParser

from lightning_kd.cli.sagemaker.arguments import fit_arguments
from lightning_kd.cli.sagemaker.job import Job
from lightning_kd.cli.sagemaker.remote_paths import check_remote_paths
from lightning_kd.cli.sagemaker.source import pack
from lightning_kd.export.requirements import require_packages


def main(args: list[str]) -> None:
    """Check the config as the job will, then start the job.

    Args:
        args: The command line, starting with the command's name.

    Raises:
        ValueError: If an argument is invalid, or boto3 is not installed.
    """
    parser = ArgumentParser(
        prog="lightning-kd sagemaker", description="Run a config as an Amazon SageMaker training job."
    )
    parser.add_argument("--config", type=str, required=True, help="YAML file of the run, as for fit.")
    parser.add_class_arguments(Job, skip={"hyperparameters", "use_spot_instances"})
    overrides = "Config overrides, each as key=value; ${SM_CHANNEL_<NAME>} in a value is the folder of a channel."
    parser.add_argument("--hyperparameters", type=str, nargs="+", default=[], help=overrides)
    spot = "Use spot instances, which are cheaper but may be interrupted; the job then resumes."
    parser.add_argument("--use_spot_instances", action="store_true", help=spot)
    parser.add_argument("--source", type=str | None, help="Folder whose files are added to the job's source archive.")
    parser.add_argument("--region", type=str | None, help="AWS region; null = boto3's default.")
    parser.add_argument("--dry_run", action="store_true", help="Print the request as JSON without sending it.")
    options = parser.parse_args(args[1:])
    config = Path(options.config).expanduser()
    source = Path(options.source).expanduser() if options.source is not None else None
    settings = vars(options)
    job = Job(**{name: settings[name] for name in Job.__dataclass_fields__})
    if not options.dry_run:
        require_packages("sagemaker without --dry_run", "sagemaker", "boto3")
    for name, path, exists in (("config", config, config.is_file()), ("source", source, not source or source.is_dir())):
        if not exists:
            raise ValueError(f"{name}: {str(path)!r} does not exist; check the path")
    monitor = check_config(config, job, source)
    job_name = f"{job.base_job_name}-{time.strftime('%Y-%m-%d-%H-%M-%S', time.gmtime())}"
    source_uri = f"{job.s3_prefix(job_name)}/source/sourcedir.tar.gz"
    request = job.create_request(job_name, source_uri, [monitor, "train/loss"])
    check_request(request)
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "sourcedir.tar.gz"
        summary = pack(archive, config, source)
        if source is not None:
            print(summary, file=sys.stderr)
        if options.dry_run:
            print(json.dumps(request, indent=2))
        else:
            submit(request, archive, source_uri, options.region)


def check_config(config: Path, job: Job, source: Path | None) -> str:
    """Parse the config as the job will, so that a misspelled key fails before an instance starts.

    Args:
        config: The YAML file.
        job: The job.
        source: The user's folder, whose modules are importable in the job.

    Returns:
        The metric that selects the best student.

    Raises:
        ValueError: If a placeholder has no value, or teacher, student or data exist on this machine only.
        jsonargparse.ArgumentError: If a key or a value is invalid.
    """
    from lightning_kd.cli.fit import ParseOnlyCLI, run  # takes seconds

    with TemporaryDirectory() as folder, importable_from(source):
        arguments = fit_arguments(config, job.parse_hyperparameters(), job.environment(), Path(folder))
        fit_config = run(["fit", *arguments], cli_class=ParseOnlyCLI).config["fit"]
        check_remote_paths(fit_config, source)
        task: Any = locate(fit_config.model.task.class_path)
    return f"val/{task.monitor}"


@contextmanager
def importable_from(source: Path | None) -> Iterator[None]:
    """Put the user's folder first on the module search path, as in the job."""
    original = list(sys.path)
    if source is not None:
        sys.path.insert(0, str(source.resolve()))
    try:
        yield
    finally:
        sys.path[:] = original


def check_request(request: dict[str, Any]) -> None:
    """Validate the request with botocore's service description, if botocore is installed.

    Raises:
        ValueError: If a field is unknown, missing or of the wrong type.
    """
    if find_spec("botocore") is None:
        return
    from botocore.session import get_session
    from botocore.validate import ParamValidator

    service = get_session().get_service_model("sagemaker")
    report = ParamValidator().validate(request, service.operation_model("CreateTrainingJob").input_shape)
    if report.has_errors():
        raise ValueError(f"request: {report.generate_report()}")


def submit(request: dict[str, Any], archive: Path, source_uri: str, region: str | None) -> None:
    """Upload the source and create the job.

    Args:
        request: Arguments of CreateTrainingJob.
        archive: The local source archive.
        source_uri: S3 URI to upload it to.
        region: AWS region; None = boto3's default.
    """
    import boto3

    bucket, _, key = source_uri.removeprefix("s3://").partition("/")
    session = boto3.Session(region_name=region)
    session.client("s3").upload_file(str(archive), bucket, key)
    created = session.client("sagemaker").create_training_job(**request)
    print(f"Started {created['TrainingJobArn']}")

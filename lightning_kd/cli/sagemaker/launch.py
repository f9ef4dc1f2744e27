"""``lightning-kd sagemaker``: starts a training job, or prints the request that would."""

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

from lightning_kd.cli.sagemaker.arguments import fill_in, overrides
from lightning_kd.cli.sagemaker.job import Job
from lightning_kd.cli.sagemaker.places import check_places
from lightning_kd.cli.sagemaker.source import pack


def main(args: list[str]) -> None:
    """Check what would stop the job there, then start it."""
    parser = ArgumentParser(
        prog="lightning-kd sagemaker", description="Run a config as an Amazon SageMaker training job."
    )
    parser.add_argument("--config", type=str, required=True, help="YAML file of the run, as for fit.")
    parser.add_class_arguments(Job, skip={"hyperparameters", "spot"})
    changes = "Changes to the YAML file, each as key=value; ${SM_CHANNEL_<NAME>} in a value is a channel's folder."
    parser.add_argument("--hyperparameters", type=str, nargs="+", default=[], help=changes)
    spare = "Take spare machines, which are cheaper and may be taken away; the job then continues on the next."
    parser.add_argument("--spot", action="store_true", help=spare)
    parser.add_argument("--source", type=str | None, help="Folder whose files the job finds beside its config.")
    parser.add_argument("--region", type=str | None, help="AWS region; null = as configured for boto3.")
    parser.add_argument("--dry_run", action="store_true", help="Print the request as JSON and send nothing.")
    given = parser.parse_args(args[1:])
    config = Path(given.config).expanduser()
    source = Path(given.source).expanduser() if given.source is not None else None
    settings = vars(given)
    job = Job(**{name: settings[name] for name in Job.__dataclass_fields__})
    if not given.dry_run and find_spec("boto3") is None:
        raise ValueError("boto3 is not installed: pip install 'lightning-kd[sagemaker]', or --dry_run")
    for name, path, there in (("config", config, config.is_file()), ("source", source, not source or source.is_dir())):
        if not there:
            raise ValueError(f"{name}: there is no {str(path)!r}")
    monitored = check(config, job, source)
    full_name = f"{job.name}-{time.strftime('%Y-%m-%d-%H-%M-%S', time.gmtime())}"
    packed = f"{job.folder(full_name)}/source/sourcedir.tar.gz"
    request = job.full_request(full_name, packed, [monitored, "train/loss"])
    check_request(request)
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "sourcedir.tar.gz"
        pack(archive, config, source)
        if given.dry_run:
            print(json.dumps(request, indent=2))
        else:
            submit(request, archive, packed, given.region)


def check(config: Path, job: Job, source: Path | None) -> str:
    """Parse the run as the job is going to, so that a misspelt key costs no machine.

    Args:
        config: The YAML file.
        job: The job.
        source: The user's folder, whose modules can be imported there.

    Returns:
        The metric by which the run picks its best student.

    Raises:
        ValueError: If a placeholder has no value, or a teacher, a base or data are only on this machine.
        jsonargparse.ArgumentError: If a key or a value is wrong.
    """
    from lightning_kd.cli.fit import ParseOnlyCLI, run  # takes seconds

    variables = job.variables()
    with TemporaryDirectory() as folder, importable(source):
        filled = Path(folder) / config.name
        filled.write_text(fill_in(config.read_text(encoding="utf-8"), variables, config.name), encoding="utf-8")
        cli = run(["fit", "--config", str(filled), *overrides(job.overrides(), variables)], cli_class=ParseOnlyCLI)
        check_places(cli.config["fit"], source)
        task: Any = locate(cli.config["fit"].model.task.class_path)
    return f"val/{task.monitor}"


@contextmanager
def importable(source: Path | None) -> Iterator[None]:
    """Find modules in the user's folder first, as the job does."""
    before = list(sys.path)
    if source is not None:
        sys.path.insert(0, str(source.resolve()))
    try:
        yield
    finally:
        sys.path[:] = before


def check_request(request: dict[str, Any]) -> None:
    """Refuse what is not as botocore describes it, where that is installed.

    Raises:
        ValueError: If a field is unknown, missing or of another kind.
    """
    if find_spec("botocore") is None:
        return
    from botocore.session import get_session
    from botocore.validate import ParamValidator

    service = get_session().get_service_model("sagemaker")
    report = ParamValidator().validate(request, service.operation_model("CreateTrainingJob").input_shape)
    if report.has_errors():
        raise ValueError(f"request: {report.generate_report()}")


def submit(request: dict[str, Any], archive: Path, place: str, region: str | None) -> None:
    """Upload the source and create the job."""
    import boto3

    bucket, _, key = place.removeprefix("s3://").partition("/")
    session = boto3.Session(region_name=region)
    session.client("s3").upload_file(str(archive), bucket, key)
    created = session.client("sagemaker").create_training_job(**request)
    print(f"Started {created['TrainingJobArn']}")

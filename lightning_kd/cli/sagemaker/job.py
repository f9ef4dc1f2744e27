"""A training job as its launcher is told, and the request that creates it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_kd.cli.sagemaker.arguments import CONFIG
from lightning_kd.cli.sagemaker.environment import CHECKPOINTS

ENTRY = "train.py"

CHANNELS = "/opt/ml/input/data"
"""The service puts each channel into a folder of its name in this one."""

VALUE_LIMIT, COUNT_LIMIT = 2500, 100

MOST_HOURS, WAITING_HOURS = 28 * 24.0, 24.0
"""The service's limit, and how long a job on spare machines may wait for some."""

S3 = r"s3://[^/\s]+(/\S*)?"

PATTERNS = {
    "role": (r"arn:aws[a-z-]*:iam::\d{12}:role/?[\w+=,.@/-]+", "such as arn:aws:iam::123456789012:role/training"),
    "image": (r"\S{1,255}", "such as <account>.dkr.ecr.<region>.amazonaws.com/pytorch-training:<tag>"),
    "instance_type": (r"ml\.[a-z0-9.-]+", "such as ml.g5.xlarge"),
    "output": (S3, "such as s3://bucket/prefix"),
    "checkpoints": (S3, "such as s3://bucket/prefix, or leave it out"),
    "name": (r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,42}", "of up to 43 letters, digits and hyphens"),
}
"""What the service accepts, and what to say otherwise. Of a name it takes 63 characters; 20 are the time's."""


@dataclass
class Job:
    """A training job to start.

    Args:
        role: ARN of the role that the job runs as; it reads the channels and writes the output.
        image: Container image with PyTorch >= 2.6 and SageMaker's training toolkit, such as AWS's own for PyTorch
            training in your region.
        instance_type: Kind of machine.
        output: Where on S3 source, results and checkpoints go, each in a folder of the job's name.
        instance_count: Number of machines, >= 1.
        channels: S3 locations by name; in YAML file and hyperparameters, ``${SM_CHANNEL_<NAME>}`` is the folder.
        hyperparameters: Changes to the YAML file, each as ``key=value``.
        name: How the job's name begins.
        checkpoints: Where on S3 checkpoints go, if not to the output; a job given the place of an earlier one
            continues it.
        spot: Take spare machines, which are cheaper and may be taken away; the job then continues on the next.
        max_hours: The job is ended after so many hours of training, at most 672 (28 days).
        volume_gb: Disk of each machine in GB, >= 1.
        request: Further fields of CreateTrainingJob as JSON, such as ``{"Environment": {"HF_HUB_OFFLINE": "1"}}``.

    Raises:
        ValueError: If something is not what the service accepts.
    """

    role: str
    image: str
    instance_type: str
    output: str
    instance_count: int = 1
    channels: dict[str, str] = field(default_factory=dict)
    hyperparameters: list[str] = field(default_factory=list)
    name: str = "lightning-kd"
    checkpoints: str | None = None
    spot: bool = False
    max_hours: float = 24.0
    volume_gb: int = 30
    request: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, (pattern, example) in PATTERNS.items():
            value = getattr(self, key)
            if value is not None and not re.fullmatch(pattern, value):
                raise ValueError(f"{key}: must be {example}, got {value!r}")
        for key in ("instance_count", "volume_gb"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: must be >= 1, got {getattr(self, key)}")
        if not 0.01 <= self.max_hours <= MOST_HOURS:
            raise ValueError(f"max_hours: must be in [0.01, {MOST_HOURS:.0f}], got {self.max_hours}")
        for channel, place in self.channels.items():
            # SM_CHANNEL_<NAME> is no name for a shell otherwise
            if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", channel):
                raise ValueError(f"channels: must be named with letters, digits and underscores, got {channel!r}")
            if not re.fullmatch(S3, place):
                raise ValueError(f"channels.{channel}: must be such as s3://bucket/prefix, got {place!r}")
        if same := _twice([channel.upper() for channel in self.channels]):
            raise ValueError(f"channels: two are both SM_CHANNEL_{same}, which is in upper case; rename one")
        self.overrides()

    def overrides(self) -> dict[str, str]:
        """The hyperparameters by name."""
        pairs = [given.partition("=") for given in self.hyperparameters]
        for name, equals, value in pairs:
            if not equals or not name or name.startswith("-") or len(value) > VALUE_LIMIT:
                raise ValueError(
                    f"hyperparameters: must be key=value with at most {VALUE_LIMIT} characters of value, got "
                    f"{name + equals + value!r:.100}"
                )
        result = {name: value for name, _, value in pairs}
        if same := _twice([name.replace("__", ".") for name, _, _ in pairs]):
            raise ValueError(f"hyperparameters: {same} is given twice; leave one out")
        if CONFIG in result:
            raise ValueError(f"hyperparameters: {CONFIG} is not one here; name the file with --config")
        if len(result) > COUNT_LIMIT - 2:  # two are the toolkit's
            raise ValueError(
                f"hyperparameters: at most {COUNT_LIMIT - 2}, got {len(result)}; put some into the YAML file"
            )
        return result

    def variables(self) -> dict[str, str]:
        """The variables that the YAML file may name, as they are going to be."""
        folders = {"SM_MODEL_DIR": "/opt/ml/model", "SM_OUTPUT_DATA_DIR": "/opt/ml/output/data"}
        return {**folders, **{f"SM_CHANNEL_{name.upper()}": f"{CHANNELS}/{name}" for name in self.channels}}

    def folder(self, full_name: str) -> str:
        """Where everything of a job goes on S3."""
        return f"{self.output.rstrip('/')}/{full_name}"

    def full_request(self, full_name: str, source: str, metrics: list[str]) -> dict[str, Any]:
        """The arguments of CreateTrainingJob.

        Args:
            full_name: Name of the job, which must be new.
            source: Where on S3 the packed source is.
            metrics: Names of the metrics that the service finds in the lines of the log.

        Raises:
            ValueError: If ``request`` has a field that is made of other arguments.
        """
        found = [{"Name": name, "Regex": f"{name}=([-+.0-9e]+)"} for name in metrics]  # see progress.py
        algorithm = {"TrainingImage": self.image, "TrainingInputMode": "File", "MetricDefinitions": found}
        limits = {"MaxRuntimeInSeconds": round(3600 * self.max_hours)}
        if self.spot:
            limits["MaxWaitTimeInSeconds"] = round(3600 * min(self.max_hours + WAITING_HOURS, MOST_HOURS))
        place = self.folder(full_name)
        toolkit = {"sagemaker_program": ENTRY, "sagemaker_submit_directory": source}
        channels = [_channel(name, place) for name, place in self.channels.items()]
        request = {
            "TrainingJobName": full_name,
            "RoleArn": self.role,
            "AlgorithmSpecification": algorithm,
            "HyperParameters": {**self.overrides(), **toolkit},
            "OutputDataConfig": {"S3OutputPath": self.output},
            "ResourceConfig": {
                "InstanceType": self.instance_type,
                "InstanceCount": self.instance_count,
                "VolumeSizeInGB": self.volume_gb,
            },
            "StoppingCondition": limits,
            "EnableManagedSpotTraining": self.spot,
            "CheckpointConfig": {"S3Uri": self.checkpoints or f"{place}/checkpoints", "LocalPath": CHECKPOINTS},
            **({"InputDataConfig": channels} if channels else {}),
        }
        if taken := sorted(request.keys() & self.request.keys()):
            raise ValueError(
                f"request: {', '.join(taken)} is made of other arguments; use those, or change what --dry_run prints "
                "and send it yourself"
            )
        return {**request, **self.request}


def _twice(names: list[str]) -> str | None:
    return next((name for place, name in enumerate(names) if name in names[:place]), None)


def _channel(name: str, place: str) -> Mapping[str, Any]:
    copied = {"S3DataType": "S3Prefix", "S3Uri": place, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": copied}}

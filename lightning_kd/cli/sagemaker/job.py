"""A training job, and the CreateTrainingJob request that starts it."""

import re
from dataclasses import dataclass, field
from typing import Any

from lightning_kd.cli.sagemaker.arguments import CONFIG
from lightning_kd.cli.sagemaker.environment import DEFAULT_CHECKPOINT_DIR

ENTRY_POINT = "train.py"

CHANNEL_DIR = "/opt/ml/input/data"
"""Folder that contains a folder for each channel."""

MAX_VALUE_LENGTH, MAX_HYPERPARAMETERS = 2500, 100

MAX_RUN, SPOT_WAIT = 28 * 24 * 3600, 24 * 3600
"""SageMaker's limit of ``max_run``, and the maximum time that a spot job waits for instances, in seconds."""

S3_URI = r"s3://[^/\s]+(/\S*)?"

PATTERNS = {
    "role": (r"arn:aws[a-z-]*:iam::\d{12}:role/?[\w+=,.@/-]+", "such as arn:aws:iam::123456789012:role/training"),
    "image_uri": (r"\S{1,255}", "such as <account>.dkr.ecr.<region>.amazonaws.com/pytorch-training:<tag>"),
    "instance_type": (r"ml\.[a-z0-9.-]+", "such as ml.g5.xlarge"),
    "output_path": (S3_URI, "such as s3://bucket/prefix"),
    "checkpoint_s3_uri": (S3_URI, "such as s3://bucket/prefix, or leave it out"),
    "base_job_name": (r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,42}", "of up to 43 letters, digits and hyphens"),
}
"""Pattern of each argument, and the example in its error message. A job name has 63 characters, 20 of them a time."""


@dataclass
class Job:
    """Settings of a training job, named as in SageMaker's Python SDK.

    Args:
        role: ARN of the IAM role of the job; it needs read access to the channels and write access to the output.
        image_uri: Container image with PyTorch >= 2.6 and SageMaker's training toolkit, such as AWS's image for
            PyTorch training in your region.
        instance_type: Instance type, such as ``ml.g5.xlarge``.
        output_path: S3 URI for source, results and checkpoints, each in a folder named after the job.
        instance_count: Number of instances, >= 1.
        channels: S3 URIs by name; ``${SM_CHANNEL_<NAME>}`` stands for the local folder in the YAML file and
            hyperparameters.
        hyperparameters: Config overrides, each as ``key=value``.
        base_job_name: Prefix of the job's name.
        checkpoint_s3_uri: S3 URI of the checkpoints; null = a folder under ``output_path``. A job with the URI of an
            earlier job resumes it.
        use_spot_instances: Use spot instances, which are cheaper but may be interrupted; the job then resumes.
        max_run: Maximum training time in seconds, in [60, 2419200] (28 days).
        volume_size: Disk size of each instance in GB, >= 1.
        request: Additional fields of CreateTrainingJob as JSON, such as ``{"Environment": {"HF_HUB_OFFLINE": "1"}}``.

    Raises:
        ValueError: If SageMaker would reject an argument.
    """

    role: str
    image_uri: str
    instance_type: str
    output_path: str
    instance_count: int = 1
    channels: dict[str, str] = field(default_factory=dict)
    hyperparameters: list[str] = field(default_factory=list)
    base_job_name: str = "lightning-kd"
    checkpoint_s3_uri: str | None = None
    use_spot_instances: bool = False
    max_run: int = 24 * 3600
    volume_size: int = 30
    request: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, (pattern, example) in PATTERNS.items():
            value = getattr(self, key)
            if value is not None and not re.fullmatch(pattern, value):
                raise ValueError(f"{key}: must be {example}, got {value!r}")
        for key in ("instance_count", "volume_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: must be >= 1, got {getattr(self, key)}")
        if not 60 <= self.max_run <= MAX_RUN:
            raise ValueError(f"max_run: must be in [60, {MAX_RUN}] seconds, got {self.max_run}")
        for channel, uri in self.channels.items():
            # other characters are invalid in the variable SM_CHANNEL_<NAME>
            if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", channel):
                raise ValueError(f"channels: a name must consist of letters, digits and underscores, got {channel!r}")
            if not re.fullmatch(S3_URI, uri):
                raise ValueError(f"channels.{channel}: must be an S3 URI such as s3://bucket/prefix, got {uri!r}")
        if duplicate := _first_duplicate([channel.upper() for channel in self.channels]):
            raise ValueError(f"channels: two names become SM_CHANNEL_{duplicate}; rename one")
        self.parse_hyperparameters()

    def parse_hyperparameters(self) -> dict[str, str]:
        """Return the hyperparameters by name.

        Raises:
            ValueError: If one is malformed, reserved or given twice, or there are too many.
        """
        pairs = [text.partition("=") for text in self.hyperparameters]
        for name, equals, value in pairs:
            if not equals or not name or name.startswith("-") or len(value) > MAX_VALUE_LENGTH:
                raise ValueError(
                    f"hyperparameters: must be key=value with at most {MAX_VALUE_LENGTH} characters of value, got "
                    f"{name + equals + value!r:.100}"
                )
        result = {name: value for name, _, value in pairs}
        if duplicate := _first_duplicate([name.replace("__", ".") for name, _, _ in pairs]):
            raise ValueError(f"hyperparameters: {duplicate} is given twice; remove one")
        if CONFIG in result:
            raise ValueError(f"hyperparameters: {CONFIG} is reserved; use --config")
        if len(result) > MAX_HYPERPARAMETERS - 2:  # the toolkit adds two
            raise ValueError(
                f"hyperparameters: at most {MAX_HYPERPARAMETERS - 2}, got {len(result)}; move some to the YAML file"
            )
        return result

    def environment(self) -> dict[str, str]:
        """Return the variables of the job that the YAML file may use."""
        folders = {"SM_MODEL_DIR": "/opt/ml/model", "SM_OUTPUT_DATA_DIR": "/opt/ml/output/data"}
        return {**folders, **{f"SM_CHANNEL_{name.upper()}": f"{CHANNEL_DIR}/{name}" for name in self.channels}}

    def s3_prefix(self, job_name: str) -> str:
        """Return the S3 URI below which a job writes."""
        return f"{self.output_path.rstrip('/')}/{job_name}"

    def create_request(self, job_name: str, source_uri: str, metrics: list[str]) -> dict[str, Any]:
        """Return the arguments of CreateTrainingJob.

        Args:
            job_name: Unique name of the job.
            source_uri: S3 URI of the source archive.
            metrics: Names of the metrics to extract from the log.

        Raises:
            ValueError: If ``request`` has a field that follows from other arguments.
        """
        definitions = [{"Name": name, "Regex": f"{name}=([-+.0-9e]+)"} for name in metrics]  # see ProgressLines
        algorithm = {"TrainingImage": self.image_uri, "TrainingInputMode": "File", "MetricDefinitions": definitions}
        limits = {"MaxRuntimeInSeconds": self.max_run}
        if self.use_spot_instances:
            limits["MaxWaitTimeInSeconds"] = min(self.max_run + SPOT_WAIT, MAX_RUN)
        checkpoints = self.checkpoint_s3_uri or f"{self.s3_prefix(job_name)}/checkpoints"
        size = {"InstanceCount": self.instance_count, "VolumeSizeInGB": self.volume_size}
        toolkit = {"sagemaker_program": ENTRY_POINT, "sagemaker_submit_directory": source_uri}
        request = {
            "TrainingJobName": job_name,
            "RoleArn": self.role,
            "AlgorithmSpecification": algorithm,
            "HyperParameters": {**self.parse_hyperparameters(), **toolkit},
            "OutputDataConfig": {"S3OutputPath": self.output_path},
            "ResourceConfig": {"InstanceType": self.instance_type, **size},
            "StoppingCondition": limits,
            "EnableManagedSpotTraining": self.use_spot_instances,
            "CheckpointConfig": {"S3Uri": checkpoints, "LocalPath": DEFAULT_CHECKPOINT_DIR},
        }
        if self.channels:
            request["InputDataConfig"] = [_channel(name, uri) for name, uri in self.channels.items()]
        if conflicts := sorted(request.keys() & self.request.keys()):
            raise ValueError(
                f"request: {', '.join(conflicts)} follows from other arguments; use those, or edit the output of "
                "--dry_run and send it yourself"
            )
        return {**request, **self.request}


def _first_duplicate(names: list[str]) -> str | None:
    return next((name for index, name in enumerate(names) if name in names[:index]), None)


def _channel(name: str, uri: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}

"""The launcher, up to the requests that it sends."""

import io
import json
import re
import sys
import tarfile

import pytest

from lightning_kd.cli.sagemaker.job import Job
from lightning_kd.cli.sagemaker.launch import check_config
from tests.cli.sagemaker.host import PACKED
from tests.cli.sagemaker.service import Service
from tests.helpers import save_model, tiny_bert

ROLE = "arn:aws:iam::123456789012:role/service-role/training"
IMAGE = "763104351884.dkr.ecr.eu-west-1.amazonaws.com/pytorch-training:2.8.0-gpu-py312-cu129-ubuntu22.04-sagemaker"


@pytest.fixture
def arguments(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(PACKED, encoding="utf-8")
    return {
        "config": config,
        "role": ROLE,
        "image_uri": IMAGE,
        "instance_type": "ml.g5.xlarge",
        "output_path": "s3://bucket/kd/",
        "channels.training": "s3://bucket/texts",
    }


@pytest.fixture
def source(tmp_path):
    """A folder for ``--source``."""
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


@pytest.fixture
def command(shell, arguments, capsys):
    """Function that runs the command with other arguments; returns exit code or message, and what it printed."""

    def run(changes, *more):
        options = [f"--{name}={value}" for name, value in {**arguments, **changes}.items()]
        code, _ = shell("sagemaker", *options, *more)
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def dry_run(command):
    """Function that returns the request."""

    def run(changes, *more):
        code, printed = command(changes, "--dry_run", *more)
        assert code == 0
        return json.loads(printed)

    return run


def violations(shape, value, at):
    """What a value breaks of SageMaker's description and botocore does not check: limits, patterns, enumerations."""
    rules = shape.metadata
    size = value if shape.type_name == "integer" else len(value) if shape.type_name != "boolean" else 0
    found = [f"{at}: {size} is too much"] if size > rules.get("max", size) else []
    if shape.type_name == "string":
        if "pattern" in rules and not re.fullmatch(rules["pattern"], value):
            found.append(f"{at}: {value!r} is not like {rules['pattern']}")
        if shape.enum and value not in shape.enum:
            found.append(f"{at}: {value!r} is none of {shape.enum}")
        return found
    parts = []
    if shape.type_name == "structure":
        parts = [(shape.members[name], part, name) for name, part in value.items()]
    elif shape.type_name == "list":
        parts = [(shape.member, part, number) for number, part in enumerate(value)]
    elif shape.type_name == "map":
        parts = [pair for name, part in value.items() for pair in ((shape.key, name, "key"), (shape.value, part, name))]
    return found + [v for part_shape, part, name in parts for v in violations(part_shape, part, f"{at}.{name}")]


@pytest.fixture(scope="module")
def refused():
    """What SageMaker's description of CreateTrainingJob, and botocore's own check, say against a request."""
    session = pytest.importorskip("botocore.session")
    validate = pytest.importorskip("botocore.validate")
    model = session.get_session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTrainingJob").input_shape

    def check(request):
        report = validate.ParamValidator().validate(request, shape)
        return [report.generate_report()] if report.has_errors() else violations(shape, request, "request")

    return check


def test_request_is_what_the_service_describes(dry_run, refused):
    changes = ["model.losses.hard.init_args.weight=0.25", "data.init_args.path=${SM_CHANNEL_TRAINING}"]
    request = dry_run({"instance_count": 2}, "--use_spot_instances", "--hyperparameters", *changes)
    assert refused(request) == []
    name = request["TrainingJobName"]
    assert request["ResourceConfig"] == {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30}
    assert request["HyperParameters"] == {
        "model.losses.hard.init_args.weight": "0.25",
        "data.init_args.path": "${SM_CHANNEL_TRAINING}",
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": f"s3://bucket/kd/{name}/source/sourcedir.tar.gz",
    }
    metrics = request["AlgorithmSpecification"]["MetricDefinitions"]
    assert [metric["Name"] for metric in metrics] == ["val/accuracy", "train/loss"]
    assert request["EnableManagedSpotTraining"]
    limits = request["StoppingCondition"]
    assert limits["MaxWaitTimeInSeconds"] > limits["MaxRuntimeInSeconds"] == 24 * 3600
    assert request["CheckpointConfig"]["S3Uri"] == f"s3://bucket/kd/{name}/checkpoints"


def test_the_smallest_request(dry_run, arguments, refused):
    del arguments["channels.training"]
    arguments["config"].write_text(PACKED.replace("${SM_CHANNEL_TRAINING}", "clinc/clinc_oos"), encoding="utf-8")
    request = dry_run({})
    assert refused(request) == []
    assert "InputDataConfig" not in request
    assert "MaxWaitTimeInSeconds" not in request["StoppingCondition"]


def test_further_fields(dry_run, refused):
    subnets = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
    more = {"Environment": {"HF_HUB_OFFLINE": "1"}, "VpcConfig": subnets}
    request = dry_run({"request": json.dumps(more), "checkpoint_s3_uri": "s3://bucket/old"})
    assert refused(request) == []
    assert {name: request[name] for name in more} == more
    assert request["CheckpointConfig"]["S3Uri"] == "s3://bucket/old"


@pytest.mark.parametrize(
    "changes",
    [
        {"RoleArn": "nobody-in-particular-at-all"},
        {"ResourceConfig": {"InstanceType": "ml.abacus", "VolumeSizeInGB": 30}},
        {"ResourceConfig": {"InstanceCount": "2", "VolumeSizeInGB": 30}},
        {"Extra": 1},
    ],
)
def test_the_check_itself_finds_what_is_wrong(dry_run, refused, changes):
    assert refused({**dry_run({}), **changes})


def test_submits_what_the_dry_run_prints(command, dry_run, source, monkeypatch):
    pytest.importorskip("boto3")
    service = Service()
    for name, value in service.variables().items():
        monkeypatch.setenv(name, value)
    (source / "labels.txt").write_text("greet\n", encoding="utf-8")
    (source / "requirements.txt").write_text("unidecode\n", encoding="utf-8")
    _, out = command({"source": source})
    (job,) = service.jobs
    assert f"training-job/{job['TrainingJobName']}" in out
    printed = dry_run({})
    assert json.dumps(job).replace(job["TrainingJobName"], printed["TrainingJobName"]) == json.dumps(printed)
    ((place, packed),) = service.objects.items()
    assert f"s3:/{place}" == job["HyperParameters"]["sagemaker_submit_directory"]
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        names = archive.getnames()
        texts = {name: archive.extractfile(name).read().decode() for name in ("config.yaml", "requirements.txt")}
    assert {"train.py", "config.yaml", "requirements.txt", "labels.txt", "lightning_kd/cli/fit.py"} <= set(names)
    assert not any("__pycache__" in name for name in names)
    assert texts["config.yaml"] == PACKED
    required = [re.split(r"[\[<>=]", line)[0] for line in texts["requirements.txt"].splitlines()]
    assert {"lightning", "transformers", "torchmetrics", "unidecode"} <= set(required)
    assert not {"torch", "pytest", "torchao", "boto3"} & set(required)


@pytest.fixture
def aws():
    """S3, with a bucket, and SageMaker as moto imitates them."""
    moto = pytest.importorskip("moto")
    with moto.mock_aws():
        session = pytest.importorskip("boto3").Session(region_name="eu-west-1")
        location = {"LocationConstraint": "eu-west-1"}
        session.client("s3").create_bucket(Bucket="bucket", CreateBucketConfiguration=location)
        yield session


def test_the_job_that_moto_creates(command, aws):
    more = {"region": "eu-west-1", "checkpoint_s3_uri": "s3://bucket/old", "hyperparameters": "trainer.max_epochs=3"}
    code, out = command(more, "--use_spot_instances")
    assert code == 0
    name = out.split("/")[-1].strip()
    job = aws.client("sagemaker").describe_training_job(TrainingJobName=name)
    _, printed = command(more, "--use_spot_instances", "--dry_run")
    request = json.loads(re.sub(rf"{name[:-19]}[-\d]{{19}}", name, printed))
    for description in (job, request):
        description["AlgorithmSpecification"].pop("MetricDefinitions")  # moto (5.2) describes others
    assert {key: job[key] for key in request} == request
    bucket, _, key = job["HyperParameters"]["sagemaker_submit_directory"].removeprefix("s3://").partition("/")
    packed = aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert {"train.py", "config.yaml", "requirements.txt"} <= set(archive.getnames())


def test_no_job_without_its_source(command, aws):
    code, _ = command({"region": "eu-west-1", "output_path": "s3://another/kd"})
    assert "NoSuchBucket" in code
    assert "\n" not in code
    assert aws.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "admin"}, "role: must be such as arn:aws:iam::123456789012:role/training, got 'admin'"),
        ({"instance_type": "g5.xlarge"}, "instance_type: must be such as ml.g5.xlarge, got 'g5.xlarge'"),
        ({"output_path": "/data"}, "output_path: must be such as s3://bucket/prefix, got '/data'"),
        ({"base_job_name": "my_job"}, "base_job_name: must be of up to 43 letters, digits and hyphens, got 'my_job'"),
        ({"base_job_name": "x" * 44}, "base_job_name: must be of up to 43"),
        ({"instance_count": 0}, "instance_count: must be >= 1, got 0"),
        ({"max_run": 0}, "max_run: must be in [60, 2419200] seconds, got 0"),
        (
            {"channels.training": "texts"},
            "channels.training: must be an S3 URI such as s3://bucket/prefix, got 'texts'",
        ),
        ({"channels.a-b": "s3://b/c"}, "channels: a name must consist of letters, digits and underscores, got 'a-b'"),
        ({"config": "gone.yaml"}, "config: 'gone.yaml' does not exist"),
        ({"source": "gone"}, "source: 'gone' does not exist"),
        ({"hyperparameters": "model.warmup_ratio"}, "hyperparameters: must be key=value"),
        ({"hyperparameters": "config=other.yaml"}, "hyperparameters: config is reserved; use --config"),
        ({"hyperparameters": "model.warm_up=1"}, "model.warm_up"),
        ({"hyperparameters": "model.losses.hard.init_args.weigth=1"}, "'weigth' is not accepted"),
        ({"hyperparameters": "model.teacher=${SM_CHANNEL_TEACHER}"}, "${SM_CHANNEL_TEACHER} is not set, the channels"),
        ({"channels.Training": "s3://b/c"}, "channels: two names become SM_CHANNEL_TRAINING"),
        ({"request": '{"RoleArn": "x", "VpcConfig": {}}'}, "request: RoleArn follows from other arguments"),
        ({"request": '{"InputDataConfig": []}'}, "request: InputDataConfig follows from other arguments"),
        ({"request": '{"VpcConfg": {}}'}, 'request: Unknown parameter in input: "VpcConfg"'),
        ({"request": '{"Environment": {"A": 1}}'}, "request: Invalid type for parameter Environment.A"),
    ],
)
def test_what_would_fail_there_is_refused_here(command, changes, message):
    code, _ = command(changes, "--dry_run")
    assert message in str(code)
    assert "\n" not in str(code)


@pytest.mark.parametrize("again", ["a.b=2", "a__b=1"])
def test_hyperparameter_given_twice(command, again):
    assert "hyperparameters: a.b is given twice" in command({}, "--dry_run", "--hyperparameters", "a.b=1", again)[0]


def test_classes_of_the_users_source(dry_run, source):
    code = "from lightning_kd.losses import HardLabelLoss\n\n\nclass Own(HardLabelLoss):\n    pass\n"
    (source / "my_losses_there.py").write_text(code, encoding="utf-8")
    path = list(sys.path)
    request = dry_run({"source": source, "hyperparameters": "model.losses.own=my_losses_there.Own"})
    assert request["HyperParameters"]["model.losses.own"] == "my_losses_there.Own"
    assert sys.path == path


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")  # the command line silences it
@pytest.mark.parametrize(
    "field", ["model.teacher", "model.student.config", "model.student.pretrained", "data.init_args.tokenizer"]
)
def test_what_is_only_on_this_machine(arguments, source, tmp_path, monkeypatch, field):
    monkeypatch.chdir(tmp_path)
    save_model(tiny_bert(), source / "net" / "work")
    save_model(tiny_bert(), source / "lightning_logs" / "student")
    settings = {"channels": {"training": "s3://bucket/texts"}, "output_path": arguments["output_path"]}

    def check(path, packed):
        job = Job(ROLE, IMAGE, "ml.g5.xlarge", hyperparameters=[f"{field}={path}"], **settings)
        return check_config(arguments["config"], job, packed)

    only_here = [("own/net", None), (source / "net" / "work", source), ("runs/not/yet", None), ("../own/net", source)]
    only_here.append(("lightning_logs/student", source))  # which is left out
    for path, packed in only_here:
        named = f"^{field.replace('.init_args', '')}.*: '{re.escape(str(path))}'"
        with pytest.raises(ValueError, match=f"{named} does not exist in the job; copy it to S3"):
            check(path, packed)
    for path, packed in (("net/work", source), ("org/name", None), ("/opt/in-the-image", None)):
        assert check(path, packed) == "val/accuracy"


def test_reserved_name_in_the_users_source(command, source):
    (source / "train.py").touch()
    code, _ = command({"source": source}, "--dry_run")
    assert f"source: '{source / 'train.py'}' has a reserved name" in code


def test_boto3_is_missed_before_anything_else(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert "pip install 'lightning-kd[sagemaker]'" in command({"config": "gone"})[0]

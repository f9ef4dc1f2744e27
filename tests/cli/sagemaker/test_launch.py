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
def launch(shell, capsys):
    def run(arguments, *more):
        code, last = shell("sagemaker", *(f"--{name}={value}" for name, value in arguments.items()), *more)
        assert code == 0, (code, last)
        return capsys.readouterr().out

    return run


def violations(model, shape, value, at):
    """What a value breaks of SageMaker's own description: keys, types, lengths, numbers, patterns, enumerations."""
    rules = shape.metadata
    kinds = {"structure": dict, "map": dict, "list": list, "string": str, "integer": int, "boolean": bool}
    if not isinstance(value, kinds[shape.type_name]) or (shape.type_name == "integer" and isinstance(value, bool)):
        return [f"{at}: {value!r} is no {shape.type_name}"]
    size = value if shape.type_name == "integer" else len(value) if shape.type_name != "boolean" else None
    found = []
    if size is not None and not rules.get("min", size) <= size <= rules.get("max", size):
        found.append(f"{at}: {size} is out of range")
    if shape.type_name == "string":
        if "pattern" in rules and not re.fullmatch(rules["pattern"], value):
            found.append(f"{at}: {value!r} is not like {rules['pattern']}")
        if shape.enum and value not in shape.enum:
            found.append(f"{at}: {value!r} is none of {shape.enum}")
    elif shape.type_name == "structure":
        found += [f"{at}: no {name}" for name in shape.required_members if name not in value]
        for name, part in value.items():
            if name not in shape.members:
                found.append(f"{at}: unknown {name}")
            else:
                found += violations(model, shape.members[name], part, f"{at}.{name}")
    elif shape.type_name == "list":
        found += [v for n, part in enumerate(value) for v in violations(model, shape.member, part, f"{at}[{n}]")]
    elif shape.type_name == "map":
        for name, part in value.items():
            found += violations(model, shape.key, name, f"{at} key")
            found += violations(model, shape.value, part, f"{at}.{name}")
    return found


@pytest.fixture(scope="module")
def refused():
    """What SageMaker's description of CreateTrainingJob, and botocore's own check, say against a request."""
    session = pytest.importorskip("botocore.session")
    validate = pytest.importorskip("botocore.validate")
    model = session.get_session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTrainingJob").input_shape

    def check(request):
        report = validate.ParamValidator().validate(request, shape)
        return violations(model, shape, request, "request") + ([report.generate_report()] * report.has_errors())

    return check


def test_request_is_what_the_service_describes(launch, arguments, refused):
    changes = ["model.losses.hard.init_args.weight=0.25", "data.init_args.path=${SM_CHANNEL_TRAINING}"]
    given = ["--dry_run", "--use_spot_instances", "--instance_count=2", "--hyperparameters", *changes]
    request = json.loads(launch(arguments, *given))
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


def test_the_smallest_request(launch, arguments, refused):
    del arguments["channels.training"]
    arguments["config"].write_text(PACKED.replace("${SM_CHANNEL_TRAINING}", "clinc/clinc_oos"), encoding="utf-8")
    request = json.loads(launch(arguments, "--dry_run"))
    assert refused(request) == []
    assert "InputDataConfig" not in request
    assert "MaxWaitTimeInSeconds" not in request["StoppingCondition"]


def test_further_fields(launch, arguments, refused):
    subnets = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
    more = {"Environment": {"HF_HUB_OFFLINE": "1"}, "VpcConfig": subnets}
    request = json.loads(
        launch(arguments, "--dry_run", f"--request={json.dumps(more)}", "--checkpoint_s3_uri=s3://bucket/old")
    )
    assert refused(request) == []
    assert {name: request[name] for name in more} == more
    assert request["CheckpointConfig"]["S3Uri"] == "s3://bucket/old"


def test_the_check_itself_finds_what_is_wrong(launch, arguments, refused):
    request = json.loads(launch(arguments, "--dry_run"))
    request["RoleArn"] = "nobody-in-particular-at-all"
    request["ResourceConfig"]["InstanceType"] = "ml.abacus"
    request["ResourceConfig"]["InstanceCount"] = "2"
    request["Extra"] = 1
    assert len(refused(request)) >= 4


def test_submits_what_the_dry_run_prints(launch, arguments, monkeypatch, tmp_path):
    pytest.importorskip("boto3")
    service = Service()
    for name, value in service.variables().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "labels.txt").write_text("greet\n", encoding="utf-8")
    (tmp_path / "own" / "requirements.txt").write_text("unidecode\n", encoding="utf-8")
    out = launch(arguments, f"--source={tmp_path / 'own'}")
    (job,) = service.jobs
    assert f"training-job/{job['TrainingJobName']}" in out
    printed = json.loads(launch(arguments, "--dry_run"))
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
    ],
)
def test_what_would_fail_there_is_refused_here(shell, arguments, changes, message):
    given = [f"--{name}={value}" for name, value in {**arguments, **changes}.items()]
    code, _ = shell("sagemaker", "--dry_run", *given)
    assert message in str(code)
    assert "\n" not in str(code)


@pytest.mark.parametrize("again", ["model.warmup_ratio=0.2", "model__warmup_ratio=0.1"])
def test_hyperparameter_given_twice(shell, arguments, again):
    given = (f"--{name}={value}" for name, value in arguments.items())
    code, _ = shell("sagemaker", "--dry_run", *given, "--hyperparameters", "model.warmup_ratio=0.1", again)
    assert "hyperparameters: model.warmup_ratio is given twice" in code


@pytest.mark.parametrize("field", ['{"VpcConfg": {}}', '{"Environment": {"LIGHTNING_KD_DEBUG": 1}}'])
def test_further_field_that_the_service_does_not_describe(shell, arguments, field):
    pytest.importorskip("botocore")
    code, _ = shell("sagemaker", "--dry_run", *(f"--{n}={v}" for n, v in {**arguments, "request": field}.items()))
    assert "request: Parameter validation failed" in code or "nknown parameter" in code or "Invalid type" in code


def test_classes_of_the_users_source(launch, arguments, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    code = "from lightning_kd.losses import HardLabelLoss\n\n\nclass Own(HardLabelLoss):\n    pass\n"
    (own / "my_losses_there.py").write_text(code, encoding="utf-8")
    path = list(sys.path)
    change = "model.losses.own=my_losses_there.Own"
    request = json.loads(launch({**arguments, "source": own, "hyperparameters": change}, "--dry_run"))
    assert request["HyperParameters"]["model.losses.own"] == "my_losses_there.Own"
    assert sys.path == path


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")  # the command line silences it
@pytest.mark.parametrize(
    "field", ["model.teacher", "model.student.config", "model.student.pretrained", "data.init_args.tokenizer"]
)
def test_what_is_only_on_this_machine(arguments, tmp_path, monkeypatch, field):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own"
    save_model(tiny_bert(), own / "net" / "work")
    settings = {"channels": {"training": "s3://bucket/texts"}, "output_path": arguments["output_path"]}

    def look(place, source=None):
        job = Job(ROLE, IMAGE, "ml.g5.xlarge", hyperparameters=[f"{field}={place}"], **settings)
        return check_config(arguments["config"], job, source)

    only_here = [("own/net", None), (own / "net" / "work", own), ("runs/not/yet", None), ("../own/net", own)]
    for place, source in only_here:
        message = (
            f"^{field.replace('.init_args', '')}.*: '{re.escape(str(place))}' does not exist in the job; copy it to S3"
        )
        with pytest.raises(ValueError, match=message):
            look(place, source)
    for place, source in (("net/work", own), ("org/name", None), ("/opt/in-the-image", None)):
        assert look(place, source) == "val/accuracy"


def test_file_of_the_users_in_the_way_of_ours(shell, arguments, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.py").touch()
    code, _ = shell(
        "sagemaker", "--dry_run", *(f"--{n}={v}" for n, v in {**arguments, "source": tmp_path / "own"}.items())
    )
    assert "has a reserved name" in code


def test_boto3_is_missed_before_anything_else(shell, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    code, _ = shell("sagemaker", *(f"--{name}={value}" for name, value in {**arguments, "config": "gone"}.items()))
    assert "pip install 'lightning-kd[sagemaker]'" in code

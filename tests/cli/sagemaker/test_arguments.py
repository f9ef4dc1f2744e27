import pytest

from lightning_kd.cli.sagemaker.arguments import config_overrides, substitute_env

VARIABLES = {"SM_CHANNEL_TEXTS": "/opt/ml/input/data/texts", "SM_MODEL_DIR": "/opt/ml/model"}


@pytest.mark.parametrize(
    ("hyperparameters", "expected"),
    [
        ({"a.b": True}, ["--a.b=true"]),
        ({"a.b": None}, ["--a.b=null"]),
        ({"a.b": 1e-4}, ["--a.b=0.0001"]),
        ({"a.b": [1, 2]}, ["--a.b=[1, 2]"]),
        ({"a.b": "a b"}, ["--a.b=a b"]),
        ({"a.init_args.b": 9, "a": "B", "a__init_args": 1}, ["--a=B", "--a.init_args=1", "--a.init_args.b=9"]),
        ({"sagemaker_torch_distributed_enabled": True, "_tuning_objective_metric": "x", "config": "other.yaml"}, []),
    ],
)
def test_overrides_in_yaml_a_class_before_its_arguments_without_reserved_names(hyperparameters, expected):
    assert config_overrides(hyperparameters, {}) == expected


def test_only_the_services_variables_are_filled_in():
    text = "cost: $5 ${HOME} $SM_MODEL_DIR ${SM_CHANNEL_TEXTS}/a.csv"
    assert substitute_env(text, VARIABLES, "x") == "cost: $5 ${HOME} $SM_MODEL_DIR /opt/ml/input/data/texts/a.csv"


def test_what_is_not_set_is_named_with_what_is():
    message = r"x: \$\{SM_CHANNEL_TEXT\} is not set, the channels of this job are SM_CHANNEL_TEXTS;"
    with pytest.raises(ValueError, match=message):
        substitute_env("${SM_CHANNEL_TEXT}", VARIABLES, "x")

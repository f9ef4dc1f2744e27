import pytest

from lightning_kd.cli.sagemaker.arguments import config_overrides, substitute_env

VARIABLES = {"SM_CHANNEL_TEXTS": "/opt/ml/input/data/texts", "SM_MODEL_DIR": "/opt/ml/model"}


def test_a_class_comes_before_its_arguments_however_they_are_spelt():
    given = {"model.losses.soft.init_args.temperature": 9, "model__losses__soft": "SoftTargetLoss"}
    assert config_overrides(given, {}) == [
        "--model.losses.soft=SoftTargetLoss",
        "--model.losses.soft.init_args.temperature=9",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (None, "null"), (1e-4, "0.0001"), ([1, 2], "[1, 2]"), ("a b", "a b")]
)
def test_values_are_what_yaml_reads(value, text):
    assert config_overrides({"a.b": value}, {}) == [f"--a.b={text}"]


def test_the_services_own_names_are_none_of_the_config():
    own = {
        "sagemaker_program": "train.py",
        "sagemaker_torch_distributed_enabled": True,
        "_tuning_objective_metric": "x",
    }
    assert config_overrides({**own, "config": "other.yaml"}, {}) == []


def test_only_the_services_variables_are_filled_in():
    text = "cost: $5 ${HOME} $SM_MODEL_DIR ${SM_CHANNEL_TEXTS}/a.csv"
    assert substitute_env(text, VARIABLES, "x") == "cost: $5 ${HOME} $SM_MODEL_DIR /opt/ml/input/data/texts/a.csv"


def test_what_is_not_set_is_named_with_what_is():
    with pytest.raises(
        ValueError, match=r"x: \$\{SM_CHANNEL_TEXT\} is not set, the channels of this job are SM_CHANNEL_TEXTS;"
    ):
        substitute_env("${SM_CHANNEL_TEXT}", VARIABLES, "x")

"""Students are loaded with their weights, or built from a configuration."""

import json
from pathlib import Path

import pytest
import torch

from lightning_kd import DistillationModule, models
from tests.helpers import LABELS, TINY_BERT, save_model, tiny_bert, version_dir

CLASSIFIER = "AutoModelForSequenceClassification"


def test_config_with_other_fields():
    config = models.student_config({"config": str(TINY_BERT), "num_hidden_layers": 2, "hidden_dropout_prob": 0.3})
    assert (config.num_hidden_layers, config.hidden_dropout_prob) == (2, 0.3)
    assert config.hidden_size == 96  # as in tiny-bert


def test_unknown_field():
    with pytest.raises(ValueError, match=r"student\.layers: BertConfig has no such field.*num_hidden_layers"):
        models.student_config({"config": str(TINY_BERT), "layers": 2})


@pytest.mark.parametrize("num_layers", [0, -1])
def test_no_layer(num_layers):
    with pytest.raises(ValueError, match=rf"^student\.num_hidden_layers: must be >= 1, got {num_layers}$"):
        models.student_config({"config": str(TINY_BERT), "num_hidden_layers": num_layers})


def test_pretrained_with_options(tmp_path):
    saved = tiny_bert()
    source = models.parse_student(
        {"pretrained": Path(save_model(saved, tmp_path)), "attn_implementation": "eager", "dtype": torch.bfloat16}
    )
    assert source == {"pretrained": str(tmp_path), "attn_implementation": "eager", "dtype": "bfloat16"}
    assert models.pretrained_config(source).id2label == dict(enumerate(LABELS))
    student, _ = models.build_student(source, CLASSIFIER, None)
    assert torch.equal(student.bert.pooler.dense.weight, saved.bert.pooler.dense.weight.bfloat16())
    rebuilt, _ = models.build_student(
        json.loads(json.dumps({"config": models.config_to_dict(student)})), CLASSIFIER, None
    )
    for model in (student, rebuilt):
        assert (model.dtype, model.config._attn_implementation) == (torch.bfloat16, "eager")


def test_subfolder(tmp_path):
    save_model(tiny_bert(), tmp_path / "inner")
    student, _ = models.build_student({"pretrained": str(tmp_path), "subfolder": "inner"}, CLASSIFIER, None)
    assert student.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("source", ["folder", {"config": "folder"}, {"config": {"model_type": "bert"}}, tiny_bert()])
def test_valid_sources_are_kept(source):
    assert models.parse_student(source) is source or models.parse_student(source) == source


@pytest.mark.parametrize(
    ("source", "field", "detail"),
    [
        ({"num_hidden_layers": 2}, "student", r"\['num_hidden_layers'\]"),
        ({}, "student", r"\[\]"),
        ({"pretrained": "x", "config": "x"}, "student", "'pretrained' and 'config'"),
        ({"config": {"model_type": "bert"}, "num_hidden_layers": 2}, r"student\.num_hidden_layers", "student.config"),
        ({"pretrained": "x", "device_map": "auto"}, r"student\.device_map", "remove"),
        ({"pretrained": "x", "quantization_config": {}}, r"student\.quantization_config", "remove"),
        ({"pretrained": "x", "trust_remote_code": True}, r"student\.trust_remote_code", "remove"),
        ({"pretrained": "x", "key_mapping": object()}, r"student\.key_mapping", "object"),
        ({"pretrained": tiny_bert(), "dtype": "bfloat16"}, r"student\.pretrained", "Bert"),
    ],
)
def test_invalid_sources(source, field, detail):
    with pytest.raises(ValueError, match=rf"^{field}: .*{detail}"):
        models.parse_student(source)


def test_field_of_the_configuration_beside_pretrained(tmp_path):
    source = {"pretrained": save_model(tiny_bert(), tmp_path), "num_hidden_layers": 1}
    with pytest.raises(ValueError, match=r"^student\.num_hidden_layers: "):
        models.build_student(source, CLASSIFIER, None)


def test_saved_configuration_comes_back_through_json():
    model = tiny_bert(hidden_dropout_prob=0.3)
    saved = json.loads(json.dumps({"config": models.config_to_dict(model)}))
    assert models.student_config(saved).to_dict() == model.config.to_dict()
    rebuilt, _ = models.build_student(saved, CLASSIFIER, None)
    rebuilt.load_state_dict(model.state_dict())
    assert rebuilt.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_map": {CLASSIFIER: "some/model--code.Model"}},
        {"attn_implementation": "some/kernel"},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
def test_saved_configuration_that_would_load_code(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=rf"^student\.config\.{name}.*: not taken from a checkpoint.*pass student="):
        models.student_config({"config": {"model_type": "bert", **fields}})


def test_pretrained_student_in_runs(tmp_path, config, shell):
    folder = save_model(tiny_bert(), tmp_path / "model")
    student = f"--model.student={{pretrained: {folder}, attn_implementation: eager}}"
    assert shell("fit", "--config", config, student, "--trainer.max_epochs=1")[0] == 0
    checkpoint = version_dir(tmp_path) / "checkpoints" / "best.ckpt"
    assert shell("test", "--config", config, student, f"--ckpt_path={checkpoint}")[0] == 0
    resumed = shell("fit", "--resume", version_dir(tmp_path), "--trainer.max_epochs=2")
    assert resumed[0] == 0, resumed
    loaded = DistillationModule.load_from_checkpoint(checkpoint)
    assert loaded.student.config._attn_implementation == "eager"

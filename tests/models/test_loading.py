"""Networks are built and called here, and errors say which network and what to do."""

import json

import pytest
import torch
import transformers
from torch import nn

from lightning_kd import models
from tests.helpers import LABELS, TINY_BERT, save_model, tiny_bert

CLASSIFIER = "AutoModelForSequenceClassification"


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


def replace(old, new):
    return lambda file: file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("file", "damage", "detail"),
    [
        ("model.safetensors", lambda file: file.unlink(), "model.safetensors"),
        ("model.safetensors", cut, "incomplete"),
        ("model.safetensors", lambda file: file.write_bytes(b""), "header"),
        ("config.json", lambda file: file.write_text("{"), "not a valid JSON file"),
        ("config.json", lambda file: file.write_text("{}"), "model_type"),
        ("config.json", replace('"bert"', '"brt"'), "brt"),
        ("config.json", replace('"gelu"', '"gelo"'), "gelo"),
        ("config.json", replace('"hidden_size": 16', '"hidden_size": "16"'), "hidden_size"),
        ("config.json", replace('"hidden_size": 16', '"hidden_size": 32'), "mismatch"),
    ],
)
def test_broken_folder_is_named(tmp_path, file, damage, detail):
    folder = save_model(tiny_bert(), tmp_path / "my teacher")
    damage(tmp_path / "my teacher" / file)
    with pytest.raises(OSError, match=r"^teacher '.*my teacher' is on disk but cannot be loaded: .+") as caught:
        models.load_model(folder, CLASSIFIER, "teacher")
    assert detail in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["no/where", "nobody", "some/where/else", "./nothing", "/no where"])
def test_nothing_there_names_the_remedy(source):
    remedy = r"neither a folder here nor a model that the hub could give.*the path of a local folder"
    for load, what in (
        (lambda: models.load_model(source, CLASSIFIER, "student"), "student"),
        (lambda: models.load_config(source, "student config"), "student config"),
        (lambda: models.load_tokenizer(source, "tokenizer"), "tokenizer"),
    ):
        with pytest.raises(OSError, match=rf"^{what} '{source}' is {remedy}"):
            load()


def test_folder_without_a_tokenizer(tmp_path):
    """transformers 5 makes one of five special tokens up: every word would be unknown."""
    tiny_bert().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"tokenizer '.*' is on disk but cannot be loaded: .*vocabulary"):
        models.load_tokenizer(str(tmp_path), "tokenizer")


@pytest.mark.parametrize("content", ["{", "{}"])
def test_folder_with_a_broken_tokenizer(tmp_path, content):
    folder = save_model(tiny_bert(), tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(OSError, match=r"teacher tokenizer '.*' is on disk but cannot be loaded"):
        models.load_tokenizer(folder, "teacher tokenizer")


def test_model_is_float32_and_in_eval_mode(tmp_path):
    folder = save_model(tiny_bert().half(), tmp_path)
    model = models.load_model(folder, CLASSIFIER, "teacher")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training


def test_head_of_another_size_is_fresh_and_the_body_is_kept(tmp_path):
    saved = tiny_bert(labels=["a", "b"])
    model = models.load_model(save_model(saved, tmp_path), CLASSIFIER, "student", LABELS)
    assert model.classifier.out_features == 3
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {"greet": 0, "leave": 1, "oos": 2}
    assert torch.equal(model.bert.pooler.dense.weight, saved.bert.pooler.dense.weight)


class NamedInputs(nn.Module):
    def forward(self, input_ids, attention_mask=None, labels=None):
        return input_ids, attention_mask, labels


def test_call_model_passes_only_named_inputs():
    batch = {n: torch.tensor([i]) for i, n in enumerate(("token_type_ids", "labels", "input_ids", "row_id"))}
    assert models.call_model(NamedInputs(), batch) == (batch["input_ids"], None, None)


def test_student_of_a_config_with_other_fields():
    config = models.student_config({"config": str(TINY_BERT), "num_hidden_layers": 2, "hidden_dropout_prob": 0.3})
    assert (config.num_hidden_layers, config.hidden_dropout_prob) == (2, 0.3)
    assert config.hidden_size == 96  # the base's


def test_student_that_is_no_configuration():
    with pytest.raises(ValueError, match=r"student\.layers: BertConfig has no such field.*num_hidden_layers"):
        models.student_config({"config": str(TINY_BERT), "layers": 2})
    with pytest.raises(ValueError, match=r"needs the key 'config' .*, got \['num_hidden_layers'\]"):
        models.student_config({"num_hidden_layers": 2})


def test_saved_configuration_comes_back_through_json():
    model = tiny_bert(hidden_dropout_prob=0.3)
    saved = json.loads(json.dumps({"config": models.config_to_dict(model)}))
    config = models.student_config(saved)
    assert config.to_dict() == model.config.to_dict()
    rebuilt = models.build_student(saved, CLASSIFIER, None)
    rebuilt.load_state_dict(model.state_dict())
    assert rebuilt.config.id2label == dict(enumerate(LABELS))


SMALL = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
DISTILBERT = {"vocab_size": 50, "dim": 16, "n_heads": 2, "hidden_dim": 32, "n_layers": 3}


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "mpnet", "electra", "albert"])
def test_encoder_layers(model_type):
    sizes = DISTILBERT if model_type == "distilbert" else {**SMALL, "num_hidden_layers": 3}
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    found = models.encoder_layers(model)
    if model_type == "albert":
        assert found is None  # its layers share their weights
        return
    name, layers = found
    assert model.get_submodule(name) is layers
    assert len(layers) == 3
    assert sum(p.numel() for p in layers.parameters()) > sum(p.numel() for p in layers[0].parameters()) * 2


def test_tied_parameters_count_once():
    config = transformers.BertConfig(**SMALL, num_hidden_layers=1)
    tied, own = (
        transformers.BertForMaskedLM(transformers.BertConfig(**{**config.to_dict(), "tie_word_embeddings": tie}))
        for tie in (True, False)
    )
    assert models.count_model_parameters(own) - models.count_model_parameters(tied) >= 50 * 16

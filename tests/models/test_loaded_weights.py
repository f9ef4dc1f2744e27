"""Weights that a checkpoint lacks, or that its configuration has no place for."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from lightning_kd import models

CLASSIFIER, SPANS, TOKENS, BODY = (
    "AutoModelForSequenceClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMaskedLM",
    "AutoModel",
)
AUTO_CLASSES = (CLASSIFIER, SPANS, TOKENS, BODY)
SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "num_hidden_layers": 3,
    "max_position_embeddings": 16,
}
FAMILIES = {
    "albert": {"embedding_size": 4, "num_hidden_groups": 3},
    "bert": {},
    "deberta-v2": {"relative_attention": True, "position_biased_input": False},
    "distilbert": {},
    "electra": {"embedding_size": 4},
    "modernbert": {"global_attn_every_n_layers": 2, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2},
    "roberta": {},
}


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    """Return the folder of a tiny model of each auto class."""
    folder = tmp_path_factory.mktemp(request.param)
    config = AutoConfig.for_model(request.param, **SIZES, **FAMILIES[request.param])
    for auto_class in AUTO_CLASSES:
        getattr(transformers, auto_class).from_config(config).save_pretrained(folder / auto_class)
    return folder


def change_weights(folder, target, change):
    """Copy a model, with ``change`` applied to its weights by name."""
    weights = change(load_file(folder / "model.safetensors"))
    target.mkdir()
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_text((folder / "config.json").read_text())
    return str(target)


def change_config(folder, target, **fields):
    copy = change_weights(folder, target, dict)
    file = target / "config.json"
    config = json.loads(file.read_text())
    assert fields.keys() <= config.keys()
    file.write_text(json.dumps({**config, **fields}))
    return copy


@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
@pytest.mark.parametrize("source", [CLASSIFIER, TOKENS, BODY])
def test_head_of_another_task(saved, source, auto_class):
    """A student gets a fresh head; a model that is used as it is must have one."""
    folder = str(saved / source)
    model, fresh = models.load_for_training(folder, auto_class, "student")
    assert not fresh or auto_class not in (source, BODY)
    body, pooler = (f"{model.base_model_prefix}.{part}" for part in ("", "pooler."))
    assert all(name.startswith(pooler) or not name.startswith(body) for name in fresh)
    if not fresh:
        models.load_model(folder, auto_class, "teacher")
        return
    message = rf"^teacher '.*{source}': the checkpoint has no trained head, {len(fresh)} weights? \({fresh[0]}.* null"
    with pytest.raises(ValueError, match=message):
        models.load_model(folder, auto_class, "teacher")


@pytest.mark.parametrize("source", [CLASSIFIER, BODY])
@pytest.mark.parametrize("auto_class", [CLASSIFIER, BODY])
def test_body_lacks_a_weight(saved, tmp_path, source, auto_class):
    norms = ("embeddings.LayerNorm.weight", "embeddings.norm.weight")

    def drop_norm(weights):
        return {name: weight for name, weight in weights.items() if not name.endswith(norms)}

    folder = change_weights(saved / source, tmp_path / "holes", drop_norm)
    with pytest.raises(
        ValueError, match=r"^student '.*holes': the checkpoint lacks 1 weight \(\S+\) of the body; copy"
    ):
        models.load_for_training(folder, auto_class, "student")


@pytest.mark.parametrize("source", [CLASSIFIER, BODY])
@pytest.mark.parametrize("auto_class", [CLASSIFIER, BODY])
def test_configuration_of_fewer_layers(saved, tmp_path, source, auto_class):
    fields = {
        "albert": {"num_hidden_groups": 1},
        "distilbert": {"n_layers": 1},
        "modernbert": {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
    }
    fields = fields.get(saved.name.rstrip("0"), {"num_hidden_layers": 1})
    folder = change_config(saved / source, tmp_path / "cut", **fields)
    with pytest.raises(
        ValueError, match=r"^student '.*cut': config.json has no place for \d\d weights \(.*, \.\.\.\) of"
    ):
        models.load_for_training(folder, auto_class, "student")


def test_configuration_of_another_shape(saved, tmp_path):
    folder = change_config(saved / BODY, tmp_path / "narrow", vocab_size=30)
    with pytest.raises(ValueError, match=r"^student '.*narrow': config.json gives another shape to 1 weight \(.*embed"):
        models.load_for_training(folder, CLASSIFIER, "student", 5)


def test_tied_embeddings_are_not_missing(saved, tmp_path):
    """A checkpoint may have the decoder in place of the word embeddings."""
    whole = transformers.AutoModelForMaskedLM.from_pretrained(saved / TOKENS)
    embeddings = whole.get_input_embeddings().weight
    names = [name for name, weight in whole.state_dict(keep_vars=True).items() if weight is embeddings]

    def move(weights):
        first = next(name for name in names if name in weights)
        return {names[1 - names.index(first)] if name == first else name: weight for name, weight in weights.items()}

    loaded = models.load_model(change_weights(saved / TOKENS, tmp_path / "moved", move), TOKENS, "teacher")
    assert torch.equal(loaded.get_input_embeddings().weight, embeddings)


def test_left_over_buffers_and_heads_are_ignored(saved, tmp_path):
    prefix = transformers.AutoModel.from_pretrained(saved / BODY).base_model_prefix
    extra = [f"{prefix}.embeddings.position_ids", f"{prefix}.pooler.dense.weight", "cls.seq_relationship.bias"]

    def add(weights):
        return {name: torch.zeros(2) for name in extra} | weights

    loaded = models.load_model(change_weights(saved / SPANS, tmp_path / "old", add), SPANS, "teacher")
    assert not set(extra) & dict(loaded.named_parameters()).keys()

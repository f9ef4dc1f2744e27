"""Copying layers, embeddings and heads, within a family and into DistilBERT."""

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from lightning_kd.models.layer_initialization import copy_layers
from tests.helpers import FAMILIES, LABELS, TEXT, random_model, tiny_bert


@torch.no_grad()
def logits(model):
    return model(input_ids=TEXT, attention_mask=torch.ones_like(TEXT)).logits


def layer(model, index):
    return model.bert.encoder.layer[index].state_dict()


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", FAMILIES)
def test_all_layers_make_the_same_model(kind):
    source, student = random_model(kind, 3, seed=1), random_model(kind, 3, seed=2)
    assert not torch.equal(logits(source), logits(student))
    report = copy_layers(source, student, None)
    assert report.skipped == []
    assert torch.equal(logits(source), logits(student))


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("layers", [3, 2])
def test_into_distilbert(kind, layers):
    # the reference is a model of the source's family with the same layers
    like = {"layer_norm_eps": 1e-12, "max_position_embeddings": 32 if kind == "bert" else 34}
    source = random_model(kind, 3, seed=1, **like)
    student = random_model("distilbert", layers, seed=2, pad_token_id=source.config.pad_token_id)
    same_kind = random_model(kind, layers, seed=3, **like)
    report = copy_layers(source, student, "last")
    copy_layers(source, same_kind, "last")
    assert report.skipped == []
    torch.testing.assert_close(logits(student), logits(same_kind), atol=1e-5, rtol=1e-5)


def test_pad_token_ids_differ():
    source = random_model("roberta", 2, seed=1, max_position_embeddings=34)
    with pytest.raises(ValueError, match=r"LayerInitialization: pad_token_id is 1 .* 0 .*pad_token_id: 1"):
        copy_layers(source, random_model("distilbert", 1, seed=2), None)


def test_classification_head_is_not_copied_into_distilbert():
    source = random_model("bert", 2, seed=1, auto_class=AutoModelForSequenceClassification)
    student = random_model("distilbert", 1, seed=2, auto_class=AutoModelForSequenceClassification)
    before = student.classifier.weight.clone()
    report = copy_layers(source, student, None)
    assert report.skipped == ["pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"]
    assert torch.equal(before, student.classifier.weight)


def test_question_answering_head_is_copied_into_distilbert():
    source = random_model("bert", 2, seed=1, auto_class=AutoModelForQuestionAnswering)
    student = random_model("distilbert", 1, seed=2, auto_class=AutoModelForQuestionAnswering)
    report = copy_layers(source, student, [1])
    assert report.copied == [("embeddings", "embeddings"), ("layer 0", "layer 1"), ("qa_outputs", "head")]
    assert equal(student.qa_outputs.state_dict(), source.qa_outputs.state_dict())


def test_selected_layers_embeddings_and_head_are_copied():
    source, student = tiny_bert(layers=5, seed=1), tiny_bert(layers=2, seed=2)
    report = copy_layers(source, student, [3, -1])
    assert (report.layers, report.skipped) == ([3, 4], [])
    assert report.copied[:3] == [("embeddings", "embeddings"), ("layer 0", "layer 3"), ("layer 1", "layer 4")]
    assert equal(layer(student, 0), layer(source, 3))
    assert equal(layer(student, 1), layer(source, 4))
    assert equal(student.bert.embeddings.state_dict(), source.bert.embeddings.state_dict())
    assert equal(student.classifier.state_dict(), source.classifier.state_dict())
    student.classifier.bias.detach().add_(1.0)
    assert not torch.equal(student.classifier.bias, source.classifier.bias)  # copies are not shared


def test_head_with_another_label_order_is_not_copied():
    source, student = tiny_bert(layers=2, seed=1), tiny_bert(labels=LABELS[::-1], layers=1, seed=2)
    report = copy_layers(source, student, None)
    assert report.skipped == ["classifier.weight", "classifier.bias"]
    assert not equal(student.classifier.state_dict(), source.classifier.state_dict())


@pytest.mark.parametrize(
    ("source", "student", "changes", "field"),
    [
        ("electra", "distilbert", {}, "model_type"),
        ("distilbert", "bert", {}, "model_type"),
        ("bert", "distilbert", {"hidden_size": 32}, "hidden_size"),
        ("bert", "bert", {"hidden_size": 32}, "hidden_size"),
        ("bert", "bert", {"intermediate_size": 8}, "intermediate_size"),
        ("bert", "bert", {"vocab_size": 7}, "vocab_size"),
        ("bert", "bert", {"num_attention_heads": 4}, "num_attention_heads"),
        ("electra", "electra", {"embedding_size": 4}, "embedding_size"),
    ],
)
def test_incompatible_models_raise(source, student, changes, field):
    value = changes.get(field, f"'{student}'")
    with pytest.raises(ValueError, match=rf"^LayerInitialization: {field} is .* {value} in the student; "):
        copy_layers(random_model(source, 2, seed=1), random_model(student, 1, seed=2, **changes), None)


def test_shared_layers():
    config = AlbertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, intermediate_size=16, embedding_size=8)
    models = [AlbertForSequenceClassification(config) for _ in range(2)]
    with pytest.raises(ValueError, match="ALBERT"):
        copy_layers(*models, None)

"""Encoder layers and parameter counts."""

import pytest
import transformers

from lightning_kd import models

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
    tied, untied = (
        transformers.BertForMaskedLM(transformers.BertConfig(**{**config.to_dict(), "tie_word_embeddings": tie}))
        for tie in (True, False)
    )
    assert models.count_parameters(untied) - models.count_parameters(tied) >= 50 * 16

"""Parameter counts."""

from transformers import BertForMaskedLM

from lightning_kd import models
from tests.helpers import tiny_bert


def test_tied_parameters_count_once():
    tied, untied = (
        models.count_parameters(tiny_bert(None, model_class=BertForMaskedLM, tie_word_embeddings=tie))
        for tie in (True, False)
    )
    assert untied - tied >= 1200 * 16

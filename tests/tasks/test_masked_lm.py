"""Masked language modeling: logits at the masked positions only, perplexity."""

import math

import pytest
import torch
from torch import nn

from lightning_kd import MaskedLM
from tests.helpers import FAMILIES, TEXT, random_model

LABELS = torch.full_like(TEXT, -100)
LABELS[0, 2], LABELS[1, 4], LABELS[1, 5] = 11, 12, 13
BATCH = {"input_ids": TEXT, "attention_mask": torch.ones_like(TEXT), "labels": LABELS, "row_id": torch.tensor([0, 1])}


@pytest.mark.parametrize("kind", FAMILIES)
def test_logits_equal_those_of_a_full_forward_pass(kind):
    model = random_model(kind, 2, seed=1)
    with torch.no_grad():
        everywhere = model(input_ids=TEXT, attention_mask=BATCH["attention_mask"]).logits
        head = MaskedLM().run(model, BATCH).heads["token"]
    assert head.logits.shape == (3, 50)
    torch.testing.assert_close(head.logits, everywhere[LABELS >= 0])
    assert head.labels.tolist() == [11, 12, 13]
    with torch.no_grad():  # the hook is removed
        assert torch.equal(model(input_ids=TEXT, attention_mask=BATCH["attention_mask"]).logits, everywhere)


@pytest.mark.parametrize("kind", FAMILIES)
def test_hidden_states_and_qkv_cover_all_positions(kind):
    model = random_model(kind, 2, seed=1)
    with torch.no_grad():
        whole = model(input_ids=TEXT, attention_mask=BATCH["attention_mask"], output_hidden_states=True)
        outputs = MaskedLM().run(model, BATCH, frozenset({"hidden_states", "qkv"}))
    assert len(outputs.hidden_states) == 3
    for first, second in zip(outputs.hidden_states, whole.hidden_states, strict=True):
        torch.testing.assert_close(first, second)
    assert [layer.query.shape for layer in outputs.qkv] == [(2, 7, 16)] * 2
    assert outputs.token_mask.all()


def test_vocabulary_projection_runs_on_masked_tokens_only():
    model = random_model("bert", 2, seed=1)
    sizes = []
    model.cls.predictions.decoder.register_forward_hook(lambda module, args, output: sizes.append(args[0].shape))
    MaskedLM().run(model, BATCH)
    assert set(sizes) == {(3, 16)}


def test_model_outside_transformers():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings = nn.Embedding(50, 50)

        def forward(self, input_ids):
            return self.embeddings(input_ids)

    bag = Bag()
    head = MaskedLM().run(bag, BATCH).heads["token"]
    assert torch.equal(head.logits, bag(TEXT)[LABELS >= 0])


def test_gradients_equal_those_of_a_full_forward_pass():
    model = random_model("bert", 2, seed=1)
    model(**{k: v for k, v in BATCH.items() if k != "row_id"}).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    head = MaskedLM().run(model, BATCH).heads["token"]
    nn.functional.cross_entropy(head.logits, head.labels).backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4)


def test_nan_names_the_model_and_the_example():
    logits = torch.zeros(3, 50)
    logits[2, 5] = torch.nan
    batch = {**BATCH, "row_id": torch.tensor([7, 9])}
    with pytest.raises(
        FloatingPointError, match=r"^the student returned NaN or infinite logits for the examples \[9\]; "
    ):
        MaskedLM().check_finite(MaskedLM().outputs(logits, batch), batch, "the student")


def test_padding_examples_are_dropped():
    batch = {**BATCH, "row_id": torch.tensor([-1, 1])}
    assert MaskedLM().run(random_model("bert", 1, seed=1), batch).heads["token"].labels.tolist() == [12, 13]


def test_perplexity_closed_form():
    task, metrics = MaskedLM(), MaskedLM().metrics([])
    torch.manual_seed(0)
    logits = torch.randn(2, 7, 50).double()
    for rows in ([0], [1]):
        batch = {name: value[rows] for name, value in BATCH.items()}
        task.update(metrics, task.outputs(logits[rows].float(), batch), batch)
    expected = torch.nn.functional.cross_entropy(logits[LABELS >= 0], LABELS[LABELS >= 0]).exp()
    assert float(metrics.compute()["perplexity"]) == pytest.approx(float(expected), rel=1e-5)


def test_perplexity_is_finite_if_probabilities_underflow():
    task, metrics = MaskedLM(), MaskedLM().metrics([])
    logits = torch.zeros(2, 7, 50)
    logits[..., 0] = 30.0
    logits[0, 2, 0] = 150.0
    task.update(metrics, task.outputs(logits, BATCH), BATCH)
    assert float(metrics.compute()["perplexity"]) == pytest.approx(math.exp((150 + 30 + 30) / 3), rel=1e-4)


def test_batch_without_masked_tokens():
    task = MaskedLM()
    batch = {**BATCH, "labels": torch.full_like(TEXT, -100)}
    outputs = task.run(random_model("bert", 1, seed=1), batch)
    assert outputs.num_targets == 0
    task.update(task.metrics([]), outputs, batch)


def test_baseline_score_is_the_unigram_perplexity():
    task = MaskedLM()
    assert task.baseline_score(torch.tensor([5, 5, 0, 5, 5])) == pytest.approx(4)
    assert task.baseline_score(torch.tensor([3, 1])) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )
    assert task.baseline_statistics(task.outputs(torch.zeros(2, 7, 50), BATCH), BATCH)[10:14].tolist() == [0, 1, 1, 1]


def test_batch_without_labels_and_predictions_raise():
    with pytest.raises(ValueError, match=r"MaskedLM: the batch has no 'labels'"):
        MaskedLM().outputs(torch.zeros(2, 7, 50), {"input_ids": TEXT})
    with pytest.raises(ValueError, match="task: MaskedLM has no predictions"):
        MaskedLM().predictions(MaskedLM().outputs(torch.zeros(2, 7, 50), BATCH), BATCH, [])

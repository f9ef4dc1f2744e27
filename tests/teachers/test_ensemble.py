"""Combined logits of several models against NumPy and SciPy, example by example."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy

from lightning_kd import SequenceClassification
from lightning_kd.outputs import Head
from lightning_kd.teachers import Teacher
from lightning_kd.teachers.ensemble import COMBINE_MODES, combine_heads, combine_logits
from tests.helpers import LABELS, tiny_bert

LOGITS = [torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) * (1 + 3 * seed) for seed in range(3)]
MASK = torch.tensor([[True] * 5, [True, False, True, True, False], [False, True, True, False, False]] * 2)


def reference(logits, combine):
    """Return the probabilities of one example from logits (K, C)."""
    p = softmax(logits, axis=1)
    if combine == "logits":
        return softmax(logits.mean(axis=0))
    if combine == "probabilities":
        return p.mean(axis=0)
    uncertainties = np.exp(entropy(p, axis=1))
    weights = (1 - uncertainties / uncertainties.sum()) / (len(p) - 1)
    assert weights.sum() == pytest.approx(1)
    return weights @ p


@pytest.mark.parametrize("combine", COMBINE_MODES)
@pytest.mark.parametrize("mask", [None, MASK])
def test_against_scipy(combine, mask):
    combined = combine_logits(LOGITS, mask, combine)
    assert combined.isfinite().all()
    stacked = torch.stack(LOGITS).double().numpy()
    for index, logits in enumerate(combined.double().numpy()):
        included = np.ones(5, dtype=bool) if mask is None else mask[index].numpy()
        expected = reference(stacked[:, index, included], combine)
        np.testing.assert_allclose(softmax(logits[included]), expected, rtol=2e-5)


def test_probabilities_return_normalized_log_probabilities():
    combined = combine_logits(LOGITS, None, "probabilities").double().numpy()
    np.testing.assert_allclose(logsumexp(combined, axis=1), 0, atol=1e-6)
    log_p = log_softmax(torch.stack(LOGITS).double().numpy(), axis=-1)
    np.testing.assert_allclose(combined, logsumexp(log_p, axis=0) - np.log(3), rtol=1e-5, atol=1e-6)


def test_confident_models_get_higher_weights():
    sure, unsure = torch.tensor([[40.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    p = combine_logits([sure, unsure], None, "confidence").softmax(dim=-1)
    # exp of the entropies 0 and log 4 is 1 and 4, so the weights are 4/5 and 1/5
    torch.testing.assert_close(p, torch.tensor([[0.85, 0.05, 0.05, 0.05]]))
    same = combine_logits([sure, sure], None, "confidence").softmax(dim=-1)
    torch.testing.assert_close(same, sure.softmax(dim=-1), atol=1e-7, rtol=0)


@pytest.mark.parametrize("combine", ["probabilities", "confidence"])
def test_extreme_logits_and_fully_masked_examples_are_finite(combine):
    logits = [torch.tensor([[1e4, -1e4, 0.0], [1.0, 2.0, 3.0]]), torch.tensor([[-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]])]
    combined = combine_logits(logits, torch.tensor([[True] * 3, [False] * 3]), combine)
    assert combined.isfinite().all()
    torch.testing.assert_close(combined[0].softmax(dim=-1), torch.tensor([0.5, 0.5, 0.0]))


@pytest.mark.parametrize("combine", COMBINE_MODES)
def test_binary_heads_are_combined_class_by_class(combine):
    combined = combine_heads([Head(logits, kind="binary") for logits in LOGITS], combine)
    assert combined.kind == "binary"
    stacked = torch.stack(LOGITS).double().numpy()
    pairs = np.stack([np.zeros_like(stacked), stacked], axis=-1)
    expected = [[reference(pairs[:, row, column], combine)[1] for column in range(5)] for row in range(6)]
    np.testing.assert_allclose(combined.logits.sigmoid().numpy(), expected, rtol=2e-5)


def test_values_are_averaged():
    heads = [Head(logits, kind="value") for logits in LOGITS]
    torch.testing.assert_close(combine_heads(heads, "logits").logits, torch.stack(LOGITS).mean(dim=0))
    with pytest.raises(ValueError, match=r"teacher\.combine: 'probabilities' .*'value'"):
        combine_heads(heads, "probabilities")


@pytest.mark.parametrize("combine", COMBINE_MODES)
def test_teacher_combines_in_the_students_label_order(combine):
    orders = [LABELS, ["oos", "greet", "leave"], ["Leave", "OOS", "Greet"]]
    models = [tiny_bert(labels, seed=seed, initializer_range=1.0) for seed, labels in enumerate(orders)]
    ids = torch.tensor([[2, 40, 41, 3], [2, 42, 43, 3]])
    with torch.no_grad():
        logits = [model.eval()(ids).logits.double().numpy() for model in models]
    in_order = np.stack([logits[0], logits[1][:, [1, 2, 0]], logits[2][:, [2, 0, 1]]])
    teacher = Teacher({"ensemble": models, "combine": combine}, SequenceClassification())
    teacher.align_classes(LABELS, ignore_mismatch=False)
    actual = teacher({"input_ids": ids}).heads["label"].logits.softmax(dim=-1).numpy()
    for index, p in enumerate(actual):
        np.testing.assert_allclose(p, reference(in_order[:, index], combine), rtol=1e-5)

"""Losses on hidden states, attention scores and relations against NumPy and SciPy in float64."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from scipy.special import rel_entr, softmax

from lightning_kd.losses import (
    AttentionScoreLoss,
    HiddenStateCosineLoss,
    HiddenStateMSELoss,
    SelfAttentionRelationLoss,
    attention_score_loss,
    hidden_state_cosine_loss,
    hidden_state_mse_loss,
    self_attention_relation_loss,
)
from lightning_kd.losses.attention_score import attention_scores
from lightning_kd.outputs import QKV, ModelDims, Outputs

MASK = torch.tensor([[True, True, True, False, False], [True] * 5, [True, False, False, False, False]])
WIDTH, HEADS = 12, 3


def states(seed=0, width=WIDTH):
    return torch.randn(3, 5, width, generator=torch.Generator().manual_seed(seed))


def scores(seed=0):
    return torch.randn(3, HEADS, 5, 5, generator=torch.Generator().manual_seed(seed))


def relations(student, teacher, mask=None):
    return self_attention_relation_loss(student, teacher, mask, HEADS)


LOSSES = {
    "cosine": (hidden_state_cosine_loss, states),
    "mse": (hidden_state_mse_loss, states),
    "attention": (attention_score_loss, scores),
    "relation": (relations, states),
}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES)
def case(request):
    """A loss and a pair of inputs."""
    loss, make = request.param
    return loss, make(1), make(2)


def fill_masked(mask, tensor, filling):
    """Return the tensor with a filling at the masked positions."""
    filled = tensor.clone()
    if tensor.ndim == 4:
        both = mask[:, None, :, None] & mask[:, None, None, :]
        return filled.masked_fill(~both, filling)
    filled[~mask] = filling
    return filled


def test_cosine_agrees_with_scipy():
    student, teacher = states(1), states(2)
    expected = np.mean([cosine(s, t) for s, t in zip(student[MASK].double(), teacher[MASK].double(), strict=True)])
    assert hidden_state_cosine_loss(student, teacher, MASK).item() == pytest.approx(expected, rel=1e-5)


def test_mse_agrees_with_numpy():
    student, teacher = states(1), states(2)
    expected = np.square(np.float64(student[MASK]) - np.float64(teacher[MASK])).mean()
    assert hidden_state_mse_loss(student, teacher, MASK).item() == pytest.approx(expected, rel=1e-5)


def test_attention_score_agrees_with_numpy():
    student, teacher = np.float64(scores(1)), np.float64(scores(2))
    lengths = MASK.sum(dim=1).tolist()
    pairs = [
        np.square(student[i, :, :n, :n] - teacher[i, :, :n, :n]).mean(axis=0).ravel() for i, n in enumerate(lengths)
    ]
    expected = np.concatenate(pairs).mean()
    actual = attention_score_loss(scores(1), scores(2), MASK)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_relation_agrees_with_scipy():
    # widths differ: the relation heads have 4 dimensions in one and 6 in the other
    student, teacher = states(1), states(2, width=18)
    rows = []
    for i, length in enumerate(MASK.sum(dim=1).tolist()):
        per_head = []
        for head in range(HEADS):
            distributions = []
            for vectors in (student, teacher):
                size = vectors.shape[-1] // HEADS
                part = np.float64(vectors[i, :length, head * size : (head + 1) * size])
                distributions.append(softmax(part @ part.T / np.sqrt(size), axis=-1))
            per_head.append(rel_entr(distributions[1], distributions[0]).sum(axis=-1))
        rows.append(np.mean(per_head, axis=0))
    expected = np.concatenate(rows).mean()
    assert relations(student, teacher, MASK).item() == pytest.approx(expected, rel=1e-5)


def test_equal_inputs_give_zero(case):
    loss, student, _ = case
    assert loss(student, student, MASK).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("filling", [0.0, 1e4, torch.nan, torch.inf])
def test_padding_has_no_influence(case, filling):
    loss, student, teacher = case
    student.requires_grad_()
    value = loss(student, teacher, MASK)
    value.backward()
    gradient = student.grad.clone()
    assert (fill_masked(MASK, gradient, 0.0) == gradient).all()
    filled = fill_masked(MASK, student.detach(), filling).requires_grad_()
    other = loss(filled, fill_masked(MASK, teacher, filling), MASK)
    torch.testing.assert_close(other, value)
    other.backward()
    torch.testing.assert_close(filled.grad, gradient)


def test_no_mask_includes_all_positions(case):
    loss, student, teacher = case
    torch.testing.assert_close(loss(student, teacher, None), loss(student, teacher, torch.ones_like(MASK)))


def test_attention_masks_of_integers(case):
    loss, student, teacher = case
    assert loss(student, teacher, MASK.long()) == loss(student, teacher, MASK)


def test_zero_with_zero_gradient_without_positions(case):
    loss, student, teacher = case
    student.requires_grad_()
    value = loss(student, teacher, torch.zeros_like(MASK))
    value.backward()
    assert value == 0
    assert (student.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(case, dtype):
    loss, student, teacher = case
    student, teacher = student.to(dtype), teacher.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher, MASK)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float(), MASK), rtol=1e-6, atol=0)


def test_attention_scores_agree_with_pytorch():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 5, WIDTH)
    weights = attention_scores(QKV(query, key, value, HEADS)).softmax(-1)
    cut = [vectors.unflatten(-1, (HEADS, -1)).transpose(1, 2) for vectors in (query, key, value)]
    torch.testing.assert_close(weights @ cut[2], torch.nn.functional.scaled_dot_product_attention(*cut))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attention_scores(QKV(query, key, value, HEADS)).softmax(-1), weights)


# ---- modules

SMALL, LARGE, WIDE = ModelDims(2, WIDTH, HEADS), ModelDims(4, WIDTH, HEADS), ModelDims(4, 18, 2)


def outputs(layers, seed, width=WIDTH):
    hidden = tuple(states(seed + i, width) for i in range(layers + 1))
    kinds = [[states(10 * k + seed + i, width) for k in range(3)] for i in range(layers)]
    qkv = tuple(QKV(*three, HEADS) for three in kinds)
    return Outputs({}, token_mask=MASK, hidden_states=hidden, qkv=qkv)


def hidden_state(loss):
    return lambda student, teacher, i, j: loss(student.hidden_states[i], teacher.hidden_states[j], MASK)


def attention(student, teacher, i, j):
    return attention_score_loss(attention_scores(student.qkv[i]), attention_scores(teacher.qkv[j]), MASK)


def relation(student, teacher, i, j):
    three = [
        relations(getattr(student.qkv[i], kind), getattr(teacher.qkv[j], kind), MASK)
        for kind in ("query", "key", "value")
    ]
    return torch.stack(three).mean()


cosine_distance, squared_error = hidden_state(hidden_state_cosine_loss), hidden_state(hidden_state_mse_loss)


@pytest.mark.parametrize(
    ("loss", "function", "pairs"),
    [
        (HiddenStateCosineLoss(), cosine_distance, [(2, 4)]),
        (HiddenStateCosineLoss(layer_map={0: 0, 1: 2, -1: -1}), cosine_distance, [(0, 0), (1, 2), (2, 4)]),
        (HiddenStateMSELoss(), squared_error, [(2, 4)]),
        (HiddenStateMSELoss(layer_map={0: 0, 1: 2, -1: -1}), squared_error, [(0, 0), (1, 2), (2, 4)]),
        (AttentionScoreLoss(), attention, [(1, 3)]),
        (AttentionScoreLoss(layer_map={1: 2, -1: 4}), attention, [(0, 1), (1, 3)]),
        (SelfAttentionRelationLoss(num_relation_heads=HEADS), relation, [(1, 3)]),
        (SelfAttentionRelationLoss(1.0, HEADS, student_layer=1, teacher_layer=-2), relation, [(0, 2)]),
    ],
)
def test_mean_over_pairs_of_layers(loss, function, pairs):
    """By default of the last layers."""
    student, teacher = outputs(2, 1), outputs(4, 50)
    expected = torch.stack([function(student, teacher, i, j) for i, j in pairs]).mean()
    torch.testing.assert_close(loss(student, teacher), expected)


@pytest.mark.parametrize(
    ("loss", "teacher", "message"),
    [
        (HiddenStateCosineLoss(layer_map={3: 0}), LARGE, r": the pair 3: 0 .* layer 3 of the student"),
        (HiddenStateMSELoss(layer_map={1: 5}), LARGE, r": the pair 1: 5 .* teacher.* 0 to 4"),
        (HiddenStateMSELoss(layer_map={-4: 1}), LARGE, r": the pair -4: 1 .* student"),
        (AttentionScoreLoss(layer_map={0: 1}), LARGE, r": the pair 0: 1 .* student.* 1 to 2"),
        (SelfAttentionRelationLoss(teacher_layer=-5), LARGE, r": the pair -1: -5 .* layer -5 of the teacher"),
        (SelfAttentionRelationLoss(num_relation_heads=5), LARGE, ": num_relation_heads 5 .* student.* 12"),
        (HiddenStateCosineLoss(), WIDE, ": .* 12 .* 18"),
        (AttentionScoreLoss(), WIDE, ": .* 3 .* 2"),
    ],
)
def test_layers_and_sizes_that_do_not_fit_raise(loss, teacher, message):
    with pytest.raises(ValueError, match=rf"^{type(loss).__name__}{message}"):
        loss.setup(SMALL, teacher)


def test_relation_heads_may_divide_different_widths():
    loss = SelfAttentionRelationLoss(num_relation_heads=HEADS)
    loss.setup(SMALL, WIDE)
    student, teacher = outputs(2, 1), outputs(4, 50, width=18)
    torch.testing.assert_close(loss(student, teacher), relation(student, teacher, 1, 3))


def test_projection_if_the_widths_differ():
    loss = HiddenStateMSELoss(layer_map={0: 0, 2: 4})
    loss.setup(SMALL, LARGE)
    assert not list(loss.parameters())
    loss.setup(SMALL, WIDE)
    (weight,) = loss.parameters()
    assert weight.shape == (18, WIDTH)
    student, teacher = outputs(2, 1), outputs(4, 50, width=18)
    values = [
        hidden_state_mse_loss(student.hidden_states[s] @ weight.T, teacher.hidden_states[t], MASK)
        for s, t in ((0, 0), (2, 4))
    ]
    torch.testing.assert_close(loss(student, teacher), torch.stack(values).mean())
    copy = HiddenStateMSELoss()
    copy.load_state_dict(loss.state_dict())
    assert torch.equal(copy.projection.weight, weight)

"""Rows in the batch are updated as in AdamW; the others do not change."""

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from transformers import BertForMaskedLM

from lightning_kd import LazyAdamW
from lightning_kd.optim.lazy_adamw import set_sparse_gradients
from tests.helpers import data, module, tiny_bert, trainer

SETTINGS = {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}


def model_pair(sparse):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Embedding(12, 4, sparse=sparse), nn.Linear(4, 3))
    second = nn.Sequential(nn.Embedding(12, 4), nn.Linear(4, 3))
    second.load_state_dict(first.state_dict())
    return first, second


def step(model, optimizer, rows):
    model(torch.tensor(rows)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("sparse", [True, False])
def test_equals_adamw_if_every_batch_has_all_rows(sparse):
    lazy, dense = model_pair(sparse)
    optimizers = LazyAdamW(lazy.parameters(), **SETTINGS), torch.optim.AdamW(dense.parameters(), **SETTINGS)
    for _ in range(20):
        for model, optimizer in zip((lazy, dense), optimizers, strict=True):
            step(model, optimizer, [*range(12), 3, 3])  # one row occurs three times
    for ours, theirs in zip(lazy.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_first_step_equals_adamw_and_other_rows_keep_value_and_moments():
    lazy, dense = model_pair(sparse=True)
    optimizers = LazyAdamW(lazy.parameters(), **SETTINGS), torch.optim.AdamW(dense.parameters(), **SETTINGS)
    before = lazy[0].weight.detach().clone()
    step(lazy, optimizers[0], [1, 5, 5])
    step(dense, optimizers[1], [1, 5, 5])
    torch.testing.assert_close(lazy[0].weight[[1, 5]], dense[0].weight[[1, 5]])
    others = [row for row in range(12) if row not in (1, 5)]
    assert torch.equal(lazy[0].weight[others], before[others])
    assert not torch.equal(dense[0].weight[others], before[others])  # weight decay
    after = lazy[0].weight.detach().clone()
    step(lazy, optimizers[0], [2])
    assert torch.equal(lazy[0].weight[[1, 5]], after[[1, 5]])
    state = optimizers[0].state[lazy[0].weight]
    assert not state["exp_avg"][[0, 3, 4]].any()
    assert float(state["step"]) == 2


def test_moments_closed_form():
    """Moments and value of a row that occurs in steps 1 and 3 of 3."""
    weight = nn.Parameter(torch.ones(3, 1, dtype=torch.float64))
    optimizer = LazyAdamW([weight], fused=False, **SETTINGS)
    gradients = {1: 2.0, 3: -1.0}
    first = second = 0.0
    value = 1.0
    for number in (1, 2, 3):
        row = 0 if number in gradients else 1
        gradient = gradients.get(number, 5.0)
        weight.grad = torch.sparse_coo_tensor(
            [[row]], torch.tensor([[gradient]], dtype=torch.float64), (3, 1), check_invariants=True
        )
        optimizer.step()
        if number in gradients:
            first = 0.8 * first + 0.2 * gradient
            second = 0.99 * second + 0.01 * gradient**2
            value *= 1 - 1e-2 * 0.1
            value -= 1e-2 * (first / (1 - 0.8**number)) / ((second / (1 - 0.99**number)) ** 0.5 + 1e-6)
    assert weight[0].item() == pytest.approx(value, rel=1e-12)


def test_state_dict_round_trips():
    lazy, _ = model_pair(sparse=True)
    optimizer = LazyAdamW(lazy.parameters(), **SETTINGS)
    step(lazy, optimizer, [1, 2])
    other, _ = model_pair(sparse=True)
    other.load_state_dict(lazy.state_dict())
    resumed = LazyAdamW(other.parameters(), **SETTINGS)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, which in ((lazy, optimizer), (other, resumed)):
        step(model, which, [1, 4])
    for ours, theirs in zip(lazy.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_tied_embeddings_keep_dense_gradients():
    tied = tiny_bert(labels=None, model_class=BertForMaskedLM)
    set_sparse_gradients(tied, True)
    assert not tied.get_input_embeddings().sparse
    classifier = tiny_bert()
    set_sparse_gradients(classifier, True)
    assert classifier.get_input_embeddings().sparse
    set_sparse_gradients(nn.Linear(2, 2), True)  # no embeddings


def test_second_fit_with_another_optimizer(tmp_path, clinc_file):
    student = tiny_bert()
    for optimizer in (LazyAdamW, torch.optim.AdamW):  # rejects sparse gradients
        trainer(tmp_path, max_steps=2).fit(
            module(student=student, optimizer=partial(optimizer, lr=1e-3)), data(clinc_file)
        )
        assert student.get_input_embeddings().sparse == (optimizer is LazyAdamW)


@pytest.mark.parametrize("settings", [{}, {"gradient_clip_val": 0.1}, {"accumulate_grad_batches": 2}])
def test_run(tmp_path, clinc_file, settings):
    """Only the rows of tokens in the data change, also with gradient clipping and accumulation."""
    fitted = module(optimizer=partial(LazyAdamW, lr=1e-2))
    datamodule = data(clinc_file)
    start = None

    class Start(Callback):
        def on_train_start(self, trainer, pl_module):
            nonlocal start
            start = pl_module.student.get_input_embeddings().weight.detach().clone()

    trainer(tmp_path, max_epochs=2, precision="bf16-mixed", callbacks=[Start()], **settings).fit(fitted, datamodule)
    changed = (fitted.student.get_input_embeddings().weight != start).any(dim=1).nonzero().flatten().tolist()
    tokens = {token for row in datamodule._splits["train"]["input_ids"] for token in row}
    assert set(changed) == tokens


def test_clipped_norm_of_a_step(tmp_path, clinc_file):
    """The optimizer receives gradients of the clipped norm."""
    norms = []

    class Spy(LazyAdamW):
        def step(self, closure=None):
            result = super().step(closure)
            gradients = [p.grad.to_dense() for g in self.param_groups for p in g["params"] if p.grad is not None]
            norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
            return result

    fitted = module(optimizer=partial(Spy, lr=1e-3))
    trainer(tmp_path, max_steps=2, gradient_clip_val=0.01).fit(fitted, data(clinc_file))
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)

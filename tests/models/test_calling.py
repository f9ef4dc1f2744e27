"""Models get the entries of a batch that they take, and no labels."""

import torch
from torch import nn

from lightning_kd import models


class NamedInputs(nn.Module):
    def forward(self, input_ids, attention_mask=None, labels=None):
        return input_ids, attention_mask, labels


def test_call_model_passes_only_named_inputs():
    batch = {n: torch.tensor([i]) for i, n in enumerate(("token_type_ids", "labels", "input_ids", "row_id"))}
    assert models.call_model(NamedInputs(), batch) == (batch["input_ids"], None, None)


def test_plain_module_gets_every_entry_but_the_labels():
    class Plain(torch.nn.Module):
        def forward(self, image, label_mask, labels=None):
            return image * label_mask, labels

    batch = {"image": torch.ones(2), "label_mask": torch.zeros(2), "labels": torch.ones(2), "row_id": torch.arange(2)}
    product, labels = models.call_model(Plain(), batch)
    assert torch.equal(product, torch.zeros(2))
    assert labels is None

"""Models get the entries of a batch that they take, and no labels."""

import torch
from torch import nn

from lightning_kd import models


class Plain(nn.Module):
    def forward(self, input_ids, label_mask=None, attention_mask=None, labels=None):
        return input_ids, label_mask, attention_mask, labels


def test_call_model_passes_what_forward_names_but_the_labels():
    names = ("token_type_ids", "labels", "input_ids", "row_id", "label_mask")
    batch = {name: torch.tensor([i]) for i, name in enumerate(names)}
    assert models.call_model(Plain(), batch) == (batch["input_ids"], batch["label_mask"], None, None)

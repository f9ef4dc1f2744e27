"""Call models with those entries of a batch that they accept."""

import inspect
from typing import Any

import transformers
from torch import nn
from transformers.utils.generic import find_labels

from lightning_kd.models.inspection import get_config, unwrap_compiled
from lightning_kd.outputs import Batch

LABEL_NAMES = ("labels", "start_positions", "end_positions")
"""Names of labels in transformers."""


def input_names(model: nn.Module, batch: Batch) -> list[str]:
    """Return the names of the batch entries that a model accepts, without labels, in the order of its ``forward``.

    Labels would make a transformers model compute a cross-entropy that is not used.

    Args:
        model: A transformers model, or a module whose ``forward`` names its inputs or which has ``input_names``.
        batch: The batch.
    """
    original = unwrap_compiled(model)  # torch.compile hides the arguments behind *args, **kwargs
    names = getattr(original, "input_names", None) or list(inspect.signature(original.forward).parameters)
    # find_labels excludes every name that contains "label", which a module outside transformers may need
    excluded = set(find_labels(type(original)) if isinstance(original, transformers.PreTrainedModel) else LABEL_NAMES)
    if getattr(get_config(model), "type_vocab_size", 2) < 2:
        excluded.add("token_type_ids")  # RoBERTa takes token types, but has an embedding for type 0 only
    return [name for name in names if name in batch and name not in excluded]


def call_model(model: nn.Module, batch: Batch, **options: Any) -> Any:
    """Call a model with its ``input_names`` from a batch.

    Args:
        model: The model.
        batch: The batch.
        options: Further arguments of ``forward``, such as ``output_hidden_states``.
    """
    return model(**{name: batch[name] for name in input_names(model, batch)}, **options)

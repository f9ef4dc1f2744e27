"""Store the prompt template of a model in its configuration, and check it later."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_kd.models.inspection import get_config

PROMPT_FIELD = "text_prompt"
"""Field of the configuration that holds the template."""


def set_config_prompt(model: nn.Module, prompt: Any) -> None:
    """Write the prompt that a model is trained with into its configuration, if it has one.

    Args:
        model: The model.
        prompt: A ``data.prompt.Prompt``; None = the text alone.
    """
    config = get_config(model)
    if prompt is not None and config is not None:
        setattr(config, PROMPT_FIELD, prompt.template)
    elif hasattr(config, PROMPT_FIELD):
        delattr(config, PROMPT_FIELD)


def check_prompt(model_or_config: Any, prompt: Any, name: str, argument: str) -> None:
    """Warn if a model gets a different prompt from the one it was trained with.

    Args:
        model_or_config: The model, its configuration, or None.
        prompt: The ``data.prompt.Prompt`` it gets; None = the text alone.
        name: The model, for the message.
        argument: Argument of the DataModule that sets its prompt.
    """
    trained = getattr(get_config(model_or_config), PROMPT_FIELD, None)
    actual = getattr(prompt, "template", None)
    if trained is not None and trained != actual:
        current = "no prompt" if actual is None else repr(actual)
        rank_zero_warn(f"data.{argument}: {name} was trained with {trained!r} but gets {current}; use the former")

"""Which template a network was trained to read around its texts."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

PROMPT_FIELD = "text_prompt"
"""Field of a network's configuration that holds the template."""


def set_config_prompt(model: nn.Module, prompt: Any) -> None:
    """Write what a network is trained to read into its configuration, where it has one.

    Args:
        model: The network.
        prompt: A ``data.prompt.Prompt``; None = the text alone.
    """
    config = getattr(model, "config", None)
    if prompt is not None and config is not None:
        setattr(config, PROMPT_FIELD, prompt.template)
    elif hasattr(config, PROMPT_FIELD):
        delattr(config, PROMPT_FIELD)


def check_prompt(config: Any, prompt: Any, name: str, argument: str) -> None:
    """Warn where a network was trained to read a prompt and gets another or none.

    Args:
        config: Its configuration.
        prompt: What it reads.
        name: The network, for the message.
        argument: What the prompt is given as.
    """
    trained, actual = getattr(config, PROMPT_FIELD, None), getattr(prompt, "template", None)
    if trained is not None and trained != actual:
        reads = "the text alone" if actual is None else repr(actual)
        rank_zero_warn(f"{name} was trained to read {trained!r} and reads {reads}; set data.{argument} to the former")

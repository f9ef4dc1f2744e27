"""Which template a network was trained to read around its texts."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

FIELD = "text_prompt"
"""Field of a network's configuration that holds the template."""


def note_prompt(network: nn.Module, prompt: Any) -> None:
    """Write what a network is trained to read into its configuration, where it has one.

    Args:
        network: The network.
        prompt: A ``data.prompt.Prompt``; None = the text alone.
    """
    config = getattr(network, "config", None)
    if prompt is not None and config is not None:
        setattr(config, FIELD, prompt.template)
    elif hasattr(config, FIELD):
        delattr(config, FIELD)


def check_prompt(config: Any, prompt: Any, who: str, argument: str) -> None:
    """Warn where a network was trained to read a prompt and gets another or none.

    Args:
        config: Its configuration.
        prompt: What it reads.
        who: The network, for the message.
        argument: What the prompt is given as.
    """
    wanted, given = getattr(config, FIELD, None), getattr(prompt, "template", None)
    if wanted is not None and wanted != given:
        reads = "the text alone" if given is None else repr(given)
        rank_zero_warn(f"{who} was trained to read {wanted!r} and reads {reads}; set data.{argument} to the former")

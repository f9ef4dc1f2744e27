"""Convert a recorded call into the ``Outputs`` that losses read."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from lightning_kd.callbacks.distillation.call_recorder import Call, check_unchanged
from lightning_kd.models import unwrap_compiled
from lightning_kd.outputs import IGNORE_INDEX, Head, Outputs

Key = str | int
"""Key of a mapping, name of an attribute or index of a sequence."""


def get_entry(container: Any, key: Key, argument: str, description: str) -> Any:
    """Return an entry of a mapping or sequence, or an attribute.

    Args:
        container: A mapping, sequence or object.
        key: The entry.
        argument: Argument of ``DistillationCallback`` that holds the key, for the message.
        description: The container, for the message.

    Raises:
        ValueError: If there is no such entry.
    """
    try:
        if isinstance(key, str) and not isinstance(container, Mapping):
            return getattr(container, key)
        return container[key]
    except (LookupError, AttributeError, TypeError):
        raise ValueError(
            f"DistillationCallback.{argument}: {description} has no entry {key!r}; it is {_describe(container)}"
        ) from None


def _describe(container: Any) -> str:
    if isinstance(container, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, container))}"
    return f"of type {type(container).__name__}"


def extract_logits(output: Any, keys: list[Key], role: str) -> dict[str, Tensor]:
    """Find the logits in the output of a model.

    Args:
        output: A tensor; a sequence, of which the first tensor of at least two dimensions is taken; or a mapping or
            object with the entry ``logits``.
        keys: Entries to take instead; ignored for a tensor.
        role: ``student`` or ``teacher``, for messages.

    Returns:
        The logits by name.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(output, Tensor):
        return {str(keys[0]) if keys else "logits": output}
    if keys:
        return {str(key): get_entry(output, key, "logits", f"the output of the {role}") for key in keys}
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None and isinstance(output, (tuple, list)):
        found = next((part for part in output if isinstance(part, Tensor) and part.ndim >= 2), None)
    if found is None:
        raise ValueError(
            f"DistillationCallback.logits: no logits in the output of the {role}, which is {_describe(output)}; "
            "set logits=<key or index>"
        )
    return {"logits": found}


def build_head(name: str, logits: Tensor, labels: Tensor | None, token_mask: Tensor | None, classes_last: bool) -> Head:
    """Build a head with one distribution per example, token or pixel.

    Args:
        name: Name of the head, for messages.
        logits: (N, C); (B, L, C) or (B, C, L), from which masked positions are dropped; or (B, C, H, W).
        labels: Shape of the logits without C, -100 = unknown. With labels, unlabeled tokens are dropped.
        token_mask: Positions to compare, (B, L), True = compare; None = all.
        classes_last: True if three dimensions are known to be (B, L, C).

    Raises:
        ValueError: If logits or labels have another shape, or if the class dimension is ambiguous.
    """
    if logits.ndim < 2:
        raise ValueError(
            f"DistillationCallback.logits: {name!r} has shape {tuple(logits.shape)}, expected (N, C), (B, L, C), "
            "(B, C, L) or (B, C, H, W); return one logit per class"
        )
    if token_mask is not None and token_mask.shape != logits.shape[:2]:
        token_mask = None
    channels_first = logits.ndim > 3
    if logits.ndim == 3 and not classes_last and token_mask is None:
        channels_first = _is_channels_first(name, logits, labels)
    scores = logits.movedim(1, -1) if channels_first else logits
    if labels is not None and labels.shape != scores.shape[:-1]:
        raise ValueError(
            f"DistillationCallback.labels: shape {tuple(labels.shape)} does not match {name!r} of shape "
            f"{tuple(logits.shape)}, which needs {tuple(scores.shape[:-1])}; name other labels or other logits"
        )
    if labels is not None and logits.ndim == 3:
        labeled = labels != IGNORE_INDEX
        token_mask = labeled if token_mask is None else token_mask & labeled
    if logits.ndim == 3 and token_mask is not None and not token_mask.all():  # indexing copies all logits
        return Head(scores[token_mask], None if labels is None else labels[token_mask])
    return Head(scores.flatten(0, -2), None if labels is None else labels.flatten())


def _is_channels_first(name: str, logits: Tensor, labels: Tensor | None) -> bool:
    """Return True for (B, C, L), as from a convolution, and False for (B, L, C), by the shape of the labels."""
    batch, second, third = logits.shape
    shape = None if labels is None else tuple(labels.shape)
    if second != third and shape in ((batch, second), (batch, third)):
        return shape == (batch, third)
    raise ValueError(
        f"DistillationCallback.logits: {name!r} of shape {tuple(logits.shape)} may be (B, L, C) or (B, C, L); set "
        "labels=<key or index> to one label per position, or return logits of two dimensions"
    )


WIDTH_ATTRIBUTES = ("out_features", "out_channels", "num_features", "num_channels", "embedding_dim", "embed_dim")
"""Attributes of PyTorch modules that hold the width of their output."""


def find_submodule(model: nn.Module, path: str, owner: str) -> nn.Module:
    """Return a submodule.

    Args:
        model: The model.
        path: Path of the submodule.
        owner: Argument of the callback and name of the model, for the message.

    Raises:
        ValueError: If there is no such submodule.
    """
    try:
        return model.get_submodule(path)
    except AttributeError:
        names = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f"DistillationCallback.{owner} has no submodule {path!r}; its submodules are {names}"
        ) from None


@dataclass(frozen=True)
class Layer:
    """A layer whose output is compared.

    Attributes:
        path: Path of the submodule.
        width: Width of its output, H.
    """

    path: str
    width: int

    @classmethod
    def find(cls, model: nn.Module, path: str, role: str) -> "Layer":
        """Look up a layer and infer its width from its last part that has one.

        Args:
            model: Eager or compiled.
            path: Path of the submodule.
            role: ``student`` or ``teacher``, for messages.

        Raises:
            ValueError: If there is no such layer, or if its width is unknown.
        """
        model = unwrap_compiled(model)
        layer = find_submodule(model, path, f"layers: the {role}, {type(model).__name__},")
        for part in [layer, *reversed(list(layer.modules())[1:])]:
            if isinstance(part, nn.RNNBase):
                break
            shape = getattr(part, "normalized_shape", None)
            widths = [shape[-1]] if shape else [getattr(part, name, None) for name in WIDTH_ATTRIBUTES]
            width = next((width for width in widths if width is not None), None)
            if isinstance(width, int):
                return cls(path, width)
        raise ValueError(
            f"DistillationCallback.layers: the output width of {path!r} in the {role} is unknown; name a linear layer, "
            "a convolution or a norm"
        )

    def extract_states(self, call: Call) -> Tensor:
        """Return the output of the layer in a call, (B, L, H).

        The positions of a feature map (B, H, ...) are flattened; an output (B, H) is one position.

        Raises:
            ValueError: If the layer did not run, or its output has another width.
        """
        states = call.layers.get(self.path)
        if not isinstance(states, Tensor):
            raise ValueError(
                f"DistillationCallback.layers: {self.path!r} returned no tensor in this call; name a layer that the "
                "model calls (after an earlier compiled run, call torch.compiler.reset() first)"
            )
        # the channels of images come second, the features of tokens last
        dims = [dim for dim in ((1, -1) if states.ndim > 3 else (-1, 1)) if states.shape[dim] == self.width]
        if states.ndim < 2 or not dims:
            raise ValueError(
                f"DistillationCallback.layers: {self.path!r} returned shape {tuple(states.shape)}, but its weights "
                f"have width {self.width}; name the linear layer, convolution or norm inside it"
            )
        states = states.movedim(dims[0], -1)
        return states.unsqueeze(1) if states.ndim == 2 else states.flatten(1, -2)


def build_outputs(call: Call, role: str, keys: list[Key] | None, labels: list[Tensor], layers: list[Layer]) -> Outputs:
    """Convert a call into outputs.

    Args:
        call: The call.
        role: ``student`` or ``teacher``, for messages.
        keys: Entries that hold the logits, see ``extract_logits``; None = build no heads.
        labels: One tensor for each head, or none.
        layers: Layers whose outputs become ``hidden_states``, in this order.
    """
    remedy = "change a copy in training_step (logits = logits / 2 instead of logits /= 2)"
    check_unchanged(call.output_versions, f"a {role} output", remedy)
    found = {} if keys is None else extract_logits(call.output, keys, role)
    heads = {
        name: build_head(name, logits, head_labels, call.token_mask, call.classes_last)
        for (name, logits), head_labels in zip_longest(found.items(), labels[: len(found)])
    }
    return Outputs(heads, call.token_mask, tuple(layer.extract_states(call) for layer in layers))

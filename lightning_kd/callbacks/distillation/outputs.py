"""What a call of any network says, in the vocabulary of the losses."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from lightning_kd.callbacks.distillation.call_recorder import Call, unwrap_compiled
from lightning_kd.outputs import IGNORE_INDEX, Head, Outputs

Key = str | int
"""Where something stands in a mapping or a tuple."""


def get_entry(container: Any, key: Key, argument: str, description: str) -> Any:
    """An entry of a mapping or tuple, or an attribute.

    Raises:
        ValueError: If there is no such entry; lists those that there are.
    """
    try:
        if isinstance(key, str) and not isinstance(container, Mapping):
            return getattr(container, key)
        return container[key]
    except (LookupError, AttributeError, TypeError):
        contents = (
            f"has {', '.join(map(repr, container))}"
            if isinstance(container, Mapping)
            else f"is a {type(container).__name__}"
        )
        raise ValueError(f"DistillationCallback.{argument}: {description} has no {key!r}; it {contents}") from None


def extract_logits(output: Any, keys: list[Key], role: str) -> dict[str, Tensor]:
    """The logits in what a network returned, by name.

    Args:
        output: A tensor; a tuple, of which the first tensor of at least two dimensions is taken; a mapping with
            ``logits``.
        keys: Where else they stand in a tuple or mapping.
        role: The network, for messages.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(output, Tensor):
        return {str(keys[0]) if keys else "logits": output}
    if keys:
        return {str(key): get_entry(output, key, "logits", f"what the {role} returns") for key in keys}
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None and isinstance(output, (tuple, list)):
        found = next((part for part in output if isinstance(part, Tensor) and part.ndim >= 2), None)
    if found is None:
        contents = (
            f"a mapping of {', '.join(map(repr, output))}" if isinstance(output, Mapping) else type(output).__name__
        )
        raise ValueError(
            f"DistillationCallback: the {role} returns {contents}, in which no logits are found; say where they are "
            f"with "
            "logits=<key or index>"
        )
    return {"logits": found}


def extract_labels(batch: Any, keys: list[Key]) -> list[Tensor]:
    """The labels in a batch, one for each head.

    Args:
        batch: What the training step gets.
        keys: Where they stand; none = nowhere.
    """
    return [get_entry(batch, key, "labels", "the batch") for key in keys]


def build_head(name: str, logits: Tensor, labels: Tensor | None, token_mask: Tensor | None, classes_last: bool) -> Head:
    """One distribution per row, token or pixel.

    Args:
        name: For messages.
        logits: (N, C); (B, L, C) or (B, C, L), of which padding is left out; or (B, C, H, W).
        labels: The same without C; tokens whose label is -100 are left out.
        token_mask: Which positions are no padding, (B, L); None = all.
        classes_last: Whether three dimensions are known to be (B, L, C).

    Raises:
        ValueError: If logits or labels have another shape, or three dimensions may mean this or that.
    """
    if logits.ndim < 2:
        raise ValueError(
            f"DistillationCallback: {name!r} has the shape {tuple(logits.shape)}, and the losses compare scores of "
            "classes: (N, C), (B, L, C) or (B, C, H, W); give the network one output per class"
        )
    if token_mask is not None and token_mask.shape != logits.shape[:2]:
        token_mask = None
    channels_first = logits.ndim > 3
    if logits.ndim == 3 and not classes_last and token_mask is None:
        channels_first = _is_channels_first(name, logits, labels)
    scores = logits.movedim(1, -1) if channels_first else logits
    if labels is not None and labels.shape != scores.shape[:-1]:
        raise ValueError(
            f"DistillationCallback.labels: of shape {tuple(labels.shape)}, but {name!r} of {tuple(logits.shape)} needs "
            f"{tuple(scores.shape[:-1])}; name other labels or other logits"
        )
    if logits.ndim == 3 and labels is not None:
        labeled = labels != IGNORE_INDEX
        token_mask = labeled if token_mask is None else token_mask & labeled
    if logits.ndim == 3 and token_mask is not None and not token_mask.all():  # to index copies all scores
        return Head(scores[token_mask], None if labels is None else labels[token_mask])
    return Head(scores.flatten(0, -2), None if labels is None else labels.flatten())


def _is_channels_first(name: str, logits: Tensor, labels: Tensor | None) -> bool:
    """Whether logits of three dimensions are those of a convolution, (B, C, L), which the labels' shape says."""
    batch, one, other = logits.shape
    shape = None if labels is None else tuple(labels.shape)
    if one != other and shape in ((batch, one), (batch, other)):
        return shape == (batch, other)
    raise ValueError(
        f"DistillationCallback.logits: {name!r} of the shape {tuple(logits.shape)} may be tokens by classes or classes "
        "by positions; name labels=<key or index> of one class for each position, whose shape says it, or return "
        "logits of two dimensions"
    )


WIDTH_ATTRIBUTES = ("out_features", "out_channels", "num_features", "num_channels", "embedding_dim", "embed_dim")
"""What modules of PyTorch call the width of their output."""


def layer_width(model: nn.Module, path: str, role: str) -> int:
    """How wide the output of a layer is, from its weights: of its last part that says so.

    Raises:
        ValueError: If there is no such layer, or it does not say.
    """
    model = unwrap_compiled(model)
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        names = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f"DistillationCallback.layers: the {role}, {type(model).__name__}, has no {path!r}; its parts are {names}"
        ) from None
    for part in [layer, *reversed(list(layer.modules())[1:])]:
        if isinstance(part, nn.RNNBase):
            break
        shape = getattr(part, "normalized_shape", None)
        width = (
            shape[-1]
            if shape
            else next((getattr(part, name) for name in WIDTH_ATTRIBUTES if hasattr(part, name)), None)
        )
        if isinstance(width, int):
            return width
    raise ValueError(
        f"DistillationCallback.layers: {path!r} of the {role} does not say how wide its output is; name a linear "
        f"map, a "
        "convolution or a norm"
    )


@dataclass(frozen=True)
class Layer:
    """A layer whose output is compared."""

    path: str
    width: int

    def states(self, call: Call) -> Tensor:
        """Its output, (B, L, H): of a feature map (B, H, ...) the positions in a row, of (B, H) one position.

        Raises:
            ValueError: If it did not run, or is not as wide as its weights say.
        """
        what = f"DistillationCallback.layers: {self.path!r}"
        states = call.layers.get(self.path)
        if not isinstance(states, Tensor):
            raise ValueError(
                f"{what} gave no tensor in this call; name a layer that the network calls (where it was compiled and "
                "run before this fit, call torch.compiler.reset() first)"
            )
        # classes of images come second, of tokens last
        dims = [dim for dim in ((1, -1) if states.ndim > 3 else (-1, 1)) if states.shape[dim] == self.width]
        if states.ndim < 2 or not dims:
            raise ValueError(
                f"{what} gave the shape {tuple(states.shape)}, but its weights say a width of {self.width}; name the "
                "linear map, convolution or norm inside it"
            )
        states = states.movedim(dims[0], -1)
        return states.unsqueeze(1) if states.ndim == 2 else states.flatten(1, -2)


def build_outputs(call: Call, role: str, keys: list[Key] | None, labels: list[Tensor], layers: list[Layer]) -> Outputs:
    """A call in the vocabulary of the losses.

    Args:
        call: The call.
        role: The network, for messages.
        keys: See ``extract_logits``; None where no loss reads logits.
        labels: One for each head, or none.
        layers: Whose outputs become ``hidden_states``, in this order.
    """
    call.output_versions.check_unchanged(
        f"what the {role} returned", "change a copy of it in training_step (logits = logits / 2 instead of logits /= 2)"
    )
    found = {} if keys is None else extract_logits(call.output, keys, role)
    heads = {
        name: build_head(name, logits, head_labels, call.token_mask, call.classes_last)
        for (name, logits), head_labels in zip_longest(found.items(), labels[: len(found)])
    }
    return Outputs(heads, call.token_mask, tuple(layer.states(call) for layer in layers))

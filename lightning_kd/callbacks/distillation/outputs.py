"""What a call of any network says, in the vocabulary of the losses."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from lightning_kd.callbacks.distillation.call_recorder import Call, original
from lightning_kd.outputs import IGNORED, Head, Outputs

Key = str | int
"""Where something stands in a mapping or a tuple."""


def pick(whole: Any, key: Key, argument: str, what: str) -> Any:
    """An entry of a mapping or tuple, or an attribute.

    Raises:
        ValueError: If there is no such entry; lists those that there are.
    """
    try:
        if isinstance(key, str) and not isinstance(whole, Mapping):
            return getattr(whole, key)
        return whole[key]
    except (LookupError, AttributeError, TypeError):
        there = f"has {', '.join(map(repr, whole))}" if isinstance(whole, Mapping) else f"is a {type(whole).__name__}"
        raise ValueError(f"DistillationCallback.{argument}: {what} has no {key!r}; it {there}") from None


def logits_of(output: Any, keys: list[Key], who: str) -> dict[str, Tensor]:
    """The logits in what a network returned, by name.

    Args:
        output: A tensor; a tuple, of which the first tensor of at least two dimensions is taken; a mapping with
            ``logits``.
        keys: Where else they stand in a tuple or mapping.
        who: The network, for messages.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(output, Tensor):
        return {str(keys[0]) if keys else "logits": output}
    if keys:
        return {str(key): pick(output, key, "logits", f"what the {who} returns") for key in keys}
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None and isinstance(output, (tuple, list)):
        found = next((part for part in output if isinstance(part, Tensor) and part.ndim >= 2), None)
    if found is None:
        there = f"a mapping of {', '.join(map(repr, output))}" if isinstance(output, Mapping) else type(output).__name__
        raise ValueError(
            f"DistillationCallback: the {who} returns {there}, in which no logits are found; say where they are with "
            "logits=<key or index>"
        )
    return {"logits": found}


def labels_of(batch: Any, keys: list[Key]) -> list[Tensor]:
    """The labels in a batch, one for each head.

    Args:
        batch: What the training step gets.
        keys: Where they stand; none = nowhere.
    """
    return [pick(batch, key, "labels", "the batch") for key in keys]


def head_of(name: str, logits: Tensor, labels: Tensor | None, tokens: Tensor | None, classes_last: bool) -> Head:
    """One distribution per row, token or pixel.

    Args:
        name: For messages.
        logits: (N, C); (B, L, C) or (B, C, L), of which padding is left out; or (B, C, H, W).
        labels: The same without C; tokens whose label is -100 are left out.
        tokens: Which positions are no padding, (B, L); None = all.
        classes_last: Whether three dimensions are known to be (B, L, C).

    Raises:
        ValueError: If logits or labels have another shape, or three dimensions may mean this or that.
    """
    if logits.ndim < 2:
        raise ValueError(
            f"DistillationCallback: {name!r} has the shape {tuple(logits.shape)}, and the losses compare scores of "
            "classes: (N, C), (B, L, C) or (B, C, H, W); give the network one output per class"
        )
    if tokens is not None and tokens.shape != logits.shape[:2]:
        tokens = None
    second = logits.ndim > 3
    if logits.ndim == 3 and not classes_last and tokens is None:
        second = _classes_second(name, logits, labels)
    scores = logits.movedim(1, -1) if second else logits
    if labels is not None and labels.shape != scores.shape[:-1]:
        raise ValueError(
            f"DistillationCallback.labels: of shape {tuple(labels.shape)}, but {name!r} of {tuple(logits.shape)} needs "
            f"{tuple(scores.shape[:-1])}; name other labels or other logits"
        )
    if logits.ndim == 3 and labels is not None:
        known = labels != IGNORED
        tokens = known if tokens is None else tokens & known
    if logits.ndim == 3 and tokens is not None and not tokens.all():  # to index copies all scores
        return Head(scores[tokens], None if labels is None else labels[tokens])
    return Head(scores.flatten(0, -2), None if labels is None else labels.flatten())


def _classes_second(name: str, logits: Tensor, labels: Tensor | None) -> bool:
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


WIDTHS = ("out_features", "out_channels", "num_features", "num_channels", "embedding_dim", "embed_dim")
"""What modules of PyTorch call the width of their output."""


def width_of(network: nn.Module, path: str, who: str) -> int:
    """How wide the output of a layer is, from its weights: of its last part that says so.

    Raises:
        ValueError: If there is no such layer, or it does not say.
    """
    network = original(network)
    try:
        layer = network.get_submodule(path)
    except AttributeError:
        names = ", ".join(name for name, _ in network.named_children())
        raise ValueError(
            f"DistillationCallback.layers: the {who}, {type(network).__name__}, has no {path!r}; its parts are {names}"
        ) from None
    for part in [layer, *reversed(list(layer.modules())[1:])]:
        if isinstance(part, nn.RNNBase):
            break
        shape = getattr(part, "normalized_shape", None)
        width = shape[-1] if shape else next((getattr(part, name) for name in WIDTHS if hasattr(part, name)), None)
        if isinstance(width, int):
            return width
    raise ValueError(
        f"DistillationCallback.layers: {path!r} of the {who} does not say how wide its output is; name a linear map, a "
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
        wide = [dim for dim in ((1, -1) if states.ndim > 3 else (-1, 1)) if states.shape[dim] == self.width]
        if states.ndim < 2 or not wide:
            raise ValueError(
                f"{what} gave the shape {tuple(states.shape)}, but its weights say a width of {self.width}; name the "
                "linear map, convolution or norm inside it"
            )
        states = states.movedim(wide[0], -1)
        return states.unsqueeze(1) if states.ndim == 2 else states.flatten(1, -2)


def outputs_of(call: Call, who: str, keys: list[Key] | None, labels: list[Tensor], layers: list[Layer]) -> Outputs:
    """A call in the vocabulary of the losses.

    Args:
        call: The call.
        who: The network, for messages.
        keys: See ``logits_of``; None where no loss reads logits.
        labels: One for each head, or none.
        layers: Whose outputs become ``hidden_states``, in this order.
    """
    call.outputs.check(
        f"what the {who} returned", "change a copy of it in training_step (logits = logits / 2 instead of logits /= 2)"
    )
    found = {} if keys is None else logits_of(call.output, keys, who)
    heads = {
        name: head_of(name, logits, own, call.tokens, call.classes_last)
        for (name, logits), own in zip_longest(found.items(), labels[: len(found)])
    }
    return Outputs(heads, call.tokens, tuple(layer.states(call) for layer in layers))

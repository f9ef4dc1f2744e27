"""Copies embeddings, chosen layers and the head of one encoder into a shallower one."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_kd import models
from lightning_kd.models.labels import label_names_of
from lightning_kd.models.layer_selection import Strategy, choose_layers

Weights = dict[str, Tensor]

SIZES = ("hidden_size", "embedding_size", "intermediate_size", "num_attention_heads", "vocab_size")
"""Fields of the configuration that must be the same in both networks."""

TO_DISTILBERT = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
"""Names in a layer of BERT and RoBERTa, and in one of DistilBERT."""

HEADS_TO_DISTILBERT = {
    "cls.predictions.transform.dense": "vocab_transform",
    "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
    "cls.predictions.decoder": "vocab_projector",
    "lm_head.dense": "vocab_transform",
    "lm_head.layer_norm": "vocab_layer_norm",
    "lm_head.decoder": "vocab_projector",
    "qa_outputs": "qa_outputs",
}
"""Heads that mean the same in both: masked language models of BERT and RoBERTa, question answering."""

DISTILLED_INTO_DISTILBERT = {"bert": 0, "roberta": 2, "xlm-roberta": 2, "camembert": 2}
"""Families whose layers fit DistilBERT, and the row of their position embeddings that is the first position."""


@dataclass(frozen=True)
class Copied:
    """What was copied.

    Attributes:
        layers: For each student layer the source layer it started from.
        parts: (part of the student, part of the source) in the order of the student's weights.
        left: Names of the student's weights that were left as they were.
    """

    layers: list[int]
    parts: list[tuple[str, str]]
    left: list[str]


def copy_layers(source: nn.Module, student: nn.Module, layers: Sequence[int] | Strategy | None) -> Copied:
    """Copy the chosen layers and all other weights that mean the same and have the same shape.

    Both networks are of one architecture; or BERT, RoBERTa, XLM-R or CamemBERT is copied into DistilBERT, which has no
    token types: the vector of the first type is added to the position embeddings, so that a text on its own gives the
    same embeddings. The head is copied only where both networks name the same labels in the same order.

    Args:
        source: Network of S layers.
        student: Network of the same widths and vocabulary with N <= S layers.
        layers: See ``choose_layers``.

    Raises:
        ValueError: If the networks do not fit together, or ``layers`` does not fit them.
    """
    kinds = [str(getattr(getattr(network, "config", None), "model_type", None)) for network in (source, student)]
    across = kinds[1] == "distilbert" and kinds[0] in DISTILLED_INTO_DISTILBERT
    if kinds[0] != kinds[1] and not across:
        raise ValueError(
            f"LayerInitialization: the source is {kinds[0]!r} and the student {kinds[1]!r}; make the student from the "
            "source's configuration, {base: <source>, num_hidden_layers: ...}, or a DistilBERT from a BERT or RoBERTa"
        )
    _check_sizes(source, student)
    pads = [getattr(getattr(network, "config", None), "pad_token_id", None) for network in (source, student)]
    if across and pads[0] != pads[1]:
        raise ValueError(
            f"LayerInitialization: pad_token_id is {pads[0]} in the source and {pads[1]} in the student, whose "
            f"embedding of that token would never be trained; give the student pad_token_id: {pads[0]}"
        )
    source_stack, student_stack = models.encoder_layers(source), models.encoder_layers(student)
    if source_stack is None or student_stack is None:
        raise ValueError(
            f"LayerInitialization: {type(student).__name__} has no list of layers to copy (ALBERT's, for one, share "
            "their weights); remove the callback"
        )
    (source_prefix, source_layers), (student_prefix, student_layers) = source_stack, student_stack
    chosen = choose_layers(layers, len(student_layers), len(source_layers))
    weights = {n: tensor for n, tensor in source.state_dict().items() if not n.startswith(f"{source_prefix}.")}
    if label_names_of(models.id_labels(source)) != label_names_of(models.id_labels(student)):
        body = f"{getattr(source, 'base_model_prefix', '')}."
        weights = {name: tensor for name, tensor in weights.items() if name.startswith(body)}
    if across:
        weights = _outside_layers_of_distilbert(weights, kinds[0], source, student)
    for number, index in enumerate(chosen):
        for name, tensor in source_layers[index].state_dict().items():
            weights[f"{student_prefix}.{number}.{_renamed(name, TO_DISTILBERT) if across else name}"] = tensor
    own = student.state_dict()
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    student.load_state_dict(fitting, strict=False)
    parts: dict[str, str] = {}
    for name in (name for name in own if name in fitting):
        inside = name.removeprefix(f"{student_prefix}.")
        if inside != name:
            number = int(inside.partition(".")[0])
            parts[f"layer {number}"] = f"layer {chosen[number]}"
        else:
            part = "embeddings" if ".embeddings." in name else name.rpartition(".")[0]
            parts[part] = part if not across else "embeddings" if part == "embeddings" else "head"
    return Copied(chosen, list(parts.items()), [name for name in own if name not in fitting])


def _check_sizes(source: nn.Module, student: nn.Module) -> None:
    for field in SIZES:
        theirs, ours = (_size(network, field) for network in (source, student))
        if theirs != ours:
            raise ValueError(
                f"LayerInitialization: {field} is {theirs!r} in the source and {ours!r} in the student; make the "
                "student from the source's configuration: {base: <source>, num_hidden_layers: ...}"
            )


def _size(network: nn.Module, field: str) -> int | None:
    config = getattr(network, "config", None)
    if field == "intermediate_size" and not hasattr(config, field):
        field = "hidden_dim"  # DistilBERT's name for it
    return getattr(config, field, None)


def _renamed(name: str, names: dict[str, str]) -> str:
    part, _, leaf = name.rpartition(".")
    return f"{names.get(part, part)}.{leaf}"


def _outside_layers_of_distilbert(weights: Weights, kind: str, source: nn.Module, student: nn.Module) -> Weights:
    """Embeddings and head of a BERT or RoBERTa under the names of DistilBERT."""
    theirs, ours = (f"{network.base_model_prefix}." for network in (source, student))
    renamed = {}
    for name, tensor in weights.items():
        part, _, leaf = name.removeprefix(theirs).rpartition(".")
        if part in ("embeddings.word_embeddings", "embeddings.LayerNorm"):
            renamed[f"{ours}{part}.{leaf}"] = tensor
        elif part == "embeddings.position_embeddings":
            token_types = weights[f"{theirs}embeddings.token_type_embeddings.weight"]
            places = int(getattr(student, "config").max_position_embeddings)  # noqa: B009  nn.Module has no such field
            first = DISTILLED_INTO_DISTILBERT[kind]
            renamed[f"{ours}{part}.{leaf}"] = tensor[first : first + places] + token_types[0]
        elif part in HEADS_TO_DISTILBERT:
            renamed[f"{HEADS_TO_DISTILBERT[part]}.{leaf}"] = tensor
    return renamed

"""Copies embeddings, chosen layers and the head of one encoder into a shallower one."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_kd import models
from lightning_kd.models.labels import get_label_names
from lightning_kd.models.layer_selection import LayerStrategy, select_layers

StateDict = dict[str, Tensor]

MATCHING_FIELDS = ("hidden_size", "embedding_size", "intermediate_size", "num_attention_heads", "vocab_size")
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

DISTILBERT_SOURCES = {"bert": 0, "roberta": 2, "xlm-roberta": 2, "camembert": 2}
"""Families whose layers fit DistilBERT, and the row of their position embeddings that is the first position."""


@dataclass(frozen=True)
class CopyReport:
    """What was copied.

    Attributes:
        layers: For each student layer the source layer it started from.
        copied: (part of the student, part of the source) in the order of the student's weights.
        skipped: Names of the student's weights that were left as they were.
    """

    layers: list[int]
    copied: list[tuple[str, str]]
    skipped: list[str]


def copy_layers(source: nn.Module, student: nn.Module, layers: Sequence[int] | LayerStrategy | None) -> CopyReport:
    """Copy the chosen layers and all other weights that mean the same and have the same shape.

    Both networks are of one architecture; or BERT, RoBERTa, XLM-R or CamemBERT is copied into DistilBERT, which has no
    token types: the vector of the first type is added to the position embeddings, so that a text on its own gives the
    same embeddings. The head is copied only where both networks name the same labels in the same order.

    Args:
        source: Network of S layers.
        student: Network of the same widths and vocabulary with N <= S layers.
        layers: See ``select_layers``.

    Raises:
        ValueError: If the networks do not fit together, or ``layers`` does not fit them.
    """
    model_types = [str(getattr(getattr(model, "config", None), "model_type", None)) for model in (source, student)]
    to_distilbert = model_types[1] == "distilbert" and model_types[0] in DISTILBERT_SOURCES
    if model_types[0] != model_types[1] and not to_distilbert:
        raise ValueError(
            f"LayerInitialization: the source is {model_types[0]!r} and the student {model_types[1]!r}; make the "
            f"student from the "
            "source's configuration, {config: <source>, num_hidden_layers: ...}, or a DistilBERT from a BERT or RoBERTa"
        )
    _check_sizes(source, student)
    pads = [getattr(getattr(model, "config", None), "pad_token_id", None) for model in (source, student)]
    if to_distilbert and pads[0] != pads[1]:
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
    selected = select_layers(layers, len(student_layers), len(source_layers))
    weights = {n: tensor for n, tensor in source.state_dict().items() if not n.startswith(f"{source_prefix}.")}
    if get_label_names(models.get_id2label(source)) != get_label_names(models.get_id2label(student)):
        body = f"{getattr(source, 'base_model_prefix', '')}."
        weights = {name: tensor for name, tensor in weights.items() if name.startswith(body)}
    if to_distilbert:
        weights = _convert_embeddings_and_head(weights, model_types[0], source, student)
    for number, index in enumerate(selected):
        for name, tensor in source_layers[index].state_dict().items():
            weights[f"{student_prefix}.{number}.{_rename(name, TO_DISTILBERT) if to_distilbert else name}"] = tensor
    student_weights = student.state_dict()
    matching = {
        name: tensor
        for name, tensor in weights.items()
        if name in student_weights and student_weights[name].shape == tensor.shape
    }
    student.load_state_dict(matching, strict=False)
    copied: dict[str, str] = {}
    for name in (name for name in student_weights if name in matching):
        inside = name.removeprefix(f"{student_prefix}.")
        if inside != name:
            number = int(inside.partition(".")[0])
            copied[f"layer {number}"] = f"layer {selected[number]}"
        else:
            part = "embeddings" if ".embeddings." in name else name.rpartition(".")[0]
            copied[part] = part if not to_distilbert else "embeddings" if part == "embeddings" else "head"
    return CopyReport(selected, list(copied.items()), [name for name in student_weights if name not in matching])


def _check_sizes(source: nn.Module, student: nn.Module) -> None:
    for field in MATCHING_FIELDS:
        source_value, student_value = (_config_value(model, field) for model in (source, student))
        if source_value != student_value:
            raise ValueError(
                f"LayerInitialization: {field} is {source_value!r} in the source and {student_value!r} in the "
                f"student; make the "
                "student from the source's configuration: {config: <source>, num_hidden_layers: ...}"
            )


def _config_value(model: nn.Module, field: str) -> int | None:
    config = getattr(model, "config", None)
    if field == "intermediate_size" and not hasattr(config, field):
        field = "hidden_dim"  # DistilBERT's name for it
    return getattr(config, field, None)


def _rename(name: str, names: dict[str, str]) -> str:
    part, _, leaf = name.rpartition(".")
    return f"{names.get(part, part)}.{leaf}"


def _convert_embeddings_and_head(
    weights: StateDict, model_type: str, source: nn.Module, student: nn.Module
) -> StateDict:
    """Embeddings and head of a BERT or RoBERTa under the names of DistilBERT."""
    source_prefix, student_prefix = (f"{model.base_model_prefix}." for model in (source, student))
    renamed = {}
    for name, tensor in weights.items():
        part, _, leaf = name.removeprefix(source_prefix).rpartition(".")
        if part in ("embeddings.word_embeddings", "embeddings.LayerNorm"):
            renamed[f"{student_prefix}{part}.{leaf}"] = tensor
        elif part == "embeddings.position_embeddings":
            token_types = weights[f"{source_prefix}embeddings.token_type_embeddings.weight"]
            num_positions = int(getattr(student, "config").max_position_embeddings)  # noqa: B009  nn.Module has no such field
            offset = DISTILBERT_SOURCES[model_type]
            renamed[f"{student_prefix}{part}.{leaf}"] = tensor[offset : offset + num_positions] + token_types[0]
        elif part in HEADS_TO_DISTILBERT:
            renamed[f"{HEADS_TO_DISTILBERT[part]}.{leaf}"] = tensor
    return renamed

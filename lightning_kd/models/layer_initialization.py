"""Initialize a student from the embeddings, selected layers and head of a deeper model."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_kd.models.inspection import encoder_layers, get_config
from lightning_kd.models.labels import get_id2label, get_label_names
from lightning_kd.models.layer_selection import LayerStrategy, select_layers

StateDict = dict[str, Tensor]

MATCHING_FIELDS = ("hidden_size", "embedding_size", "intermediate_size", "num_attention_heads", "vocab_size")
"""Configuration fields that source and student must share."""

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
"""Parts of a BERT or RoBERTa layer, and their names in a DistilBERT layer."""

HEADS_TO_DISTILBERT = {
    "cls.predictions.transform.dense": "vocab_transform",
    "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
    "cls.predictions.decoder": "vocab_projector",
    "lm_head.dense": "vocab_transform",
    "lm_head.layer_norm": "vocab_layer_norm",
    "lm_head.decoder": "vocab_projector",
    "qa_outputs": "qa_outputs",
}
"""Parts of the heads of BERT and RoBERTa (masked language modeling, question answering), and their names in
DistilBERT."""

DISTILBERT_SOURCES = {"bert": 0, "roberta": 2, "xlm-roberta": 2, "camembert": 2}
"""Families that can initialize DistilBERT, and the index of their first position embedding."""


@dataclass(frozen=True)
class CopyReport:
    """Result of ``copy_layers``.

    Attributes:
        layers: Index of the source layer for each student layer.
        copied: (part of the student, part of the source) in the order of the student's weights.
        skipped: Names of the student's weights that were not copied.
    """

    layers: list[int]
    copied: list[tuple[str, str]]
    skipped: list[str]


def copy_layers(
    source: nn.Module,
    student: nn.Module,
    layers: Sequence[int] | LayerStrategy | None,
    exclude: Collection[str] = (),
) -> CopyReport:
    """Copy the selected layers and all other weights with the same meaning and shape.

    Both models must have the same architecture, or the source is BERT, RoBERTa, XLM-R or CamemBERT and the student is
    DistilBERT. DistilBERT has no token types, so the embedding of the first type is added to its position embeddings.
    The head is copied only if both models have the same labels in the same order.

    Args:
        source: Model of S layers.
        student: Model of N <= S layers with the same widths and vocabulary; changed in place.
        layers: See ``select_layers``.
        exclude: Weights of the source outside of its layers that are not copied, such as those of a fresh head.

    Returns:
        A report of what was copied.

    Raises:
        ValueError: If the models are incompatible, or ``layers`` does not fit them.
    """
    to_distilbert = _check_compatible(source, student)
    (source_prefix, source_layers), (student_prefix, student_layers) = (_layer_stack(m) for m in (source, student))
    selected = select_layers(layers, len(student_layers), len(source_layers))
    weights = {
        name: tensor
        for name, tensor in source.state_dict().items()
        if not name.startswith(f"{source_prefix}.") and name not in exclude
    }
    if get_label_names(get_id2label(source)) != get_label_names(get_id2label(student)):
        encoder = f"{getattr(source, 'base_model_prefix', '')}."
        weights = {name: tensor for name, tensor in weights.items() if name.startswith(encoder)}
    if to_distilbert:
        weights = _convert_embeddings_and_head(weights, source, student)
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
        if name.startswith(f"{student_prefix}."):
            number = int(name.removeprefix(f"{student_prefix}.").partition(".")[0])
            copied[f"layer {number}"] = f"layer {selected[number]}"
        else:
            part = "embeddings" if ".embeddings." in name else name.rpartition(".")[0]
            copied[part] = "head" if to_distilbert and part != "embeddings" else part
    return CopyReport(selected, list(copied.items()), [name for name in student_weights if name not in matching])


def _check_compatible(source: nn.Module, student: nn.Module) -> bool:
    """Raise a ValueError if weights cannot be copied; return True if they must be converted to DistilBERT."""
    source_type, student_type = (_config_value(model, "model_type") for model in (source, student))
    to_distilbert = student_type == "distilbert" and source_type in DISTILBERT_SOURCES
    for field in MATCHING_FIELDS if to_distilbert else ("model_type", *MATCHING_FIELDS):
        source_value, student_value = (_config_value(model, field) for model in (source, student))
        if source_value != student_value:
            raise ValueError(
                f"LayerInitialization: {field} is {source_value!r} in the source and {student_value!r} in the student; "
                "build the student as {config: <source>, num_hidden_layers: ...}, or, if the source is a BERT or "
                "RoBERTa, as a DistilBERT with the same sizes"
            )
    source_pad, student_pad = (_config_value(model, "pad_token_id") for model in (source, student))
    if to_distilbert and source_pad != student_pad:
        raise ValueError(
            f"LayerInitialization: pad_token_id is {source_pad} in the source and {student_pad} in the student, which "
            f"never trains the embedding of its padding token; set pad_token_id: {source_pad} in the student"
        )
    return to_distilbert


def _layer_stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    stack = encoder_layers(model)
    if stack is None:
        raise ValueError(
            f"LayerInitialization: {type(model).__name__} has no list of layers to copy (ALBERT shares one layer); "
            "remove the callback"
        )
    return stack


def _config_value(model: nn.Module, field: str) -> int | str | None:
    config = get_config(model)
    if field == "intermediate_size" and not hasattr(config, field):
        field = "hidden_dim"  # its name in DistilBERT
    return getattr(config, field, None)


def _rename(name: str, names: dict[str, str]) -> str:
    part, _, leaf = name.rpartition(".")
    return f"{names.get(part, part)}.{leaf}"


def _convert_embeddings_and_head(weights: StateDict, source: nn.Module, student: nn.Module) -> StateDict:
    """Convert embeddings and head of BERT or RoBERTa to DistilBERT."""
    source_prefix, student_prefix = (f"{model.base_model_prefix}." for model in (source, student))
    converted = {}
    for name, tensor in weights.items():
        part, _, leaf = name.removeprefix(source_prefix).rpartition(".")
        if part in ("embeddings.word_embeddings", "embeddings.LayerNorm"):
            converted[f"{student_prefix}{part}.{leaf}"] = tensor
        elif part == "embeddings.position_embeddings":
            token_types = weights[f"{source_prefix}embeddings.token_type_embeddings.weight"]
            offset = DISTILBERT_SOURCES[get_config(source).model_type]
            num_positions = get_config(student).max_position_embeddings
            converted[f"{student_prefix}{part}.{leaf}"] = tensor[offset : offset + num_positions] + token_types[0]
        elif part in HEADS_TO_DISTILBERT:
            converted[f"{HEADS_TO_DISTILBERT[part]}.{leaf}"] = tensor
    return converted

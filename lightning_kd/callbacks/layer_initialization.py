"""Starts the student from layers of a deeper network of the same architecture."""

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_kd import models
from lightning_kd.labels import label_names_of
from lightning_kd.module import DistillationModule


def evenly_spaced(count: int, among: int) -> list[int]:
    """Indices of ``count`` layers out of ``among``, the first and the last included (one layer: the first).

    Example:
        >>> evenly_spaced(2, 6), evenly_spaced(3, 12), evenly_spaced(1, 6)
        ([0, 5], [0, 6, 11], [0])
    """
    return [(2 * i * (among - 1) + count - 1) // (2 * (count - 1)) for i in range(count)] if count > 1 else [0]


def copy_layers(source: nn.Module, student: nn.Module, layers: Sequence[int] | None) -> tuple[list[int], list[str]]:
    """Copy the chosen layers and all other weights of equal name and shape.

    The head is copied only where both networks name the same labels in the same order.

    Args:
        source: Network of S layers.
        student: Network of the same architecture and width, with N layers.
        layers: For each student layer the index of its source layer, in [-S, S); None = evenly spaced.

    Returns:
        The layer indices, and the names of the student's parameters that were left as they were.

    Raises:
        ValueError: If the architectures, widths or vocabularies differ, or an index is out of range.
    """
    for field in ("model_type", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"):
        theirs, ours = (getattr(getattr(network, "config", None), field, None) for network in (source, student))
        if theirs != ours:
            raise ValueError(
                f"LayerInitialization: {field} is {theirs!r} in the source and {ours!r} in the student; make the "
                "student from the source's configuration: {base: <source>, num_hidden_layers: ...}"
            )
    source_stack, student_stack = models.encoder_layers(source), models.encoder_layers(student)
    if source_stack is None or student_stack is None:
        raise ValueError(
            f"LayerInitialization: {type(student).__name__} has no list of layers to copy (ALBERT's, for one, share "
            "their weights); remove the callback"
        )
    (source_prefix, source_layers), (student_prefix, student_layers) = source_stack, student_stack
    depth = len(source_layers)
    if len(student_layers) > depth:
        raise ValueError(
            f"LayerInitialization: the student has {len(student_layers)} layers, the source {depth}; make it shallower"
        )
    chosen = evenly_spaced(len(student_layers), depth) if layers is None else list(layers)
    if len(chosen) != len(student_layers):
        raise ValueError(
            f"LayerInitialization.layers: {len(chosen)} given, the student has {len(student_layers)} layers"
        )
    for index in chosen:
        if not -depth <= index < depth:
            raise ValueError(
                f"LayerInitialization.layers: {index} is out of range, the source has layers 0 to {depth - 1}"
            )

    weights = {n: tensor for n, tensor in source.state_dict().items() if not n.startswith(f"{source_prefix}.")}
    for number, index in enumerate(chosen):
        for name, tensor in source_layers[index].state_dict().items():
            weights[f"{student_prefix}.{number}.{name}"] = tensor
    if label_names_of(models.id_labels(source)) != label_names_of(models.id_labels(student)):
        body = f"{getattr(student, 'base_model_prefix', '')}."
        weights = {name: tensor for name, tensor in weights.items() if name.startswith(body)}
    own = student.state_dict()
    fitting = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    student.load_state_dict(fitting, strict=False)
    return chosen, [name for name in own if name not in fitting]


class LayerInitialization(Callback):
    """Copies embeddings, chosen layers and, where the labels agree, the head into the student before training.

    It runs in ``setup``, before a checkpoint is restored, so that resumed weights are never overwritten.

    Args:
        layers: For each student layer the index of the layer it starts from; null = evenly spaced, the first and
            the last included.
        source: Hub id or folder to copy from; null = the teacher (the first of an ensemble).
    """

    def __init__(self, layers: list[int] | None = None, source: str | None = None) -> None:
        self.layers = layers
        self.source = source

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy, at the start of ``fit`` only.

        Raises:
            ValueError: If there is nothing to copy from, or source and student do not fit together.
        """
        if stage != "fit":
            return
        if not isinstance(pl_module, DistillationModule):
            raise ValueError(f"LayerInitialization: works on a DistillationModule, got {type(pl_module).__name__}")
        student = pl_module.build_student()
        if self.source is not None:
            source: nn.Module = models.load_network(
                self.source, pl_module.task.auto_class, "LayerInitialization.source"
            )
        elif pl_module.teacher is not None:
            source = pl_module.teacher.networks[0]
        else:
            raise ValueError("LayerInitialization.source: none given and there is no teacher; name a hub id or folder")
        chosen, left = copy_layers(source, student, self.layers)
        pairs = ", ".join(f"{index} to {number}" for number, index in enumerate(chosen))
        kept = f"; left as they were: {', '.join(left)}" if left else ""
        rank_zero_info(f"LayerInitialization: copied embeddings and layers {pairs}{kept}")

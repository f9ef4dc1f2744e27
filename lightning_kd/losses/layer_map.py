"""Which hidden state of the student is compared with which of the teacher."""

from lightning_kd.outputs import ModelDims

LayerMap = dict[int, int]
"""Student's index to teacher's index: 0 = the embeddings, n = the output of layer n, negative ones from the end."""


def layer_index(layer: int) -> int:
    """Where a layer stands in a list of layers: the first, 1, at 0; negative ones stay."""
    return layer - 1 if layer > 0 else layer


def check_layer_map(
    layer_map: LayerMap, student: ModelDims, teacher: ModelDims, loss_name: str, min_index: int
) -> None:
    """Refuse an index off the end.

    Args:
        layer_map: The pairs.
        student: Its sizes.
        teacher: Its sizes.
        loss_name: Name of the loss, for the message.
        min_index: The lowest index: 0 where the embeddings count, 1 where only layers do.

    Raises:
        ValueError: Names the index and what there is.
    """
    for student_layer, teacher_layer in layer_map.items():
        for role, index, dims in (("student", student_layer, student), ("teacher", teacher_layer, teacher)):
            if not (
                min_index <= index <= dims.num_hidden_layers or -dims.num_hidden_layers - 1 + min_index <= index < 0
            ):
                names = f"{min_index} to {dims.num_hidden_layers}" + (", 0 = the embeddings" if min_index == 0 else "")
                raise ValueError(
                    f"{loss_name}.layer_map: {student_layer}: {teacher_layer} names layer {index} of the {role}, "
                    f"which has {names}; "
                    "negative numbers count from the last"
                )

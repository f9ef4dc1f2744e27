"""Which hidden state of the student is compared with which of the teacher."""

from lightning_kd.outputs import Shape

LayerMap = dict[int, int]
"""Student's index to teacher's index: 0 = the embeddings, n = the output of layer n, negative ones from the end."""


def place_of(layer: int) -> int:
    """Where a layer stands in a list of layers: the first, 1, at 0; negative ones stay."""
    return layer - 1 if layer > 0 else layer


def check_layer_map(layer_map: LayerMap, student: Shape, teacher: Shape, loss: str, first: int) -> None:
    """Refuse an index off the end.

    Args:
        layer_map: The pairs.
        student: Its sizes.
        teacher: Its sizes.
        loss: Name of the loss, for the message.
        first: The lowest index: 0 where the embeddings count, 1 where only layers do.

    Raises:
        ValueError: Names the index and what there is.
    """
    for own, theirs in layer_map.items():
        for who, index, shape in (("student", own, student), ("teacher", theirs, teacher)):
            if not (first <= index <= shape.layers or -shape.layers - 1 + first <= index < 0):
                names = f"{first} to {shape.layers}" + (", 0 = the embeddings" if first == 0 else "")
                raise ValueError(
                    f"{loss}.layer_map: {own}: {theirs} names layer {index} of the {who}, which has {names}; "
                    "negative numbers count from the last"
                )

"""Labels as they stand in files, and the class indices they become."""

from typing import Any

from lightning_kd.outputs import IGNORE_INDEX


def _as_index(label: Any) -> int | None:
    try:
        index = int(label)
    except (TypeError, ValueError, OverflowError):
        return None
    return index if isinstance(label, str) or index == label else None  # 1.5 is no index


def is_missing_label(label: Any) -> bool:
    """Whether a label says that there is none: an empty one, or -1 as on the hub."""
    return label is None or label == "" or _as_index(label) == -1


def infer_label_names(columns: list[list[Any]]) -> list[str]:
    """The label names of a data set: those that occur, numbers by value, names alphabetically.

    Numbers are taken for indices, so the names run from 0 to the largest.
    """
    # lists and the like are no labels: index_labels names their rows
    labels = {
        label
        for column in columns
        for label in column
        if isinstance(label, (str, int, float)) and not is_missing_label(label)
    }
    indices = [_as_index(label) for label in labels]
    if labels and all(index is not None and index >= 0 for index in indices):
        return [str(index) for index in range(max(index for index in indices if index is not None) + 1)]
    return sorted(str(label) for label in labels)


def index_labels(labels: list[Any], names: list[str], where: str, allow_unlabeled: bool = False) -> list[int]:
    """Turn labels, names or indices, into indices of ``names``.

    Args:
        labels: One per row.
        names: The classes in index order.
        where: File and split, for the message.
        allow_unlabeled: Give rows without a label -100, which losses and metrics leave out, instead of refusing.

    Raises:
        ValueError: If a label is missing or not among the names; names the row.
    """
    position = {name: index for index, name in enumerate(names)}
    result = []
    for row, label in enumerate(labels, 1):
        if is_missing_label(label):
            if not allow_unlabeled:
                raise ValueError(
                    f"{where}, row {row}: no label ({label!r}); fill it or remove the row (data.allow_unlabeled=true "
                    "takes such training rows, for the teacher to label)"
                )
            result.append(IGNORE_INDEX)
            continue
        index = position.get(str(label), _as_index(label))
        if index is None or not 0 <= index < len(names):
            known = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"{where}, row {row}: unknown label {label!r}; known are {known}")
        result.append(index)
    return result

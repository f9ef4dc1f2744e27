"""Conversion of labels in files to class indices."""

from typing import Any

from lightning_kd.outputs import IGNORE_INDEX

MAX_CLASSES = 1_000_000
"""Number of classes above which a column of numbers is taken for ids."""


def _as_index(label: Any) -> int | None:
    try:
        index = int(label)
    except (TypeError, ValueError, OverflowError):
        return None
    return index if isinstance(label, str) or index == label else None  # 1.5 is not an index


def is_missing_label(label: Any) -> bool:
    """Return True if a label is empty, or -1 as in unlabeled splits of the Hub."""
    return label is None or label == "" or _as_index(label) == -1


def infer_label_names(columns: list[list[Any]]) -> list[str]:
    """Return the label names of a dataset: names in alphabetical order, or all indices from 0 to the largest.

    Args:
        columns: Label column of each split.

    Raises:
        ValueError: If an index is ``MAX_CLASSES`` or larger.
    """
    # other types are not labels: index_labels reports them with their row
    labels = {
        label
        for column in columns
        for label in column
        if isinstance(label, (str, int, float)) and not is_missing_label(label)
    }
    indices = [index for label in labels if (index := _as_index(label)) is not None and index >= 0]
    if labels and len(indices) == len(labels):
        if max(indices) >= MAX_CLASSES:
            raise ValueError(
                f"data.label_column: class indices must be less than {MAX_CLASSES:,}, got {max(indices)!r:.30}; "
                "is this the column of the labels?"
            )
        return [str(index) for index in range(max(indices) + 1)]
    return sorted({str(label) for label in labels})


def index_labels(labels: list[Any], names: list[str], where: str, allow_unlabeled: bool = False) -> list[int]:
    """Convert labels, which may be names or indices, to indices of ``names``.

    Args:
        labels: Label of each example.
        names: Class names in index order.
        where: File and split, for messages.
        allow_unlabeled: If True, missing labels become -100, which losses and metrics ignore; otherwise they raise.

    Raises:
        ValueError: If a label is missing or unknown; the message names the row.
    """
    name_to_index = {name: index for index, name in enumerate(names)}
    result = []
    for row, label in enumerate(labels, 1):
        if is_missing_label(label):
            if not allow_unlabeled:
                raise ValueError(
                    f"{where}, row {row}: no label ({label!r}); add it or remove the row (data.allow_unlabeled=true "
                    "keeps such training rows, for the teacher to label)"
                )
            result.append(IGNORE_INDEX)
            continue
        index = name_to_index.get(str(label), _as_index(label))
        if index is None or not 0 <= index < len(names):
            known = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"{where}, row {row}: unknown label {label!r:.60}; known are {known}")
        result.append(index)
    return result

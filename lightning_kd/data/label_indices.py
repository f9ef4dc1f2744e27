"""Conversion of labels in files to class indices."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_kd.outputs import IGNORE_INDEX

MAX_UNUSED_INDICES = 1000
"""Integer labels up to this are class indices, even if most of them do not occur."""

MAX_SCORES = 20
"""Up to this number, different labels such as 0.5 and 1.0 may be classes."""


def _as_index(label: Any) -> int | None:
    try:
        index = int(label)
    except (TypeError, ValueError, OverflowError):
        return None
    return index if isinstance(label, str) or index == label else None  # 1.5 is not an index


def is_missing_label(label: Any) -> bool:
    """Return True if a label is empty, or -1 as in unlabeled splits of the Hub."""
    return label is None or label == "" or _as_index(label) == -1


def _is_class(label: Any) -> bool:
    """Return True for a name or an integer; 1.0 is one, 1.5 and NaN are not."""
    return isinstance(label, (str, int)) or (isinstance(label, float) and label.is_integer())


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def infer_label_names(columns: list[list[Any]]) -> list[str]:
    """Return the label names of a dataset: names in alphabetical order, or all indices from 0 to the largest.

    Args:
        columns: Label column of each split.

    Raises:
        ValueError: If the labels are integers, but too large for indices of classes.
    """
    # other types are not labels: index_labels reports them with their row
    labels = {label for column in columns for label in column if _is_class(label) and not is_missing_label(label)}
    indices = [index for label in labels if (index := _as_index(label)) is not None and index >= 0]
    if labels and len(indices) == len(labels):
        num_classes, num_found = max(indices) + 1, len(set(indices))
        if num_classes > max(MAX_UNUSED_INDICES, 10 * num_found):
            raise ValueError(
                f"data.label_column: the largest label is {max(indices)!r:.30}, but only {num_found} different "
                "integers occur, so they are no indices of classes; name a column of classes, or number them from 0"
            )
        return [str(index) for index in range(num_classes)]
    names = sorted({str(label) for label in labels})
    if len(names) > MAX_SCORES and all(map(_is_number, names)):
        rank_zero_warn(
            f"data.label_column: all {len(names)} labels are numbers with a fraction ({', '.join(names[:3])}, ...) and "
            "become classes; if they are scores, name another column"
        )
    return names


def index_labels(labels: list[Any], names: list[str], where: str, allow_unlabeled: bool = False) -> list[int]:
    """Convert labels, which may be names or indices, to indices of ``names``.

    Args:
        labels: Label of each example.
        names: Class names in index order.
        where: File and split, for messages.
        allow_unlabeled: If True, missing labels become -100, which losses and metrics ignore; otherwise they raise.

    Raises:
        ValueError: If a label is missing, unknown, or a number that is not an integer; the message names the row.
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
        if isinstance(label, float) and not _is_class(label):
            raise ValueError(f"{where}, row {row}: label {label!r} is no class; write a name or an integer")
        if index is None or not 0 <= index < len(names):
            known = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"{where}, row {row}: unknown label {label!r:.60}; known are {known}")
        result.append(index)
    return result

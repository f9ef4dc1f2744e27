"""Label sets of models: read, write, compare and align them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from lightning_kd.models.inspection import get_config

IGNORE_HINT = "--model.ignore_checks+=label_mismatch (ignore_checks=['label_mismatch'])"


def get_id2label(model_or_config: Any) -> dict[int, str] | None:
    """Return the ``id2label`` of a model or configuration; None if it has none."""
    return getattr(get_config(model_or_config), "id2label", None)


def get_label_names(id2label: Mapping[int, str] | None) -> list[str] | None:
    """Return the label names in index order; None if there are only placeholders (``LABEL_0``, ...)."""
    if not id2label:
        return None
    names = [str(name) for _, name in sorted(id2label.items(), key=lambda item: int(item[0]))]
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def set_config_labels(config: PretrainedConfig, labels: list[str] | int) -> None:
    """Write labels into a configuration.

    Args:
        config: The configuration; changed in place.
        labels: Label names in index order, or only their number.
    """
    if isinstance(labels, int):
        config.num_labels = labels
    else:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: index for index, name in enumerate(labels)}


def set_label_names(model: nn.Module, label_names: list[str]) -> None:
    """Write label names into the configuration of a student passed as a module, if it has one.

    Raises:
        ValueError: If its head has a different number of labels.
    """
    config = get_config(model)
    if isinstance(config, PretrainedConfig):
        check_num_labels(config, len(label_names), "student")
        set_config_labels(config, label_names)


def check_num_labels(model_or_config: Any, expected: int, role: str) -> None:
    """Check the number of labels of a model's head; a model without a configuration is not checked.

    Args:
        model_or_config: The model or its configuration.
        expected: Number of labels.
        role: The model, for the error message.

    Raises:
        ValueError: If the number differs.
    """
    num_labels = getattr(get_config(model_or_config), "num_labels", expected)
    if num_labels != expected:
        raise ValueError(f"{role}: has {num_labels} labels, expected {expected}; use a model with {expected} labels")


def _normalize(name: str) -> str:
    return name.strip().casefold()


def _match_indices(names: Sequence[str], reference: Sequence[str]) -> list[int] | None:
    for normalize in (str, _normalize):
        index = {normalize(name): position for position, name in enumerate(reference)}
        keys = [normalize(name) for name in names]
        if len(index) == len(reference) and len(set(keys)) == len(keys) and index.keys() >= set(keys):
            return [index[key] for key in keys]
    return None


def same_label_set(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return True if two lists hold the same labels, in any order and ignoring case."""
    return len(first) == len(second) and _match_indices(first, second) is not None


def _describe_difference(first: Sequence[str], second: Sequence[str]) -> str:
    keys = [{_normalize(name) for name in names} for names in (first, second)]
    parts = [f"{len(first)} vs. {len(second)} labels"]
    for side, names, other in (("first", first, keys[1]), ("second", second, keys[0])):
        missing = [name for name in names if _normalize(name) not in other]
        if missing:
            parts.append(f"only in the {side}: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}")
    return "; ".join(parts)


def align_labels(
    names: Sequence[str],
    reference: Sequence[str],
    parties: str,
    remedy: str,
    ignore_mismatch: bool,
    subset: bool = False,
) -> Tensor | None:
    """Return the index in ``reference`` of each of ``names``, ignoring case.

    Args:
        names: N label names.
        reference: M label names.
        parties: Where ``names`` and ``reference`` come from, such as ``data and student``, for the error message.
        remedy: Advice for the error message.
        ignore_mismatch: If True, treat the same number of different names as the same labels in the same order.
        subset: If True, ``names`` may lack some of ``reference``.

    Returns:
        LongTensor (N,); None if the order is already the same.

    Raises:
        ValueError: If a name is missing or ambiguous, unless ``ignore_mismatch`` allows it.

    Example:
        >>> align_labels(["NEGATIVE", "POSITIVE"], ["positive", "negative"], "teacher and student", "", False)
        tensor([1, 0])
    """
    positions = _match_indices(names, reference)
    if positions is None or (len(names) != len(reference) and not subset):
        same_number = len(names) == len(reference)
        if ignore_mismatch and same_number:
            return None
        hint = f", or, if they have the same meanings in the same order, set {IGNORE_HINT}" if same_number else ""
        raise ValueError(
            f"{parties} have different label sets ({_describe_difference(names, reference)}); {remedy}{hint}"
        )
    return None if positions == list(range(len(reference))) else torch.tensor(positions)


def resolve_label_names(
    student: list[str] | None, teacher: list[str] | None, data: list[str] | None, ignore_mismatch: bool
) -> list[str] | None:
    """Return the label order of the student's head.

    A student with label names keeps its order, because its head is trained; otherwise it takes the teacher's order,
    or, if the teacher has no names, the data's.

    Args:
        student: The student's label names; None without names.
        teacher: The teacher's label names; None without names or without a teacher.
        data: The data's label names; None without names.
        ignore_mismatch: If True, a student with different labels takes those of the teacher or data.

    Raises:
        ValueError: If the student's labels differ from the teacher's (without a teacher, from the data's) and
            ``ignore_mismatch`` is False.
    """
    expected = teacher or data
    if student is None or expected is None or same_label_set(expected, student):
        return student or expected
    if teacher is None and _match_indices(expected, student) is not None:
        return student  # the data contain only some of the student's labels
    if ignore_mismatch:
        return expected
    party = "teacher" if teacher else "data"
    raise ValueError(
        f"student and {party} have different label sets ({_describe_difference(student, expected)}); use a student "
        f"without a trained head, or replace its labels (and its head, if their number differs) with the {party}'s by "
        f"setting {IGNORE_HINT}"
    )


def remap_labels(labels: Tensor, index: Tensor) -> Tensor:
    """Convert class indices (N,) to another class order; negative ones (unlabeled) stay.

    Args:
        labels: Class indices.
        index: New index of each class, (number of classes,), as from ``align_labels``.
    """
    return torch.where(labels >= 0, index[labels.clamp(min=0)], labels)

"""Label sets: which names a network knows, and how two orders of the same names map onto each other."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

IGNORE_HINT = "--model.ignore_checks+=label_mismatch (ignore_checks=['label_mismatch'])"


def get_label_names(id2label: Mapping[int, str] | None) -> list[str] | None:
    """The names in index order, or None where the checkpoint has only placeholders (``LABEL_0``, ...)."""
    if not id2label:
        return None
    names = [str(name) for _, name in sorted(id2label.items(), key=lambda item: int(item[0]))]
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _key(name: str) -> str:
    return name.strip().casefold()


def _match_indices(names: Sequence[str], reference: Sequence[str]) -> list[int] | None:
    exact = {name: position for position, name in enumerate(reference)}
    if len(exact) == len(reference) and len(set(names)) == len(names) and all(name in exact for name in names):
        return [exact[name] for name in names]
    index = {_key(name): position for position, name in enumerate(reference)}
    keys = [_key(name) for name in names]
    if len(index) != len(reference) or len(set(keys)) != len(keys) or any(key not in index for key in keys):
        return None
    return [index[key] for key in keys]


def same_label_set(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two lists name the same labels, in any order, without regard to case."""
    return len(first) == len(second) and _match_indices(first, second) is not None


def _describe_difference(first: Sequence[str], second: Sequence[str]) -> str:
    keys = [{_key(name) for name in names} for names in (first, second)]
    parts = [f"{len(first)} against {len(second)} labels"]
    for side, names, other in (("first", first, keys[1]), ("second", second, keys[0])):
        missing = [name for name in names if _key(name) not in other]
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
    """Where each of ``names`` stands in ``reference``, compared without regard to case.

    Args:
        names: N label names.
        reference: M label names.
        parties: The two parties in the order of the arguments, for the message.
        remedy: What to do where they do not match.
        ignore_mismatch: Take different names in the same number to mean the same labels in this order.
        subset: Whether ``names`` may leave out some of ``reference``.

    Returns:
        LongTensor (N,), or None where the order is the same already.

    Raises:
        ValueError: If a name is missing or ambiguous and that was not accepted.

    Example:
        >>> align_labels(["NEGATIVE", "POSITIVE"], ["positive", "negative"], "teacher and student", "", False)
        tensor([1, 0])
    """
    positions = _match_indices(names, reference)
    if positions is None or (len(names) != len(reference) and not subset):
        same_number = len(names) == len(reference)
        if ignore_mismatch and same_number:
            return None
        hint = f", or, if they mean the same in this very order, accept it with {IGNORE_HINT}" if same_number else ""
        raise ValueError(
            f"{parties} have different label sets ({_describe_difference(names, reference)}); {remedy}{hint}"
        )
    return None if positions == list(range(len(reference))) else torch.tensor(positions)


def resolve_label_names(
    student: list[str] | None, teacher: list[str] | None, data: list[str] | None, ignore_mismatch: bool
) -> list[str] | None:
    """Decide in which order the student's head has the labels.

    A student that already knows labels keeps its order (its head is trained), else it takes the teacher's, else the
    data's. Each argument is None where that party has no names.

    Raises:
        ValueError: If the student knows other labels than its teacher, or without one than the data, and
            ``ignore_mismatch`` is False. Where it is True the student takes those of the teacher or the data.
    """
    expected = teacher or data
    if student is None or expected is None or same_label_set(expected, student):
        return student or expected
    if teacher is None and _match_indices(expected, student) is not None:
        return student  # the data show only some of the student's labels
    if ignore_mismatch:
        return expected
    party = "teacher" if teacher else "data"
    raise ValueError(
        f"student and {party} have different label sets ({_describe_difference(student, expected)}); start from a "
        f"student without "
        f"a trained head, or give it the {party}'s labels, and where the number differs a fresh head, with "
        f"{IGNORE_HINT}"
    )


def remap_labels(labels: Tensor, index: Tensor) -> Tensor:
    """Labels (N,) in another order; those that do not count, < 0, stay as they are.

    Args:
        labels: Class indices.
        index: What ``align_labels`` returns, (number of labels,).
    """
    return torch.where(labels >= 0, index[labels.clamp(min=0)], labels)

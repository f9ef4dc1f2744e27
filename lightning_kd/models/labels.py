"""Label sets: which names a network knows, and how two orders of the same names map onto each other."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

ACCEPT = "--model.accept+=label_mismatch (accept=['label_mismatch'])"


def label_names_of(id2label: Mapping[int, str] | None) -> list[str] | None:
    """The names in index order, or None where the checkpoint has only placeholders (``LABEL_0``, ...)."""
    if not id2label:
        return None
    names = [str(name) for _, name in sorted(id2label.items(), key=lambda item: int(item[0]))]
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _key(name: str) -> str:
    return name.strip().casefold()


def _positions(names: Sequence[str], within: Sequence[str]) -> list[int] | None:
    exact = {name: position for position, name in enumerate(within)}
    if len(exact) == len(within) and len(set(names)) == len(names) and all(name in exact for name in names):
        return [exact[name] for name in names]
    index = {_key(name): position for position, name in enumerate(within)}
    keys = [_key(name) for name in names]
    if len(index) != len(within) or len(set(keys)) != len(keys) or any(key not in index for key in keys):
        return None
    return [index[key] for key in keys]


def same_set(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether two lists name the same labels, in any order, without regard to case."""
    return len(ours) == len(theirs) and _positions(ours, theirs) is not None


def _difference(first: Sequence[str], second: Sequence[str]) -> str:
    keys = [{_key(name) for name in names} for names in (first, second)]
    parts = [f"{len(first)} against {len(second)} labels"]
    for side, names, other in (("first", first, keys[1]), ("second", second, keys[0])):
        missing = [name for name in names if _key(name) not in other]
        if missing:
            parts.append(f"only in the {side}: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}")
    return "; ".join(parts)


def align(
    names: Sequence[str], within: Sequence[str], who: str, remedy: str, accepted: bool, subset: bool = False
) -> Tensor | None:
    """Where each of ``names`` stands in ``within``, compared without regard to case.

    Args:
        names: N label names.
        within: M label names.
        who: The two parties in the order of the arguments, for the message.
        remedy: What to do where they do not match.
        accepted: Take different names in the same number to mean the same labels in this order.
        subset: Whether ``names`` may leave out some of ``within``.

    Returns:
        LongTensor (N,), or None where the order is the same already.

    Raises:
        ValueError: If a name is missing or ambiguous and that was not accepted.

    Example:
        >>> align(["NEGATIVE", "POSITIVE"], ["positive", "negative"], "teacher and student", "", False)
        tensor([1, 0])
    """
    positions = _positions(names, within)
    if positions is None or (len(names) != len(within) and not subset):
        same_number = len(names) == len(within)
        if accepted and same_number:
            return None
        hint = f", or, if they mean the same in this very order, accept it with {ACCEPT}" if same_number else ""
        raise ValueError(f"{who} have different label sets ({_difference(names, within)}); {remedy}{hint}")
    return None if positions == list(range(len(within))) else torch.tensor(positions)


def choose_label_names(
    student: list[str] | None, teacher: list[str] | None, data: list[str] | None, accepted: bool
) -> list[str] | None:
    """Decide in which order the student's head has the labels.

    A student that already knows labels keeps its order (its head is trained), else it takes the teacher's, else the
    data's. Each argument is None where that party has no names.

    Raises:
        ValueError: If the student knows other labels than its teacher, or without one than the data, and
            ``accepted`` is False. Where it is True the student takes those of the teacher or the data.
    """
    asked = teacher or data
    if student is None or asked is None or same_set(asked, student):
        return student or asked
    if teacher is None and _positions(asked, student) is not None:
        return student  # the data show only some of the student's labels
    if accepted:
        return asked
    party = "teacher" if teacher else "data"
    raise ValueError(
        f"student and {party} have different label sets ({_difference(student, asked)}); start from a student without "
        f"a trained head, or give it the {party}'s labels, and where the number differs a fresh head, with {ACCEPT}"
    )


def relabel(labels: Tensor, index: Tensor) -> Tensor:
    """Labels (N,) in another order; those that do not count, < 0, stay as they are.

    Args:
        labels: Class indices.
        index: What ``align`` returns, (number of labels,).
    """
    return torch.where(labels >= 0, index[labels.clamp(min=0)], labels)

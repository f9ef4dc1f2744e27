"""Which token of one encoding stands where a token of another does, by their characters."""

import numpy as np
from numpy.typing import NDArray

NOWHERE = -1

Offsets = list[tuple[int, int]]
"""The first character of each token and the one after its last; the same number twice = no character."""


def without_spaces(text: str, first: int, after_last: int) -> tuple[int, int]:
    """The characters without spaces around them, which some tokenizers count to the word."""
    part = text[first:after_last]
    return first + len(part) - len(part.lstrip()), after_last - len(part) + len(part.rstrip())


def _places(text: str, offsets: Offsets, first_counts: bool) -> NDArray[np.int64]:
    """Which token each character belongs to, (len(text),); ``NOWHERE`` for spaces and what was dropped.

    Several tokens may stand for the bytes of one character: the first or the last of them counts.
    """
    places = np.full(len(text), NOWHERE)
    tokens = list(enumerate(offsets))
    for token, (first, after_last) in tokens[::-1] if first_counts else tokens:
        first, after_last = without_spaces(text, first, after_last)
        places[first:after_last] = token
    return places


def _filled(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each ``NOWHERE`` becomes the entry before it; at the beginning there is none."""
    latest = np.maximum.accumulate(np.where(places != NOWHERE, np.arange(len(places)), NOWHERE))
    return np.where(latest == NOWHERE, NOWHERE, places[latest])


def carried_positions(text: str, theirs: Offsets, ours: Offsets) -> tuple[list[int], list[int]]:
    """Where a span that begins, or ends, at each of their tokens does so among ours.

    A span begins at our token that holds the first character of theirs, and ends at the one that holds its last; where
    none does, at the next, or the one before.

    Args:
        text: What both stand for.
        theirs: Of the encoding that a span is given in.
        ours: Of the one it is wanted in.

    Returns:
        Two lists as long as ``theirs``, indices of ``ours``; ``NOWHERE`` for tokens without a character, and where
        there is no token of ours any more.
    """
    before = _filled(_places(text, ours, first_counts=False))
    after = _filled(_places(text, ours, first_counts=True)[::-1])[::-1]
    begins, ends = [NOWHERE] * len(theirs), [NOWHERE] * len(theirs)
    for token, (first, after_last) in enumerate(theirs):
        first, after_last = without_spaces(text, first, after_last)
        if first < after_last:
            begins[token], ends[token] = int(after[first]), int(before[after_last - 1])
    return begins, ends

"""Which token of one encoding stands where a token of another does, by their characters."""

import numpy as np
from numpy.typing import NDArray

NO_TOKEN = -1

Offsets = list[tuple[int, int]]
"""The first character of each token and the one after its last; the same number twice = no character."""


def strip_span(text: str, first: int, after_last: int) -> tuple[int, int]:
    """The characters without spaces around them, which some tokenizers count to the word."""
    part = text[first:after_last]
    return first + len(part) - len(part.lstrip()), after_last - len(part) + len(part.rstrip())


def _char_to_token(text: str, offsets: Offsets, prefer_first: bool) -> NDArray[np.int64]:
    """Which token each character belongs to, (len(text),); ``NO_TOKEN`` for spaces and what was dropped.

    Several tokens may stand for the bytes of one character: the first or the last of them counts.
    """
    char_tokens = np.full(len(text), NO_TOKEN)
    tokens = list(enumerate(offsets))
    for token, (first, after_last) in tokens[::-1] if prefer_first else tokens:
        first, after_last = strip_span(text, first, after_last)
        char_tokens[first:after_last] = token
    return char_tokens


def _forward_fill(char_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each ``NO_TOKEN`` becomes the entry before it; at the beginning there is none."""
    latest = np.maximum.accumulate(np.where(char_tokens != NO_TOKEN, np.arange(len(char_tokens)), NO_TOKEN))
    return np.where(latest == NO_TOKEN, NO_TOKEN, char_tokens[latest])


def align_span_boundaries(text: str, source: Offsets, target: Offsets) -> tuple[list[int], list[int]]:
    """Where a span that begins, or ends, at each of their tokens does so among ours.

    A span begins at our token that holds the first character of theirs, and ends at the one that holds its last; where
    none does, at the next, or the one before.

    Args:
        text: What both stand for.
        source: Of the encoding that a span is given in.
        target: Of the one it is wanted in.

    Returns:
        Two lists as long as ``source``, indices of ``target``; ``NO_TOKEN`` for tokens without a character, and where
        there is no token of ours any more.
    """
    before = _forward_fill(_char_to_token(text, target, prefer_first=False))
    after = _forward_fill(_char_to_token(text, target, prefer_first=True)[::-1])[::-1]
    begins, ends = [NO_TOKEN] * len(source), [NO_TOKEN] * len(source)
    for token, (first, after_last) in enumerate(source):
        first, after_last = strip_span(text, first, after_last)
        if first < after_last:
            begins[token], ends[token] = int(after[first]), int(before[after_last - 1])
    return begins, ends

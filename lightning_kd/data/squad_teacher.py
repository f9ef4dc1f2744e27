"""Inputs of a SQuAD teacher with a different tokenizer, aligned with the student's tokens."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

CLS_INDEX = 0
"""Position of ``[CLS]``, the answer of a window that does not contain the answer."""

NO_TOKEN = -1

MAX_WORD_LENGTH = 30
"""Length of a sequence without spaces from which the language is assumed not to separate words by spaces."""

Offsets = list[tuple[int, int]]
"""Start and end character of each token; equal for a token without characters."""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, argument: str) -> None:
    """Raise if a tokenizer does not provide offsets or the layout of an encoder.

    Args:
        tokenizer: The tokenizer.
        argument: Argument of the DataModule that names it, for the message.

    Raises:
        ValueError: If it does not; the message names the argument.
    """
    if not tokenizer.is_fast or tokenizer.padding_side != "right" or tokenizer.cls_token is None:
        raise ValueError(
            f"{argument}: {tokenizer.name_or_path!r} must be a fast tokenizer that pads on the right and has a "
            "token such as [CLS]; use an encoder such as BERT, DistilBERT or RoBERTa"
        )


def context_span(encoding: Encoding) -> tuple[int, int]:
    """Return the start and end position of the context's tokens."""
    sequence = encoding.sequence_ids
    if 1 not in sequence:
        return CLS_INDEX, CLS_INDEX
    return sequence.index(1), len(sequence) - sequence[::-1].index(1)


def context_offsets(encoding: Encoding, shift: int = 0) -> Offsets:
    """Return the offsets of the context's tokens, plus ``shift``; (0, 0) for other tokens."""
    return [
        (start + shift, end + shift) if sequence == 1 else (0, 0)
        for (start, end), sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True)
    ]


def _strip_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without surrounding spaces, which some tokenizers include in a token."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())


def _char_to_token(text: str, offsets: Offsets, prefer_first: bool) -> NDArray[np.int64]:
    """Return the token of each character, (len(text),); ``NO_TOKEN`` for spaces and dropped characters.

    If several tokens encode the bytes of one character, take the first or, unless ``prefer_first``, the last of them.
    """
    char_tokens = np.full(len(text), NO_TOKEN)
    tokens = list(enumerate(offsets))
    for token, (start, end) in tokens[::-1] if prefer_first else tokens:
        start, end = _strip_span(text, start, end)
        char_tokens[start:end] = token
    return char_tokens


def _forward_fill(char_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Replace each ``NO_TOKEN`` with the entry before it; leading ones are kept."""
    latest = np.maximum.accumulate(np.where(char_tokens != NO_TOKEN, np.arange(len(char_tokens)), NO_TOKEN))
    return np.where(latest == NO_TOKEN, NO_TOKEN, char_tokens[latest])


def align_span_boundaries(text: str, source: Offsets, target: Offsets) -> tuple[list[int], list[int]]:
    """Map the start and end of spans from one tokenization of a text to another.

    A span that starts at a source token starts at the target token that contains its first character, or else at the
    next one. A span that ends at a source token ends at the target token that contains its last character, or else at
    the previous one.

    Args:
        text: Text that both tokenizations encode.
        source: Offsets of the tokenization in which a span is given.
        target: Offsets of the tokenization to map to.

    Returns:
        Start and end positions in ``target``, each of the length of ``source``; ``NO_TOKEN`` for source tokens without
        characters and where no target token remains.
    """
    before = _forward_fill(_char_to_token(text, target, prefer_first=False))
    after = _forward_fill(_char_to_token(text, target, prefer_first=True)[::-1])[::-1]
    starts, ends = [NO_TOKEN] * len(source), [NO_TOKEN] * len(source)
    for token, (start, end) in enumerate(source):
        start, end = _strip_span(text, start, end)
        if start < end:
            starts[token], ends[token] = int(after[start]), int(before[end - 1])
    return starts, ends


def encode_for_teacher(
    tokenizer: PreTrainedTokenizerBase, student_encodings: list[Encoding], questions: list[str], contexts: list[str]
) -> dict[str, list[Any]]:
    """Encode the text that the student reads for the teacher, and align the teacher's tokens with the student's.

    Args:
        tokenizer: The teacher's tokenizer.
        student_encodings: The student's encoding of each window.
        questions: Question of each window.
        contexts: Whole context of each window.

    Returns:
        Token ids, ``context_span``, and for each token ``student_start`` and ``student_end``: the student's token
        that corresponds to a span start or end at this token, -1 if there is none.

    Raises:
        ValueError: If the tokenizer is not suitable, or a window is too long for it.
    """
    check_tokenizer(tokenizer, "data.teacher_tokenizer")
    char_spans = [_char_span(encoding, context) for encoding, context in zip(student_encodings, contexts, strict=True)]
    texts = [context[char_span] for context, char_span in zip(contexts, char_spans, strict=True)]
    encoded = tokenizer(questions, texts, return_token_type_ids=True)
    for question, ids in zip(questions, encoded["input_ids"], strict=True):
        if len(ids) > tokenizer.model_max_length:
            raise ValueError(
                f"data.max_length: question {question!r:.60} and its part of the context have {len(ids)} teacher "
                f"tokens, more than its tokenizer's limit of {tokenizer.model_max_length}; lower data.max_length"
            )
    teacher_encodings: list[Encoding] = encoded.encodings
    columns: dict[str, list[Any]] = dict(encoded)
    columns["context_span"] = [context_span(encoding) for encoding in teacher_encodings]
    windows = zip(contexts, teacher_encodings, student_encodings, char_spans, strict=True)
    positions = [
        _student_positions(context, teacher, student, char_span.start)
        for context, teacher, student, char_span in windows
    ]
    columns["student_start"], columns["student_end"] = map(list, zip(*positions, strict=True))
    return columns


def _char_span(encoding: Encoding, context: str) -> slice:
    """Return the characters of a window, extended to whole words: the teacher would misread a truncated word."""
    first, after_last = context_span(encoding)
    if not after_last:
        return slice(0, 0)
    start, end = _strip_span(context, encoding.offsets[first][0], encoding.offsets[after_last - 1][1])
    return slice(start - _cut_word_length(context[:start][::-1]), end + _cut_word_length(context[end:]))


def _cut_word_length(text: str) -> int:
    """Return the number of characters up to the first space; 0 if they are too many for a word."""
    length = len(text[:MAX_WORD_LENGTH].split(maxsplit=1)[0]) if text[:1].strip() else 0
    return length if length < MAX_WORD_LENGTH else 0


def _student_positions(context: str, teacher: Encoding, student: Encoding, shift: int) -> tuple[list[int], list[int]]:
    """Return ``student_start`` and ``student_end`` of a window; the teacher reads ``context[shift:]``."""
    teacher_offsets, student_offsets = context_offsets(teacher, shift), context_offsets(student)
    starts, ends = align_span_boundaries(context, teacher_offsets, student_offsets)
    # no span of the student starts or ends in the rest of a truncated word
    first_char = min((start for start, end in student_offsets if start < end), default=0)
    last_char = max(end for _, end in student_offsets)
    for token, (start, end) in enumerate(teacher_offsets):
        if start < first_char:
            starts[token] = NO_TOKEN
        if end > last_char:
            ends[token] = NO_TOKEN
    starts[CLS_INDEX] = ends[CLS_INDEX] = CLS_INDEX
    return starts, ends

"""Questions and parts of contexts as a teacher with another tokenizer reads them."""

from typing import Any

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.carried_positions import NO_TOKEN, Offsets, align_span_boundaries, strip_span

CLS_INDEX = 0
"""Position of ``[CLS]``, at which a row points that does not hold the answer, in any encoding."""

MAX_WORD_LENGTH = 30
"""Characters without a space from which on a language is taken to have none between words."""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, argument: str) -> None:
    """Refuse a tokenizer that cannot say which characters a token stands for.

    Raises:
        ValueError: Names the argument.
    """
    if not tokenizer.is_fast or tokenizer.padding_side != "right" or tokenizer.cls_token is None:
        raise ValueError(
            f"{argument}: {tokenizer.name_or_path!r} must be a fast tokenizer that pads on the right and has a "
            "token such as [CLS]; use an encoder such as BERT, DistilBERT or RoBERTa"
        )


def context_span(encoding: Encoding) -> tuple[int, int]:
    """The first token of the context and the one after its last."""
    sequence = encoding.sequence_ids
    if 1 not in sequence:
        return CLS_INDEX, CLS_INDEX
    return sequence.index(1), len(sequence) - sequence[::-1].index(1)


def encode_for_teacher(
    tokenizer: PreTrainedTokenizerBase, student_encodings: list[Encoding], questions: list[str], contexts: list[str]
) -> dict[str, list[Any]]:
    """The teacher's encoding of the characters that the student reads, and where its tokens stand in the student's.

    Args:
        tokenizer: The teacher's.
        student_encodings: The student's encodings.
        questions: Of each part.
        contexts: Of each part, whole.

    Returns:
        Token ids, ``context_span``, and for each token ``student_start`` and ``student_end``, the student's token at
        which a span begins or ends that does so here; -1 where there is none.
    """
    check_tokenizer(tokenizer, "data.teacher_tokenizer")
    char_spans = [_char_span(encoding, context) for encoding, context in zip(student_encodings, contexts, strict=True)]
    texts = [context[char_span] for context, char_span in zip(contexts, char_spans, strict=True)]
    encoded = tokenizer(questions, texts, return_token_type_ids=True)
    for question, ids in zip(questions, encoded["input_ids"], strict=True):
        if len(ids) > tokenizer.model_max_length:
            raise ValueError(
                f"data.max_length: question {question!r:.60} and its part of the context have {len(ids)} tokens for "
                f"the teacher, whose tokenizer takes {tokenizer.model_max_length}; lower it"
            )
    teacher_encodings: list[Encoding] = encoded.encodings
    columns: dict[str, list[Any]] = dict(encoded)
    columns["context_span"] = [context_span(encoding) for encoding in teacher_encodings]
    rows = zip(contexts, teacher_encodings, student_encodings, char_spans, strict=True)
    positions = [
        _student_positions(context, teacher, student, char_span.start) for context, teacher, student, char_span in rows
    ]
    columns["student_start"], columns["student_end"] = map(list, zip(*positions, strict=True))
    return columns


def _char_span(encoding: Encoding, context: str) -> slice:
    """The characters that a part stands for, and the rest of a word that it cuts, which a teacher would misread."""
    first, after_last = context_span(encoding)
    if not after_last:
        return slice(0, 0)
    begin, end = strip_span(context, encoding.offsets[first][0], encoding.offsets[after_last - 1][1])
    return slice(begin - _cut_word_length(context[:begin][::-1]), end + _cut_word_length(context[end:]))


def _cut_word_length(text: str) -> int:
    """Characters up to the first space; 0 where there is none for longer than a word."""
    length = len(text[:MAX_WORD_LENGTH].split(maxsplit=1)[0]) if text[:1].strip() else 0
    return length if length < MAX_WORD_LENGTH else 0


def _context_offsets(encoding: Encoding, shift: int) -> Offsets:
    """The characters of the context that each token stands for."""
    return [
        (first + shift, after_last + shift) if sequence == 1 else (0, 0)
        for (first, after_last), sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True)
    ]


def _student_positions(context: str, teacher: Encoding, student: Encoding, shift: int) -> tuple[list[int], list[int]]:
    """``student_start`` and ``student_end`` of a row, of which the teacher reads the context from a character on."""
    teacher_offsets, student_offsets = _context_offsets(teacher, shift), _context_offsets(student, 0)
    begins, ends = align_span_boundaries(context, teacher_offsets, student_offsets)
    covered = [pair for pair in student_offsets if pair[0] < pair[1]]
    if covered:  # in the rest of a word that is cut nothing of the student's begins or ends
        begins = [
            NO_TOKEN if pair[0] < covered[0][0] else token for pair, token in zip(teacher_offsets, begins, strict=True)
        ]
        ends = [
            NO_TOKEN if pair[1] > covered[-1][1] else token for pair, token in zip(teacher_offsets, ends, strict=True)
        ]
    begins[CLS_INDEX] = ends[CLS_INDEX] = CLS_INDEX
    return begins, ends

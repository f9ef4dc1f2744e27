"""Questions and parts of contexts as a teacher with another tokenizer reads them."""

from typing import Any

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.carried_positions import NOWHERE, Offsets, carried_positions, without_spaces

CLS = 0
"""Position of ``[CLS]``, at which a row points that does not hold the answer, in any encoding."""

LONGEST_WORD = 30
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


def context_tokens(part: Encoding) -> tuple[int, int]:
    """The first token of the context and the one after its last."""
    sequence = part.sequence_ids
    if 1 not in sequence:
        return CLS, CLS
    return sequence.index(1), len(sequence) - sequence[::-1].index(1)


def columns_for_teacher(
    tokenizer: PreTrainedTokenizerBase, parts: list[Encoding], questions: list[str], contexts: list[str]
) -> dict[str, list[Any]]:
    """The teacher's encoding of the characters that the student reads, and where its tokens stand in the student's.

    Args:
        tokenizer: The teacher's.
        parts: The student's encodings.
        questions: Of each part.
        contexts: Of each part, whole.

    Returns:
        Token ids, ``context_tokens``, and for each token ``begins_at`` and ``ends_at``, the student's token at which a
        span begins or ends that does so here; -1 where there is none.
    """
    check_tokenizer(tokenizer, "data.teacher_tokenizer")
    windows = [_window(part, context) for part, context in zip(parts, contexts, strict=True)]
    texts = [context[window] for context, window in zip(contexts, windows, strict=True)]
    encoded = tokenizer(questions, texts, return_token_type_ids=True)
    for question, ids in zip(questions, encoded["input_ids"], strict=True):
        if len(ids) > tokenizer.model_max_length:
            raise ValueError(
                f"data.max_length: question {question!r:.60} and its part of the context have {len(ids)} tokens for "
                f"the teacher, whose tokenizer takes {tokenizer.model_max_length}; lower it"
            )
    theirs: list[Encoding] = encoded.encodings
    columns: dict[str, list[Any]] = dict(encoded)
    columns["context_tokens"] = [context_tokens(own) for own in theirs]
    rows = zip(contexts, theirs, parts, windows, strict=True)
    places = [_places(context, own, part, window.start) for context, own, part, window in rows]
    columns["begins_at"], columns["ends_at"] = map(list, zip(*places, strict=True))
    return columns


def _window(part: Encoding, context: str) -> slice:
    """The characters that a part stands for, and the rest of a word that it cuts, which a teacher would misread."""
    first, after_last = context_tokens(part)
    if not after_last:
        return slice(0, 0)
    begin, end = without_spaces(context, part.offsets[first][0], part.offsets[after_last - 1][1])
    return slice(begin - _rest(context[:begin][::-1]), end + _rest(context[end:]))


def _rest(text: str) -> int:
    """Characters up to the first space; 0 where there is none for longer than a word."""
    length = len(text[:LONGEST_WORD].split(maxsplit=1)[0]) if text[:1].strip() else 0
    return length if length < LONGEST_WORD else 0


def _in_context(part: Encoding, shift: int) -> Offsets:
    """The characters of the context that each token stands for."""
    return [
        (first + shift, after_last + shift) if sequence == 1 else (0, 0)
        for (first, after_last), sequence in zip(part.offsets, part.sequence_ids, strict=True)
    ]


def _places(context: str, theirs: Encoding, ours: Encoding, shift: int) -> tuple[list[int], list[int]]:
    """``begins_at`` and ``ends_at`` of a row, of which the teacher reads the context from a character on."""
    tokens, own = _in_context(theirs, shift), _in_context(ours, 0)
    begins, ends = carried_positions(context, tokens, own)
    held = [pair for pair in own if pair[0] < pair[1]]
    if held:  # in the rest of a word that is cut nothing of the student's begins or ends
        begins = [NOWHERE if pair[0] < held[0][0] else place for pair, place in zip(tokens, begins, strict=True)]
        ends = [NOWHERE if pair[1] > held[-1][1] else place for pair, place in zip(tokens, ends, strict=True)]
    begins[CLS] = ends[CLS] = CLS
    return begins, ends

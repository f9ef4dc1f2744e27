"""Prompts around texts, and token ids of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from transformers import PreTrainedTokenizerBase

from lightning_kd.data.readers import Columns

NO_LIMIT = 2**31 - 1
"""Some tokenizers set ``model_max_length`` to 1e30, which fast tokenizers do not accept."""

NUM_SPECIAL_TOKENS = 2
"""``[CLS]`` and ``[SEP]`` around an example."""


@dataclass(frozen=True)
class Prompt:
    """A template around the texts of an example.

    Args:
        template: Text with the name of each column in braces, such as ``The intent of "{text}" is``. To keep
            a brace, double it.
        columns: Column names.
        argument: Name of the argument that holds the template, for messages.

    Raises:
        ValueError: If the template lacks a column or has anything else in braces.
    """

    template: str
    columns: tuple[str, ...]
    argument: str

    def __post_init__(self) -> None:
        try:
            fields = [field for _, *field in Formatter().parse(self.template) if field[0] is not None]
        except ValueError:  # a brace without its counterpart
            fields = []
        if sorted(fields, key=str) != sorted(([name, "", None] for name in self.columns), key=str):
            placeholders = " and ".join("{" + name + "}" for name in self.columns)
            raise ValueError(
                f"{self.argument}: {self.template!r} must contain {placeholders} once, and nothing else in braces; "
                "double a literal brace"
            )

    def format(self, *texts: str) -> str:
        """Return the template with the texts of an example inserted."""
        return self.template.format(**dict(zip(self.columns, texts, strict=True)))

    def format_truncated(
        self, tokenizer: PreTrainedTokenizerBase, texts: list[list[str]], max_length: int
    ) -> list[str]:
        """Insert texts into the template, truncated so that the template itself stays complete.

        Args:
            tokenizer: Tokenizer that counts tokens.
            texts: Columns of texts.
            max_length: Maximum number of tokens of all texts of an example, special tokens included. The tokens of the
                template are added to it, up to the tokenizer's limit. Of two texts the longer one is truncated.

        Raises:
            ValueError: If the template leaves no room for the texts, or a slow tokenizer has to truncate.
        """
        special, template_length = tokenizer.num_special_tokens_to_add(), self.num_tokens(tokenizer)
        limit = min(max_length, tokenizer.model_max_length - template_length) - special
        if limit < len(self.columns):
            raise ValueError(
                f"{self.argument}: {template_length} tokens leave no room for text in {tokenizer.model_max_length}; "
                "shorten it"
            )
        lengths = [[len(ids) for ids in tokenizer(column, add_special_tokens=False)["input_ids"]] for column in texts]
        limits = [_allocate_tokens(example, limit) for example in zip(*lengths, strict=True)]
        truncated = [
            self._truncate(tokenizer, column, limits)
            for column, limits in zip(texts, zip(*limits, strict=True), strict=True)
        ]
        return [self.format(*example) for example in zip(*truncated, strict=True)]

    def num_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return the number of tokens of the template without texts."""
        return len(tokenizer(self.format(*[""] * len(self.columns)), add_special_tokens=False)["input_ids"])

    def _truncate(
        self, tokenizer: PreTrainedTokenizerBase, texts: list[str], limits: Sequence[int | None]
    ) -> list[str]:
        if not any(limits):
            return texts
        if not tokenizer.is_fast:
            raise ValueError(
                f"{self.argument}: {tokenizer.name_or_path!r} is not a fast tokenizer and cannot locate where to "
                "truncate a text; use a fast one, or raise data.max_length"
            )
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        examples = zip(texts, encoded["offset_mapping"], limits, strict=True)
        if tokenizer.truncation_side == "left":
            return [text if limit is None else text[offsets[-limit][0] :] for text, offsets, limit in examples]
        return [text if limit is None else text[: offsets[limit - 1][1]] for text, offsets, limit in examples]


def _allocate_tokens(lengths: tuple[int, ...], limit: int) -> list[int | None]:
    """Return how many tokens to keep of each text, None for all; a short text leaves its share to the longer one."""
    if sum(lengths) <= limit:
        return [None] * len(lengths)
    half = limit // len(lengths)
    remaining = limit - sum(length for length in lengths if length <= half)
    num_long = sum(length > half for length in lengths)
    return [None if length <= half else remaining // num_long for length in lengths]


def tokenize_texts(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt | None, max_length: int, texts: list[list[str]]
) -> Columns:
    """Tokenize and truncate texts, or pairs of texts.

    Args:
        tokenizer: Tokenizer.
        prompt: Template around the texts; None for the texts alone.
        max_length: Maximum number of tokens of an example, without those of the template.
        texts: One or two columns of texts.

    Raises:
        ValueError: If ``max_length`` leaves no room for text.
    """
    special = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
    if max_length < special + len(texts):
        raise ValueError(
            f"data.max_length: {max_length} leaves no room for text beside {special} special tokens; "
            f"use {special + len(texts)} or more"
        )
    limit = min(max_length, tokenizer.model_max_length)
    if prompt is not None:
        texts = [prompt.format_truncated(tokenizer, texts, max_length)]
        limit = min(tokenizer.model_max_length, NO_LIMIT)
    # pairs need token types for a teacher such as BERT even if the student (DistilBERT) has none
    types = len(texts) == 2 or None
    return dict(tokenizer(*texts, return_token_type_ids=types, truncation=True, max_length=limit))


def group_texts(
    texts: list[list[int]], word_ids: list[list[int]], length: int, cls_id: int, sep_id: int
) -> tuple[list[list[int]], list[list[int | None]]]:
    """Join texts with separators and cut them into examples; the last one may be shorter.

    Args:
        texts: Token ids of each text, without special tokens.
        word_ids: Index in its text of the word of each token; may be empty.
        length: Number of tokens of an example, including the two special tokens around it.
        cls_id: Token that starts each example.
        sep_id: Token between texts and at the end of each example.

    Returns:
        The examples and, if ``word_ids`` are given, the word of each token, counted over all texts; None for special
        tokens.
    """
    tokens: list[int] = []
    joined_word_ids: list[int | None] = []
    num_words = 0
    for index, ids in enumerate(texts):
        if not ids:
            continue  # the tokenizer drops all characters of this text
        if tokens:
            tokens.append(sep_id)
            joined_word_ids.append(None)
        tokens += ids
        if word_ids:
            joined_word_ids += [num_words + word for word in word_ids[index]]
            num_words += max(word_ids[index], default=-1) + 1
    size = length - NUM_SPECIAL_TOKENS
    starts = range(0, len(tokens), size)
    examples = [[cls_id, *tokens[start : start + size], sep_id] for start in starts]
    return examples, [[None, *joined_word_ids[start : start + size], None] for start in starts]

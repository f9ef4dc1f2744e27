"""A template around the texts of a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A template around the texts of a row.

    Args:
        template: Text with the name of each column in braces, such as ``The intent of "{text}" is``; a brace itself is
            doubled.
        columns: The names of the columns.
        argument: What the template was given as, for messages.

    Raises:
        ValueError: If a column is missing, or something else stands in braces.
    """

    template: str
    columns: tuple[str, ...]
    argument: str

    def __post_init__(self) -> None:
        wanted = " and ".join("{" + name + "}" for name in self.columns)
        try:
            fields = [field for _, field, form, conversion in Formatter().parse(self.template) if field is not None]
            simple = all(not form and not conversion for _, _, form, conversion in Formatter().parse(self.template))
        except ValueError as error:
            raise ValueError(
                f"{self.argument}: {self.template!r} is no template ({error}); a brace that is meant is doubled"
            ) from error
        if not simple or sorted(fields) != sorted(self.columns):
            raise ValueError(f"{self.argument}: {self.template!r} must hold {wanted} once, and nothing else in braces")

    def format(self, *texts: str) -> str:
        """The template with the texts of a row in it."""
        return self.template.format(**dict(zip(self.columns, texts, strict=True)))

    def format_truncated(
        self, tokenizer: PreTrainedTokenizerBase, texts: list[list[str]], max_length: int
    ) -> list[str]:
        """The template around each row, the texts cut so that the rest of it keeps its place.

        Args:
            tokenizer: Counts tokens.
            texts: The columns.
            max_length: Tokens of the texts together at most, special tokens included; those of the template come on
                top, as far as the tokenizer's own limit allows. Of two texts the longer one is cut.

        Raises:
            ValueError: If the template leaves no room for the texts, or they must be cut and the tokenizer cannot say
                where.
        """
        special, template_length = tokenizer.num_special_tokens_to_add(), self.num_tokens(tokenizer)
        limit = min(max_length, tokenizer.model_max_length - template_length) - special
        if limit < len(self.columns):
            raise ValueError(
                f"{self.argument}: has {template_length} tokens, which leaves no room for text in "
                f"{tokenizer.model_max_length}; "
                "shorten it"
            )
        lengths = [[len(ids) for ids in tokenizer(column, add_special_tokens=False)["input_ids"]] for column in texts]
        limits = [_allocate_tokens(row, limit) for row in zip(*lengths, strict=True)]
        truncated = [
            self._truncate(tokenizer, column, limits)
            for column, limits in zip(texts, zip(*limits, strict=True), strict=True)
        ]
        return [self.format(*row) for row in zip(*truncated, strict=True)]

    def num_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The number of tokens of the template alone."""
        return len(tokenizer(self.format(*[""] * len(self.columns)), add_special_tokens=False)["input_ids"])

    def _truncate(
        self, tokenizer: PreTrainedTokenizerBase, texts: list[str], limits: Sequence[int | None]
    ) -> list[str]:
        if not any(limits):
            return texts
        if not tokenizer.is_fast:
            raise ValueError(
                f"{self.argument}: {tokenizer.name_or_path!r} is no fast tokenizer and does not say where to cut a "
                "text that is too long; use a fast one, or raise data.max_length"
            )
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        rows = zip(texts, encoded["offset_mapping"], limits, strict=True)
        if tokenizer.truncation_side == "left":
            return [text if limit is None else text[offsets[-limit][0] :] for text, offsets, limit in rows]
        return [text if limit is None else text[: offsets[limit - 1][1]] for text, offsets, limit in rows]


def _allocate_tokens(lengths: tuple[int, ...], limit: int) -> list[int | None]:
    """How many tokens of each text of a row are kept: what a short one leaves is the other's. None = all."""
    if sum(lengths) <= limit:
        return [None] * len(lengths)
    half = limit // len(lengths)
    left = limit - sum(length for length in lengths if length <= half)
    long = sum(length > half for length in lengths)
    return [None if length <= half else left // long for length in lengths]

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

    def around(self, *texts: str) -> str:
        """The template with the texts of a row in it."""
        return self.template.format(**dict(zip(self.columns, texts, strict=True)))

    def fill(self, tokenizer: PreTrainedTokenizerBase, texts: list[list[str]], max_length: int) -> list[str]:
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
        special, own = tokenizer.num_special_tokens_to_add(), self.length(tokenizer)
        room = min(max_length, tokenizer.model_max_length - own) - special
        if room < len(self.columns):
            raise ValueError(
                f"{self.argument}: has {own} tokens, which leaves no room for text in {tokenizer.model_max_length}; "
                "shorten it"
            )
        lengths = [[len(ids) for ids in tokenizer(column, add_special_tokens=False)["input_ids"]] for column in texts]
        rooms = [_shares(row, room) for row in zip(*lengths, strict=True)]
        cut = [self._cut(tokenizer, column, own) for column, own in zip(texts, zip(*rooms, strict=True), strict=True)]
        return [self.around(*row) for row in zip(*cut, strict=True)]

    def length(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The number of tokens of the template alone."""
        return len(tokenizer(self.around(*[""] * len(self.columns)), add_special_tokens=False)["input_ids"])

    def _cut(self, tokenizer: PreTrainedTokenizerBase, texts: list[str], rooms: Sequence[int | None]) -> list[str]:
        if not any(rooms):
            return texts
        if not tokenizer.is_fast:
            raise ValueError(
                f"{self.argument}: {tokenizer.name_or_path!r} is no fast tokenizer and does not say where to cut a "
                "text that is too long; use a fast one, or raise data.max_length"
            )
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        rows = zip(texts, encoded["offset_mapping"], rooms, strict=True)
        if tokenizer.truncation_side == "left":
            return [text if room is None else text[offsets[-room][0] :] for text, offsets, room in rows]
        return [text if room is None else text[: offsets[room - 1][1]] for text, offsets, room in rows]


def _shares(lengths: tuple[int, ...], room: int) -> list[int | None]:
    """How many tokens of each text of a row are kept: what a short one leaves is the other's. None = all."""
    if sum(lengths) <= room:
        return [None] * len(lengths)
    half = room // len(lengths)
    left = room - sum(length for length in lengths if length <= half)
    long = sum(length > half for length in lengths)
    return [None if length <= half else left // long for length in lengths]

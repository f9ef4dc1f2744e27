"""Texts become token ids."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from lightning_kd.data.tokenization import Prompt


def tokenize_texts(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt | None, max_length: int, texts: list[list[str]]
) -> dict[str, list[Any]]:
    """Token ids of rows, cut to a length, maybe with a template around them.

    Args:
        tokenizer: Makes them.
        prompt: The template.
        max_length: Tokens of a row at most, without those of the template.
        texts: One column, or two.

    Raises:
        ValueError: If the length leaves no room for text.
    """
    special = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
    if max_length < special + len(texts):
        raise ValueError(
            f"data.max_length: {max_length} leaves no room for text beside {special} special tokens; "
            f"give {special + len(texts)} or more"
        )
    longest = min(max_length, tokenizer.model_max_length)
    if prompt is not None:  # which has cut the texts; some tokenizers say 1e30 for no limit
        texts, longest = (
            [prompt.format_truncated(tokenizer, texts, max_length)],
            min(tokenizer.model_max_length, 2**31 - 1),
        )
    # a student may do without token types (DistilBERT), its teacher not
    types = len(texts) == 2 or None
    return dict(tokenizer(*texts, return_token_type_ids=types, truncation=True, max_length=longest))

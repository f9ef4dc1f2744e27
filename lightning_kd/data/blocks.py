"""Texts joined and cut into rows of one length."""


def group_texts(
    texts: list[list[int]], word_ids: list[list[int]], length: int, cls_id: int, sep_id: int
) -> tuple[list[list[int]], list[list[int | None]]]:
    """Join texts, a separator between them, and cut them; the last row may be shorter.

    Args:
        texts: Token ids of each text, without special tokens.
        word_ids: Which word of its text each token belongs to; empty if nobody asks.
        length: Tokens of a row, the two special ones around it included.
        cls_id: Begins each row.
        sep_id: Stands between texts and ends each row.

    Returns:
        The rows and, if ``word_ids`` were given, which word of all texts each token belongs to, None for special ones.
    """
    tokens: list[int] = []
    joined_word_ids: list[int | None] = []
    num_words = 0
    for number, ids in enumerate(texts):
        if not ids:
            continue  # of characters that the tokenizer drops
        if tokens:
            tokens.append(sep_id)
            joined_word_ids.append(None)
        tokens += ids
        if word_ids:
            joined_word_ids += [num_words + w for w in word_ids[number]]
            num_words += max(word_ids[number], default=-1) + 1
    size = length - 2
    starts = range(0, len(tokens), size)
    rows = [[cls_id, *tokens[start : start + size], sep_id] for start in starts]
    return rows, [[None, *joined_word_ids[start : start + size], None] for start in starts]

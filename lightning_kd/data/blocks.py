"""Texts joined and cut into rows of one length."""


def blocks(
    texts: list[list[int]], words: list[list[int]], length: int, cls_id: int, sep_id: int
) -> tuple[list[list[int]], list[list[int | None]]]:
    """Join texts, a separator between them, and cut them; the last row may be shorter.

    Args:
        texts: Token ids of each text, without special tokens.
        words: Which word of its text each token belongs to; empty if nobody asks.
        length: Tokens of a row, the two special ones around it included.
        cls_id: Begins each row.
        sep_id: Stands between texts and ends each row.

    Returns:
        The rows and, if ``words`` were given, which word of all texts each token belongs to, None for special ones.
    """
    tokens: list[int] = []
    word: list[int | None] = []
    first = 0
    for number, ids in enumerate(texts):
        if not ids:
            continue  # of characters that the tokenizer drops
        if tokens:
            tokens.append(sep_id)
            word.append(None)
        tokens += ids
        if words:
            word += [first + w for w in words[number]]
            first += max(words[number], default=-1) + 1
    size = length - 2
    starts = range(0, len(tokens), size)
    rows = [[cls_id, *tokens[start : start + size], sep_id] for start in starts]
    return rows, [[None, *word[start : start + size], None] for start in starts]

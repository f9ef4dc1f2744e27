"""Where tokens of one encoding stand in another: against a walk along the characters, one by one."""

import pytest
from transformers import AutoTokenizer

from lightning_kd.data.carried_positions import NOWHERE, carried_positions
from tests.conftest import TINY_BERT
from tests.roberta import roberta_tokenizer

TEXTS = [
    "hello good morning to you",
    "  the  water , in (the) room's 1,234.5 litres…  ",
    "Straße naïve coöperate 東京タワー 🙂 end",
    "unbelievablyhyphenated-words/and\ttabs\nlines",
    "x",
]


def walk(text, theirs, ours):
    """The same without arrays: look at each character from the one in question on."""

    def ours_at(character, which):
        tokens = [t for t, (a, b) in enumerate(ours) if a <= character < b and text[character].strip()]
        return tokens[which] if tokens else None

    begins, ends = [], []
    for first, after_last in theirs:
        characters = [c for c in range(first, after_last) if text[c].strip()]
        if not characters:
            begins.append(NOWHERE)
            ends.append(NOWHERE)
            continue
        later = (ours_at(c, 0) for c in range(characters[0], len(text)))
        earlier = (ours_at(c, -1) for c in range(characters[-1], -1, -1))
        begins.append(next((token for token in later if token is not None), NOWHERE))
        ends.append(next((token for token in earlier if token is not None), NOWHERE))
    return begins, ends


@pytest.fixture(scope="module")
def tokenizers():
    return AutoTokenizer.from_pretrained(TINY_BERT), roberta_tokenizer(TEXTS, 330)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("turned", [False, True])
def test_against_a_walk_along_the_characters(tokenizers, text, turned):
    theirs, ours = [
        tokenizer(text, return_offsets_mapping=True, add_special_tokens=True)["offset_mapping"]
        for tokenizer in (tokenizers[::-1] if turned else tokenizers)
    ]
    assert carried_positions(text, theirs, ours) == walk(text, theirs, ours)


def test_by_hand():
    text = "strawberry jam"
    whole, cut = [(0, 10), (10, 14)], [(0, 5), (5, 10), (11, 14)]  # the second with its space, as RoBERTa's
    assert carried_positions(text, whole, cut) == ([0, 2], [1, 2])
    assert carried_positions(text, cut, whole) == ([0, 0, 1], [0, 0, 1])


def test_same_encoding_stays_where_it_is():
    text, offsets = "hello good morning", [(0, 5), (6, 10), (11, 18)]
    assert carried_positions(text, offsets, offsets) == ([0, 1, 2], [0, 1, 2])


def test_what_ours_does_not_hold():
    text = "hello good morning"
    every = [(0, 5), (6, 10), (11, 18)]
    # ours ends after "good": nothing begins later, what ends later ends there; and before "good" it has nothing
    assert carried_positions(text, every, [(6, 10)]) == ([0, 0, NOWHERE], [NOWHERE, 0, 0])
    assert carried_positions(text, [(0, 0), (5, 6)], every) == ([NOWHERE, NOWHERE], [NOWHERE, NOWHERE])

"""Alignment of span boundaries between tokenizations, against a search character by character."""

import pytest
from transformers import AutoTokenizer

from lightning_kd.data.squad_teacher import NO_TOKEN, align_span_boundaries
from tests.helpers import TINY_BERT, roberta_tokenizer

TEXTS = [
    "hello good morning to you",
    "  the  water , in (the) room's 1,234.5 litres…  ",
    "Straße naïve coöperate 東京タワー 🙂 end",
    "unbelievablyhyphenated-words/and\ttabs\nlines",
    "x",
]
MORNING = [(0, 5), (6, 10), (11, 18)]


def search(text, source, target):
    """Align span boundaries by looking at one character after the other."""

    def target_token_at(character, which):
        tokens = [t for t, (a, b) in enumerate(target) if a <= character < b and text[character].strip()]
        return tokens[which] if tokens else None

    starts, ends = [], []
    for first, after_last in source:
        characters = [c for c in range(first, after_last) if text[c].strip()]
        if not characters:
            starts.append(NO_TOKEN)
            ends.append(NO_TOKEN)
            continue
        later = (target_token_at(c, 0) for c in range(characters[0], len(text)))
        earlier = (target_token_at(c, -1) for c in range(characters[-1], -1, -1))
        starts.append(next((token for token in later if token is not None), NO_TOKEN))
        ends.append(next((token for token in earlier if token is not None), NO_TOKEN))
    return starts, ends


@pytest.fixture(scope="module")
def tokenizers():
    return AutoTokenizer.from_pretrained(TINY_BERT), roberta_tokenizer(TEXTS, 330)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("swapped", [False, True])
def test_against_a_search(tokenizers, text, swapped):
    source, target = [
        tokenizer(text, return_offsets_mapping=True, add_special_tokens=True)["offset_mapping"]
        for tokenizer in (tokenizers[::-1] if swapped else tokenizers)
    ]
    assert align_span_boundaries(text, source, target) == search(text, source, target)


@pytest.mark.parametrize(
    ("text", "source", "target", "starts", "ends"),
    [
        # the second word with its space, as RoBERTa has it
        ("strawberry jam", [(0, 10), (10, 14)], [(0, 5), (5, 10), (11, 14)], [0, 2], [1, 2]),
        ("strawberry jam", [(0, 5), (5, 10), (11, 14)], [(0, 10), (10, 14)], [0, 0, 1], [0, 0, 1]),
        ("hello good morning", MORNING, MORNING, [0, 1, 2], [0, 1, 2]),
        # target has "good" only: a later end becomes its end, an earlier start its start
        ("hello good morning", MORNING, [(6, 10)], [0, 0, NO_TOKEN], [NO_TOKEN, 0, 0]),
        ("hello good morning", [(0, 0), (5, 6)], MORNING, [NO_TOKEN, NO_TOKEN], [NO_TOKEN, NO_TOKEN]),
    ],
)
def test_by_hand(text, source, target, starts, ends):
    assert align_span_boundaries(text, source, target) == (starts, ends)

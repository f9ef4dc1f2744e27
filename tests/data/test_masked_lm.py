"""Texts for masked language models: joined or line by line, dynamic masks, streams."""

import datasets
import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from lightning_kd import MaskedLMDataModule
from tests.helpers import TINY_BERT

WORDS = "water desk paper plant leak room hello goodbye good morning france later".split()  # noqa: SIM905
LINES = [" ".join(np.random.default_rng(i).choice(WORDS, 3 + i % 12)) for i in range(60)]
TEXT = "\n".join(LINES) + "\n"


@pytest.fixture
def module(write):
    """Return a function that builds a DataModule of files."""

    def make(files=None, **arguments):
        seed_everything(5, verbose=False)
        path = write({"train.txt": TEXT, "validation.txt": TEXT} if files is None else files)
        defaults = {"tokenizer": str(TINY_BERT), "batch_size": 4, "max_length": 16}
        return MaskedLMDataModule(str(path), **{**defaults, **arguments})

    return make


def original_ids(batch):
    """Return the tokens before masking."""
    return torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])


def epoch_batches(loader, epoch=0):
    loader._resumable_sampler.epoch = epoch
    return list(loader)


def tokens_by_row(batches):
    return {
        int(row): (ids[mask.bool()].tolist(), labels[mask.bool()].tolist())
        for batch in batches
        for row, ids, labels, mask in zip(
            batch["row_id"], batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
        )
    }


def test_joined_texts(module, tokenizer):
    data = module()
    data.setup("fit")
    rows = [
        original_ids(b)[i][b["attention_mask"][i].bool()]
        for b in data.val_dataloader()
        for i in range(len(b["row_id"]))
    ]
    assert all(len(row) <= 16 for row in rows)
    assert sum(len(row) == 16 for row in rows) == len(rows) - 1
    ids = data._splits["validation"]["input_ids"]
    content = [token for row in ids for token in row[1:-1] if token != tokenizer.sep_token_id]
    assert content == tokenizer(" ".join(LINES), add_special_tokens=False)["input_ids"]
    assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id for row in ids)


def test_line_by_line(module, tokenizer):
    data = module(line_by_line=True, max_length=8)
    data.setup("fit")
    expected = tokenizer(LINES, truncation=True, max_length=8)["input_ids"]
    assert [row[:] for row in data._splits["train"]["input_ids"]] == expected


def test_masks_depend_on_the_epoch_but_not_on_the_batch(module):
    data = module()
    data.setup("fit")
    first, again = (
        tokens_by_row(epoch_batches(data.train_dataloader())),
        tokens_by_row(epoch_batches(data.train_dataloader())),
    )
    assert first == again
    second = tokens_by_row(epoch_batches(data.train_dataloader(), 1))
    assert first.keys() == second.keys()
    assert first != second
    data.batch_size = 7
    assert tokens_by_row(epoch_batches(data.train_dataloader())) == first


def test_evaluation_masks_are_fixed(module):
    data = module()
    data.setup("fit")
    first = tokens_by_row(data.val_dataloader())
    seed_everything(99, verbose=False)
    other = module()
    other.setup("validate")
    assert tokens_by_row(other.val_dataloader()) == first


def test_workers_do_not_change_masks(module):
    data = module()
    data.setup("fit")
    expected = tokens_by_row(epoch_batches(data.train_dataloader(), 2))
    data.num_workers = 2
    assert tokens_by_row(epoch_batches(data.train_dataloader(), 2)) == expected


def test_padding_and_special_tokens_are_never_masked(module, tokenizer):
    data = module(line_by_line=True, mlm_probability=0.9)
    data.setup("fit")
    for batch in data.train_dataloader():
        special = torch.isin(original_ids(batch), torch.tensor(tokenizer.all_special_ids))
        assert (batch["labels"][special] == -100).all()
        assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
        assert (batch["labels"] >= 0).any()


def test_whole_words(module, tokenizer):
    word = "goodbyedeskpaper"  # several tokens
    assert len(tokenizer.tokenize(word)) > 1
    data = module(
        {"train.txt": f"{word} water {word}\n" * 20, "dev.txt": TEXT},
        whole_word_masking=True,
        line_by_line=True,
        max_length=32,
    )
    data.setup("fit")
    pieces = len(tokenizer.tokenize(word))
    counts = set()
    for epoch in range(5):
        for batch in epoch_batches(data.train_dataloader(), epoch):
            for labels in batch["labels"]:
                for start in (1, 2 + pieces):
                    counts.add(int((labels[start : start + pieces] >= 0).sum()))
    assert counts == {0, pieces}


def test_word_ids_of_joined_texts(module):
    data = module({"train.txt": "water\ndesk\n" * 30, "dev.txt": TEXT}, whole_word_masking=True)
    data.setup("fit")
    (row, *_) = data._splits["train"]["word_ids"]
    assert len(set(row)) == sum(word >= 0 for word in row) + 1  # each word is a token here


def test_smoothing_uses_counts_of_the_training_texts(module, tokenizer):
    data = module({"train.txt": "water water water desk\n" * 50, "dev.txt": TEXT}, mlm_smoothing=0.7)
    data.setup("fit")
    counts = {word: data.token_weights[tokenizer.convert_tokens_to_ids(word)] for word in ("water", "desk")}
    assert counts["desk"] / counts["water"] == pytest.approx(3**0.7)


def test_table_in_another_language(module, tokenizer):
    text = "id,satz\n" + "".join(f"{i},hello größe 你好 water\n" for i in range(9))
    data = module({"train.csv": text, "dev.csv": text}, text_column="satz", line_by_line=True)
    data.setup("fit")
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in data._splits["train"]["input_ids"]]
    expected = tokenizer.decode(tokenizer("hello größe 你好 water")["input_ids"], skip_special_tokens=True)
    assert texts == [expected] * 9
    assert "你" in tokenizer.backend_tokenizer.normalizer.normalize_str("你好")


def test_validation_fraction(module):
    data = module({"all.txt": TEXT}, validation_fraction=0.25, line_by_line=True)
    # files in a folder must be named after splits
    with pytest.raises(ValueError, match="no file named after a split"):
        data.setup("fit")
    data = module({"all.txt": TEXT}, validation_fraction=0.25, line_by_line=True)
    data.path += "/all.txt"
    data.setup("fit")
    assert (len(data._splits["train"]), len(data._splits["validation"])) == (45, 15)


def test_resume_within_an_epoch(module):
    for streaming in (False, True):
        data = module(streaming=streaming, line_by_line=True, shuffle_buffer=10)
        data.setup("fit")
        loader = data.train_dataloader()
        whole = epoch_batches(loader, 1)
        loader.load_state_dict({"epoch": 1, "batches": 3})
        rest = epoch_batches(loader, 1)
        assert len(rest) == len(whole) - 3
        assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(rest, whole[3:], strict=True))


def test_stream_covers_each_line_once_in_random_order(module, tokenizer):
    data = module(streaming=True, line_by_line=True, shuffle_buffer=10, max_length=32)
    data.setup("fit")
    assert "train" not in data._splits

    def lines(epoch):
        batches = epoch_batches(data.train_dataloader(), epoch)
        return [
            tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)
            for batch in batches
            for ids, mask in zip(original_ids(batch), batch["attention_mask"], strict=True)
        ]

    first, second = lines(0), lines(1)
    assert sorted(first) == sorted(second) == sorted(LINES)
    assert first != LINES
    assert first != second
    assert lines(0) == first


def test_stream_on_two_devices(module):
    data = module(streaming=True, line_by_line=True)
    data.setup("fit")
    seen = []
    for rank in range(2):
        data._replica_kwargs = lambda rank=rank: {"num_replicas": 2, "rank": rank}
        seen.append([batch["row_id"].tolist() for batch in data.train_dataloader()])
    assert len(seen[0]) == len(seen[1]) == 60 // 8
    rows = [row for device in seen for batch in device for row in batch]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mlm_probability": 1.0}, r"data\.mlm_probability: must be in \(0, 1\), got 1\.0"),
        ({"mlm_smoothing": -0.1}, r"data\.mlm_smoothing: must be in \[0, 10\], got -0\.1"),
        ({"mlm_smoothing": 0.7, "streaming": True}, r"data\.mlm_smoothing: .*streaming"),
        (
            {"mlm_smoothing": 0.7, "whole_word_masking": True},
            r"data\.mlm_smoothing: .*whole_word_masking",
        ),
        ({"streaming": True, "num_workers": 2}, r"data\.num_workers: .*streaming"),
        ({"streaming": True, "validation_fraction": 0.1}, r"data\.validation_fraction: .*streaming"),
        ({"validation_fraction": 1.0}, r"data\.validation_fraction: must be in \[0, 1\)"),
        ({"shuffle_buffer": 0}, r"data\.shuffle_buffer: must be >= 1"),
    ],
)
def test_invalid_arguments(module, arguments, message):
    with pytest.raises(ValueError, match=message):
        module(**arguments)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ({"train.txt": "\n \n", "dev.txt": TEXT}, {}, "the train split of .* is empty"),
        ({"dev.txt": TEXT}, {}, r"has no train split; add a file named train\.txt"),
        ({"train.txt": TEXT}, {}, r"has no validation split; add a file named validation\.txt"),
        ({"train.txt": "\u200b\n" * 9, "dev.txt": TEXT}, {}, r"train split .* no text|data\.batch_size: .* 4"),
        ({"train.txt": TEXT, "dev.txt": TEXT}, {"max_length": 65}, r"data\.max_length: must be in \[3, 64\].*, got 65"),
        ({"train.txt": TEXT, "dev.txt": TEXT}, {"max_length": 2}, r"data\.max_length: must be in \[3, 64\].*, got 2"),
        ({"train.csv": "a,b\n1,2\n", "dev.txt": TEXT}, {}, r"data\.text_column: .* no column 'text'; it has 'a', 'b'"),
        ({"train.txt": b"fine\nna\xefve\n", "dev.txt": TEXT}, {}, r"train\.txt, line 2: not UTF-8"),
    ],
)
def test_invalid_files(module, streaming, files, arguments, message):
    data = module(files, streaming=streaming, **arguments)

    def read():
        data.setup("fit")
        list(data.train_dataloader())

    with pytest.raises(ValueError, match=message):
        read()


def test_tokenizer_without_a_mask(module, tokenizer):
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"data\.tokenizer: .* has no mask_token; use an encoder's"):
        module(tokenizer=tokenizer, max_length=15).setup("fit")


def test_stream_smaller_than_a_batch(module):
    data = module({"train.txt": "one line\n", "dev.txt": TEXT}, streaming=True)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"data\.batch_size: .* batch of 4"):
        next(iter(data.train_dataloader()))


def test_one_text_cannot_be_split(module):
    data = module({"train.txt": "one line\n"}, validation_fraction=0.5)
    with pytest.raises(ValueError, match=r"data\.validation_fraction: .*only 1 texts"):
        data.setup("fit")


def test_nothing_to_predict(module):
    with pytest.raises(ValueError, match=r"nothing to predict; load the student with pipeline\('fill-mask'\)"):
        module().setup("predict")


def test_hub(monkeypatch, tokenizer):
    rows = datasets.Dataset.from_dict({"page": ["hello water", "", None, "good morning desk"]})
    loaded = datasets.DatasetDict(train=rows, validation=rows, other=rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config_name: loaded)
    settings = {"tokenizer": tokenizer, "line_by_line": True, "max_length": 16}
    data = MaskedLMDataModule("someone/pages", text_column="page", config_name="raw", **settings)
    data.setup("fit")
    assert [tokenizer.decode(row[1:-1]) for row in data._splits["train"]["input_ids"]] == [
        "hello water",
        "good morning desk",
    ]
    with pytest.raises(
        ValueError, match=r"data\.text_column: 'someone/pages' has no column 'text' of texts; it has 'page'"
    ):
        MaskedLMDataModule("someone/pages", **settings).setup("fit")
    loaded["train"] = datasets.Dataset.from_dict({"page": [1, 2]})
    with pytest.raises(ValueError, match=r"has no column 'page' of texts; it has 'page'"):
        MaskedLMDataModule("someone/pages", text_column="page", **settings).setup("fit")

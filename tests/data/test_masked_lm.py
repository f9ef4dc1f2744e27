"""Texts for masked language models: joined or line by line, dynamic masks, streams."""

import shutil

import datasets
import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from lightning_kd import MaskedLMDataModule
from tests.helpers import TINY_BERT, WORDS, mlm_data

LINES = [" ".join(np.random.default_rng(i).choice(WORDS, 3 + i % 12)) for i in range(60)]
TEXT = "\n".join(LINES) + "\n"
BOTH = {"train.txt": TEXT, "dev.txt": TEXT}


@pytest.fixture
def module(write):
    """Return a function that builds a DataModule of files and sets it up."""

    def make(files=BOTH, file="", seed=5, stage="fit", **arguments):
        seed_everything(seed, verbose=False)
        defaults = {"tokenizer": str(TINY_BERT), "batch_size": 4, "max_length": 16}
        data = MaskedLMDataModule(str(write(files) / file), **{**defaults, **arguments})
        data.setup(stage)
        return data

    return make


def epoch_batches(data, epoch=0):
    loader = data.train_dataloader()
    loader._resumable_sampler.epoch = epoch
    return list(loader)


def tokens_by_row(batches):
    """Return the masked tokens and the labels of each example without padding."""
    return {
        int(row): (ids[mask.bool()].tolist(), labels[mask.bool()].tolist())
        for batch in batches
        for row, ids, labels, mask in zip(
            batch["row_id"], batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
        )
    }


def original_rows(batches):
    """Return the tokens of each example before masking, ordered by ``row_id``."""
    return [
        [token if label < 0 else label for token, label in zip(ids, labels, strict=True)]
        for _, (ids, labels) in sorted(tokens_by_row(batches).items())
    ]


def test_joined_texts(module, tokenizer):
    *rows, last = original_rows(module().val_dataloader())
    assert {len(row) for row in rows} == {16}
    assert len(last) <= 16
    content = [token for row in [*rows, last] for token in row[1:-1] if token != tokenizer.sep_token_id]
    assert content == tokenizer(" ".join(LINES), add_special_tokens=False)["input_ids"]
    assert {(row[0], row[-1]) for row in [*rows, last]} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}


def test_line_by_line(module, tokenizer):
    rows = original_rows(module(line_by_line=True, max_length=8).val_dataloader())
    assert rows == tokenizer(LINES, truncation=True, max_length=8)["input_ids"]


def test_training_masks_depend_on_the_epoch_only(module):
    data = module()
    first = tokens_by_row(epoch_batches(data))
    assert tokens_by_row(epoch_batches(data)) == first
    second = tokens_by_row(epoch_batches(data, 1))
    assert first.keys() == second.keys()
    assert first != second
    data.batch_size, data.num_workers = 7, 2
    assert tokens_by_row(epoch_batches(data, 1)) == second


def test_evaluation_masks_are_fixed(module):
    first, other = module(), module(seed=99, stage="validate")
    assert tokens_by_row(first.val_dataloader()) == tokens_by_row(other.val_dataloader())


def test_padding_and_special_tokens_are_never_masked(module, tokenizer):
    for batch in module(line_by_line=True, mlm_probability=0.9).train_dataloader():
        labels = batch["labels"]
        original_ids = torch.where(labels >= 0, labels, batch["input_ids"])
        special = torch.isin(original_ids, torch.tensor(tokenizer.all_special_ids))
        assert (labels[special | (batch["attention_mask"] == 0)] == -100).all()
        assert (labels >= 0).any()


def test_whole_words(module, tokenizer):
    word = "goodbyedeskpaper"
    pieces = len(tokenizer.tokenize(word))
    assert pieces > 1
    files = {"train.txt": f"{word} water {word}\n" * 20, "dev.txt": TEXT}
    data = module(files, whole_word_masking=True, line_by_line=True, max_length=32)
    labels = torch.cat([batch["labels"] for epoch in range(5) for batch in epoch_batches(data, epoch)])
    words = torch.cat([labels[:, start : start + pieces] for start in (1, 2 + pieces)])
    assert set((words >= 0).sum(dim=1).tolist()) == {0, pieces}


def test_word_ids_of_joined_texts(module):
    data = module({"train.txt": "water\ndesk\n" * 30, "dev.txt": TEXT}, whole_word_masking=True)
    (row, *_) = data._splits["train"]["word_ids"]
    assert len(set(row)) == sum(word >= 0 for word in row) + 1  # each word is a token here


def test_smoothing_uses_counts_of_the_training_texts(module, tokenizer):
    data = module({"train.txt": "water water water desk\n" * 50, "dev.txt": TEXT}, mlm_smoothing=0.7)
    water, desk = data.token_weights[tokenizer.convert_tokens_to_ids(["water", "desk"])]
    assert desk / water == pytest.approx(3**0.7)


def test_table_in_another_language(module, tokenizer):
    text = "id,satz\n" + "".join(f"{i},hello größe 你好 water\n" for i in range(9))
    data = module({"train.csv": text, "dev.csv": text}, text_column="satz", line_by_line=True)
    assert original_rows(data.train_dataloader()) == [tokenizer("hello größe 你好 water")["input_ids"]] * 9
    assert "你" in tokenizer.backend_tokenizer.normalizer.normalize_str("你好")


def test_validation_fraction(module):
    data = module({"all.txt": TEXT}, "all.txt", validation_fraction=0.25, line_by_line=True)
    assert (len(data.row_lengths("train")), len(data.row_lengths("validation"))) == (45, 15)


@pytest.mark.parametrize("streaming", [False, True])
def test_resume_within_an_epoch(module, streaming):
    loader = module(streaming=streaming, line_by_line=True, shuffle_buffer=10).train_dataloader()
    loader._resumable_sampler.epoch = 1
    whole = list(loader)
    loader.load_state_dict({"epoch": 1, "batches": 3})
    rest = list(loader)
    assert len(rest) == len(whole) - 3
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(rest, whole[3:], strict=True))


def test_stream_covers_each_line_once_in_random_order(module, tokenizer):
    data = module(streaming=True, line_by_line=True, shuffle_buffer=10, max_length=32)
    assert "train" not in data._splits
    first, again, second = (
        tokenizer.batch_decode(original_rows(epoch_batches(data, epoch)), skip_special_tokens=True)
        for epoch in (0, 0, 1)
    )
    assert sorted(first) == sorted(second) == sorted(LINES)
    assert first not in (LINES, second)
    assert first == again


def test_stream_on_two_devices(module):
    data = module(streaming=True, line_by_line=True)
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
        ({"mlm_smoothing": 0.7, "whole_word_masking": True}, r"data\.mlm_smoothing: .*whole_word_masking"),
        ({"streaming": True, "num_workers": 2}, r"data\.num_workers: .*streaming"),
        ({"streaming": True, "validation_fraction": 0.1}, r"data\.validation_fraction: .*streaming"),
        ({"validation_fraction": 1.0}, r"data\.validation_fraction: must be in \[0, 1\)"),
        ({"validation_fraction": 0.5, "files": {"train.txt": "one\n"}}, r"data\.validation_fraction: .*only 1 texts"),
        ({"shuffle_buffer": 0}, r"data\.shuffle_buffer: must be >= 1"),
        ({"stage": "predict"}, r"nothing to predict; load the student with pipeline\('fill-mask'\)"),
    ],
)
def test_invalid_arguments(module, arguments, message):
    with pytest.raises(ValueError, match=message):
        module(**arguments)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("files", "max_length", "message"),
    [
        ({**BOTH, "train.txt": "\n \n"}, 16, "the train split of .* is empty"),
        ({"dev.txt": TEXT}, 16, r"has no train split; add a file named train\.txt"),
        ({"train.txt": TEXT}, 16, r"has no validation split; add a file named validation\.txt"),
        ({**BOTH, "train.txt": "\u200b\n" * 9}, 16, r"train split .* no text|data\.batch_size: .* 4"),
        (BOTH, 65, r"data\.max_length: must be in \[3, 64\].*, got 65"),
        (BOTH, 2, r"data\.max_length: must be in \[3, 64\].*, got 2"),
        ({"train.csv": "a,b\n1,2\n", "dev.txt": TEXT}, 16, r"data\.text_column: .* 'text'; it has 'a', 'b'"),
        ({**BOTH, "train.txt": b"fine\nna\xefve\n"}, 16, r"train\.txt, line 2: not UTF-8"),
    ],
)
def test_invalid_files(module, streaming, files, max_length, message):
    with pytest.raises(ValueError, match=message):
        list(module(files, streaming=streaming, max_length=max_length).train_dataloader())


def test_tokenizer_without_a_mask(module, tokenizer):
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"data\.tokenizer: .* has no mask_token; use an encoder's"):
        module(tokenizer=tokenizer, max_length=15)


def test_stream_smaller_than_a_batch(module):
    data = module({"train.txt": "one line\n", "dev.txt": TEXT}, streaming=True)
    with pytest.raises(ValueError, match=r"data\.batch_size: .* batch of 4"):
        next(iter(data.train_dataloader()))


def test_hub(monkeypatch, tokenizer):
    rows = datasets.Dataset.from_dict({"page": ["hello water", "", None, "good morning desk"]})
    loaded = datasets.DatasetDict(train=rows, validation=rows, other=rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config_name, revision: loaded)

    def load(column):
        settings = {"tokenizer": tokenizer, "line_by_line": True, "max_length": 16}
        data = MaskedLMDataModule("someone/pages", text_column=column, config_name="raw", **settings)
        data.setup("fit")
        return data

    texts = tokenizer(["hello water", "good morning desk"])["input_ids"]
    assert original_rows(load("page").train_dataloader()) == texts
    with pytest.raises(ValueError, match=r"data\.text_column: 'someone/pages' .* 'text' of texts; it has 'page'"):
        load("text")
    loaded["train"] = datasets.Dataset.from_dict({"page": [1, 2]})
    with pytest.raises(ValueError, match=r"has no column 'page' of texts; it has 'page'"):
        load("page")


@pytest.mark.parametrize("streaming", [False, True])
def test_training_data_are_known_by_content(tmp_path, corpus, streaming):
    def describe(path, **settings):
        module = mlm_data(path, streaming=streaming, **settings)
        module.setup("fit")
        return module.describe_train_data()

    first = describe(corpus)
    moved = shutil.copytree(corpus, tmp_path / "moved corpus")  # keeps the dates
    assert describe(moved) == first
    assert describe(moved, max_length=8)["fingerprint"] != first["fingerprint"]
    with (moved / "train.txt").open("a", encoding="utf-8") as file:
        file.write("one more text")
    assert describe(moved)["fingerprint"] != first["fingerprint"]

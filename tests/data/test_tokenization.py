"""Prompts around texts, and the cache of tokenized splits."""

import pytest
from transformers import AutoTokenizer

from lightning_kd import TextClassificationDataModule
from lightning_kd.data.tokenization import Prompt
from tests.helpers import TINY_BERT, clinc_rows, roberta_tokenizer

PROMPT = 'The intent of "{text}" is'


def prompt(template, *columns):
    return Prompt(template, columns or ("text",), "data.prompt")


def test_texts_are_inserted_and_truncated(tokenizer):
    texts = ["hello", "good morning to you " * 20]
    short, long = prompt(PROMPT).format_truncated(tokenizer, [texts], max_length=10)
    assert short == 'The intent of "hello" is'
    assert long == 'The intent of "good morning to you good morning to you" is'  # 8 tokens and two special ones


PAIR = ["good morning to you " * 20], ["hello desk"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (PAIR, "hello desk? good morning to you good morning to you!"),  # a short text leaves room
        (PAIR[::-1], "good morning to you good morning to you? hello desk!"),
        ((PAIR[0], PAIR[0]), "good morning to you good? good morning to you good!"),
        ((["hello"], ["desk"]), "desk? hello!"),
    ],
)
def test_pairs_share_the_limit(tokenizer, texts, expected):
    (text,) = prompt("{second}? {first}!", "first", "second").format_truncated(tokenizer, [*texts], max_length=12)
    assert text == expected


def test_truncation_side_of_the_tokenizer(tokenizer):
    tokenizer.truncation_side = "left"
    (text,) = prompt(PROMPT).format_truncated(tokenizer, [["hello desk " * 20 + "good morning"]], max_length=6)
    assert text == 'The intent of "hello desk good morning" is'


def test_tokenizer_without_a_limit(rows, tmp_path, tokenizer):
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(tmp_path / "boundless")
    module = TextClassificationDataModule(str(rows), str(tmp_path / "boundless"), prompt="say {text}", max_length=5)
    module.setup("fit")
    assert max(module._splits["train"]["length"][:]) == module.max_tokens() > 5


def test_limit_of_the_tokenizer_includes_the_prompt(tokenizer):
    tokenizer.model_max_length = 16
    (text,) = prompt(PROMPT).format_truncated(tokenizer, [["good morning to you " * 20]], max_length=512)
    assert text.endswith(" is")
    assert len(tokenizer(text)["input_ids"]) <= 16
    tokenizer.model_max_length = 8
    with pytest.raises(ValueError, match=r"data.prompt: \d+ tokens leave no room for text in 8"):
        prompt(PROMPT).format_truncated(tokenizer, [["hello"]], max_length=512)


def test_doubled_braces():
    assert prompt("{{{text}}}").format("x") == "{x}"


@pytest.mark.parametrize(
    "template", ["no text", "{text} and {text}", "{other}", "{text!r}", "{text:>9}", "{}", "{text.upper}", "{text} {"]
)
def test_invalid_templates(template):
    with pytest.raises(ValueError, match=r"^data\.prompt: .* must contain \{text\} once"):
        prompt(template)


@pytest.fixture
def rows(write):
    content = "\n".join(["text,label", *(f"{text},{label}" for text, label in clinc_rows()["train"][:12])])
    return write({"train.csv": content, "validation.csv": content})


def make_batch(folder, **settings):
    module = TextClassificationDataModule(str(folder), str(TINY_BERT), batch_size=4, **settings)
    module.setup("fit")
    return module, next(iter(module.val_dataloader()))


def decode(tokenizer, batch):
    return tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)


def test_teacher_prompt(rows, tokenizer):
    module, batch = make_batch(rows, teacher_prompt="say {text}")
    (teacher_inputs,) = batch["teacher_inputs"]
    assert decode(tokenizer, teacher_inputs) == [f"say {text}" for text in decode(tokenizer, batch)]
    plain, without = make_batch(rows)
    assert decode(tokenizer, without) == decode(tokenizer, batch)
    assert "teacher_inputs" not in without
    _, by_worker = make_batch(rows, teacher_prompt="say {text}", num_workers=1)
    assert by_worker["teacher_inputs"][0]["input_ids"].equal(teacher_inputs["input_ids"])
    assert module.max_teacher_tokens() == teacher_inputs["input_ids"].shape[1]
    assert plain.max_teacher_tokens() is None
    assert module.cache_key("train") != plain.cache_key("train")


def test_prompts_of_both(rows, tokenizer):
    _, batch = make_batch(rows, prompt="{text} now", teacher_prompt="say {text}")
    (teacher_inputs,) = batch["teacher_inputs"]
    texts = decode(tokenizer, teacher_inputs)
    assert decode(tokenizer, batch) == [f"{text.removeprefix('say ')} now" for text in texts]


def test_teacher_tokenizers(rows, tokenizer, tmp_path):
    other = roberta_tokenizer([text for text, _ in clinc_rows()["train"]])
    other.save_pretrained(tmp_path / "other")
    _, batch = make_batch(rows, teacher_tokenizer=[str(tmp_path / "other"), str(TINY_BERT)])
    first, second = batch["teacher_inputs"]
    assert "token_type_ids" not in first
    assert decode(other, first) == decode(tokenizer, batch)
    assert decode(tokenizer, second) == decode(tokenizer, batch)
    assert set(first["input_ids"][first["attention_mask"] == 0].tolist()) <= {other.pad_token_id}


def test_no_teacher_inputs_to_predict(rows):
    module = TextClassificationDataModule(
        str(rows), str(TINY_BERT), predict_path=str(rows / "train.csv"), teacher_prompt="say {text}"
    )
    module.setup("predict")
    assert "teacher_inputs" not in next(iter(module.predict_dataloader()))


# ---- cache of tokenized splits

LONG = "good morning to you see you later"
FILES = {"test.csv": f"text,label\nhello,greet\n{LONG},leave\n"}


class RecordingDataModule(TextClassificationDataModule):
    """Records the texts that all instances tokenize."""

    rows: list[list[str]]

    def encode(self, examples):
        self.rows.append(examples["text"])
        return super().encode(examples)


@pytest.fixture
def tokenize(write, monkeypatch, tmp_path):
    """Return a function that sets up a DataModule and returns its batch, and True if it was tokenized anew."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    RecordingDataModule.rows = []

    def tokenize(files=FILES, tokenizer=TINY_BERT, **arguments):
        before = len(RecordingDataModule.rows)
        data = RecordingDataModule(str(write(files)), tokenizer, **arguments)
        data.setup("test")
        (batch,) = data.test_dataloader()
        return {name: tensor.tolist() for name, tensor in batch.items()}, len(RecordingDataModule.rows) > before

    return tokenize


def changed_tokenizer(**settings):
    tokenizer = AutoTokenizer.from_pretrained(TINY_BERT)
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return tokenizer


def test_second_setup_reads_the_cache(tokenize):
    first, tokenized = tokenize()
    assert tokenized
    assert tokenize() == (first, False)
    assert tokenize(batch_size=3) == (first, False)
    used = changed_tokenizer()
    used(["hello", LONG], truncation=True, max_length=3, padding="max_length")
    assert tokenize(tokenizer=used) == (first, False)


def test_one_setup_tokenizes_each_split_once(tokenize, clinc_file):
    data = RecordingDataModule(str(clinc_file.parent / "rows"), TINY_BERT)
    tokenize()
    before = len(RecordingDataModule.rows)
    for stage in ("test", "test", "predict", "predict"):
        data.setup(stage)
    assert len(RecordingDataModule.rows) == before + 1


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"test.csv": FILES["test.csv"].replace("hello", "goodbye")}},
        {"files": {"test.csv": FILES["test.csv"] + "bye,leave\n"}},
        {"files": {"test.csv": FILES["test.csv"].replace("leave", "part")}},
        {"max_length": 5},
    ],
)
def test_changed_data_are_tokenized_again(tokenize, change):
    tokenize()
    assert tokenize(**change)[1]
    assert not tokenize()[1]
    assert not tokenize(**change)[1]


def test_label_of_another_split_changes_the_key(tokenize):
    tokenize()
    batch, _ = tokenize({**FILES, "dev.csv": "text,label\nwhat,ask\n"})
    assert sorted(batch["labels"]) == [1, 2]


def test_added_token_changes_the_key(tokenize):
    batch, _ = tokenize()
    tokenizer = changed_tokenizer()
    tokenizer.add_tokens(["morning to you"])
    assert tokenize(tokenizer=tokenizer)[0]["input_ids"] != batch["input_ids"]


def test_truncation_side_changes_the_key(tokenize):
    batch, _ = tokenize(max_length=5)
    left = changed_tokenizer(truncation_side="left")
    other, _ = tokenize(tokenizer=left, max_length=5)
    assert other["input_ids"][0] == left(LONG, truncation=True, max_length=5)["input_ids"]
    assert other["input_ids"] != batch["input_ids"]


def test_model_inputs_change_the_key(tokenize):
    # BERT and DistilBERT differ in their inputs only
    names = ["input_ids", "attention_mask"]
    assert "token_type_ids" in tokenize()[0]
    assert "token_type_ids" not in tokenize(tokenizer=changed_tokenizer(model_input_names=names))[0]
    assert "token_type_ids" in tokenize()[0]

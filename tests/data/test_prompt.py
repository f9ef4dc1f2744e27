"""Templates around texts, for the student or for the teacher alone."""

import pytest

from lightning_kd import TextClassificationDataModule
from lightning_kd.data.tokenization import Prompt
from tests.helpers import TINY_BERT, clinc_rows, roberta_tokenizer

PROMPT = 'The intent of "{text}" is'


def prompt(template, *columns):
    return Prompt(template, columns or ("text",), "data.prompt")


def test_rows_are_put_into_it_and_cut_to_their_room(tokenizer):
    texts = ["hello", "good morning to you " * 20]
    short, long = prompt(PROMPT).format_truncated(tokenizer, [texts], max_length=10)
    assert short == 'The intent of "hello" is'
    assert long == 'The intent of "good morning to you good morning to you" is'  # 8 tokens and two special ones


PAIR = ["good morning to you " * 20], ["hello desk"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (PAIR, "hello desk? good morning to you good morning to you!"),  # the short one leaves room to the long one
        (PAIR[::-1], "good morning to you good morning to you? hello desk!"),
        ((PAIR[0], PAIR[0]), "good morning to you good? good morning to you good!"),
        ((["hello"], ["desk"]), "desk? hello!"),
    ],
)
def test_pairs_share_the_room(tokenizer, texts, expected):
    (filled,) = prompt("{second}? {first}!", "first", "second").format_truncated(tokenizer, [*texts], max_length=12)
    assert filled == expected


def test_texts_are_cut_where_the_tokenizer_cuts(tokenizer):
    tokenizer.truncation_side = "left"
    (filled,) = prompt(PROMPT).format_truncated(tokenizer, [["hello desk " * 20 + "good morning"]], max_length=6)
    assert filled == 'The intent of "hello desk good morning" is'


def test_tokenizers_that_know_no_limit(rows, tmp_path, tokenizer):
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(tmp_path / "boundless")
    module = TextClassificationDataModule(str(rows), str(tmp_path / "boundless"), prompt="say {text}", max_length=5)
    module.setup("fit")
    assert max(module._splits["train"]["length"][:]) == module.max_tokens() > 5


def test_the_tokenizers_limit_holds_for_all_together(tokenizer):
    tokenizer.model_max_length = 16
    (filled,) = prompt(PROMPT).format_truncated(tokenizer, [["good morning to you " * 20]], max_length=512)
    assert filled.endswith(" is")
    assert len(tokenizer(filled)["input_ids"]) <= 16
    tokenizer.model_max_length = 8
    with pytest.raises(ValueError, match=r"data.prompt: \d+ tokens leave no room for text in 8"):
        prompt(PROMPT).format_truncated(tokenizer, [["hello"]], max_length=512)


def test_braces_that_are_meant():
    assert prompt("{{{text}}}").format("x") == "{x}"


@pytest.mark.parametrize(
    "template", ["no text", "{text} and {text}", "{other}", "{text!r}", "{text:>9}", "{}", "{text.upper}", "{text} {"]
)
def test_templates_that_are_none(template):
    with pytest.raises(ValueError, match=r"^data\.prompt: .*(must contain \{text\} once|not a template)"):
        prompt(template)


@pytest.fixture
def rows(write):
    lines = [f"{text},{label}" for text, label in clinc_rows()["train"][:12]]
    content = "text,label\n" + "\n".join(lines) + "\n"
    return write({"train.csv": content, "validation.csv": content})


def make_batch(folder, **settings):
    module = TextClassificationDataModule(str(folder), str(TINY_BERT), batch_size=4, **settings)
    module.setup("fit")
    return module, next(iter(module.val_dataloader()))


def decode(tokenizer, batch):
    return tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)


def test_teacher_reads_the_prompt_and_the_student_the_text(rows, tokenizer):
    module, batch = make_batch(rows, teacher_prompt="say {text}")
    (own,) = batch["teacher_inputs"]
    assert decode(tokenizer, own) == [f"say {text}" for text in decode(tokenizer, batch)]
    plain, without = make_batch(rows)
    assert decode(tokenizer, without) == decode(tokenizer, batch)
    assert "teacher_inputs" not in without
    assert module.max_teacher_tokens() == own["input_ids"].shape[1]
    assert plain.max_teacher_tokens() is None
    assert module.cache_key("train") != plain.cache_key("train")


def test_student_may_have_one_too(rows, tokenizer):
    _, batch = make_batch(rows, prompt="{text} now", teacher_prompt="say {text}")
    (own,) = batch["teacher_inputs"]
    texts = decode(tokenizer, own)
    assert decode(tokenizer, batch) == [f"{text.removeprefix('say ')} now" for text in texts]


def test_teacher_with_another_tokenizer_reads_the_same_texts(rows, tokenizer, tmp_path):
    other = roberta_tokenizer([text for text, _ in clinc_rows()["train"]])
    other.save_pretrained(tmp_path / "other")
    _, batch = make_batch(rows, teacher_tokenizer=[str(tmp_path / "other"), str(TINY_BERT)])
    first, second = batch["teacher_inputs"]
    assert "token_type_ids" not in first
    assert decode(other, first) == decode(tokenizer, batch)
    assert decode(tokenizer, second) == decode(tokenizer, batch)
    assert set(first["input_ids"][first["attention_mask"] == 0].tolist()) <= {other.pad_token_id}


def test_rows_to_predict_are_not_read_by_the_teacher(rows):
    module = TextClassificationDataModule(
        str(rows), str(TINY_BERT), predict_path=str(rows / "train.csv"), teacher_prompt="say {text}"
    )
    module.setup("predict")
    assert "teacher_inputs" not in next(iter(module.predict_dataloader()))


def test_worker_processes_make_the_same_batches(rows):
    _, alone = make_batch(rows, teacher_prompt="say {text}")
    _, helped = make_batch(rows, teacher_prompt="say {text}", num_workers=1)
    assert alone["teacher_inputs"][0]["input_ids"].equal(helped["teacher_inputs"][0]["input_ids"])

"""SQuAD in its original layout: windows of contexts, positions of answers, and invalid input."""

import json

import datasets
import pytest
import torch

from lightning_kd import SQuADDataModule
from tests.helpers import TINY_BERT, squad, squad_questions

QUESTION = {"id": "q", "question": "what is it?", "context": "see the water in the room", "answers": ["the water"]}


@pytest.fixture
def module(write):
    """Return a function that builds a DataModule of questions by split, or of whole files."""

    def make(files, **arguments):
        texts = {
            (name if name.endswith(".json") else f"{name}-v{arguments.get('version', '1.1')}.json"): json.dumps(
                squad(content) if isinstance(content, list) else content
            )
            for name, content in files.items()
        }
        return SQuADDataModule(
            str(write(texts)), **{"tokenizer": TINY_BERT, "max_length": 32, "stride": 4, **arguments}
        )

    return make


def single_batch(data, split="validate"):
    data.setup(split)
    (batch,) = data.predict_dataloader() if split == "predict" else data.val_dataloader()
    return batch


def answer_text(batch, row=0):
    """Return the text between the answer positions of a batch."""
    start, end = batch["start_positions"][row], batch["end_positions"][row]
    return batch["context"][row][batch["offsets"][row, start, 0] : batch["offsets"][row, end, 1]]


def test_evaluation_batch(module, tokenizer):
    batch = single_batch(module({"dev": [QUESTION]}))
    expected = tokenizer(QUESTION["question"], QUESTION["context"])
    assert batch["input_ids"][0].tolist() == expected["input_ids"]
    assert batch["token_type_ids"][0].tolist() == expected["token_type_ids"]
    first, after_last = batch["context_span"][0].tolist()
    assert [i for i, kind in enumerate(expected["token_type_ids"]) if kind == 1] == [
        *range(first, after_last),
        after_last,
    ]
    assert answer_text(batch) == "the water"
    assert (batch["id"], batch["answers"], batch["row_id"].tolist()) == (["q"], [["the water"]], [0])


def test_training_batch_has_no_texts(squad_folder):
    data = SQuADDataModule(str(squad_folder), TINY_BERT, max_length=32, stride=4, batch_size=4)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    names = {"input_ids", "token_type_ids", "attention_mask", "context_span", "start_positions", "end_positions"}
    assert set(batch) == {*names, "row_id"}
    assert all(isinstance(value, torch.Tensor) for value in batch.values())


def test_windows_of_a_long_context(module):
    text = "see the paper in the room then the desk and the plant by the water leak"
    question = {**QUESTION, "context": text, "answers": ["plant"]}
    batch = single_batch(module({"dev": [question]}, max_length=16, stride=3))
    num_windows = len(batch["row_id"])
    assert num_windows > 2
    assert batch["question_index"].tolist() == [0] * num_windows
    order = batch["offsets"].amax(dim=(1, 2)).argsort().tolist()
    covered = []
    for row in order:
        first, after_last = batch["context_span"][row].tolist()
        tokens = [tuple(batch["offsets"][row, token].tolist()) for token in range(first, after_last)]
        assert covered == [] or covered[-3:] == tokens[:3]  # the stride
        covered += [token for token in tokens if token not in covered]
        start, end = batch["start_positions"][row].item(), batch["end_positions"][row].item()
        whole = (
            tokens[0][0] <= question["context"].index("plant")
            and tokens[-1][1] >= question["context"].index("plant") + 5
        )
        assert (answer_text(batch, row) == "plant") if whole else ((start, end) == (0, 0))
    assert "".join(text[a:b] for a, b in covered) == text.replace(" ", "")


@pytest.mark.parametrize("answer", ["water in", " water", "water ", "the water in the room"])
def test_answers_with_spaces(module, answer):
    batch = single_batch(module({"dev": [{**QUESTION, "answers": [answer]}]}))
    assert answer_text(batch) == answer.strip()


def test_answer_within_a_word(module):
    batch = single_batch(module({"dev": [{**QUESTION, "answers": ["ater"]}]}))
    assert answer_text(batch).endswith("ater")


def test_file_instead_of_a_folder(squad_folder):
    data = SQuADDataModule(str(squad_folder / "dev-v1.1.json"), TINY_BERT, max_length=32, stride=4)
    assert len(data.load("validation")) == 13
    assert data.load("train") is None


def test_no_label_names(squad_folder):
    assert SQuADDataModule(str(squad_folder), TINY_BERT).label_names is None


def test_questions_without_answer(module):
    content = squad([QUESTION, {**QUESTION, "id": "none"}])
    content["data"][0]["paragraphs"][1]["qas"][0] |= {"is_impossible": True, "answers": []}
    batch = single_batch(module({"dev": content}, version="2.0"))
    rows = {name: row for row, name in enumerate(batch["id"])}
    assert answer_text(batch, rows["q"]) == "the water"
    assert batch["start_positions"][rows["none"]] == batch["end_positions"][rows["none"]] == 0
    assert batch["answers"][rows["none"]] == []
    with pytest.raises(ValueError, match=r'data\.version: question .none. .* no answer.*data\.version="2\.0"'):
        module({"dev": content}).setup("validate")


def test_predict_needs_no_answers(module, write):
    content = squad([QUESTION])
    del content["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    file = write({"questions.json": json.dumps(content)}) / "questions.json"
    batch = single_batch(module({"dev": [QUESTION]}, predict_path=str(file)), "predict")
    assert "answers" not in batch
    assert "start_positions" not in batch
    assert batch["context"] == [QUESTION["context"]]
    batch = single_batch(module({"dev": [QUESTION]}), "predict")
    assert batch["id"] == ["q"]
    with pytest.raises(ValueError, match=r"data\.predict_path: 'nowhere\.json'"):
        module({"dev": [QUESTION]}, predict_path="nowhere.json").setup("predict")


def test_misplaced_answers_are_left_out_of_training(module):
    content = squad([*squad_questions("t"), QUESTION])
    for number in (1, 3):
        content["data"][0]["paragraphs"][number]["qas"][0]["answers"][0]["answer_start"] += 1
    data = module({"train": content, "dev": content})
    with pytest.warns(UserWarning, match=r"2 of 6 training questions, the first is 't0desk', .* left out"):
        rows = data.load("train")
    assert rows["id"][:] == ["t0water", "t0paper", "t0leak", "q"]
    batch = single_batch(data)  # the texts are enough to evaluate them
    assert len(batch["id"]) == 6
    assert (batch["start_positions"] == -100).sum() == 2


def test_question_without_room_for_context(module):
    long = {**QUESTION, "id": "long", "question": "what " * 40}
    with pytest.raises(ValueError, match=r"data\.max_length: question 'long' has 40 tokens, .* no room .* 32"):
        module({"dev": [QUESTION, long]}).setup("validate")


def test_stride_that_leaves_no_progress(module):
    with pytest.raises(
        ValueError, match=r"data\.stride: 26 is not smaller than the 25 of 32 tokens .*'q'.*data\.max_length"
    ):
        module({"dev": [QUESTION]}, stride=26).setup("validate")
    with pytest.raises(ValueError, match=r"data\.stride: must be >= 0 and less than data\.max_length \(32\), got 32"):
        module({"dev": [QUESTION]}, stride=32)


def test_duplicate_ids(module):
    with pytest.raises(ValueError, match=r"dev-v1\.1\.json: the id 'q' is not unique"):
        module({"dev": [QUESTION, QUESTION]}).setup("validate")


@pytest.mark.parametrize("field", ["question", "context"])
def test_question_without_text(module, field):
    content = squad([QUESTION])
    paragraph = content["data"][0]["paragraphs"][0]
    (paragraph if field == "context" else paragraph["qas"][0])[field] = "  "
    with pytest.raises(ValueError, match=rf"question 'q' has no {field}"):
        module({"dev": content}).setup("validate")


@pytest.mark.parametrize(
    "content", [[1], {"data": [{"title": "x"}]}, {"rows": []}, {"data": [{"paragraphs": [{"qas": [{}]}]}]}]
)
def test_other_layout(module, content):
    with pytest.raises(ValueError, match=r"dev-v1\.1\.json, question 1: not in SQuAD's format \(data, paragraphs"):
        module({"dev": {"data": content} if isinstance(content, list) else content}).setup("validate")


def test_empty_file(module):
    with pytest.raises(ValueError, match=r"validation split .* is empty"):
        module({"dev": []}).setup("validate")


def test_missing_split(module):
    with pytest.raises(
        ValueError, match=r"has no train split; use a folder with train-v1\.1\.json \(data\.version is 1\.1\)"
    ):
        module({"dev": [QUESTION]}).setup("fit")
    with pytest.raises(ValueError, match=r"has no test split; .*`validate`"):
        module({"dev": [QUESTION]}).setup("test")


def test_unknown_version():
    with pytest.raises(ValueError, match=r"data\.version: must be one of 1\.1, 2\.0, got 3"):
        SQuADDataModule(version="3")


def test_tokenizer_that_pads_on_the_left(module, tokenizer):
    tokenizer.padding_side = "left"
    with pytest.raises(ValueError, match=r"data\.tokenizer: .* must be a fast tokenizer that pads on the right"):
        module({"dev": [QUESTION]}, tokenizer=tokenizer).setup("validate")


def test_stride_changes_the_cache(module):
    question = {**QUESTION, "context": "the water " * 20}
    sizes = [len(single_batch(module({"dev": [question]}, stride=stride))["row_id"]) for stride in (0, 15)]
    assert sizes[0] < sizes[1]


def test_hub_layout(monkeypatch, tokenizer):
    rows = {
        "id": ["q", "r"],
        "title": ["things", "things"],
        "question": ["what?", "where?"],
        "context": [QUESTION["context"]] * 2,
        "answers": [{"text": ["the water", "water"], "answer_start": [4, 8]}, {"text": [], "answer_start": []}],
    }
    loaded = datasets.DatasetDict(validation=datasets.Dataset.from_dict(rows))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, config_name: loaded if path == "rajpurkar/squad_v2" else None
    )
    batch = single_batch(SQuADDataModule(tokenizer=tokenizer, version="2.0", max_length=32, stride=4))
    rows = {name: row for row, name in enumerate(batch["id"])}
    assert answer_text(batch, rows["q"]) == "the water"
    assert batch["answers"][rows["r"]] == []
    loaded["validation"] = loaded["validation"].remove_columns("context")
    with pytest.raises(ValueError, match=r"data\.path: 'rajpurkar/squad_v2' has no column 'context'; it has 'id'"):
        SQuADDataModule(tokenizer=tokenizer, version="2.0").setup("validate")


def test_blank_answer(module):
    content = squad([QUESTION])
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"] = [{"text": " ", "answer_start": 0}]
    with pytest.raises(ValueError, match=r"data\.version: question 'q' .* has no answer"):
        module({"dev": content}).setup("validate")


@pytest.mark.parametrize("name", [7, None, ["q"]])
def test_id_that_is_not_a_string(module, name):
    with pytest.raises(ValueError, match=r"dev-v1\.1\.json, question 1: the id must be a string, got"):
        module({"dev": [{**QUESTION, "id": name}]}).setup("validate")


def test_answer_that_is_not_a_string(module):
    content = squad([QUESTION])
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["text"] = None
    with pytest.raises(ValueError, match=r"question 1: not in SQuAD's format"):
        module({"dev": content}).setup("validate")


def test_version_as_a_number():
    assert SQuADDataModule(version=2.0).path == "rajpurkar/squad_v2"


def test_nothing_to_predict(module, write):
    with pytest.raises(ValueError, match=r"no predict split; use a folder with dev-v1\.1\.json .*data\.predict_path"):
        module({"train": [QUESTION]}).setup("predict")
    file = write({"none.json": json.dumps(squad([]))}) / "none.json"
    with pytest.raises(ValueError, match=r"data\.predict_path: .*none\.json' has no questions"):
        module({"dev": [QUESTION]}, predict_path=str(file)).setup("predict")


def test_predict_without_answers(module):
    content = squad([{**QUESTION, "answers": []}])
    assert single_batch(module({"dev": content}), "predict")["id"] == ["q"]


def test_space_at_the_start_of_a_context(module):
    batch = single_batch(module({"dev": [{**QUESTION, "context": " see the water", "answers": [" see"]}]}))
    assert answer_text(batch) == "see"


def test_limit_of_the_tokenizer(module, tokenizer):
    data = module({"dev": [QUESTION]}, tokenizer=tokenizer, max_length=2000, stride=60)
    with pytest.raises(ValueError, match=r"data\.stride: 60 .* of 64 tokens .* tokenizer"):
        data.setup("validate")

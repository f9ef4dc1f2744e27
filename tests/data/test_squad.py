"""SQuAD in its original layout: windows of contexts, positions of answers, and invalid input."""

import json

import datasets
import pytest
import torch

from lightning_kd import SQuADDataModule
from tests.helpers import TINY_BERT, squad, squad_questions

QUESTION = {"id": "q", "question": "what is it?", "context": "see the water in the room", "answers": ["the water"]}
FORMAT_ERROR = r"dev-v1\.1\.json, question 1: not in SQuAD's format \(data, paragraphs"


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
        defaults = {"tokenizer": TINY_BERT, "max_length": 32, "stride": 4}
        return SQuADDataModule(str(write(texts)), **{**defaults, **arguments})

    return make


def single_batch(data, split="validate"):
    data.setup(split)
    (batch,) = data.predict_dataloader() if split == "predict" else data.val_dataloader()
    return batch


def answer_text(batch, row=0):
    """Return the text between the answer positions of a batch."""
    start, end = batch["start_positions"][row], batch["end_positions"][row]
    return batch["context"][row][batch["offsets"][row, start, 0] : batch["offsets"][row, end, 1]]


def changed(paragraph=(), **qa):
    """Return a file with one question, some of whose entries are replaced."""
    content = squad([QUESTION])
    (only,) = content["data"][0]["paragraphs"]
    only |= dict(paragraph)
    only["qas"][0] |= qa
    return content


def test_evaluation_batch(module, tokenizer):
    data = module({"dev": [QUESTION]})
    batch = single_batch(data)
    expected = tokenizer(QUESTION["question"], QUESTION["context"])
    assert batch["input_ids"][0].tolist() == expected["input_ids"]
    assert batch["token_type_ids"][0].tolist() == expected["token_type_ids"]
    first, after_last = batch["context_span"][0].tolist()
    context_and_sep = [index for index, kind in enumerate(expected["token_type_ids"]) if kind == 1]
    assert context_and_sep == list(range(first, after_last + 1))
    assert answer_text(batch) == "the water"
    assert (batch["id"], batch["answers"], batch["row_id"].tolist()) == (["q"], [["the water"]], [0])
    assert data.label_names is None


def test_training_batch_has_no_texts(squad_folder):
    data = SQuADDataModule(str(squad_folder), TINY_BERT, max_length=32, stride=4, batch_size=4)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    names = {"input_ids", "token_type_ids", "attention_mask", "context_span", "start_positions", "end_positions"}
    assert set(batch) == {*names, "row_id"}
    assert all(isinstance(value, torch.Tensor) for value in batch.values())


def test_windows_of_a_long_context(module):
    text = "see the paper in the room then the desk and the plant by the water leak"
    batch = single_batch(
        module({"dev": [{**QUESTION, "context": text, "answers": ["plant"]}]}, max_length=16, stride=3)
    )
    num_windows = len(batch["row_id"])
    assert num_windows > 2
    assert batch["question_index"].tolist() == [0] * num_windows
    answer_start = text.index("plant")
    covered = []
    for row in batch["offsets"].amax(dim=(1, 2)).argsort().tolist():
        first, after_last = batch["context_span"][row].tolist()
        tokens = [tuple(span) for span in batch["offsets"][row, first:after_last].tolist()]
        assert covered == [] or covered[-3:] == tokens[:3]  # the stride
        covered += [token for token in tokens if token not in covered]
        if tokens[0][0] <= answer_start and tokens[-1][1] >= answer_start + len("plant"):
            assert answer_text(batch, row) == "plant"
        else:
            assert batch["start_positions"][row] == batch["end_positions"][row] == 0
    assert "".join(text[a:b] for a, b in covered) == text.replace(" ", "")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("water in", "water in"),
        (" water", "water"),
        ("water ", "water"),
        ("  see", "see"),
        ("the water in the room", "the water in the room"),
        ("ater", "water"),  # tokens are whole here
    ],
)
def test_tokens_of_an_answer(module, answer, text):
    question = {**QUESTION, "context": "  see the water in the room", "answers": [answer]}
    assert answer_text(single_batch(module({"dev": [question]}))) == text


def test_file_instead_of_a_folder(squad_folder):
    data = SQuADDataModule(str(squad_folder / "dev-v1.1.json"), TINY_BERT, max_length=32, stride=4)
    assert len(data.load("validation")) == 13
    assert data.load("train") is None


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


def test_predict_needs_no_answers(module, file):
    content = changed()
    del content["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    path = str(file("questions.json", json.dumps(content)))
    batch = single_batch(module({"dev": []}, predict_path=path), "predict")
    assert not {"answers", "start_positions"} & set(batch)
    assert batch["context"] == [QUESTION["context"]]
    assert single_batch(module({"dev": changed(answers=[])}), "predict")["id"] == ["q"]


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([QUESTION, {**QUESTION, "id": "long", "question": "what " * 40}], r"data\.max_length: .*'long' .* 40 .* 32"),
        ([QUESTION, QUESTION], r"dev-v1\.1\.json: the id 'q' is not unique"),
        ([], r"validation split .* is empty"),
        (changed(question="  "), "question 'q' has no question"),
        (changed({"context": "  "}), "question 'q' has no context"),
        (changed(answers=[{"text": " ", "answer_start": 0}]), r"data\.version: question 'q' .* has no answer"),
        (changed(id=7), r"dev-v1\.1\.json, question 1: the id must be a string, got 7"),
        (changed(id=None), r"dev-v1\.1\.json, question 1: the id must be a string, got None"),
        ({"data": [1]}, FORMAT_ERROR),
        ({"data": [{"title": "x"}]}, FORMAT_ERROR),
        ({"rows": []}, FORMAT_ERROR),
        ({"data": [{"paragraphs": [{"qas": [{}]}]}]}, FORMAT_ERROR),
        (changed(answers=[{"text": None, "answer_start": 0}]), FORMAT_ERROR),
    ],
)
def test_invalid_questions(module, content, message):
    with pytest.raises(ValueError, match=message):
        module({"dev": content}).setup("validate")


@pytest.mark.parametrize(
    ("split", "stage", "arguments", "message"),
    [
        ("dev", "validate", {"version": "3"}, r"data\.version: must be one of 1\.1, 2\.0, got 3"),
        ("dev", "validate", {"stride": 32}, r"data\.stride: must be >= 0 .* data\.max_length \(32\), got 32"),
        ("dev", "validate", {"stride": 26}, r"data\.stride: 26 .* the 25 of 32 tokens .*'q'.*data\.max_length"),
        ("dev", "validate", {"max_length": 2000, "stride": 60}, r"data\.stride: 60 .* of 64 tokens .* tokenizer"),
        ("dev", "fit", {}, r"has no train split; use a folder with train-v1\.1\.json \(data\.version is 1\.1\)"),
        ("dev", "test", {}, r"has no test split; .*`validate`"),
        ("train", "predict", {}, r"no predict split; use a folder with dev-v1\.1\.json .*data\.predict_path"),
        ("dev", "predict", {"predict_path": "no.json"}, r"data\.predict_path: 'no\.json'"),
    ],
)
def test_invalid_arguments(module, split, stage, arguments, message):
    with pytest.raises(ValueError, match=message):
        module({split: [QUESTION]}, **arguments).setup(stage)


def test_no_questions_to_predict(module, file):
    path = str(file("none.json", json.dumps(squad([]))))
    with pytest.raises(ValueError, match=r"data\.predict_path: .*none\.json' has no questions"):
        module({"dev": [QUESTION]}, predict_path=path).setup("predict")


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
    hub = {"rajpurkar/squad_v2": datasets.DatasetDict(validation=datasets.Dataset.from_dict(rows))}
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config_name, revision: hub[path])

    def make():
        return SQuADDataModule(tokenizer=tokenizer, version=2.0, max_length=32, stride=4)

    batch = single_batch(make())
    rows = {name: row for row, name in enumerate(batch["id"])}
    assert answer_text(batch, rows["q"]) == "the water"
    assert batch["answers"][rows["r"]] == []
    (loaded,) = hub.values()
    loaded["validation"] = loaded["validation"].remove_columns("context")
    with pytest.raises(ValueError, match=r"data\.path: 'rajpurkar/squad_v2' has no column 'context'; it has 'id'"):
        make().setup("validate")

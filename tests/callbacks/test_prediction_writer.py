"""Predictions are written beside their texts."""

import csv
import json

import pytest
import torch
from transformers import AutoTokenizer

from lightning_kd import TextClassificationDataModule
from lightning_kd.callbacks import PredictionWriter
from lightning_kd.cli.run_dirs import create_run_logger
from tests.helpers import TINY_BERT, module, tiny_bert, trainer

MODEL = {"labels": ["bad", "good"], "layers": 1, "initializer_range": 0.5}
WORDS = ["hello", "goodbye", "water", "desk", "paper", "plant", "leak", "room", "france", "you"]
TEXTS = [" ".join(WORDS[i % 10 :][: 1 + (7 * i) % 6]) for i in range(11)]  # short and long ones take turns
TEXTS += ['say "hello", please', "one\nline\nafter another", " =1+1;\ttab ", "Grüße, 你好 🎉", "'", "a\r\nb"]


def write_table(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


def read_table(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def predict(tmp_path):
    """Predict a table of texts in batches of two; return the trainer's result."""

    def run(columns, path="predictions.csv", **settings):
        names = list(columns)
        write_table(tmp_path / "data" / "train.csv", {**{n: ["hello", "bye"] for n in names}, "label": ["good", "bad"]})
        table = write_table(tmp_path / "new" / "rows.csv", columns)
        arguments = {"text_columns": names, "predict_path": table, "eval_batch_size": 2}
        rows = TextClassificationDataModule(str(tmp_path / "data"), str(TINY_BERT), **arguments)
        run = trainer(tmp_path, callbacks=[PredictionWriter(path)], **settings)
        return run.predict(module(student=tiny_bert(**MODEL)), rows)

    return run


def answers(*columns):
    """Label and probability of each text, computed separately."""
    model, tokenizer = tiny_bert(**MODEL).eval(), AutoTokenizer.from_pretrained(TINY_BERT)
    for texts in zip(*columns, strict=True):
        with torch.no_grad():
            probabilities = model(**tokenizer(*texts, return_tensors="pt")).logits.softmax(-1)[0]
        yield MODEL["labels"][probabilities.argmax()], float(probabilities.max())


def test_labels_as_json(predict, tmp_path):
    predict({"text": TEXTS}, path="labels.json")
    rows = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert [row["text"] for row in rows] == TEXTS
    assert [row["label"] for row in rows] == [label for label, _ in answers(TEXTS)]


def assert_predictions(rows, *columns):
    assert len(rows) == len(columns[0])
    for row, (label, score) in zip(rows, answers(*columns), strict=True):
        assert row["label"] == label
        assert float(row["score"]) == pytest.approx(score, abs=2e-6)


def test_rows_are_in_file_order_although_the_longest_run_first(tmp_path, predict):
    (tmp_path / "predictions.csv").write_text("old\n" * 1000)
    returned = [row for batch in predict({"text": TEXTS}) for row in batch]
    row_ids = [row["row_id"] for row in returned]
    assert row_ids != sorted(row_ids) == list(range(len(TEXTS)))
    assert set(returned[0]) == {"row_id", "label", "score"}
    rows = read_table(tmp_path / "predictions.csv")
    assert [list(row) for row in rows] == [["text", "label", "score"]] * len(TEXTS)
    assert [row["text"] for row in rows] == TEXTS
    assert len({row["score"] for row in rows}) > 5
    assert_predictions(rows, TEXTS)


def test_pairs_of_texts(tmp_path, predict):
    predict({"question": TEXTS, "answer": TEXTS[::-1]})
    rows = read_table(tmp_path / "predictions.csv")
    assert list(rows[0]) == ["question", "answer", "label", "score"]
    assert [(row["question"], row["answer"]) for row in rows] == list(zip(TEXTS, TEXTS[::-1], strict=True))
    assert_predictions(rows, TEXTS, TEXTS[::-1])


PATHS = {
    "predictions.csv": "version_0/predictions.csv",
    "some where/my answers.csv": "version_0/some where/my answers.csv",
    "~/a b/answers.csv": "home/a b/answers.csv",
    "{tmp_path}/elsewhere/answers.csv": "elsewhere/answers.csv",
}


@pytest.mark.parametrize(("path", "file"), PATHS.items())
def test_path_is_relative_to_the_run_folder(tmp_path, predict, monkeypatch, path, file):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    predict({"text": TEXTS}, path.format(tmp_path=tmp_path), logger=create_run_logger(tmp_path / "version_0"))
    assert_predictions(read_table(tmp_path / file), TEXTS)
    assert not [other for other in (tmp_path / file).parent.iterdir() if ".tmp" in other.name]


def test_failing_write_leaves_no_partial_file(tmp_path, predict):
    (tmp_path / "out" / "answers.csv").mkdir(parents=True)
    with pytest.raises(OSError, match=r"answers\.csv"):
        predict({"text": TEXTS}, "out/answers.csv")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["answers.csv"]


@pytest.mark.parametrize("numbers", [False, True])
def test_dataloader_without_texts(tmp_path, numbers):
    ids = [[2, 40, 3], [2, 41, 3], [2, 42, 3]]
    rows = [{"input_ids": torch.tensor(row), **({"row_id": n} if numbers else {})} for n, row in enumerate(ids)]
    run = trainer(tmp_path, callbacks=[PredictionWriter()])
    fitted = module(student=tiny_bert(**MODEL))
    run.predict(fitted, torch.utils.data.DataLoader(rows[::-1], batch_size=2))
    table = read_table(tmp_path / "predictions.csv")
    assert [list(row) for row in table] == [["label", "score"]] * 3
    with torch.no_grad():
        expected = fitted.student.eval()(torch.tensor(ids if numbers else ids[::-1])).logits.softmax(-1).amax(-1)
    assert [float(row["score"]) for row in table] == pytest.approx(expected.tolist(), abs=2e-6)

"""Whole runs of question answering."""

import json
import re

import pytest
import torch
from transformers import AutoTokenizer, BertForQuestionAnswering

from lightning_kd import QuestionAnswering
from lightning_kd.callbacks import PredictionWriter, StudentExport
from lightning_kd.losses import HardLabelLoss, SoftTargetLoss
from lightning_kd.tasks.answer_scores import score_answer
from tests.helpers import (
    LABELS,
    STUDENT,
    TINY_BERT,
    assert_same_scores_when_reloaded,
    data,
    module,
    save_model,
    squad_data,
    squad_questions,
    tiny_bert,
    trainer,
)


@pytest.fixture
def teacher(tmp_path):
    model = tiny_bert(None, layers=3, seed=1, model_class=BertForQuestionAnswering)
    return save_model(model, tmp_path / "teacher")


def qa_module(teacher=None, **settings):
    return module(teacher, task=QuestionAnswering(), **settings)


def test_scores_of_a_run_are_those_of_its_prediction_file(tmp_path, squad_folder, teacher):
    # parts of a context in different batches, and SQuAD's rules applied to the file
    fitted = qa_module(teacher)
    run = trainer(tmp_path, max_epochs=2, callbacks=[PredictionWriter()])
    run.fit(fitted, squad_data(squad_folder))
    (scores,) = run.validate(fitted, squad_data(squad_folder, eval_batch_size=3), verbose=False)
    run.predict(fitted, squad_data(squad_folder, eval_batch_size=7))
    answers = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    questions = squad_questions("d", 3)[:-2]
    assert list(answers) == [question["id"] for question in questions]
    expected = torch.tensor([score_answer(answers[q["id"]], q["answers"], False) for q in questions]).mean(dim=0)
    assert [scores["val/exact_match"], scores["val/f1"]] == pytest.approx(expected.tolist(), abs=1e-3)
    assert all(answers[question["id"]] in question["context"] for question in questions)
    assert {"val/hard", "val/f1"} <= scores.keys()
    assert fitted.teacher_scores.keys() == {"exact_match", "f1"}


def test_student_learns_to_answer(tmp_path, squad_folder):
    fitted = qa_module(student={**STUDENT, "num_hidden_layers": 2}, ignore_checks=[])
    trainer(tmp_path, max_epochs=12).fit(fitted, squad_data(squad_folder))
    (scores,) = trainer(tmp_path).validate(fitted, squad_data(squad_folder), verbose=False)
    assert scores["val/f1"] > 60


def test_predictions_as_a_table(tmp_path, squad_folder):
    run = trainer(tmp_path, callbacks=[PredictionWriter("answers.csv")])
    run.predict(qa_module(), squad_data(squad_folder))
    header, *lines = (tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()
    assert header == "id,question,answer,score"
    assert len(lines) == 13


def test_head_of_another_size_is_replaced(tmp_path, squad_folder):
    classifier = save_model(tiny_bert(LABELS), tmp_path / "classifier")
    fitted = qa_module(student=classifier)
    trainer(tmp_path).fit(fitted, squad_data(squad_folder))
    assert fitted.student.qa_outputs.out_features == 2


def test_reloaded_from_its_checkpoint(tmp_path, squad_folder, teacher):
    assert_same_scores_when_reloaded(qa_module(teacher), lambda: squad_data(squad_folder), tmp_path)


def test_token_types_reach_a_teacher_whose_student_has_none(tmp_path, squad_folder, teacher):
    # DistilBERT's tokenizer gives none, BERT's reads them
    tokenizer = AutoTokenizer.from_pretrained(TINY_BERT)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    types = []
    fitted = qa_module(teacher, losses={"hard": HardLabelLoss(), "soft": SoftTargetLoss()})
    fitted.teacher.load()[0].register_forward_pre_hook(
        lambda model, args, kwargs: types.append(kwargs["token_type_ids"]), with_kwargs=True
    )
    trainer(tmp_path).fit(fitted, squad_data(squad_folder, tokenizer=tokenizer))
    assert types
    assert all(set(rows.flatten().tolist()) == {0, 1} for rows in types)


def test_code_of_the_model_card_loads_the_exported_student(tmp_path, squad_folder):
    fitted, questions = qa_module(), squad_data(squad_folder)
    trainer(tmp_path, callbacks=[StudentExport()]).fit(fitted, questions)
    card = (tmp_path / "student" / "README.md").read_text(encoding="utf-8")
    assert "question-answering" in card
    code = re.search(r"```python\n(.*?)```", card, re.S)
    names: dict = {}
    exec(code.group(1).replace("<this folder>", str(tmp_path / "student")), names)
    batch = next(iter(questions.val_dataloader()))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        exported, student = names["model"].eval()(**inputs), fitted.student.eval()(**inputs)
    assert torch.equal(exported.start_logits, student.start_logits)
    assert torch.equal(exported.end_logits, student.end_logits)
    assert names["tokenizer"]("hello")["input_ids"] == questions.tokenizer("hello")["input_ids"]


def test_teacher_or_student_with_another_number_of_labels(tmp_path, squad_folder):
    three = tiny_bert(LABELS, model_class=BertForQuestionAnswering)
    with pytest.raises(ValueError, match="teacher 'BertForQuestionAnswering': has 3 labels, expected 2"):
        trainer(tmp_path).fit(qa_module(three), squad_data(squad_folder))
    with pytest.raises(ValueError, match="student: has 3 labels, expected 2"):
        trainer(tmp_path).fit(qa_module(student=three), squad_data(squad_folder))


def test_missing_threshold_stops_before_the_first_step(tmp_path, squad_folder):
    for split in ("train", "dev"):
        (squad_folder / f"{split}-v1.1.json").rename(squad_folder / f"{split}-v2.0.json")
    with pytest.raises(ValueError, match=r"task\.no_answer_threshold: "):
        trainer(tmp_path, num_sanity_val_steps=0).fit(qa_module(), squad_data(squad_folder, version="2.0"))


def test_data_for_another_task(tmp_path, clinc_file):
    with pytest.raises(ValueError, match="QuestionAnswering does not fit CLINC150DataModule"):
        trainer(tmp_path).fit(qa_module(), data(clinc_file))

"""Checks that stop a run before its first step."""

import json
import re
from functools import partial

import pytest
import torch

from lightning_kd.models import max_positions
from lightning_kd.training.checks import nonfinite_loss_error
from tests.helpers import LABELS, data, module, random_model, save_model, tiny_bert, trainer


@pytest.fixture
def trained_teacher(tmp_path, clinc_file):
    """A teacher that has learned the examples, as a module."""
    learner = tiny_bert(seed=1, initializer_range=0.2)
    fitted = module(student=learner, optimizer=partial(torch.optim.AdamW, lr=1e-2))
    trainer(tmp_path, max_epochs=20).fit(fitted, data(clinc_file))
    assert fitted.validation_scores()["val/accuracy"] > 0.9
    return learner


def rename_labels(model, names):
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


def test_teacher_with_shuffled_label_names_raises(tmp_path, clinc_file, trained_teacher):
    folder = save_model(rename_labels(trained_teacher, [*LABELS[1:], LABELS[0]]), tmp_path / "shifted")
    run = trainer(tmp_path)
    with pytest.raises(ValueError, match=rf"teacher '{folder}' has validation accuracy 0\.\d+, not better than"):
        run.fit(module(folder, ignore_checks=[]), data(clinc_file))
    assert run.global_step == 0


def test_trained_teacher_in_any_label_order_passes_and_its_score_is_logged(tmp_path, clinc_file, trained_teacher):
    swapped = [2, 0, 1]
    with torch.no_grad():
        trained_teacher.classifier.weight.copy_(trained_teacher.classifier.weight[swapped].clone())
        trained_teacher.classifier.bias.copy_(trained_teacher.classifier.bias[swapped].clone())
    folder = save_model(rename_labels(trained_teacher, [LABELS[i] for i in swapped]), tmp_path / "swapped")
    student = tiny_bert(seed=3)  # in the order of LABELS
    fitted = module(folder, ignore_checks=[], student=student)
    trainer(tmp_path).fit(fitted, data(clinc_file))
    assert fitted.label_names == LABELS
    assert fitted.teacher_scores["accuracy"] > 0.9


def test_untrained_teacher_is_refused_but_can_be_ignored(tmp_path, clinc_file, teacher_folder):
    with pytest.raises(ValueError, match=r"not better than chance.*--model\.ignore_checks\+=weak_teacher"):
        trainer(tmp_path).fit(module(teacher_folder, ignore_checks=[]), data(clinc_file))
    trainer(tmp_path, max_steps=1).fit(module(teacher_folder, ignore_checks=["weak_teacher"]), data(clinc_file))


def test_different_tokenizer_stops_the_run_before_the_teacher_is_loaded(tmp_path, clinc_file, tokenizer):
    tokenizer.add_tokens(["dolphin"])
    folder = save_model(tiny_bert(), tmp_path / "other", tokenizer)
    fitted = module(folder)
    with pytest.raises(ValueError, match=r"different tokenizers.*tokenizer_mismatch"):
        trainer(tmp_path).fit(fitted, data(clinc_file))
    assert not fitted.teacher.models[0].is_loaded
    trainer(tmp_path, max_steps=1).fit(
        module(folder, ignore_checks=["tokenizer_mismatch", "weak_teacher"]), data(clinc_file)
    )


def test_student_with_another_number_of_labels_raises(tmp_path, clinc_file):
    run = trainer(tmp_path)
    with pytest.raises(ValueError, match="student: has 2 labels, expected 3"):
        run.fit(module(student=tiny_bert(labels=None, num_labels=2)), data(clinc_file))


def test_nonfinite_loss_error_names_the_first_loss():
    terms = {"hard": torch.tensor(1.0), "soft": torch.tensor(float("nan")), "mse": torch.tensor(float("inf"))}
    error = nonfinite_loss_error(terms, "epoch 1, step 7", [3, 4])
    assert re.match(r"train/soft is nan in epoch 1, step 7, .*\[3, 4\]", str(error))
    assert isinstance(error, FloatingPointError)


def test_nonfinite_loss_error_where_only_the_sum_overflows():
    terms = {"hard": torch.tensor(3e38), "soft": torch.tensor(3e38)}
    assert str(nonfinite_loss_error(terms, "epoch 0, step 0", [1])).startswith("train/loss is inf in")


def test_validation_split_of_one_class_does_not_show_a_weak_teacher(tmp_path, clinc_file, teacher_folder):
    rows = json.loads(clinc_file.read_text())
    clinc_file.write_text(json.dumps({**rows, "val": rows["val"][:5], "oos_val": []}))  # five greetings
    fitted = module(teacher_folder, ignore_checks=["weak_teacher"])
    trainer(tmp_path, max_steps=1).fit(fitted, data(clinc_file))
    assert fitted.teacher_scores["accuracy"] in (0.0, 1.0)


def test_examples_longer_than_the_positions(tmp_path, clinc_file):
    short = tiny_bert(max_position_embeddings=20)
    with pytest.raises(ValueError, match=r"data\.max_length: 32 .* 20 positions of the student"):
        trainer(tmp_path).fit(module(student=short), data(clinc_file))
    with pytest.raises(
        ValueError, match=r"data\.max_length: 32 .* 20 positions of teacher 'BertForSequenceClassification'"
    ):
        trainer(tmp_path).fit(module(short), data(clinc_file))


@pytest.mark.parametrize(("kind", "positions"), [("roberta", 32), ("mpnet", 32), ("bert", 34), ("distilbert", 34)])
def test_max_positions_without_those_of_padding(kind, positions):
    model = random_model(kind, 1, seed=0, max_position_embeddings=34)
    assert max_positions(model.config) == positions
    ids = torch.full((1, positions), 7)
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    ids = torch.full((1, positions + 1), 7)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))

"""Checks that stop a run before its first step."""

import copy
import json
from functools import partial

import pytest
import torch

from lightning_kd import DistillationModule
from lightning_kd.losses import DecoupledKDLoss, DISTLoss, HardLabelLoss, SoftTargetLoss
from lightning_kd.models import max_positions
from lightning_kd.training.checks import nonfinite_loss_error
from tests.helpers import LABELS, data, module, random_model, save_model, sst2_data, tiny_bert, trainer

# ---- teachers


@pytest.fixture(scope="module")
def trained_model(folder):
    """A model that has learned the examples."""
    model = tiny_bert(seed=1, initializer_range=0.2)
    fitted = module(student=model, optimizer=partial(torch.optim.AdamW, lr=1e-2))
    trainer(folder, max_epochs=20).fit(fitted, data(folder / "data_oos_plus.json"))
    assert fitted.validation_scores()["val/accuracy"] > 0.9
    return model


def rename_labels(model, names):
    model = copy.deepcopy(model)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


def test_teacher_with_shuffled_label_names_raises(tmp_path, clinc_file, trained_model):
    folder = save_model(rename_labels(trained_model, [*LABELS[1:], LABELS[0]]), tmp_path / "shifted")
    run = trainer(tmp_path)
    with pytest.raises(ValueError, match=rf"teacher '{folder}' has validation accuracy 0\.\d+, not better than"):
        run.fit(module(folder, ignore_checks=[]), data(clinc_file))
    assert run.global_step == 0


def test_trained_teacher_in_any_label_order_passes_and_its_score_is_logged(tmp_path, clinc_file, trained_model):
    order = [2, 0, 1]
    teacher = rename_labels(trained_model, [LABELS[i] for i in order])
    for parameter in teacher.classifier.parameters():
        parameter.data = parameter.data[order]
    fitted = module(save_model(teacher, tmp_path / "swapped"), ignore_checks=[], student=tiny_bert(seed=3))
    trainer(tmp_path).fit(fitted, data(clinc_file))
    assert fitted.label_names == LABELS
    assert fitted.teacher_scores["accuracy"] > 0.9


def test_untrained_teacher_is_refused_but_can_be_ignored(tmp_path, clinc_file, teacher_folder):
    with pytest.raises(ValueError, match=r"not better than chance.*--model\.ignore_checks\+=weak_teacher"):
        trainer(tmp_path).fit(module(teacher_folder, ignore_checks=[]), data(clinc_file))
    trainer(tmp_path, max_steps=1).fit(module(teacher_folder, ignore_checks=["weak_teacher"]), data(clinc_file))


def test_validation_split_of_one_class_does_not_show_a_weak_teacher(tmp_path, clinc_file, teacher_folder):
    rows = json.loads(clinc_file.read_text())
    clinc_file.write_text(json.dumps({**rows, "val": rows["val"][:5], "oos_val": []}))  # five greetings
    fitted = module(teacher_folder, ignore_checks=["weak_teacher"])
    trainer(tmp_path, max_steps=1).fit(fitted, data(clinc_file))
    assert fitted.teacher_scores["accuracy"] in (0.0, 1.0)


def test_different_tokenizer_stops_the_run_before_the_teacher_is_loaded(tmp_path, clinc_file, tokenizer):
    tokenizer.add_tokens(["dolphin"])
    folder = save_model(tiny_bert(), tmp_path / "other", tokenizer)
    fitted = module(folder)
    with pytest.raises(ValueError, match=r"different tokenizers.*tokenizer_mismatch"):
        trainer(tmp_path).fit(fitted, data(clinc_file))
    assert not fitted.teacher.models[0].is_loaded
    ignoring = module(folder, ignore_checks=["tokenizer_mismatch", "weak_teacher"])
    trainer(tmp_path, max_steps=1).fit(ignoring, data(clinc_file))


# ---- labels and lengths


def test_different_labels_raise_unless_ignored(tmp_path, clinc_file):
    other = tiny_bert(labels=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"only in the first.*model\.ignore_checks\+=label_mismatch"):
        trainer(tmp_path).fit(module(other), data(clinc_file))
    ignoring = module(other, ignore_checks=["label_mismatch", "weak_teacher"])
    trainer(tmp_path, max_steps=1).fit(ignoring, data(clinc_file))


def test_student_with_another_number_of_labels_raises(tmp_path, clinc_file):
    run = trainer(tmp_path)
    with pytest.raises(ValueError, match="student: has 2 labels, expected 3"):
        run.fit(module(student=tiny_bert(labels=None, num_labels=2)), data(clinc_file))


def test_examples_longer_than_the_positions(tmp_path, clinc_file):
    short = tiny_bert(max_position_embeddings=20)
    for fitted, model in (
        (module(student=short), "the student"),
        (module(short), "teacher 'BertForSequenceClassification'"),
    ):
        with pytest.raises(ValueError, match=rf"data\.max_length: 32 .* 20 positions of {model}"):
            trainer(tmp_path).fit(fitted, data(clinc_file))


@pytest.mark.parametrize(("kind", "positions"), [("roberta", 32), ("mpnet", 32), ("bert", 34), ("distilbert", 34)])
def test_max_positions_without_those_of_padding(kind, positions):
    model = random_model(kind, 1, seed=0, max_position_embeddings=34)
    assert max_positions(model.config) == positions
    ids = torch.full((1, positions), 7)
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    ids = torch.full((1, positions + 1), 7)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))


# ---- losses


@pytest.mark.parametrize(("name", "field"), [(None, "losses"), ("loss", r"losses\.loss"), ("so-ft", r"losses\.so-ft")])
def test_missing_or_badly_named_losses(name, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        module(losses={} if name is None else {name: HardLabelLoss()})


def test_unlabeled_examples_need_a_loss_that_learns_from_them(tmp_path, clinc_file):
    with pytest.raises(ValueError, match=r"data\.allow_unlabeled: "):
        trainer(tmp_path).fit(module(), data(clinc_file, allow_unlabeled=True))


def test_nan_names_the_first_such_loss_and_the_examples(tmp_path, clinc_file):
    class Broken(HardLabelLoss):
        def forward(self, student, teacher=None):
            return super().forward(student) * float("nan")

    losses = {"hard": HardLabelLoss(), "broken": Broken(), "later": Broken()}
    with pytest.raises(FloatingPointError, match=r"train/broken is nan in epoch 0, step 0, for the examples \[\d+, "):
        trainer(tmp_path, num_sanity_val_steps=0).fit(module(losses=losses), data(clinc_file))


@pytest.mark.parametrize("is_scored", [True, False])
def test_nan_of_the_teacher_names_the_teacher(tmp_path, clinc_file, monkeypatch, is_scored):
    teacher = tiny_bert(initializer_range=1.0)
    with torch.no_grad():
        teacher.bert.embeddings.word_embeddings.weight[123] = torch.nan  # "room"
    if not is_scored:
        monkeypatch.setattr(DistillationModule, "score_teacher", lambda self: None)
    run = trainer(tmp_path, num_sanity_val_steps=0)
    message = r"^teacher 'BertForSequenceClassification' returned NaN or infinite logits for the examples \[\d+, "
    with pytest.raises(FloatingPointError, match=message):
        run.fit(module(teacher), data(clinc_file))


def test_nonfinite_loss_error_where_only_the_sum_overflows():
    terms = {"hard": torch.tensor(3e38), "soft": torch.tensor(3e38)}
    assert str(nonfinite_loss_error(terms, "epoch 0, step 0", [1])).startswith("train/loss is inf in")


@pytest.mark.parametrize(
    ("setting", "value"), [("gradient_clip_val", -1.0), ("accumulate_grad_batches", 0), ("accumulate_grad_batches", -1)]
)
def test_settings_of_the_trainer_out_of_range(tmp_path, clinc_file, setting, value):
    run = trainer(tmp_path, **{setting: value})
    with pytest.raises(ValueError, match=rf"^trainer\.{setting}: must be >= [01], got {value}"):
        run.fit(module(), data(clinc_file))


def test_all_weights_are_zero(tmp_path, clinc_file):
    losses = {"hard": HardLabelLoss(0.0), "soft": SoftTargetLoss(0.0)}
    with pytest.raises(ValueError, match=r"^losses\.hard\.weight: 0, as of all losses, so nothing is learned; "):
        trainer(tmp_path).fit(module(tiny_bert(), losses=losses), data(clinc_file))
    schedules = {"soft": {"weight": {"start": 0, "end": 1}}}
    run = trainer(tmp_path, max_steps=1)
    run.fit(module(tiny_bert(), losses=losses, loss_schedules=schedules), data(clinc_file))
    assert run.global_step == 1


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (SoftTargetLoss(standardize=True), r"standardize: two standardized logits are always 1 and -1, "),
        (DISTLoss(), "inter_weight: two classes always correlate with 1 or -1, "),
        (DecoupledKDLoss(), "nontarget_weight: of two classes only one is no target, "),
    ],
)
def test_losses_that_are_constant_for_two_classes(tmp_path, loss, message):
    run = trainer(tmp_path, num_sanity_val_steps=0, max_steps=1)
    teacher = tiny_bert(["negative", "positive"])
    message = rf"^losses\.soft\.{message}"
    is_error = isinstance(loss, SoftTargetLoss)
    with pytest.raises(ValueError, match=message) if is_error else pytest.warns(UserWarning, match=message):
        run.fit(module(teacher, losses={"soft": loss}), sst2_data(tmp_path / "sst2"))


@pytest.mark.parametrize("field", ["lr_scheduler", "loss_schedules"])
def test_schedules_need_a_run_with_an_end(tmp_path, clinc_file, field):
    schedules = {"hard": {"weight": {"start": 0, "end": 1}}}
    settings = {"loss_schedules": schedules, "lr_scheduler": None} if field == "loss_schedules" else {}
    run = trainer(tmp_path, max_epochs=-1)
    with pytest.raises(ValueError, match=rf"{field}: .*needs the number of steps.*trainer\.max_steps"):
        run.fit(module(**settings), data(clinc_file))
    assert run.global_step == 0

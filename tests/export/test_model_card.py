"""The model card of an exported student."""

import pytest
import torch
from huggingface_hub import ModelCard

from lightning_kd import DistillationModule
from lightning_kd.callbacks import StudentExport
from tests.helpers import best_checkpoint, data, module, run_with_degraded_last_epoch, tiny_bert, trainer


@pytest.fixture(scope="module")
def distilled(folder):
    callbacks, teacher = [StudentExport(), best_checkpoint()], str(folder / "teacher")
    run, fitted = run_with_degraded_last_epoch(folder, folder / "data_oos_plus.json", *callbacks, teacher=teacher)
    return run, fitted, ModelCard.load(folder / "student" / "README.md")


def test_data_teacher_losses_and_training(distilled, folder):
    header, text = distilled[2].data, distilled[2].text
    assert (header.library_name, header.pipeline_tag) == ("transformers", "text-classification")
    assert header.tags == ["lightning_kd", "knowledge-distillation"]
    assert f"# Distilled from `{folder / 'teacher'}`" in text
    assert f"CLINC150DataModule, `{folder / 'data_oos_plus.json'}`" in text
    assert "| hard | HardLabelLoss | 0.5 | label_smoothing 0.0, tsa_threshold 1.0 |" in text
    assert "| soft | SoftTargetLoss | 0.5 | temperature 2.0, beta 0.0, standardize False, top_k None |" in text
    assert "AdamW (lr 0.01), schedule linear, warmup 0% of 72 steps, 8 epochs, precision 32-true" in text
    assert "- Parameters: 22,835" in text


def test_scores_are_those_of_the_exported_weights_and_of_the_teacher(distilled, folder):
    run, fitted, card = distilled
    best_student = DistillationModule.load_from_checkpoint(run.checkpoint_callback.best_model_path)
    best = trainer(folder).validate(best_student, data(folder / "data_oos_plus.json"), verbose=False)[0]
    assert best["val/accuracy"] > 0.9
    assert len(fitted.teacher_scores) == 4
    for name, teacher in fitted.teacher_scores.items():
        assert f"| {name} | {best[f'val/{name}']:.4f} | {teacher:.4f} |" in card.text


def test_student_without_a_teacher(tmp_path, clinc_file):
    rows = data(clinc_file, prompt="say {text} now")
    trainer(tmp_path, max_steps=1, callbacks=[StudentExport()]).fit(module(), rows)
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert "# Fine-tuned without a teacher" in card.text
    assert card.data.tags == ["lightning_kd"]
    assert "- Prompt: `say {text} now`" in card.text
    assert "| hard | HardLabelLoss | 1.0 | label_smoothing 0.0, tsa_threshold 1.0 |" in card.text


def plain_adam(groups):
    return torch.optim.Adam(groups, lr=1e-3)


def test_custom_modules_and_loaders(tmp_path, clinc_file):
    rows = data(clinc_file)
    rows.setup("fit")
    fitted = module(tiny_bert(seed=1), student=tiny_bert(seed=2), optimizer=plain_adam)
    loaders = rows.train_dataloader(), rows.val_dataloader()
    trainer(tmp_path, callbacks=[StudentExport()]).fit(fitted, *loaders)
    text = ModelCard.load(tmp_path / "student" / "README.md").text
    assert "# Distilled from `BertForSequenceClassification`" in text
    assert "- Data: custom DataLoaders" in text
    assert "- Optimizer: function" in text

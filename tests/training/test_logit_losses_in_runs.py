"""Losses on logits, in whole runs of each task: alone, they bring the student nearer to the teacher."""

import statistics

import pytest
from lightning.pytorch import Callback
from transformers import BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification

from lightning_kd import MaskedLM, MaskedLMDataModule, QuestionAnswering, SequenceClassification
from lightning_kd.losses import DecoupledKDLoss, DISTLoss, SoftTargetLoss
from tests.helpers import LABELS, TINY_BERT, data, module, save_model, squad_data, tiny_bert, trainer

LOSSES = {
    "standardized": SoftTargetLoss(temperature=2.0, standardize=True),
    "pooled": SoftTargetLoss(temperature=2.0, top_k=2),
    "decoupled": DecoupledKDLoss(),
    "correlation": DISTLoss(temperature=2.0, intra_weight=0.0),
    "correlation between rows": DISTLoss(temperature=2.0),
}
LARGE_INIT = {"initializer_range": 0.5}  # a teacher that is sure of something


class LossRecorder(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(trainer.callback_metrics["train/own"].item())


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = [f"hello {word} good morning" for word in ("water", "desk", "paper", "plant")] * 9
    for split in ("train", "validation"):
        (folder / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    return MaskedLMDataModule(str(folder), tokenizer=str(TINY_BERT), batch_size=8, max_length=16, line_by_line=True)


@pytest.fixture
def settings(tmp_path, clinc_file, squad_folder, corpus):
    return {
        SequenceClassification: (BertForSequenceClassification, LABELS, data(clinc_file, batch_size=16)),
        QuestionAnswering: (BertForQuestionAnswering, None, squad_data(squad_folder, batch_size=10)),
        MaskedLM: (BertForMaskedLM, None, corpus),
    }


@pytest.mark.parametrize("task", [SequenceClassification, QuestionAnswering, MaskedLM])
@pytest.mark.parametrize("name", LOSSES)
def test_student_comes_nearer(tmp_path, settings, name, task):
    network, labels, datamodule = settings[task]
    if LOSSES[name].compares_examples and task.predicts_positions:
        pytest.skip("refused, see tests/losses/test_dist.py")
    teacher = save_model(tiny_bert(labels, layers=1, seed=1, model_class=network, **LARGE_INIT), tmp_path / "teacher")
    recorder = LossRecorder()
    fitted = module(teacher, task=task(), losses={"own": LOSSES[name]})
    trainer(tmp_path, max_epochs=6, callbacks=[recorder]).fit(fitted, datamodule)
    each = len(recorder.values) // 6
    assert statistics.mean(recorder.values[-each:]) < 0.8 * statistics.mean(recorder.values[:each])

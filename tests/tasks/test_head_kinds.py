"""Two tasks with other kinds of heads, defined here only, run through fit, teacher cache, report and predict."""

import pytest
import torch
from datasets import Dataset
from torchmetrics import CatMetric, MeanSquaredError, MetricCollection
from torchmetrics.classification import MultilabelF1Score

from lightning_kd import TeacherCache
from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.benchmark import build_report
from lightning_kd.export.artifacts import Artifact
from lightning_kd.losses import DecoupledKDLoss, HardLabelLoss, LogitMSELoss, SoftTargetLoss
from lightning_kd.tasks import Task
from tests.helpers import STUDENT, TINY_BERT, WORDS, module, tiny_bert, trainer

TOPICS = ["water", "desk", "room"]


class PerExampleCounts(CatMetric):
    """Keep true positives, and predicted plus actual positives, of each example."""

    def update(self, preds, target):
        super().update(torch.stack([(preds & target).sum(1), preds.sum(1) + target.sum(1)], dim=1))


class MultiLabel(Task):
    auto_class = "AutoModelForSequenceClassification"
    pipeline = "text-classification"
    heads = ("topics",)
    label_keys = ("topic_labels",)
    head_kind = "binary"
    monitor = "f1"

    def metrics(self, label_names):
        return MetricCollection({"f1": MultilabelF1Score(len(label_names), average="micro")})

    def update(self, metrics, outputs, batch):
        (head,) = outputs.heads.values()
        metrics.update(head.prediction.int(), head.labels.int())

    def per_example_metric(self):
        return PerExampleCounts(nan_strategy="disable")

    def monitor_from_statistics(self, statistics):
        true_positives, positives = statistics.sum(dim=0)
        return float(2 * true_positives / positives)

    def baseline_statistics(self, outputs, batch):
        labels = outputs.heads["topics"].labels
        return torch.tensor([labels.sum(), labels.numel()])

    def baseline_score(self, statistics):
        rate = float(statistics[0] / statistics[1])
        return 2 * rate / (1 + rate)

    def predictions(self, outputs, batch, label_names):
        decisions = outputs.heads["topics"].prediction.tolist()
        return [{"topics": [n for n, d in zip(label_names, row, strict=True) if d]} for row in decisions]


class PerExampleSquaredError(CatMetric):
    def update(self, preds, target):
        super().update((preds - target).square())


class Regression(Task):
    auto_class = "AutoModelForSequenceClassification"
    pipeline = "text-classification"
    heads = ("score",)
    label_keys = ("scores",)
    head_kind = "value"
    named_labels = False
    num_labels = 1
    monitor = "mse"
    monitor_mode = "min"

    def metrics(self, label_names):
        return MetricCollection({"mse": MeanSquaredError()})

    def update(self, metrics, outputs, batch):
        (head,) = outputs.heads.values()
        metrics.update(head.logits.flatten(), head.labels.flatten())

    def per_example_metric(self):
        return PerExampleSquaredError(nan_strategy="disable")

    def baseline_statistics(self, outputs, batch):
        labels = outputs.heads["score"].labels
        return torch.stack([torch.tensor(float(len(labels))), labels.sum(), labels.square().sum()])

    def baseline_score(self, statistics):
        count, total, squares = statistics.tolist()
        return squares / count - (total / count) ** 2

    def predictions(self, outputs, batch, label_names):
        return [{"score": value} for value in outputs.heads["score"].logits.flatten().tolist()]


class LabeledTexts(TextDataModule):
    """Random texts, labeled with their topics or with the number of their topics."""

    def __init__(self, label_key):
        super().__init__("texts", str(TINY_BERT), batch_size=8, max_length=16)
        self.label_key = label_key

    @property
    def label_names(self):
        return TOPICS if self.label_key == "topic_labels" else None

    def load(self, split):
        generator = torch.Generator().manual_seed(len(split))
        picks = torch.randint(len(WORDS), (35, 4), generator=generator).tolist()
        return Dataset.from_dict({"text": [" ".join(WORDS[i] for i in pick) for pick in picks]})

    def encode(self, examples):
        encoded = dict(self.tokenizer(examples["text"], truncation=True, max_length=self.max_length))
        topics = [[float(topic in text.split()) for topic in TOPICS] for text in examples["text"]]
        labels = topics if self.label_key == "topic_labels" else [[sum(row)] for row in topics]
        return {**encoded, self.label_key: labels}


CLASS_LOSSES = {"hard": HardLabelLoss(), "soft": SoftTargetLoss(1.0, 2.0), "dkd": DecoupledKDLoss(nontarget_weight=0.0)}
CASES = {
    "binary": (MultiLabel(), TOPICS[::-1], {**CLASS_LOSSES, "mse": LogitMSELoss()}),
    "value": (Regression(), ["value"], {"mse": LogitMSELoss()}),
}


@pytest.mark.parametrize("kind", CASES)
def test_fit_cache_report_and_predict(tmp_path, kind):
    task, labels, losses = CASES[kind]
    teacher = tiny_bert(labels, seed=1)

    def fit(**settings):
        run = trainer(tmp_path, max_epochs=2)
        fitted = module(teacher, task=task, student=dict(STUDENT), losses=losses, **settings)
        datamodule = LabeledTexts(task.label_keys[0])
        run.fit(fitted, datamodule)
        return run, fitted, datamodule

    run, fitted, datamodule = fit()
    metrics = run.callback_metrics
    assert metrics[f"val/{task.monitor}"] >= 0
    total = sum(float(metrics[f"train/{name}"]) for name in losses)
    assert float(metrics["train/loss"]) == pytest.approx(total, rel=1e-5)
    _, cached, _ = fit(teacher_cache=TeacherCache(str(tmp_path / "cache")))
    torch.testing.assert_close(cached.student.state_dict(), fitted.student.state_dict(), rtol=1e-3, atol=1e-4)

    models = [Artifact(name, "PyTorch", m.eval(), 1, None) for name, m in (("a", teacher), ("b", fitted.student))]
    report = build_report(models, task, datamodule, enable_progress_bar=False)
    assert report.num_examples == "35 examples"
    assert report.rows[0].agreement == 1 >= report.rows[1].agreement
    for row, expected in zip(report.rows, (fitted.teacher_scores, metrics), strict=True):
        name = task.monitor if expected is fitted.teacher_scores else f"val/{task.monitor}"
        assert row.scores[task.monitor] == pytest.approx(float(expected[name]), rel=1e-4)
        assert row.ci_low <= row.scores[task.monitor] <= row.ci_high
    datamodule.setup("predict")
    assert len(run.predict(fitted, datamodule.predict_dataloader())[0]) == 16


def test_losses_on_classes_reject_values():
    with pytest.raises(ValueError, match=r"losses\.soft: SoftTargetLoss .* Regression .* 'value'"):
        module(tiny_bert(["value"]), task=Regression(), losses={"soft": SoftTargetLoss()})


def test_labels_and_predictions_are_remapped_by_class():
    task, index = MultiLabel(), torch.tensor([2, 0])
    batch = {"topic_labels": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    remapped = task.remap_labels(batch, index, 3)["topic_labels"]
    torch.testing.assert_close(remapped, torch.tensor([[0.0, torch.nan, 1.0], [1.0, torch.nan, 0.0]]), equal_nan=True)
    predictions = torch.tensor([[False, True, True]])
    assert task.remap_predictions(predictions, index, 3).tolist() == [[True, False]]

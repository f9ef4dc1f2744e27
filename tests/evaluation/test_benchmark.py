"""Scores with intervals, interleaved timing, and the report."""

import json
import time

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import BertForMaskedLM, BertForQuestionAnswering

from lightning_kd import MaskedLM, QuestionAnswering, SequenceClassification
from lightning_kd.evaluation import benchmark
from lightning_kd.evaluation.benchmark import bootstrap_interval, build_report, evaluate, time_interleaved
from lightning_kd.export.artifacts import Artifact
from tests.helpers import LABELS, data, mlm_data, squad_data, tiny_bert


def interval_of_mean(values):
    return bootstrap_interval(torch.from_numpy(values), torch.mean)


def test_bootstrap_interval_matches_scipy():
    values = np.random.default_rng(1).exponential(size=400)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9999, rng=2).confidence_interval
    assert interval_of_mean(values) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_bootstrap_interval_of_equal_scores_has_zero_width():
    assert interval_of_mean(np.ones(10)) == (1.0, 1.0)


def test_interval_of_accuracy_is_about_two_standard_errors():
    values = np.repeat([1.0, 0.0], [930, 70])
    error = 1.96 * np.sqrt(0.93 * 0.07 / 1000)
    assert interval_of_mean(values) == pytest.approx((0.93 - error, 0.93 + error), abs=0.003)


def val_dataloader(datamodule):
    datamodule.setup("validate")
    return datamodule.val_dataloader()


def test_scores_and_predictions_of_a_classifier(clinc_file):
    model = tiny_bert().eval()
    result = evaluate(model, SequenceClassification(), LABELS, val_dataloader(data(clinc_file)))
    right, chosen = [], []
    for batch in val_dataloader(data(clinc_file)):
        with torch.no_grad():
            classes = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
        chosen += classes.tolist()
        right += classes.eq(batch["labels"]).tolist()
    assert result.num_examples == len(right) == 36
    assert result.predictions.tolist() == chosen
    assert result.scores["accuracy"] == pytest.approx(np.mean(right))
    assert result.confidence_interval[0] <= result.scores["accuracy"] <= result.confidence_interval[1]


@pytest.fixture(params=["questions", "masked tokens"])
def other_task(request, tmp_path, squad_folder):
    """A task with other units than examples, its model class and data."""
    if request.param == "questions":
        return QuestionAnswering(), BertForQuestionAnswering, squad_data(squad_folder)
    (tmp_path / "validation.txt").write_text("hello good morning to you\n" * 40)
    return MaskedLM(), BertForMaskedLM, mlm_data(tmp_path)


def test_interval_resamples_the_units_of_the_monitor(other_task, monkeypatch):
    task, model_class, rows = other_task
    monkeypatch.setattr(benchmark, "bootstrap_interval", lambda statistics, score: (score(statistics), len(statistics)))
    result = evaluate(tiny_bert(None, model_class=model_class).eval(), task, [], val_dataloader(rows))
    score, num_units = result.confidence_interval
    assert score == pytest.approx(result.scores[task.monitor])
    units = [
        batch["window_index"] == 0 if "window_index" in batch else batch["labels"] >= 0
        for batch in val_dataloader(rows)
    ]
    assert result.num_examples == num_units == torch.cat(units).sum()
    assert num_units < torch.cat(units).numel()


def test_interleaved_timing_excludes_the_warmup_pass():
    calls = []

    def fast(batch):
        calls.append(("fast", batch))

    def slow(batch):
        calls.append(("slow", batch))
        time.sleep(0.004 if len(calls) > 4 else 0.2)

    fast_times, slow_times = time_interleaved([fast, slow], [{"a": 1}, {"b": 2}], repetitions=3)
    assert len(fast_times) == len(slow_times) == 6
    assert np.median(fast_times) < 0.001 < 0.004 <= np.median(slow_times) < 0.1
    assert slow_times.max() < 0.1
    assert calls[:4] == [("fast", {"a": 1}), ("slow", {"a": 1}), ("slow", {"b": 2}), ("fast", {"b": 2})]


def test_mismatched_labels_raise(clinc_file):
    artifact = Artifact("other", "PyTorch", tiny_bert(["x", "y", "z"]), 1, None)
    with pytest.raises(ValueError, match=r"data and other have different label sets"):
        build_report([artifact], SequenceClassification(), data(clinc_file), "validation")


def test_permuted_and_additional_labels(clinc_file):
    """Labels are matched by name; predicting a label that the data lacks is an error."""
    task, first = SequenceClassification(), tiny_bert(["greet", "leave", "oos"]).eval()
    names = ["oos", "never", "Leave", "greet"]
    second = tiny_bert(names).eval()
    with torch.no_grad():
        second.load_state_dict(
            {**second.state_dict(), **{n: w for n, w in first.state_dict().items() if "classif" not in n}}
        )
        order = torch.tensor([2, 0, 1, 0])  # the weights of oos, greet, leave, greet
        second.classifier.weight.copy_(first.classifier.weight[order])
        second.classifier.bias.copy_(first.classifier.bias[order])
        second.classifier.bias[1] = -100
    artifacts = [Artifact(name, "PyTorch", model, 1, None) for name, model in (("a", first), ("b", second))]
    report = build_report(artifacts, task, data(clinc_file), enable_progress_bar=False)
    assert report.rows[0].scores["accuracy"] == report.rows[1].scores["accuracy"]
    assert report.rows[1].agreement == 1
    with torch.no_grad():
        second.classifier.bias[1] = 100
    report = build_report(artifacts, task, data(clinc_file), enable_progress_bar=False)
    assert report.rows[1].scores["accuracy"] == report.rows[1].agreement == 0


def test_few_examples(clinc_file):
    rows = json.loads(clinc_file.read_text())
    clinc_file.write_text(json.dumps({**rows, "val": rows["val"][:1], "oos_val": []}))
    artifacts = [Artifact("a", "PyTorch", tiny_bert().eval(), 1, None)]
    report = build_report(artifacts, SequenceClassification(), data(clinc_file), enable_progress_bar=False)
    assert report.num_examples == "1 examples"
    assert report.rows[0].throughput is None
    assert "| 1.0x |" in report.markdown()


def test_report_of_other_tasks(other_task):
    task, model_class, rows = other_task
    models = [tiny_bert(None, seed=seed, model_class=model_class).eval() for seed in (1, 1, 2)]
    artifacts = [Artifact(str(number), "PyTorch", model, 7, 1.0) for number, model in enumerate(models)]
    report = build_report(artifacts, task, rows, enable_progress_bar=False)
    same, other = report.rows[1:]
    assert same.agreement == 1 > other.agreement
    assert same.scores == report.rows[0].scores != other.scores
    assert all(row.ci_low <= row.scores[task.monitor] <= row.ci_high for row in report.rows)
    assert task.monitor in report.markdown()

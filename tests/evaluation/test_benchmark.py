"""Scores with intervals, and times side by side."""

import json
import time

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics import MetricCollection
from transformers import BertForMaskedLM, BertForQuestionAnswering

from lightning_kd import MaskedLM, MaskedLMDataModule, QuestionAnswering, SequenceClassification
from lightning_kd.evaluation.artifacts import Artefact
from lightning_kd.evaluation.benchmark import bootstrap_interval, interleaved_times, judge
from lightning_kd.evaluation.report import measure
from tests.conftest import LABELS, TINY_BERT, tiny_bert
from tests.runs import data, squad_data


def test_interval_is_that_of_scipy():
    values = np.random.default_rng(1).exponential(size=400)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9999, rng=2).confidence_interval
    assert bootstrap_interval(values) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_interval_of_equal_scores_is_a_point():
    assert bootstrap_interval(np.ones(10)) == (1.0, 1.0)


def test_interval_of_accuracy_is_about_two_standard_errors():
    values = np.repeat([1.0, 0.0], [930, 70])
    error = 1.96 * np.sqrt(0.93 * 0.07 / 1000)
    assert bootstrap_interval(values) == pytest.approx((0.93 - error, 0.93 + error), abs=0.003)


def ready(datamodule):
    datamodule.setup("validate")
    return datamodule.val_dataloader()


def test_scores_and_decisions_of_a_classifier(clinc_file):
    network = tiny_bert().eval()
    verdict = judge(network, SequenceClassification(), LABELS, ready(data(clinc_file)))
    right, chosen = [], []
    for batch in ready(data(clinc_file)):
        with torch.no_grad():
            classes = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
        chosen += classes.tolist()
        right += classes.eq(batch["labels"]).tolist()
    assert verdict.units == len(right) == 36
    assert verdict.decisions.tolist() == chosen
    assert verdict.scores["accuracy"] == pytest.approx(np.mean(right))
    assert verdict.interval[0] <= verdict.scores["accuracy"] <= verdict.interval[1]


def test_units_of_question_answering_are_questions(squad_folder):
    task = QuestionAnswering()
    network = tiny_bert(labels=["a", "b"], network=BertForQuestionAnswering).eval()
    metrics, units = task.metrics([]), task.unit_scores()
    verdict = judge(network, task, [], ready(squad_data(squad_folder)))
    parts = questions = 0
    for batch in ready(squad_data(squad_folder)):
        outputs = task.run(network, batch)
        task.update(metrics, outputs, batch)
        task.update(MetricCollection({"units": units}), outputs, batch)
        parts += len(batch["part"])
        questions += int((batch["part"] == 0).sum())
    values = units.compute()
    assert len(values) == questions < parts
    assert task.from_mean(float(values.mean())) == pytest.approx(verdict.scores["f1"])
    assert verdict.interval[0] <= verdict.scores["f1"] <= verdict.interval[1]


def test_units_of_masked_lm_are_tokens_and_their_score_is_perplexity():
    task, logits = MaskedLM(), torch.randn(5, 9)
    units, labels = task.unit_scores(), torch.arange(5)
    units.update(logits, labels)
    metrics = task.metrics([])
    metrics.update(logits, labels)
    assert task.from_mean(float(units.compute().mean())) == pytest.approx(float(metrics.compute()["perplexity"]))


def test_times_tell_slow_from_fast_and_leave_out_the_first_pass():
    calls = []

    def fast(batch):
        calls.append(("fast", batch))

    def slow(batch):
        calls.append(("slow", batch))
        time.sleep(0.004 if len(calls) > 4 else 0.2)

    quick, lame = interleaved_times([fast, slow], [{"a": 1}, {"b": 2}], repetitions=3)
    assert len(quick) == len(lame) == 6
    assert np.median(quick) < 0.001 < 0.004 <= np.median(lame) < 0.1
    assert lame.max() < 0.1
    assert calls[:4] == [("fast", {"a": 1}), ("slow", {"a": 1}), ("slow", {"b": 2}), ("fast", {"b": 2})]


def test_data_of_other_labels_are_refused(clinc_file):
    artefact = Artefact("other", "PyTorch", tiny_bert(["x", "y", "z"]), 1, None)
    with pytest.raises(
        ValueError, match=r"data and other have different label sets .*; report it with the data it was made for"
    ):
        measure([artefact], SequenceClassification(), data(clinc_file), "validation")


def test_labels_in_another_order_and_more_of_them(clinc_file):
    """Scored and compared by name; a label that the data do not have is a wrong answer."""
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
    artefacts = [Artefact(name, "PyTorch", network, 1, None) for name, network in (("a", first), ("b", second))]
    report = measure(artefacts, task, data(clinc_file), bar=False)
    assert report.lines[0].scores["accuracy"] == report.lines[1].scores["accuracy"]
    assert report.lines[1].agreement == 1
    with torch.no_grad():
        second.classifier.bias[1] = 100
    report = measure(artefacts, task, data(clinc_file), bar=False)
    assert report.lines[1].scores["accuracy"] == report.lines[1].agreement == 0


def test_few_rows(tmp_path, clinc_file):
    rows = json.loads(clinc_file.read_text())
    clinc_file.write_text(json.dumps({**rows, "val": rows["val"][:1], "oos_val": []}))
    artefacts = [Artefact("a", "PyTorch", tiny_bert().eval(), 1, None)]
    report = measure(artefacts, SequenceClassification(), data(clinc_file), bar=False)
    assert report.scored == "1 rows"
    assert report.lines[0].throughput is None
    assert "| 1.0x |" in report.markdown()


@pytest.mark.parametrize("task", ["question answering", "masked lm"])
def test_report_of_other_tasks(tmp_path, squad_folder, task):
    if task == "question answering":
        kind, network, rows = QuestionAnswering(), BertForQuestionAnswering, squad_data(squad_folder)
    else:
        (tmp_path / "validation.txt").write_text("hello good morning to you\n" * 40)
        kind, network = MaskedLM(), BertForMaskedLM
        rows = MaskedLMDataModule(str(tmp_path), str(TINY_BERT), max_length=16, packing="lines")
    networks = [tiny_bert(None, seed=seed, network=network).eval() for seed in (1, 1, 2)]
    report = measure(
        [Artefact(str(n), "PyTorch", net, 7, 1.0) for n, net in enumerate(networks)], kind, rows, bar=False
    )
    same, other = report.lines[1:]
    assert same.agreement == 1 > other.agreement
    assert same.scores == report.lines[0].scores != other.scores
    assert all(line.low <= line.scores[kind.monitor] <= line.high for line in report.lines)
    assert kind.monitor in report.markdown()

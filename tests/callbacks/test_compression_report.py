"""The report at the end of a run: files, model cards, TensorBoard."""

import json

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_kd import CompressionReport, ONNXExport
from lightning_kd.callbacks import StudentExport, compression_report
from lightning_kd.evaluation import report_plot
from lightning_kd.evaluation.report import Report, ReportRow
from tests.helpers import data, module, save_model, tiny_bert, trainer


@pytest.fixture(scope="module")
def run(folder):
    logger = TensorBoardLogger(str(folder), name="", version="run")
    callbacks = [CompressionReport(), ONNXExport(), StudentExport()]
    run = trainer(folder, callbacks=callbacks, max_epochs=3, logger=logger)
    run.fit(module(str(folder / "teacher")), data(folder / "data_oos_plus.json"))
    return folder / "run"


def report(run):
    return json.loads((run / "report.json").read_text())


def test_teacher_student_and_exports_side_by_side(run):
    lines = report(run)["rows"]
    assert [(line["name"], line["runtime"]) for line in lines] == [
        ("teacher", "PyTorch"),
        ("student", "PyTorch"),
        ("onnx", "ONNX Runtime"),
        ("onnx-int8", "ONNX Runtime"),
    ]
    teacher, student, graph, int8 = lines
    assert teacher["agreement"] == teacher["speedup"] == 1
    assert student["scores"] == graph["scores"]
    assert student["agreement"] == graph["agreement"] < 1  # the teacher is random
    assert student["num_parameters"] == graph["num_parameters"] == int8["num_parameters"] < teacher["num_parameters"]
    assert int8["megabytes"] < graph["megabytes"]
    for line in lines:
        assert line["ci_low"] <= line["scores"]["accuracy"] <= line["ci_high"]
        assert 0 < line["p50"] <= line["p95"] <= line["p99"]
        assert line["throughput"] > 0
        assert line["speedup"] == pytest.approx(teacher["p50"] / line["p50"])
    assert report(run)["num_examples"] == "36 examples"


def test_scores_are_those_of_the_run(run):
    student = report(run)["rows"][1]
    card = (run / "student" / "README.md").read_text()
    assert f"| accuracy | {student['scores']['accuracy']:.4f} |" in card


def test_markdown_and_cards(run):
    text = (run / "report.md").read_text()
    assert "| student | PyTorch |" in text
    for name in ("student", "onnx", "onnx-int8"):
        card = (run / name / "README.md").read_text()
        assert card.endswith(text)
        assert card.count("## Compression report") == 1
    assert "## ONNX, int8" in (run / "onnx-int8" / "README.md").read_text()


def test_plot_and_tensorboard(run):
    assert (run / "report.png").read_bytes()[:4] == b"\x89PNG"
    events = EventAccumulator(str(run))
    events.Reload()
    assert "compression" in events.Tags()["images"]
    assert "compression/text_summary" in events.Tags()["tensors"]
    assert not list(run.glob(".*"))


def test_plot_shows_each_model(run):
    content = report(run)
    rows = [ReportRow(**row) for row in content.pop("rows")]
    figure = report_plot.plot_report(Report(rows, **content))
    texts = [text.get_text().split(":")[0] for text in figure.legends[0].get_texts()]
    assert texts == [f"{row.name}, {row.runtime}" for row in rows]


def test_teacher_given_as_a_module(tmp_path, clinc_file):
    run = trainer(tmp_path, callbacks=[StudentExport(), CompressionReport(str(tmp_path / "a b"), "test")], max_steps=1)
    run.fit(module(tiny_bert(layers=3)), data(clinc_file))
    content = report(tmp_path / "a b")
    assert [line["megabytes"] is None for line in content["rows"]] == [True, False]
    assert content["split"] == "test"


def test_missing_export_raises_before_training(tmp_path, clinc_file):
    run = trainer(tmp_path, callbacks=[CompressionReport()])
    with pytest.raises(ValueError, match=r"CompressionReport: no export .* add StudentExport\(\)"):
        run.fit(module(), data(clinc_file))
    assert run.global_step == 0


def test_second_report_replaces_the_first(tmp_path, clinc_file):
    teacher = save_model(tiny_bert(layers=3), tmp_path / "teacher")
    for _ in range(2):
        callbacks = [StudentExport(str(tmp_path / "out")), CompressionReport(str(tmp_path))]
        trainer(tmp_path, callbacks=callbacks, max_steps=1).fit(module(teacher), data(clinc_file))
    assert (tmp_path / "out" / "README.md").read_text().count("## Compression report") == 1


def test_failing_report_warns(tmp_path, clinc_file, monkeypatch):
    monkeypatch.setattr(compression_report, "build_report", lambda *args: 1 / 0)
    run = trainer(tmp_path, callbacks=[StudentExport(), CompressionReport()], max_steps=1)
    with pytest.warns(
        UserWarning, match=r"CompressionReport: failed \(ZeroDivisionError: .*lightning-kd report --models .*student"
    ):
        run.fit(module(), data(clinc_file))


def test_ensemble_is_left_out_with_a_warning(tmp_path, clinc_file):
    teachers = [save_model(tiny_bert(layers=2, seed=seed), tmp_path / f"teacher{seed}") for seed in (1, 2)]
    run = trainer(tmp_path, callbacks=[StudentExport(), CompressionReport()], max_steps=1)
    with pytest.warns(UserWarning, match="CompressionReport: the teacher is an ensemble"):
        run.fit(module(teachers), data(clinc_file))
    assert [line["name"] for line in report(tmp_path)["rows"]] == ["student"]

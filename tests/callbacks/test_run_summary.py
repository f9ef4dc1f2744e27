"""The summary table, compared with numbers computed by hand."""

import io

import pytest
from rich.console import Console

from lightning_kd.callbacks import RunSummary
from lightning_kd.callbacks.run_summary import summary_table
from lightning_kd.losses import HardLabelLoss
from tests.helpers import best_checkpoint, data, module, run_with_degraded_last_epoch, tiny_bert, trainer

EMBEDDINGS = (1200 + 64 + 2) * 16 + 2 * 16
LAYER = 4 * (16 * 16 + 16) + 2 * 16 + (16 * 32 + 32) + (32 * 16 + 16) + 2 * 16
HEAD = (16 * 16 + 16) + (16 * 3 + 3)
ONE_LAYER, FOUR_LAYERS = EMBEDDINGS + LAYER + HEAD, EMBEDDINGS + 4 * LAYER + HEAD  # 22,835 and 29,507


def rows(table_or_text):
    """Cells of each row of a rendered table, by name."""
    text = table_or_text
    if not isinstance(text, str):
        console = Console(record=True, width=100, file=io.StringIO())
        console.print(table_or_text)
        text = console.export_text()
    lines = [line.replace("┃", "│").split("│") for line in text.splitlines()]
    cells = [[cell.strip() for cell in line] for line in lines if len(line) > 2]
    return {line[1]: line[2:-1] for line in cells}


def fit_module(tmp_path, clinc_file, teacher=None, **settings):
    result = module(teacher, **{"student": tiny_bert(layers=1), **settings})
    trainer(tmp_path, max_steps=1).fit(result, data(clinc_file))
    return result


def test_teacher_and_student(tmp_path, clinc_file):
    result = fit_module(tmp_path, clinc_file, tiny_bert(layers=4))
    result.teacher_scores = {"accuracy": 0.96, "f1_macro": 0.0}
    table = rows(summary_table(result, {"val/accuracy": 0.9, "val/f1_macro": 0.5, "val/oos_recall": 1.0}))
    assert table == {
        "validation": ["teacher", "student", "student / teacher"],
        "accuracy": ["0.9600", "0.9000", "93.8%"],
        "f1_macro": ["0.0000", "0.5000", ""],
        "oos_recall": ["", "1.0000", ""],
        "parameters": [f"{FOUR_LAYERS:,}", f"{ONE_LAYER:,}", "77.4%"],
        "size, float32": ["0.1 MB", "0.1 MB", "77.4%"],
    }


def test_size_is_four_bytes_a_parameter(tmp_path, clinc_file):
    wide = tiny_bert(layers=1, vocab_size=100_000)
    table = rows(summary_table(fit_module(tmp_path, clinc_file, student=wide), {}))
    assert table["parameters"] == ["1,603,635"]  # (100,000 - 1,200) x 16 more
    assert table["size, float32"] == ["6.4 MB"]


def test_ensemble_counts_all_its_models(tmp_path, clinc_file):
    result = fit_module(tmp_path, clinc_file, [tiny_bert(layers=4), tiny_bert(layers=1)])
    parameters = rows(summary_table(result, {}))["parameters"]
    assert parameters == ["52,342", "22,835", "43.6%"]


@pytest.mark.filterwarnings("ignore:model.teacher. no loss reads the teacher")
@pytest.mark.parametrize("idle", [False, True])
def test_without_a_teacher_or_with_one_that_no_loss_reads(tmp_path, clinc_file, teacher_folder, idle):
    result = fit_module(tmp_path, clinc_file, teacher_folder if idle else None, losses={"hard": HardLabelLoss()})
    assert rows(summary_table(result, {"val/accuracy": 0.9})) == {
        "validation": ["student"],
        "accuracy": ["0.9000"],
        "parameters": ["22,835"],
        "size, float32": ["0.1 MB"],
    }
    assert result.teacher is None or not result.teacher.models[0].is_loaded


def test_printed_at_the_end_are_the_scores_of_the_best_epoch(tmp_path, clinc_file, teacher_folder, capsys):
    run, result = run_with_degraded_last_epoch(
        tmp_path, clinc_file, RunSummary(), best_checkpoint(), teacher=teacher_folder
    )
    table = rows(capsys.readouterr().out)
    assert table["accuracy"][:2] == [
        f"{result.teacher_scores['accuracy']:.4f}",
        f"{run.checkpoint_callback.best_model_score:.4f}",
    ]
    assert float(table["accuracy"][1]) > 0.9
    assert set(table) == {"validation", *result.teacher_scores, "parameters", "size, float32"}

"""What several callbacks check before training, and runs in which none of them does anything."""

from functools import partial

import pytest
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_kd import CompressionReport, ONNXExport, TemperatureProbe
from lightning_kd.callbacks import LastCheckpoint, QuantizationAwareTraining, RunSummary, StudentExport
from lightning_kd.export import requirements
from tests.helpers import LABELS, data, module, sst2_data, tiny_bert, trainer

EVALUATIONS = {
    "CompressionReport": CompressionReport,
    "TemperatureProbe": partial(TemperatureProbe, top_k=1, bottom_k=1),
}


def assert_raises_before_training(folder, message, callback, *data, **settings):
    run = trainer(folder, callbacks=[StudentExport(), callback])
    with pytest.raises(ValueError, match=message):
        run.fit(module(**{"teacher": tiny_bert(), **settings}), *data)
    assert run.global_step == 0


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (CompressionReport, r"CompressionReport: matplotlib not installed; .*lightning-kd\[plots\]"),
        (TemperatureProbe, r"TemperatureProbe: matplotlib not installed; .*lightning-kd\[plots\]"),
        (QuantizationAwareTraining, r"QuantizationAwareTraining: torchao not installed; .*lightning-kd\[qat\]"),
        (ONNXExport, "ONNX: onnx, onnxscript, onnxruntime not installed"),
    ],
)
def test_missing_packages(tmp_path, clinc_file, monkeypatch, callback, message):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert_raises_before_training(tmp_path, message, callback(), data(clinc_file))


@pytest.mark.parametrize("name", EVALUATIONS)
def test_invalid_arguments(tmp_path, clinc_file, name):
    build, file = EVALUATIONS[name], tmp_path / "a file"
    with pytest.raises(ValueError, match=rf"{name}\.split: must be one of validation, test, got 'dev'"):
        build(split="dev")
    file.touch()
    message = rf"{name}\.output_dir: .*a file/(report|probe)\.md"
    assert_raises_before_training(tmp_path, message, build(output_dir=str(file)), data(clinc_file))


@pytest.mark.parametrize("name", EVALUATIONS)
def test_test_split_without_labels(tmp_path, name):
    rows, teacher = sst2_data(tmp_path / "sst2"), tiny_bert(labels=["negative", "positive"])
    callback, message = EVALUATIONS[name](split="test"), "test split of .* has no labels"
    assert_raises_before_training(tmp_path, message, callback, rows, teacher=teacher)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_dataloaders_without_a_datamodule(tmp_path, clinc_file, name):
    rows = data(clinc_file)
    rows.setup("fit")
    loaders = rows.train_dataloader(), rows.val_dataloader()
    message = f"{name}: requires a DataModule .*there is none"
    assert_raises_before_training(tmp_path, message, EVALUATIONS[name](), *loaders, label_names=LABELS)


def test_other_modules_raise_before_training(tmp_path):
    with pytest.raises(ValueError, match="StudentExport: needs a DistillationModule, got BoringModel"):
        trainer(tmp_path, callbacks=[StudentExport()]).fit(BoringModel())


def test_fast_dev_run_writes_and_prints_nothing(tmp_path, clinc_file, capsys):
    before = sorted(tmp_path.rglob("*"))
    callbacks = [StudentExport(), LastCheckpoint(0), RunSummary(), *(build() for build in EVALUATIONS.values())]
    run = trainer(tmp_path, callbacks=callbacks, fast_dev_run=3, enable_checkpointing=True)
    run.fit(module(tiny_bert()), data(clinc_file))
    assert sorted(tmp_path.rglob("*")) == before
    assert "parameters" not in capsys.readouterr().out

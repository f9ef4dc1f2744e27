"""Every YAML in configs/ runs ``fit``, ``test`` and, for SQuAD, ``predict`` with tiny models and data."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
)

from tests.helpers import LABELS, ROOT, save_model, squad_questions, tiny_bert

# those in tune/ are search spaces, see tests/cli/tune
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "tune")


def write_sst2(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "dev", "test"):  # with labels in test, too, for the score of `test`
        rows = [
            f"a film about the {word} of things\t{i % 2}"
            for i, word in enumerate(["water", "desk", "paper", "plant"] * 4)
        ]
        (folder / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")
    return folder


def write_corpus(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "validation", "test"):
        lines = "".join(f"hello {word} good morning to you\n" for word in ["water", "desk", "paper", "plant"] * 8)
        (folder / f"{split}.csv").write_text(f"satz\n{lines}", encoding="utf-8")
    return folder


def tiny_distilbert() -> DistilBertForMaskedLM:
    sizes = {"dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 2}
    return DistilBertForMaskedLM(DistilBertConfig(vocab_size=1200, max_position_embeddings=64, **sizes))


@pytest.fixture
def overrides(tmp_path, clinc_file, squad_folder, monkeypatch, process_group):
    monkeypatch.chdir(ROOT)
    shutil.copy(squad_folder / "dev-v1.1.json", squad_folder / "test-v1.1.json")
    paths = {
        "CLINC150DataModule": clinc_file,
        "SST2DataModule": write_sst2(tmp_path / "sst2"),
        "SQuADDataModule": squad_folder,
        "MaskedLMDataModule": write_corpus(tmp_path / "corpus"),
    }
    model_classes = {
        "SequenceClassification": BertForSequenceClassification,
        "QuestionAnswering": BertForQuestionAnswering,
        "MaskedLM": BertForMaskedLM,
    }

    def args_for(config: dict) -> list[str]:
        kind = config["data"]["class_path"]
        labels = {"CLINC150DataModule": LABELS, "SST2DataModule": ["negative", "positive"]}.get(kind)
        model_class = model_classes[config["model"]["task"]]
        teacher = save_model(tiny_bert(labels, layers=4, seed=1, model_class=model_class), tmp_path / "teacher")
        student = save_model(tiny_bert(None, layers=2, seed=2), tmp_path / "student")
        args = [
            "--trainer.accelerator=cpu",
            "--trainer.devices=1",
            f"--trainer.default_root_dir={tmp_path}",
            "--trainer.enable_progress_bar=false",
            f"--data.init_args.path={paths[kind]}",
        ]
        if kind == "SQuADDataModule":
            args.append("--data.init_args.stride=8")  # the tiny models have 64 positions
        if kind == "MaskedLMDataModule":
            args += ["--data.init_args.max_length=32", "--data.init_args.text_column=satz"]
        model = config["model"]
        if isinstance(model["student"], str):
            args.append(f"--model.student={student}")
        elif "distilbert" in model["student"]["config"]:
            args.append(f"--model.student.config={save_model(tiny_distilbert(), tmp_path / 'distilbert')}")
        else:
            args.append(f"--model.student.config={teacher}")
            if model["student"].get("num_hidden_layers", 0) > 4:
                args.append("--model.student.num_hidden_layers=2")
        if "teacher_tokenizer" in config["data"].get("init_args", {}):
            args.append(f"--data.init_args.teacher_tokenizer={teacher}")
        if "teacher_cache" in model:
            args.append(f"--model.teacher_cache={tmp_path / 'teacher_cache'}")
        if "teacher" in model:
            args += [f"--model.teacher={teacher}", "--model.ignore_checks+=weak_teacher"]
        return args

    return args_for


def fit_overrides(config: dict, tmp_path: Path) -> list[str]:
    args = [
        "--trainer.max_epochs=1",
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.val_check_interval=1.0",
        f"--export.output_dir={tmp_path / 'export'}",
    ]
    if any("source" in callback.get("init_args", {}) for callback in config["trainer"].get("callbacks", [])):
        args.append(f"--trainer.callbacks.init_args.source={tmp_path / 'teacher'}")
    return args


def test_all_folders_have_configs():
    assert len(CONFIGS) >= 12
    assert {path.parent.name for path in CONFIGS} >= {"quickstart", "clinc150", "sst2", "squad", "masked_lm"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config(path, overrides, shell, tmp_path):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    args = ["--config", path, *overrides(config)]
    assert shell("fit", *args, *fit_overrides(config, tmp_path)) == (0, "")
    assert (tmp_path / "export" / "model.safetensors").is_file()
    best = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt"
    assert shell("test", *args, f"--ckpt_path={best}") == (0, "")
    if config["model"]["task"] == "QuestionAnswering":
        assert shell("predict", *args, f"--ckpt_path={best}") == (0, "")
        (file,) = tmp_path.glob("lightning_logs/*/predictions.json")
        assert json.loads(file.read_bytes()).keys() == {row["id"] for row in squad_questions("d", 3)[:-2]}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_header_shows_the_command(path):
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(f"lightning-kd fit --config {path.relative_to(ROOT)}" in line for line in header)

"""Every YAML in configs/ runs ``fit`` and ``test``, with tiny stand-ins given on the command line."""

import shutil
import sys
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

from lightning_kd.cli.main import main
from tests.helpers import LABELS, save_model, tiny_bert

ROOT = Path(__file__).parent.parent
# those in tune/ are search spaces, see tests/tuning
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "tune")


def write_sst2(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "dev", "test"):  # with labels in test too, so that `test` has something to score
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
def stand_ins(tmp_path, clinc_file, squad_folder, monkeypatch, process_group):
    monkeypatch.chdir(ROOT)
    shutil.copy(squad_folder / "dev-v1.1.json", squad_folder / "test-v1.1.json")
    paths = {
        "CLINC150DataModule": clinc_file,
        "SST2DataModule": write_sst2(tmp_path / "sst2"),
        "SQuADDataModule": squad_folder,
        "MaskedLMDataModule": write_corpus(tmp_path / "corpus"),
    }
    networks = {
        "SequenceClassification": BertForSequenceClassification,
        "QuestionAnswering": BertForQuestionAnswering,
        "MaskedLM": BertForMaskedLM,
    }

    def arguments(config: dict) -> list[str]:
        kind = config["data"]["class_path"]
        labels = {"CLINC150DataModule": LABELS, "SST2DataModule": ["negative", "positive"]}.get(kind)
        network = networks[config["model"]["task"]]
        teacher = save_model(tiny_bert(labels, layers=4, seed=1, model_class=network), tmp_path / "teacher")
        student = save_model(tiny_bert(None, layers=2, seed=2), tmp_path / "student")
        given = [
            "--trainer.accelerator=cpu",
            "--trainer.devices=1",
            f"--trainer.default_root_dir={tmp_path}",
            "--trainer.enable_progress_bar=false",
            f"--data.init_args.path={paths[kind]}",
        ]
        if kind == "SQuADDataModule":
            given.append("--data.init_args.stride=8")  # 64 tokens are all that the stand-ins read
        if kind == "MaskedLMDataModule":
            given += ["--data.init_args.max_length=32", "--data.init_args.text_column=satz"]
        model = config["model"]
        if isinstance(model["student"], str):
            given.append(f"--model.student={student}")
        elif "distilbert" in model["student"]["config"]:
            given.append(f"--model.student.config={save_model(tiny_distilbert(), tmp_path / 'distilbert')}")
        else:
            given.append(f"--model.student.config={teacher}")
            if model["student"].get("num_hidden_layers", 0) > 4:
                given.append("--model.student.num_hidden_layers=2")
        if "teacher_tokenizer" in config["data"].get("init_args", {}):
            given.append(f"--data.init_args.teacher_tokenizer={teacher}")
        if "teacher_cache" in model:
            given.append(f"--model.teacher_cache={tmp_path / 'teacher_cache'}")
        if "teacher" in model:
            given += [f"--model.teacher={teacher}", "--model.ignore_checks+=weak_teacher"]
        return given

    def for_fit(config: dict) -> list[str]:
        given = [
            "--trainer.max_epochs=1",
            "--trainer.check_val_every_n_epoch=1",
            "--trainer.val_check_interval=1.0",
            f"--export.output_dir={tmp_path / 'export'}",
        ]
        if any("source" in c.get("init_args", {}) for c in config["trainer"].get("callbacks", [])):
            given.append(f"--trainer.callbacks.init_args.source={tmp_path / 'teacher'}")
        return given

    arguments.for_fit = for_fit
    return arguments


def run(monkeypatch, *args: object) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-kd", *map(str, args)])
    main()


def test_there_are_configs():
    assert len(CONFIGS) >= 12
    assert {path.parent.name for path in CONFIGS} >= {"quickstart", "clinc150", "sst2", "squad", "masked_lm"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config(path, stand_ins, monkeypatch, tmp_path):
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    arguments = stand_ins(config)
    run(monkeypatch, "fit", "--config", path, *arguments, *stand_ins.for_fit(config))
    assert (tmp_path / "export" / "model.safetensors").is_file()
    best = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt"
    run(monkeypatch, "test", "--config", path, *arguments, f"--ckpt_path={best}")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_header_says_how_to_launch_it(path):
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(f"lightning-kd fit --config {path.relative_to(ROOT)}" in line for line in header)

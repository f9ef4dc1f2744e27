"""Write the files in ``stored`` again: ``python -m tests.compatibility.write <new folder>``.

Do so only if a format changes on purpose. All paths are relative to the folder, which the test enters, too.
"""

import json
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import datasets
import yaml
from lightning.pytorch import Trainer, seed_everything

from lightning_kd import CLINC150DataModule, DistillationModule, Schedule, SequenceClassification
from lightning_kd.callbacks import LastCheckpoint
from lightning_kd.cli.main import main as cli_main
from lightning_kd.losses import HardLabelLoss, SoftTargetLoss
from tests.helpers import TINY_BERT, save_model, tiny_bert

STORED = Path(__file__).parent / "stored"
LABELS = ["greet", "leave", "oos"]
ARGUMENTS = [
    "--model.task=SequenceClassification",
    "--model.student={config: teacher, num_hidden_layers: 1}",
    "--model.teacher=teacher",
    "--model.losses.hard=HardLabelLoss",
    "--model.losses.soft=SoftTargetLoss",
    "--model.loss_schedules.soft={temperature: {start: 4, end: 1}}",
    "--model.ignore_checks=[weak_teacher]",
    "--data=CLINC150DataModule",
    "--data.path=data_oos_plus.json",
    "--data.batch_size=2",
    "--data.max_length=16",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
]
ROWS = [["hello good morning", "greet"], ["goodbye see you later", "leave"]]


def data() -> CLINC150DataModule:
    """Write two examples per split and class, and return their DataModule."""
    content = dict.fromkeys(("train", "val", "test"), ROWS)
    content |= {f"oos_{split}": [["what is water", "oos"]] for split in ("train", "val", "test")}
    Path("data_oos_plus.json").write_text(json.dumps(content), encoding="utf-8")
    return CLINC150DataModule("data_oos_plus.json", tokenizer=str(TINY_BERT), batch_size=2, max_length=16)


def module(**settings: object) -> DistillationModule:
    """Return the module of the stored run, in a folder with ``teacher``."""
    seed_everything(1, verbose=False)
    return DistillationModule(
        SequenceClassification(),
        student={"config": "teacher", "num_hidden_layers": 1},
        teacher="teacher",
        losses={"hard": HardLabelLoss(0.5), "soft": SoftTargetLoss(0.5, 2.0)},
        loss_schedules={"soft": {"temperature": Schedule(4.0, 1.0)}},
        teacher_cache="teacher_cache",
        ignore_checks=["weak_teacher"],
        **settings,
    )


def versions() -> dict[str, str]:
    """Return the versions of the packages that determine the key of tokenized data."""
    return {name: version(name) for name in ("datasets", "tokenizers", "transformers")}


def trainer(**settings: object) -> Trainer:
    """Return the Trainer of the stored run."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=".", callbacks=[LastCheckpoint()], **{**quiet, **settings})


def main(folder: Path) -> None:
    """Run and store."""
    folder.mkdir()
    os.chdir(folder)
    datasets.config.HF_DATASETS_CACHE = folder / "datasets"
    sizes = {"hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4, "max_position_embeddings": 16}
    save_model(tiny_bert(LABELS, layers=1, **sizes), Path("teacher"))
    trainer(max_epochs=1).fit(module(), data())
    shutil.rmtree(STORED, ignore_errors=True)
    shutil.copytree("teacher_cache", STORED / "teacher_cache", ignore=shutil.ignore_patterns("lock"))
    shutil.copytree("teacher", STORED / "teacher")
    shutil.copy(Path("checkpoints", "last.ckpt"), STORED / "last.ckpt")
    (STORED / "versions.json").write_text(json.dumps(versions()) + "\n", encoding="utf-8")
    sys.argv = ["lightning-kd", "fit", *ARGUMENTS]
    cli_main()
    config = yaml.safe_load(Path("lightning_logs", "version_0", "config.yaml").read_text(encoding="utf-8"))
    del config["trainer"]  # Lightning's keys
    (STORED / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

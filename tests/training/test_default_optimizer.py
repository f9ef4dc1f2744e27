"""A run that leaves the optimiser to the default can be started again and continued from its own config."""

import sys

import yaml

from lightning_kd.cli.main import main
from lightning_kd.optim.schedules import DEFAULT_OPTIMIZER
from tests.helpers import TINY_BERT


def test_config_of_a_run_holds_the_default_optimizer(tmp_path, clinc_file, monkeypatch):
    def shell(*arguments):
        monkeypatch.setattr(sys, "argv", ["lightning-kd", *map(str, arguments)])
        main()

    trainer = [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu", "--trainer.max_epochs=1"]
    model = ["--model.task=SequenceClassification", f"--model.student.config={TINY_BERT}"]
    data = ["--data=CLINC150DataModule", f"--data.path={clinc_file}"]
    shell("fit", *trainer, *model, "--model.student.num_hidden_layers=1", "--model.losses.hard=HardLabelLoss", *data)
    run = tmp_path / "lightning_logs" / "version_0"
    saved = yaml.safe_load((run / "config.yaml").read_text())["model"]["optimizer"]
    assert saved["class_path"] == "torch.optim.AdamW"
    assert saved["init_args"]["lr"] == DEFAULT_OPTIMIZER.keywords["lr"]
    shell("fit", "--resume", run, "--trainer.max_epochs=2")

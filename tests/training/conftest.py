import json

import pytest

from tests.helpers import STUDENT, write_rows


@pytest.fixture
def ddp_command(tmp_path):
    """The arguments of ``python -m`` for a fit on two devices."""
    student = {**STUDENT, "initializer_range": 0.2}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
    config = {
        "trainer": {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "default_root_dir": str(tmp_path)},
        "model": {"task": "SequenceClassification", "student": student, "optimizer": optimizer},
        "data": {"class_path": "CLINC150DataModule", "init_args": {"path": str(write_rows(tmp_path)), "batch_size": 1}},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    return ("lightning_kd", "fit", "--config", tmp_path / "run.yaml", "--model.losses.hard=HardLabelLoss")

"""A host of a training job, as SageMaker sets it up: the folders below /opt/ml, and the variables of its toolkit."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.helpers import ROOT, TINY_BERT

FOLDERS = ("model", "output/data", "output/intermediate", "input/config", "input/data", "checkpoints", "code")

CONFIG = f"""
seed_everything: 7
trainer: {{max_epochs: 2, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}}
model:
  task: SequenceClassification
  student:
    {{config: {TINY_BERT}, num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, intermediate_size: 32}}
  losses:
    hard: {{class_path: HardLabelLoss, init_args: {{weight: 0.5}}}}
  optimizer: {{class_path: torch.optim.AdamW, init_args: {{lr: 0.01}}}}
data: {{class_path: CLINC150DataModule, init_args: {{path: "${{SM_CHANNEL_TRAINING}}", batch_size: 8}}}}
"""

PACKED = CONFIG.replace(str(ROOT / "lightning_kd"), "lightning_kd")
"""As one writes it for the launcher: the network is part of what is packed."""


class Host:
    """One container of a job. Its folders stay those of the job when it starts again, as /opt/ml does."""

    def __init__(self, root: Path, hosts: list[str], name: str) -> None:
        self.root, self.hosts, self.name = root, hosts, name
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True)
        (root / "code" / "config.yaml").write_text(CONFIG, encoding="utf-8")
        self.last = root / "checkpoints" / "checkpoints" / "last.ckpt"

    def channel(self, name: str) -> Path:
        folder = self.root / "input" / "data" / name
        folder.mkdir(exist_ok=True)
        return folder

    def renew(self) -> None:
        """Another machine: of what the job wrote, only the checkpoints are there."""
        for folder in ("model", "output"):
            shutil.rmtree(self.root / folder)
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def variables(self, **hyperparameters: object) -> dict[str, str]:
        """What the training toolkit sets for a script, as far as it is read; see test_toolkit.py."""
        arguments = [part for name, value in sorted(hyperparameters.items()) for part in (f"--{name}", str(value))]
        values = {"SM_HOSTS": self.hosts, "SM_HPS": hyperparameters, "SM_USER_ARGS": arguments}
        return {
            "SM_CURRENT_HOST": self.name,
            "SM_NETWORK_INTERFACE_NAME": "lo",
            "SM_MODEL_DIR": f"{self.root}/model",
            "SM_OUTPUT_DIR": f"{self.root}/output",
            "SM_OUTPUT_DATA_DIR": f"{self.root}/output/data",
            **{f"SM_CHANNEL_{path.name.upper()}": str(path) for path in (self.root / "input" / "data").iterdir()},
            **{name: json.dumps(value, sort_keys=True, separators=(",", ":")) for name, value in values.items()},
        }

    def start(self, hyperparameters: dict | None = None, python: tuple[str, ...] = (), **more: str) -> subprocess.Popen:
        """The entry in a process of its own, in the folder of the source, with the arguments that it gets there.

        Args:
            hyperparameters: By name.
            python: Arguments of Python before those of the entry.
            more: Further variables.
        """
        variables = self.variables(**(hyperparameters or {}))
        here = {"LIGHTNING_KD_CHECKPOINT_DIR": str(self.root / "checkpoints"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *python, "-m", "lightning_kd.cli.sagemaker", *json.loads(variables["SM_USER_ARGS"])]
        with (self.root / "log").open("a") as log:
            return subprocess.Popen(
                command, cwd=self.root / "code", env={**os.environ, **variables, **here, **more}, stdout=log, stderr=log
            )

    def run(self, hyperparameters: dict | None = None, **more: str) -> int:
        return self.start(hyperparameters, **more).wait(timeout=600)

    def log(self) -> str:
        return (self.root / "log").read_text(encoding="utf-8")

    def failure(self) -> str | None:
        file = self.root / "output" / "failure"
        return file.read_text(encoding="utf-8") if file.exists() else None

    def steps(self) -> int:
        return torch.load(self.last, weights_only=True)["global_step"] if self.last.exists() else 0

    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.last, weights_only=True)["state_dict"]


def wait_for_steps(host: Host, steps: int, *processes: subprocess.Popen) -> None:
    while all(process.poll() is None for process in processes) and host.steps() < steps:
        time.sleep(0.05)
    assert all(process.poll() is None for process in processes), host.log()[-2000:]

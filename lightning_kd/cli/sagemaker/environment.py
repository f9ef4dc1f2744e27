"""SageMaker's script mode: the environment variables of a training job."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_CHECKPOINT_DIR = "/opt/ml/checkpoints"
"""SageMaker's default ``LocalPath`` of checkpoints, for which it sets no variable."""

CHECKPOINT_DIR_VARIABLE = "LIGHTNING_KD_CHECKPOINT_DIR"

MASTER_PORT = "7777"
"""Port of the first host; the same as in SageMaker's toolkits."""


@dataclass(frozen=True)
class ScriptMode:
    """A training job, seen from one of its hosts.

    Attributes:
        model_dir: Folder that becomes the job's ``model.tar.gz``.
        output_data_dir: Folder that becomes the job's ``output.tar.gz``.
        checkpoint_dir: Folder that SageMaker syncs to S3, and restores when a job is restarted.
        hyperparameters: Values by name.
        hosts: Names of all hosts; the first one is the rendezvous of all processes.
        host: Name of this host.
        network_interface: Network interface between the hosts; empty = the system's choice.
    """

    model_dir: Path
    output_data_dir: Path
    checkpoint_dir: Path
    hyperparameters: dict[str, Any]
    hosts: list[str]
    host: str
    network_interface: str = ""

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> "ScriptMode":
        """Read the environment variables.

        Raises:
            ValueError: If a required variable is missing or malformed.
        """
        host = variables.get("SM_CURRENT_HOST", "")
        hosts = _read_json(variables, "SM_HOSTS", [host], list)
        if host not in hosts:
            raise ValueError(f"SM_CURRENT_HOST: {host!r} is not in SM_HOSTS, {hosts}; SageMaker sets both")
        return cls(
            _read_folder(variables, "SM_MODEL_DIR"),
            _read_folder(variables, "SM_OUTPUT_DATA_DIR"),
            Path(variables.get(CHECKPOINT_DIR_VARIABLE) or DEFAULT_CHECKPOINT_DIR),
            _read_json(variables, "SM_HPS", {}, dict),
            sorted(hosts),  # the order differs between hosts
            host,
            variables.get("SM_NETWORK_INTERFACE_NAME", ""),
        )

    def rendezvous_variables(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that Lightning's processes need to find each other across hosts.

        Empty on one host and under torchrun. Existing variables are kept: the toolkit of the PyTorch images sets
        address and port.
        """
        if len(self.hosts) == 1 or "TORCHELASTIC_RUN_ID" in variables:
            return {}
        required = {
            "MASTER_ADDR": self.hosts[0],
            "MASTER_PORT": MASTER_PORT,
            "NODE_RANK": str(self.hosts.index(self.host)),
        }
        if self.network_interface:
            required |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), self.network_interface)
        return {name: value for name, value in required.items() if name not in variables}


def write_failure_file(message: str) -> None:
    """Write the job's failure reason, which SageMaker shows, unless another process of this host already did."""
    if folder := os.environ.get("SM_OUTPUT_DIR"):
        with suppress(OSError), (Path(folder) / "failure").open("x", encoding="utf-8") as file:
            file.write(message)


def _read_folder(variables: Mapping[str, str], name: str) -> Path:
    if not variables.get(name):
        raise ValueError(
            f"{name}: not set; this entry point runs in SageMaker's script mode only, use lightning-kd sagemaker to "
            "start a job, or lightning-kd fit to train here"
        )
    return Path(variables[name])


def _read_json(variables: Mapping[str, str], name: str, default: Any, kind: type) -> Any:
    value = None
    with suppress(json.JSONDecodeError):
        value = json.loads(variables[name]) if name in variables else default
    if not isinstance(value, kind):
        raise ValueError(f"{name}: expected a JSON {kind.__name__}, got {variables[name]!r}; SageMaker sets it")
    return value

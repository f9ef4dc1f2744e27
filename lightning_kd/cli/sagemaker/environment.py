"""What SageMaker's script mode tells a training job: the variables that its toolkits set."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKPOINTS = "/opt/ml/checkpoints"
"""Where the service keeps checkpoints unless told otherwise. It sets no variable for it."""

CHECKPOINTS_VARIABLE = "LIGHTNING_KD_CHECKPOINT_DIR"

PORT = "7777"
"""Of the first host, as the service's own toolkits choose it."""


@dataclass(frozen=True)
class ScriptMode:
    """A training job as one of its hosts sees it.

    Attributes:
        model: Folder that becomes the job's ``model.tar.gz``.
        output: Folder whose ``failure`` the service shows as the reason why a job failed.
        output_data: Folder that becomes the job's ``output.tar.gz``.
        checkpoints: Folder that the service copies to S3 as it changes, and brings back to a job that starts again.
        hyperparameters: By the names that they were given.
        hosts: Names of all hosts; the first one makes the meeting point of all processes.
        host: This one's name.
        interface: Of the network between the hosts; empty = the system's choice.
    """

    model: Path
    output: Path
    output_data: Path
    checkpoints: Path
    hyperparameters: dict[str, Any]
    hosts: list[str]
    host: str
    interface: str = ""

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "ScriptMode":
        """Read the variables of a process.

        Raises:
            ValueError: If one that script mode always sets is missing or holds something else.
        """
        host = variables.get("SM_CURRENT_HOST", "")
        hosts = _json(variables, "SM_HOSTS", [host], list)
        if host not in hosts:
            raise ValueError(f"SM_CURRENT_HOST: {host!r} is none of SM_HOSTS, {hosts}; leave both to the service")
        return cls(
            _folder(variables, "SM_MODEL_DIR"),
            _folder(variables, "SM_OUTPUT_DIR"),
            _folder(variables, "SM_OUTPUT_DATA_DIR"),
            Path(variables.get(CHECKPOINTS_VARIABLE) or CHECKPOINTS),
            _json(variables, "SM_HPS", {}, dict),
            sorted(hosts),  # the same on all, whatever the order that each was told
            host,
            variables.get("SM_NETWORK_INTERFACE_NAME", ""),
        )

    def meeting(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The variables by which Lightning's processes on several hosts find each other.

        Empty on one host, and where torchrun has set its own. What is set already is left: the toolkit of the PyTorch
        images sets the address and port.
        """
        if len(self.hosts) == 1 or "TORCHELASTIC_RUN_ID" in variables:
            return {}
        wanted = {"MASTER_ADDR": self.hosts[0], "MASTER_PORT": PORT, "NODE_RANK": str(self.hosts.index(self.host))}
        if self.interface:
            wanted |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), self.interface)
        return {name: value for name, value in wanted.items() if name not in variables}


def keep_failure(line: str) -> None:
    """Write why a job failed to where the service reads it, unless another process of this host was first."""
    if folder := os.environ.get("SM_OUTPUT_DIR"):
        with suppress(OSError), (Path(folder) / "failure").open("x", encoding="utf-8") as file:
            file.write(line)


def _folder(variables: Mapping[str, str], name: str) -> Path:
    if not variables.get(name):
        raise ValueError(
            f"{name}: not set, so this is no training job in SageMaker's script mode; start one with lightning-kd "
            "sagemaker, or train here with lightning-kd fit"
        )
    return Path(variables[name])


def _json(variables: Mapping[str, str], name: str, default: Any, kind: type) -> Any:
    try:
        value = json.loads(variables[name]) if name in variables else default
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}: no JSON ({error}): {variables[name]!r}; leave it to the service") from error
    if not isinstance(value, kind):
        raise ValueError(f"{name}: expected a JSON {kind.__name__}, got {variables[name]!r}; leave it to the service")
    return value

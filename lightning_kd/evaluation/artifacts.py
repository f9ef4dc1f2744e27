"""Folders that hold a network: which program runs it, and how large it is."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from lightning_kd import tasks
from lightning_kd.export import onnx, tracing
from lightning_kd.models import build_on_meta, count_parameters, load_config, load_model
from lightning_kd.tasks.base import Task

BYTES_PER_MB = 1e6


@dataclass(frozen=True)
class Artifact:
    """A network, ready to be run.

    Attributes:
        name: How it is called in a report.
        runtime: What runs it.
        model: Takes inputs by name; has a ``config``.
        num_parameters: Numbers in it, tied ones counted once.
        megabytes: Its folder on the disk, in 10⁶ bytes; None where it has none.
    """

    name: str
    runtime: str
    model: nn.Module
    num_parameters: int
    megabytes: float | None


def open_artifact(source: str, task: Task, role: str = "model") -> Artifact:
    """Open a folder that an exporter wrote, or transformers, or a hub id.

    Args:
        source: The folder or id.
        task: The task whose heads the network has.
        role: What it is to the user, for error messages.

    Raises:
        OSError: If it cannot be loaded.
        ValueError: If it is for a device or a program that is not here.
    """
    folder = Path(source).expanduser()
    size = (
        sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / BYTES_PER_MB
        if folder.is_dir()
        else None
    )
    config = load_config(str(folder) if folder.exists() else source, role)
    if (folder / onnx.ONNX_WEIGHTS_NAME).is_file():
        num_parameters = count_parameters(build_on_meta(config, task.auto_class))
        return Artifact(
            folder.name, "ONNX Runtime", onnx.ONNXModel(folder, torch.get_num_threads()), num_parameters, size
        )
    if (compiler := tracing.detect_compiler(folder)) is not None:
        runtime = "TorchScript" if compiler.runtime_module is None else "Neuron"
        return Artifact(
            folder.name,
            runtime,
            tracing.TracedModel(folder, task.logits_per_token),
            count_parameters(build_on_meta(config, task.auto_class)),
            size,
        )
    model = load_model(str(folder) if folder.exists() else source, task.auto_class, role)
    return Artifact(folder.name, "PyTorch", model, count_parameters(model), size)


def open_artifacts(sources: list[str], task: Task) -> list[Artifact]:
    """Open several, each under the shortest end of its path that no other has.

    Raises:
        ValueError: If one is named twice.
    """
    paths = [Path(source).expanduser().absolute() for source in sources]
    if duplicate := next((source for source, path in zip(sources, paths, strict=True) if paths.count(path) > 1), None):
        raise ValueError(f"models: {duplicate!r} is named twice; leave it out once")
    longest = max(len(path.parts) for path in paths)
    artifacts = []
    for source, path in zip(sources, paths, strict=True):
        others = [other for other in paths if other != path]
        ends = (path.parts[-length:] for length in range(1, longest + 1))
        end = next(end for end in ends if all(other.parts[-len(end) :] != end for other in others))
        artifacts.append(replace(open_artifact(source, task), name="/".join(end)))
    return artifacts


def infer_task(source: str) -> Task:
    """The task whose head a network has, by the architecture in its configuration.

    Raises:
        OSError: If there is no configuration.
        ValueError: If it names none of our tasks.
    """
    config = load_config(source, "model")
    for kind in (getattr(tasks, name) for name in tasks.__all__):
        if kind is not Task and kind.matches_config(config):
            task: Task = kind()
            return task
    raise ValueError(
        f"task: {source!r} does not say what it is for (architectures: {config.architectures}); name it, for instance "
        "--task SequenceClassification"
    )

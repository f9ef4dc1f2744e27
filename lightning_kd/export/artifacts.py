"""Model folders, opened with the runtime that their files need."""

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
    """A model that is ready to run.

    Attributes:
        name: Name of the model in a report.
        runtime: Name of its runtime, such as ``ONNX Runtime``.
        model: Takes inputs by name and has a ``config``.
        num_parameters: Number of parameters; tied ones count once.
        megabytes: Size of its folder on disk, in 10⁶ bytes; None if it has no folder.
    """

    name: str
    runtime: str
    model: nn.Module
    num_parameters: int
    megabytes: float | None


def open_artifact(source: str, task: Task, role: str = "model") -> Artifact:
    """Open an exported folder, a transformers folder or a Hub id.

    Args:
        source: The folder or Hub id.
        task: The task of the model.
        role: Name of the model in error messages.

    Raises:
        OSError: If the model cannot be loaded.
        ValueError: If this machine lacks the device or the runtime for it.
    """
    folder = Path(source).expanduser()
    source = str(folder) if folder.exists() else source
    num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    config = load_config(source, role)
    model: nn.Module
    if (folder / onnx.ONNX_WEIGHTS_NAME).is_file():
        runtime, model = "ONNX Runtime", onnx.ONNXModel(folder, torch.get_num_threads())
    elif (compiler := tracing.detect_compiler(folder)) is not None:
        runtime = "TorchScript" if compiler.runtime_module is None else "Neuron"
        model = tracing.TracedModel(folder, task.logits_per_token)
    else:
        runtime, model = "PyTorch", load_model(source, task.auto_class, role)
    weights = model if runtime == "PyTorch" else build_on_meta(config, task.auto_class)
    megabytes = num_bytes / BYTES_PER_MB if folder.is_dir() else None
    return Artifact(folder.name, runtime, model, count_parameters(weights), megabytes)


def open_artifacts(sources: list[str], task: Task) -> list[Artifact]:
    """Open several models, each named by the shortest unique suffix of its path.

    Args:
        sources: Folders or Hub ids.
        task: The task of the models.

    Raises:
        ValueError: If a model is given twice.
    """
    paths = [Path(source).expanduser().absolute() for source in sources]
    if duplicate := next((source for source, path in zip(sources, paths, strict=True) if paths.count(path) > 1), None):
        raise ValueError(f"models: {duplicate!r} is given twice; remove one")
    artifacts = []
    for source, path in zip(sources, paths, strict=True):
        others = [other.parts for other in paths if other != path]
        suffixes = (path.parts[-length:] for length in range(1, len(path.parts) + 1))
        suffix = next(s for s in suffixes if all(other[-len(s) :] != s for other in others))
        artifacts.append(replace(open_artifact(source, task), name="/".join(suffix)))
    return artifacts


def infer_task(source: str) -> Task:
    """Return the task of a model, by the architecture in its configuration.

    Raises:
        OSError: If there is no configuration.
        ValueError: If no task has this architecture.
    """
    config = load_config(source, "model")
    for kind in (getattr(tasks, name) for name in tasks.__all__):
        if kind is not Task and kind.matches_config(config):
            task: Task = kind()
            return task
    raise ValueError(
        f"task: cannot be inferred from {source!r} (architectures: {config.architectures}); set it, for instance "
        "--task SequenceClassification"
    )

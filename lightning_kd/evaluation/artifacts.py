"""Folders that hold a network: which program runs it, and how large it is."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from lightning_kd.export import onnx, tracing
from lightning_kd.models.loading import load_config, load_network, parameter_count, parameters_of
from lightning_kd.tasks import MaskedLM, QuestionAnswering, SequenceClassification
from lightning_kd.tasks.base import Task

MEGABYTE = 1e6


@dataclass(frozen=True)
class Artefact:
    """A network, ready to be run.

    Attributes:
        name: How it is called in a report.
        runtime: What runs it.
        network: Takes inputs by name; has a ``config``.
        parameters: Numbers in it, tied ones counted once.
        megabytes: Its folder on the disk, in 10⁶ bytes; None where it has none.
    """

    name: str
    runtime: str
    network: nn.Module
    parameters: int
    megabytes: float | None


def open_artefact(source: str, task: Task, what: str = "model") -> Artefact:
    """Open a folder that an exporter wrote, or transformers, or a hub id.

    Args:
        source: The folder or id.
        task: The task whose heads the network has.
        what: What it is to the user, for error messages.

    Raises:
        OSError: If it cannot be loaded.
        ValueError: If it is for a device or a program that is not here.
    """
    folder = Path(source).expanduser()
    size = (
        sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MEGABYTE if folder.is_dir() else None
    )
    config = load_config(str(folder) if folder.exists() else source, what)
    if (folder / onnx.FILE).is_file():
        parameters = parameters_of(config, task.auto_class)
        return Artefact(
            folder.name, "ONNX Runtime", onnx.OnnxNetwork(folder, torch.get_num_threads()), parameters, size
        )
    if (compiler := tracing.traced_for(folder)) is not None:
        runtime = "TorchScript" if compiler.module is None else "Neuron"
        return Artefact(
            folder.name, runtime, tracing.TracedNetwork(folder), parameters_of(config, task.auto_class), size
        )
    network = load_network(str(folder) if folder.exists() else source, task.auto_class, what)
    return Artefact(folder.name, "PyTorch", network, parameter_count(network), size)


def open_artefacts(sources: list[str], task: Task) -> list[Artefact]:
    """Open several, each under the shortest end of its path that no other has.

    Raises:
        ValueError: If one is named twice.
    """
    paths = [Path(source).expanduser().absolute() for source in sources]
    if twice := next((source for source, path in zip(sources, paths, strict=True) if paths.count(path) > 1), None):
        raise ValueError(f"models: {twice!r} is named twice; leave it out once")
    longest = max(len(path.parts) for path in paths)
    artefacts = []
    for source, path in zip(sources, paths, strict=True):
        others = [other for other in paths if other != path]
        ends = (path.parts[-length:] for length in range(1, longest + 1))
        end = next(end for end in ends if all(other.parts[-len(end) :] != end for other in others))
        artefacts.append(replace(open_artefact(source, task), name="/".join(end)))
    return artefacts


def task_of(source: str) -> Task:
    """The task whose head a network has, by the architecture in its configuration.

    Raises:
        OSError: If there is no configuration.
        ValueError: If it names none of our tasks.
    """
    architectures = load_config(source, "model").architectures
    for kind in (SequenceClassification, QuestionAnswering, MaskedLM):
        if any(name.endswith(kind.auto_class.removeprefix("AutoModel")) for name in architectures or []):
            return kind()
    raise ValueError(
        f"task: {source!r} does not say what it is for (architectures: {architectures}); name it, for instance "
        "--task SequenceClassification"
    )

"""Commands for finished models: ``lightning-kd report`` and ``lightning-kd export``.

They have a parser of their own: the subcommands of LightningCLI are methods of the Trainer.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule
from rich.console import Console

from lightning_kd.callbacks.compression_report import write_report
from lightning_kd.callbacks.export import Export, Finished
from lightning_kd.deploy import picture
from lightning_kd.deploy.artefacts import open_artefact, task_of
from lightning_kd.deploy.report import measure
from lightning_kd.models import load_network, load_tokenizer
from lightning_kd.safety import tokenizer_fingerprint
from lightning_kd.tasks.base import Task


def _parser(command: str, description: str) -> ArgumentParser:
    parser = ArgumentParser(prog=f"lightning-kd {command}", description=description)
    parser.add_argument("--config", action="config", help="YAML file with these arguments.")
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_argument("--task", type=Task | None, help="What the models predict; null = what the first one says.")
    return parser


def _instantiate(parser: ArgumentParser, args: list[str], first_model: Callable[[Namespace], str]) -> Namespace:
    """The arguments as objects; the data's tokenizer is the first model's unless one is given."""
    config = parser.parse_args(args)
    settings = config.data.get("init_args")
    if settings is not None and "tokenizer" in settings and settings.tokenizer is None:
        settings.tokenizer = first_model(config)
    objects: Namespace = parser.instantiate_classes(config)
    return objects


def report(args: list[str]) -> None:
    """Put models side by side."""
    parser = _parser("report", "Put models side by side: score, agreement with the first, size, speed on this machine.")
    models = "Folders or hub ids; the others are compared with the first, so name the teacher first."
    parser.add_argument("--models", type=str, nargs="+", required=True, help=models)
    parser.add_argument("--split", type=Literal["validation", "test"], default="validation", help="What to score on.")
    parser.add_argument("--folder", type=str, default="report", help="Where report.md, report.json and report.png go.")
    config = _instantiate(parser, args, lambda config: config.models[0])
    picture.check_installed()
    task = config.task or task_of(config.models[0])
    own = tokenizer_fingerprint(config.data.tokenizer)
    for source in config.models:
        if tokenizer_fingerprint(load_tokenizer(source, "tokenizer of")) != own:
            raise ValueError(f"models: {source!r} has another tokenizer than the data; put it into a report of its own")
    artefacts = [open_artefact(source, task) for source in config.models]
    result = measure(artefacts, task, config.data, config.split)
    Console().print(result.table())
    write_report(result, Path(config.folder).expanduser())
    print(f"Report written to {Path(config.folder) / 'report.md'}")


def export(args: list[str]) -> None:
    """Write a finished model in another form."""
    parser = _parser("export", "Write a finished model in another form, as the callbacks do at the end of training.")
    parser.add_argument("--model", type=str, required=True, help="Folder or hub id.")
    parser.add_subclass_arguments(Export, "to", required=True)
    config = _instantiate(parser, args, lambda config: str(config.model))
    exporter: Any = config.to
    if exporter.folder is None:
        raise ValueError("to.folder: none given; name the folder to write")
    target = Path(exporter.folder).expanduser().resolve()
    exporter.check_folders(target)
    task = config.task or task_of(config.model)
    network = load_network(config.model, task.auto_class, "model")
    card = Path(config.model) / "README.md"
    text = (
        card.read_text(encoding="utf-8") if card.is_file() else f"---\ntags: [lightning_kd]\n---\n\n# {config.model}\n"
    )
    exporter.write(target, Finished(network, task, config.data, text))


COMMANDS = {"report": report, "export": export}

"""Arguments that the commands for trained models share.

They do not use LightningCLI, whose subcommands must be methods of the Trainer.
"""

from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule

from lightning_kd import data, tasks  # noqa: F401  makes their classes known by name
from lightning_kd.evaluation.batches import as_text_datamodule
from lightning_kd.export.artifacts import infer_task
from lightning_kd.tasks.base import Task


def create_parser(command: str, description: str) -> ArgumentParser:
    """Return a parser with ``--config``, ``--data`` and ``--task``.

    Args:
        command: The command's name.
        description: Printed by ``--help``.
    """
    parser = ArgumentParser(prog=f"lightning-kd {command}", description=description)
    parser.add_argument("--config", action="config", help="YAML file with these arguments.")
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    set_data_title(parser)
    parser.add_argument("--task", type=Task | None, help="Task of the models; null = infer it from the first model.")
    return parser


def set_data_title(parser: ArgumentParser) -> None:
    """Set the title of ``--data`` in the help text, by default the start of Lightning's docstring."""
    (parser.groups or {})["data"].title = "DataModule that provides splits, tokenization and batches"


def parse_and_instantiate(
    parser: ArgumentParser, args: list[str], sources: Callable[[Namespace], list[str | None]]
) -> Namespace:
    """Parse the arguments and instantiate their classes.

    Args:
        parser: From :func:`create_parser`.
        args: The command line after the command's name.
        sources: Returns the models. The DataModule uses the tokenizer of the first one by default.

    Returns:
        The arguments, where ``data`` is a ``TextDataModule``, ``task`` is inferred unless it is given, and ``sources``
        are the folders or Hub ids of the models.

    Raises:
        ValueError: If the DataModule is unsuitable, or the task cannot be inferred.
    """
    config = parser.parse_args(args)
    models = [_expand_user(source) for source in sources(config) if source is not None]
    data_args = config.data.get("init_args")
    if data_args is not None and "tokenizer" in data_args and data_args.tokenizer is None:
        data_args.tokenizer = models[0]
    objects: Namespace = parser.instantiate_classes(config)
    hint = "choose one with --data, such as TextClassificationDataModule for your own files"
    objects.data = as_text_datamodule(objects.data, parser.prog.split()[1], hint)
    objects.task = objects.task or infer_task(models[0])
    objects.sources = models
    return objects


def _expand_user(source: str) -> str:
    """Return a model's folder with ``~`` expanded, or the source itself if it is a Hub id."""
    path = Path(source).expanduser()
    return str(path) if path.exists() else source

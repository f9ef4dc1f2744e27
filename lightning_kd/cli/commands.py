"""Commands that train nothing: ``lightning-kd report``, ``probe``, ``export`` and ``consolidate``.

They have a parser of their own: the subcommands of LightningCLI are methods of the Trainer.
"""

from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule
from rich.console import Console

from lightning_kd.callbacks.export import Export
from lightning_kd.evaluation.artifacts import infer_task, open_artifacts
from lightning_kd.evaluation.batches import Split, as_text_datamodule, check_split
from lightning_kd.evaluation.benchmark import build_report
from lightning_kd.evaluation.report_plot import write_report
from lightning_kd.evaluation.temperature.plot import plot_probe, write_probe_plot, write_probe_report
from lightning_kd.evaluation.temperature.probe import probe_models
from lightning_kd.evaluation.temperature.selection import Selection
from lightning_kd.export.model_card import source_model_card
from lightning_kd.export.requirements import require_packages
from lightning_kd.export.student import TrainedStudent
from lightning_kd.io import consolidation
from lightning_kd.io.atomic import check_writable
from lightning_kd.models import load_model, load_tokenizer
from lightning_kd.models.prompt_config import check_prompt
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.checks import tokenizer_fingerprint
from lightning_kd.training.checks import check_lengths

DATA_HINT = "name one with --data, for files of your own TextClassificationDataModule"


def _create_parser(command: str, description: str) -> ArgumentParser:
    parser = ArgumentParser(prog=f"lightning-kd {command}", description=description)
    parser.add_argument("--config", action="config", help="YAML file with these arguments.")
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    parser.add_argument("--task", type=Task | None, help="What the models predict; null = what the first one says.")
    return parser


def _parse_and_instantiate(
    parser: ArgumentParser, args: list[str], first_model: Callable[[Namespace], str]
) -> Namespace:
    """The arguments as objects; the data's tokenizer is the first model's unless one is given."""
    config = parser.parse_args(args)
    settings = config.data.get("init_args")
    if settings is not None and "tokenizer" in settings and settings.tokenizer is None:
        settings.tokenizer = first_model(config)
    objects: Namespace = parser.instantiate_classes(config)
    return objects


def report(args: list[str]) -> None:
    """Put models side by side."""
    parser = _create_parser(
        "report", "Put models side by side: score, agreement with the first, size, speed on this machine."
    )
    models = "Folders or hub ids; the others are compared with the first, so name the teacher first."
    parser.add_argument("--models", type=str, nargs="+", required=True, help=models)
    parser.add_argument("--split", type=Split, default="validation", help="What to score on.")
    parser.add_argument(
        "--output_dir", type=str, default="report", help="Where report.md, report.json and report.png go."
    )
    config = _parse_and_instantiate(parser, args, lambda config: _expand_user(config.models[0]))
    folder = Path(config.output_dir).expanduser()
    require_packages("report", "plots", "matplotlib")
    check_writable(folder / "report.md", "output_dir")
    as_text_datamodule(config.data, "report", DATA_HINT)
    check_split(config.data, config.split)
    sources = [_expand_user(source) for source in config.models]
    task = config.task or infer_task(sources[0])
    expected = tokenizer_fingerprint(config.data.tokenizer)
    for source in sources:
        if tokenizer_fingerprint(load_tokenizer(source, "tokenizer of")) != expected:
            raise ValueError(f"models: {source!r} has another tokenizer than the data; put it into a report of its own")
    artifacts = open_artifacts(sources, task)
    for artifact in artifacts:
        check_lengths(config.data, artifact.model, None)
        prompt = getattr(config.data, "prompt", None)
        check_prompt(artifact.model, prompt, artifact.name, "prompt")
    result = build_report(artifacts, task, config.data, config.split)
    Console(emoji=False).print(result.table())
    write_report(result, folder)
    print(f"Report written to {folder / 'report.md'}")


def probe(args: list[str]) -> None:
    """Show what temperatures make of a teacher's probabilities."""
    parser = _create_parser(
        "probe", "Show what temperatures make of a teacher's probabilities, and maybe of its student's."
    )
    parser.add_argument("--teacher", type=str, required=True, help="Folder or hub id.")
    parser.add_argument("--student", type=str | None, help="Folder or hub id.")
    sentences = "Texts to show, at most 20; null = rows of the split, the teacher's most and least certain ones."
    parser.add_argument("--sentences", type=str, nargs="+", help=sentences)
    parser.add_argument(
        "--num_examples", type=int, default=2, help="So many of the most, and of the least certain, 1 to 10."
    )
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 5.0, 19.0], help="Each > 0.")
    parser.add_argument("--top_k", type=int, default=5, help="How many of the likeliest classes to show, >= 1.")
    parser.add_argument("--bottom_k", type=int, default=3, help="How many of the least likely, >= 1.")
    parser.add_argument("--split", type=Split, default="validation", help="Over which means are taken.")
    parser.add_argument("--output_dir", type=str, default="probe", help="Where probe.md, probe.json and probe.png go.")
    config = _parse_and_instantiate(parser, args, lambda config: _expand_user(config.teacher))
    selection = Selection(config.sentences, config.num_examples, config.temperatures, config.top_k, config.bottom_k)
    folder = Path(config.output_dir).expanduser()
    require_packages("probe", "plots", "matplotlib")
    check_writable(folder / "probe.md", "output_dir")
    as_text_datamodule(config.data, "probe", DATA_HINT)
    check_split(config.data, config.split)
    sources = [_expand_user(source) for source in (config.teacher, config.student) if source is not None]
    task = config.task or infer_task(sources[0])
    result = probe_models(selection, task, config.data, config.split, sources)
    write_probe_report(result, folder)
    for table in result.tables():  # before the picture, which takes longer
        Console(emoji=False).print(table)
    write_probe_plot(plot_probe(result), folder)
    print(f"Probe written to {folder / 'probe.md'}")


def export(args: list[str]) -> None:
    """Write a finished model in another form."""
    parser = _create_parser(
        "export", "Write a finished model in another form, as the callbacks do at the end of training."
    )
    parser.add_argument("--model", type=str, required=True, help="Folder or hub id.")
    parser.add_subclass_arguments(Export, "to", required=True)
    config = _parse_and_instantiate(parser, args, lambda config: _expand_user(config.model))
    exporter, source = config.to, _expand_user(config.model)
    if exporter.output_dir is None:
        raise ValueError("to.output_dir: none given; name the folder to write")
    target = Path(exporter.output_dir).expanduser().resolve()
    exporter.check_installed()
    exporter.check_output_dirs(target, [Path(source)] if Path(source).is_dir() else [])
    as_text_datamodule(config.data, "export", DATA_HINT)
    task = config.task or infer_task(source)
    model = load_model(source, task.auto_class, "model")
    check_lengths(config.data, model, None)
    exporter.write(target, TrainedStudent(model, task, config.data, source_model_card(source)))


def consolidate(args: list[str]) -> None:
    """Make one file of a distributed checkpoint."""
    description = "Make one file of a distributed checkpoint, the folder to which each process wrote its part."
    parser = ArgumentParser(prog="lightning-kd consolidate", description=description)
    parser.add_argument("checkpoint", type=str, help="The folder, such as checkpoints/last.ckpt.")
    parser.add_argument(
        "--output", type=str | None, help="File to write; null = the folder's name with .file behind it."
    )
    config = parser.parse_args(args)
    source = Path(config.checkpoint).expanduser().absolute()
    target = Path(config.output).expanduser() if config.output else source.with_name(f"{source.name}.file")
    consolidation.consolidate(source, target)
    print(f"Written to {target}")


def _expand_user(source: str) -> str:
    """A folder in the home directory by its whole path."""
    path = Path(source).expanduser()
    return str(path) if path.exists() else source


COMMANDS = {"report": report, "probe": probe, "export": export, "consolidate": consolidate}

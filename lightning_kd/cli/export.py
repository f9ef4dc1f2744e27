"""``lightning-kd export``."""

import argparse
import pkgutil
from pathlib import Path
from typing import Any

from lightning_kd.callbacks import NeuronTrace, ONNXExport
from lightning_kd.callbacks.export_base import Export
from lightning_kd.cli.arguments import create_parser, parse_and_instantiate
from lightning_kd.cli.main import unknown_name
from lightning_kd.export.model_card import source_model_card
from lightning_kd.export.student import TrainedStudent
from lightning_kd.models import load_model
from lightning_kd.training.checks import check_lengths

FORMATS: dict[str, type[Export]] = {"onnx": ONNXExport, "neuron": NeuronTrace}


def main(args: list[str]) -> None:
    """Convert a trained model, as the export callbacks do at the end of training.

    Args:
        args: The command line, starting with the command's name.
    """
    format_parser = argparse.ArgumentParser("lightning-kd export", description="Convert a trained model.")
    help_text = f"{', '.join(FORMATS)}, or the class path of an Export callback; <format> --help lists its arguments"
    format_parser.add_argument("format", help=help_text)
    name = format_parser.parse_args(args[1:2]).format
    export_class = _export_class(name)
    parser = create_parser(f"export {name}", f"Convert a trained model with {export_class.__name__}.")
    parser.add_argument("--model", type=str, required=True, help="Folder or Hub id.")
    parser.add_argument("--output_dir", type=str, required=True, help="Folder to write.")
    options = parser.add_class_arguments(export_class, as_group=False, skip={"output_dir"})
    config = parse_and_instantiate(parser, args[2:], lambda config: [config.model])
    exporter = export_class(config.output_dir, **{option: config[option] for option in options})
    source, target = config.sources[0], Path(config.output_dir).expanduser().resolve()
    exporter.check_installed()
    exporter.check_output_dirs(target, [Path(source)] if Path(source).is_dir() else [])
    model = load_model(source, config.task.auto_class, "model")
    check_lengths(config.data, model, None)
    exporter.write(target, TrainedStudent(model, config.task, config.data, source_model_card(source)))


def _export_class(name: str) -> type[Export]:
    if name in FORMATS:
        return FORMATS[name]
    if "." not in name:
        raise ValueError(unknown_name("format", name, list(FORMATS)))
    try:
        export_class: Any = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"format: cannot import {name!r} ({error}); check the class path") from error
    if not (isinstance(export_class, type) and issubclass(export_class, Export)):
        raise ValueError(f"format: {name!r} is not an Export (lightning_kd.callbacks.export_base)")
    return export_class

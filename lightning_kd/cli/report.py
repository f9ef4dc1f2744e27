"""``lightning-kd report``."""

from pathlib import Path

from rich.console import Console

from lightning_kd.cli.arguments import create_parser, parse_and_instantiate
from lightning_kd.evaluation.batches import Split, check_split
from lightning_kd.evaluation.benchmark import build_report
from lightning_kd.evaluation.report_plot import write_report
from lightning_kd.export.artifacts import open_artifacts
from lightning_kd.export.requirements import require_packages
from lightning_kd.io.atomic import check_writable
from lightning_kd.models import load_tokenizer
from lightning_kd.models.prompt_config import check_prompt
from lightning_kd.teachers.checks import tokenizer_fingerprint
from lightning_kd.training.checks import check_lengths


def main(args: list[str]) -> None:
    """Compare models on the same data.

    Args:
        args: The command line, starting with the command's name.

    Raises:
        ValueError: If an argument is invalid, or a model does not fit the data.
    """
    parser = create_parser(
        "report", "Compare models: score, agreement with the first one, size, and speed on this machine."
    )
    models = "Folders or Hub ids; all others are compared with the first, so put the teacher first."
    parser.add_argument("--models", type=str, nargs="+", required=True, help=models)
    parser.add_argument("--split", type=Split, default="validation", help="Split to score.")
    parser.add_argument(
        "--output_dir", type=str, default="report", help="Folder for report.md, report.json and report.png."
    )
    config = parse_and_instantiate(parser, args[1:], lambda config: config.models)
    datamodule, task, sources = config.data, config.task, config.sources
    output_dir = Path(config.output_dir).expanduser()
    require_packages("report", "plots", "matplotlib")
    check_writable(output_dir / "report.md", "output_dir")
    check_split(datamodule, config.split, task)
    expected = tokenizer_fingerprint(datamodule.tokenizer)
    for source in sources:
        if tokenizer_fingerprint(load_tokenizer(source, "tokenizer of")) != expected:
            raise ValueError(f"models: tokenizer of {source!r} differs from the data's; report it separately")
    artifacts = open_artifacts(sources, task)
    for artifact in artifacts:
        check_lengths(datamodule, artifact.model, None)
        check_prompt(artifact.model, datamodule.prompt, artifact.name, "prompt")
    result = build_report(artifacts, task, datamodule, config.split)
    write_report(result, output_dir)  # before printing, which fails if the output is closed, as by "| head"
    Console(emoji=False).print(result.table())
    print(f"Report written to {output_dir / 'report.md'}")

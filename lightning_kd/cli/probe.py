"""``lightning-kd probe``."""

from pathlib import Path

from rich.console import Console

from lightning_kd.cli.arguments import create_parser, parse_and_instantiate
from lightning_kd.evaluation.batches import Split, check_split
from lightning_kd.evaluation.temperature.plot import plot_probe, write_probe_plot, write_probe_report
from lightning_kd.evaluation.temperature.saved_models import probe_models
from lightning_kd.evaluation.temperature.selection import Selection
from lightning_kd.export.requirements import require_packages
from lightning_kd.io.atomic import check_writable


def main(args: list[str]) -> None:
    """Show the effect of temperatures on a teacher's probabilities.

    Args:
        args: The command line, starting with the command's name.
    """
    parser = create_parser(
        "probe", "Show how the temperature changes the probabilities of a teacher and, optionally, its student."
    )
    parser.add_argument("--teacher", type=str, required=True, help="Folder or Hub id.")
    parser.add_argument("--student", type=str | None, help="Folder or Hub id.")
    sentences = "Texts to show, at most 20; null = the teacher's most and least confident examples of the split."
    parser.add_argument("--sentences", type=str, nargs="+", help=sentences)
    examples = "Without sentences, show this many of the most and of the least confident examples (1-10)."
    parser.add_argument("--num_examples", type=int, default=2, help=examples)
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=[1.0, 5.0, 19.0], help="Temperatures to show, each > 0."
    )
    parser.add_argument("--top_k", type=int, default=5, help="Number of most likely classes to show, >= 1.")
    parser.add_argument("--bottom_k", type=int, default=3, help="Number of least likely classes to show, >= 1.")
    parser.add_argument("--split", type=Split, default="validation", help="Split to average over.")
    parser.add_argument(
        "--output_dir", type=str, default="probe", help="Folder for probe.md, probe.json and probe.png."
    )
    config = parse_and_instantiate(parser, args[1:], lambda config: [config.teacher, config.student])
    selection = Selection(config.sentences, config.num_examples, config.temperatures, config.top_k, config.bottom_k)
    output_dir = Path(config.output_dir).expanduser()
    require_packages("probe", "plots", "matplotlib")
    check_writable(output_dir / "probe.md", "output_dir")
    check_split(config.data, config.split, config.task)
    result = probe_models(selection, config.task, config.data, config.split, config.sources)
    write_probe_report(result, output_dir)
    for table in result.tables():  # before the plot, which takes longer
        Console(emoji=False).print(table)
    write_probe_plot(plot_probe(result), output_dir)
    print(f"Probe written to {output_dir / 'probe.md'}")

"""``lightning-kd``: find the command and run it.

This module imports neither torch nor Lightning, so that ``--help``, ``--version`` and an unknown command are answered
at once.
"""

import argparse
import logging
import sys
import warnings
from difflib import get_close_matches
from importlib import import_module

from lightning_kd import __version__
from lightning_kd.cli.errors import exit_on_error

COMMANDS = {
    "fit": ("fit", "train a student, with or without a teacher"),
    "validate": ("fit", "evaluate a checkpoint on the validation split"),
    "test": ("fit", "evaluate a checkpoint on the test split"),
    "predict": ("fit", "write predictions for new texts"),
    "cache": ("cache", "compute and store the teacher's logits before training"),
    "report": ("report", "compare trained models: score, agreement, size and speed"),
    "probe": ("probe", "show how the temperature changes a teacher's probabilities"),
    "tune": ("tune.command", "search hyperparameters with Optuna"),
    "export": ("export", "convert a trained model to ONNX, Neuron or a custom format"),
    "consolidate": ("consolidate", "convert a sharded checkpoint to a single file"),
    "sagemaker": ("sagemaker.launch", "run fit as an Amazon SageMaker training job"),
}
"""Module in ``lightning_kd.cli`` and one-line summary of each command; ``main`` of the module runs it."""


def main() -> None:
    """Run the command line of the process; an error is printed as one line."""
    exit_on_error(lambda: run_command(sys.argv[1:]))


def run_command(args: list[str]) -> None:
    """Run a command.

    Args:
        args: The command line without the program's name.

    Raises:
        SystemExit: After ``--help`` or ``--version``, or with code 2 if there is no such command.
    """
    if args and args[0] in COMMANDS:
        from lightning_kd.cli.yaml_keys import refuse_duplicate_keys  # imported here: takes 0.3 s

        suppress_noise()
        refuse_duplicate_keys()
        import_module(f"lightning_kd.cli.{COMMANDS[args[0]][0]}").main(args)
        return
    parser = _create_parser()
    if args and not args[0].startswith("-"):
        parser.error(unknown_name("command", args[0], list(COMMANDS)))
    parser.parse_args(args[:1] or ["--help"])


def _create_parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<13}{summary}" for name, (_, summary) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="lightning-kd",
        usage="lightning-kd <command> [arguments]",
        description=f"Train small transformers on the outputs of large ones.\n\ncommands:\n{commands}",
        epilog="lightning-kd <command> --help lists the arguments of a command. LIGHTNING_KD_DEBUG=1 shows tracebacks.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lightning-kd {__version__}")
    return parser


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """Return the error message for an unknown name, with the closest known name if there is one.

    Args:
        kind: What the name denotes, such as ``command``.
        name: The unknown name.
        known: All known names.
    """
    matches = get_close_matches(name, known, n=1)
    hint = f"did you mean {matches[0]!r}?" if matches else f"choose from {', '.join(known)}"
    return f"{kind}: unknown name {name!r}; {hint}"


def suppress_noise() -> None:
    """Silence advertisements, and warnings about intended behavior.

    Call it only at the start of a process of this library: it changes the warning filters and loggers of the process.
    """
    for message in (
        "Be aware that when using `ckpt_path`, callbacks used to create.*",  # the best checkpoint's, in test or predict
        "Checkpoint directory .* exists and is not empty.*",  # a resumed run's
        ".*does not have many workers.*",  # batches are cheap to make
        ".*args parameter is intended to run from within Python.*",  # --resume edits the process's arguments
        ".*is not supported by the model summary.*",
        ".*treespec, LeafSpec.*",  # Lightning 2.6 calls an API that torch deprecates
        ".*is smaller than the logging interval.*",
        "You're using the WeightAveraging callback with a model that overrides.*",  # nothing is sharded
        "You're using the WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",  # in test
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_informative)
    from transformers.utils.logging import disable_progress_bar  # imported here: takes most of a second

    disable_progress_bar()  # of loading and saving a model


def _is_informative(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("💡 Tip", "Loading `train_dataloader` to estimate"))

"""``lightning-kd consolidate``."""

from pathlib import Path

from jsonargparse import ArgumentParser

from lightning_kd.io import consolidation


def main(args: list[str]) -> None:
    """Convert a sharded checkpoint to a single file.

    Args:
        args: The command line, starting with the command's name.
    """
    description = "Convert a sharded checkpoint (a folder with one part per process) to a single file."
    parser = ArgumentParser(prog="lightning-kd consolidate", description=description)
    parser.add_argument("checkpoint", type=str, help="Folder of the checkpoint, such as checkpoints/last.ckpt.")
    parser.add_argument(
        "--output", type=str | None, help="File to write; null = the folder's name with .file appended."
    )
    config = parser.parse_args(args[1:])
    source = Path(config.checkpoint).expanduser().absolute()
    target = Path(config.output).expanduser() if config.output else source.with_name(f"{source.name}.file")
    consolidation.consolidate(source, target)
    print(f"Checkpoint written to {target}")

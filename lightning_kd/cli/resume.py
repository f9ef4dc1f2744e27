"""``fit --resume``: the arguments that resume a run.

Four other parts make the resumed run exact: ``data/resumable_dataloader.py`` continues in the middle of an epoch,
``data/base.py`` saves position and seed, ``training/module.py`` seeds dropout by the number of the batch, and
``callbacks/last_checkpoint.py`` saves between optimizer steps only.
"""

from pathlib import Path


def resolve_resume(args: list[str], run_dir: Path | None) -> tuple[list[str], Path | None]:
    """Replace ``--resume <run folder>`` with the arguments that resume the run.

    Args:
        args: The command line, starting with the subcommand.
        run_dir: The run's folder if there is no ``--resume``.

    Returns:
        The command line and the run's folder.

    Raises:
        ValueError: If ``--resume`` names no run folder, or the subcommand is not ``fit``.
    """
    args = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--resume=") else [arg])]
    if "--resume" not in args:
        return args, run_dir
    index = args.index("--resume")
    if args[0] != "fit":
        raise ValueError(f"--resume: {args[0]} cannot be resumed, only fit")
    if index + 1 == len(args):
        raise ValueError("--resume: requires a run folder, such as lightning_logs/version_0")
    run_dir = Path(args[index + 1]).expanduser().resolve()
    return ["fit", *resume_arguments(run_dir), *args[1:index], *args[index + 2 :]], run_dir


def last_checkpoint_path(run_dir: Path) -> Path:
    """Return the path of the checkpoint that a run resumes from: a file, or the folder of a sharded checkpoint."""
    return run_dir / "checkpoints" / "last.ckpt"


def resume_arguments(run_dir: Path) -> list[str]:
    """Return the arguments of ``fit`` that resume a run.

    Raises:
        ValueError: If it is not a run folder, or has no ``last.ckpt``.
    """
    config, checkpoint = run_dir / "config.yaml", last_checkpoint_path(run_dir)
    if not config.is_file():
        raise ValueError(f"--resume: {str(run_dir)!r} is not a run folder (no config.yaml)")
    if not checkpoint.exists():
        raise ValueError(
            f"--resume: {str(run_dir)!r} has no checkpoints/last.ckpt (first written after a few minutes or one "
            f"epoch); start a new run with --config {str(config)!r}"
        )
    return ["--config", str(config), "--ckpt_path", str(checkpoint)]

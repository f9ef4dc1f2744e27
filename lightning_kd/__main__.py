"""``lightning-kd`` and ``python -m lightning_kd``."""

import sys

from lightning_kd.cli.errors import exit_on_error


def main() -> None:
    """Run the command line; an error is one line, its traceback shown where ``LIGHTNING_KD_DEBUG`` is set."""
    exit_on_error(lambda: _dispatch(sys.argv[1:]))


def _dispatch(args: list[str]) -> None:
    # imported here: it takes seconds and may itself fail
    if args[:1] == ["sagemaker"]:
        from lightning_kd.cli.sagemaker.launch import launch

        launch(args[1:])
    elif args[:1] == ["tune"]:
        from lightning_kd.cli.tune.command import tune

        tune(args[1:])
    else:
        from lightning_kd.cli.fit import dispatch

        dispatch(args)


if __name__ == "__main__":
    main()

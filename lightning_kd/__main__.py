"""``lightning-kd`` and ``python -m lightning_kd``."""

import sys

from lightning_kd.one_line import in_one_line


def main() -> None:
    """Run the command line; an error is one line, its traceback shown where ``KD_DEBUG`` is set."""
    in_one_line(lambda: _dispatch(sys.argv[1:]))


def _dispatch(args: list[str]) -> None:
    if args and args[0] == "sagemaker":
        from lightning_kd.sagemaker.launch import launch

        launch(args[1:])
    else:
        from lightning_kd.cli import dispatch  # here, because it takes seconds and may itself fail

        dispatch(args)


if __name__ == "__main__":
    main()

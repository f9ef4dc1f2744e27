"""``lightning-kd`` and ``python -m lightning_kd``."""

import errno
import os
import sys

DEBUG = "KD_DEBUG"


def main() -> None:
    """Run the command line; an error is one line, its traceback shown where ``KD_DEBUG`` is set."""
    try:
        from lightning_kd.cli import dispatch  # here, because it takes seconds and may itself fail

        dispatch(sys.argv[1:])
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            again = "continue with fit --resume <run folder>" if sys.argv[1:2] == ["fit"] else "try again"
            message += f"; the disk is full: free some space, then {again}"
        kind = "" if isinstance(error, (ValueError, OSError, FloatingPointError)) else f"{type(error).__name__}: "
        sys.exit(f"lightning-kd: error: {kind}{message} ({DEBUG}=1 shows the traceback)")


if __name__ == "__main__":
    main()

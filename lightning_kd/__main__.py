"""``lightning-kd`` and ``python -m lightning_kd``."""

import os
import sys
import threading

from lightning_kd.folders import FULL

DEBUG = "KD_DEBUG"


def main() -> None:
    """Run the command line; an error is one line, its traceback shown where ``KD_DEBUG`` is set."""
    stopped: list[OSError] = []

    def keep(args: threading.ExceptHookArgs) -> None:
        if isinstance(args.exc_value, OSError):
            stopped.append(args.exc_value)
        else:
            threading.__excepthook__(args)

    try:
        if not os.environ.get(DEBUG):
            threading.excepthook = keep  # TensorBoard writes in a thread: no traceback of its own
        if sys.argv[1:2] == ["tune"]:  # not in the command line itself, which tuning runs
            from lightning_kd.tuning.command import tune

            tune(sys.argv[2:])
        else:
            from lightning_kd.cli import dispatch  # here, because it takes seconds and may itself fail

            dispatch(sys.argv[1:])
        if stopped:
            raise stopped[0]
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno in FULL:
            again = "try again, or continue with fit --resume <run folder>" if sys.argv[1:2] == ["fit"] else "try again"
            message += f"; the disk is full: free some space, then {again}"
        if "onnection" in message and "by peer" in message:  # of gloo, when a process waits for one that has ended
            message = f"another process of this run has ended, and it or its log says why ({message:.100}...)"
        kind = "" if isinstance(error, (ValueError, OSError, FloatingPointError)) else f"{type(error).__name__}: "
        _end(f"lightning-kd: error: {kind}{message} ({DEBUG}=1 shows the traceback)")
    finally:
        threading.excepthook = threading.__excepthook__


def _end(message: str) -> None:
    """Exit with a message; at once where there are several processes: taking leave of the others may wait for them."""
    distributed = sys.modules.get("torch.distributed")  # absent where an argument was wrong
    if not (distributed and distributed.is_initialized() and distributed.get_world_size() > 1):
        sys.exit(message)
    print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    main()

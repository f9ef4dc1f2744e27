"""An error is one line at the end of a program, its traceback shown where ``KD_DEBUG`` is set."""

import os
import sys
import threading
from collections.abc import Callable

from lightning_kd.io.atomic import FULL

DEBUG = "KD_DEBUG"


def in_one_line(run: Callable[[], object], keep: Callable[[str], object] = lambda line: None) -> None:
    """Run a program; where it fails, end it with one line.

    Args:
        run: The program.
        keep: Is told what went wrong before the process ends.
    """
    stopped: list[OSError] = []

    def stop(args: threading.ExceptHookArgs) -> None:
        if isinstance(args.exc_value, OSError):
            stopped.append(args.exc_value)
        else:
            threading.__excepthook__(args)

    try:
        if not os.environ.get(DEBUG):
            threading.excepthook = stop  # TensorBoard writes in a thread: no traceback of its own
        run()
        if stopped:
            raise stopped[0]
    except Exception as error:
        line = _line(error)
        keep(line)
        if os.environ.get(DEBUG):
            raise
        _end(f"lightning-kd: error: {line} ({DEBUG}=1 shows the traceback)")
    finally:
        threading.excepthook = threading.__excepthook__


def _line(error: Exception) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno in FULL:
        again = "try again, or continue with fit --resume <run folder>" if sys.argv[1:2] == ["fit"] else "try again"
        message += f"; the disk is full: free some space, then {again}"
    if "onnection" in message and "by peer" in message:  # of gloo, when a process waits for one that has ended
        message = f"another process of this run has ended, and it or its log says why ({message:.100}...)"
    kind = "" if isinstance(error, (ValueError, OSError, FloatingPointError)) else f"{type(error).__name__}: "
    return kind + message


def _end(message: str) -> None:
    """Exit with a message; at once where there are several processes: taking leave of the others may wait for them."""
    distributed = sys.modules.get("torch.distributed")  # absent where an argument was wrong
    if not (distributed and distributed.is_initialized() and distributed.get_world_size() > 1):
        sys.exit(message)
    print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)

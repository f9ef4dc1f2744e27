"""One-line errors at the end of a program; ``LIGHTNING_KD_DEBUG=1`` shows the traceback."""

import argparse
import io
import os
import re
import sys
import threading
from collections.abc import Callable

from lightning_kd.io.atomic import DISK_FULL_ERRNOS

DEBUG_VARIABLE = "LIGHTNING_KD_DEBUG"

INTERRUPT_EXIT_CODE = 130
"""Exit status after Ctrl-C, as of a shell."""

PASSWORD = re.compile(
    r"(:(?!//))\S+(?=@)"  # user:password@host, also with an unescaped / or @
    r"|(//[^\s:@/?\[]*:)(?!\d+\b|\S*@)[^\s/?'\"]+"  # the host is missing
    r"|(\b\w*(?:password|passwd|passphrase|pwd|secret|token|odbc_connect)=)[^\s&'\"]+",
    re.IGNORECASE,
)
"""Passwords in the address of a database; the group is what precedes one."""


def exit_on_error(main: Callable[[], object], on_error: Callable[[str], object] = lambda message: None) -> None:
    """Run a program and, if it raises or is interrupted, end the process with a one-line message.

    Characters that the console cannot show are printed as escape sequences.

    Args:
        main: The program.
        on_error: Called with the message before exiting.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    thread_errors: list[OSError] = []

    def record_thread_error(args: threading.ExceptHookArgs) -> None:
        if isinstance(args.exc_value, OSError):
            thread_errors.append(args.exc_value)
        else:
            threading.__excepthook__(args)

    try:
        if not os.environ.get(DEBUG_VARIABLE):
            threading.excepthook = record_thread_error  # TensorBoard writes in a thread
        main()
        if thread_errors:
            raise thread_errors[0]
    except (KeyboardInterrupt, SystemExit) as error:
        by_lightning = isinstance(error, SystemExit) and error.code == 1  # its exit after Ctrl-C
        if isinstance(error, SystemExit) and not (by_lightning and isinstance(error.__context__, KeyboardInterrupt)):
            raise
        print("lightning-kd: interrupted", file=sys.stderr)
        sys.exit(INTERRUPT_EXIT_CODE)
    except Exception as error:
        message = describe_error(error)
        on_error(message)
        if os.environ.get(DEBUG_VARIABLE):
            raise
        _exit_process(f"lightning-kd: error: {message} ({DEBUG_VARIABLE}=1 shows the traceback)")
    finally:
        threading.excepthook = threading.__excepthook__


def describe_error(error: Exception) -> str:
    """Return an error's message in one line, with the class of an unexpected one; in ``tune`` without passwords."""
    message = " ".join(str(error).split()) or type(error).__name__
    if sys.argv[1:2] == ["tune"]:  # an error of a driver may show the address of the database
        message = hide_passwords(message)
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
        remedy = "try again, or continue with fit --resume <run folder>" if sys.argv[1:2] == ["fit"] else "try again"
        message += f"; the disk is full: free space, then {remedy}"
    if "onnection" in message and "by peer" in message:  # from gloo, when the process it waits for has ended
        message = f"another process of this run has ended; its log shows the cause ({message:.100}...)"
    expected = isinstance(error, (ValueError, OSError, FloatingPointError, argparse.ArgumentError))
    return message if expected else f"{type(error).__name__}: {message}"


def find_passwords(text: str) -> list[str]:
    """Return the passwords of the database addresses in a text."""
    return [match[0].removeprefix(match[match.lastindex or 0]) for match in PASSWORD.finditer(text)]


def hide_passwords(text: str) -> str:
    """Replace the passwords of the database addresses in a text.

    >>> hide_passwords("postgresql://me:s3cret@host/base?sslpassword=t0o")
    'postgresql://me:***@host/base?sslpassword=***'
    """
    return PASSWORD.sub(lambda match: match[match.lastindex or 0] + "***", text)


def _exit_process(message: str) -> None:
    """Exit with a message.

    A distributed process exits without cleanup, which may wait for the other processes forever.
    """
    distributed = sys.modules.get("torch.distributed")  # absent if an argument was wrong
    if not (distributed and distributed.is_initialized() and distributed.get_world_size() > 1):
        sys.exit(message)
    print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)

"""The one boundary where errors become messages and exit codes.

`run_command` is used by the `wrpo-ray` command and by jobs/fuse.py; nothing below it catches what it does not know.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from wrpo_ray import __version__
from wrpo_ray.errors import InterruptedRunError, StorageError, WrpoError, own_error, render
from wrpo_ray.redaction import redact_logs, redacted

BUG_EXIT_CODE = 70
BUG_CODE = "WRPO-B070"
_PACKAGE = Path(__file__).parent
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def run_command(function: Callable[[], int], debug: bool = False) -> int:
    """Return what `function` returns, or show the error that it raises and return its documented exit code.

    debug: show the traceback too. SystemExit, which argparse raises, passes through.
    """
    boundary = _Boundary(debug)
    with boundary:
        exit_code = function()
        # What is still buffered belongs to the function: a full disk or a closed pipe is noticed here or never.
        sys.stdout.flush()
        return exit_code
    return boundary.exit_code


def start_logging(debug: bool = False) -> None:
    """Log to stderr, without secrets."""
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("wrpo_ray").setLevel(level)
    redact_logs()


class _Boundary:
    """Ends any error here. A context manager is told of every one, so that no `except` has to name them all."""

    def __init__(self, debug: bool) -> None:
        self.debug, self.exit_code = debug, 0

    def __enter__(self) -> _Boundary:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception | KeyboardInterrupt):
            return False
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            self.exit_code = InterruptedRunError.exit_code
            return True
        if self.debug:
            _show(redacted("".join(traceback.format_exception(error))))
        known = _known(error)
        if known is not None:
            _show(redacted(render(known)))
        else:
            _show(redacted(_bug_report(error, self.debug)))
        self.exit_code = known.exit_code if known is not None else BUG_EXIT_CODE
        return True


def _show(text: str) -> None:
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stderr, flush=True)


def _nobody_reads() -> bool:
    """Tell whether stdout leads nowhere any more (`... | head`), and let Python end without complaining about it."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return True


def _known(error: BaseException) -> WrpoError | None:
    """Return the error meant for the user that `error` is, wraps, or amounts to."""
    own = own_error(error)
    if own is not None:
        return own
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError(
            "interrupted", code="WRPO-I002", help="run the same command again; it goes on with what is not yet done"
        )
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        where = f": {error.filename}" if error.filename else ""
        return StorageError(
            f"{error.strerror}{where}", code="WRPO-S002", help="free some space and run the same command again"
        )
    if isinstance(error, OSError) and error.errno in _DENIED and error.filename:
        return StorageError(
            f"{error.strerror}: {error.filename}",
            code="WRPO-S004",
            help=f"let user {os.getuid()}, as whom this process runs, use this file, and run the same command again",
        )
    return None


def _bug_report(error: BaseException, debug: bool) -> str:
    """Return what is shown of an error that nobody foresaw; its own text may hold a prompt and stays in the file."""
    lines = [f"error[{BUG_CODE}]: a bug in wrpo_ray or in a library that it uses: {_type_name(error)}"]
    lines.append(f"  --> {_place(error)}")
    if not debug:
        path = _write_crash_file(error)
        kept = f"the traceback is in {path}" if path else "show the traceback with --debug"
        lines.append(f"   = note: {kept}; read it before you share it, it may hold data of the run")
    lines.append("help: run the same command again: finished work is kept. If it happens again, report the traceback,")
    lines.append(f"      the config and the versions that `wrpo-ray doctor` shows (this is wrpo-ray {__version__})")
    return "\n".join(lines)


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _place(error: BaseException) -> str:
    """Return file, line and function of the innermost frame of this package, or of the innermost one at all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    frames = own or frames
    if not frames:
        return "(unknown)"
    frame = frames[-1]
    path = Path(frame.filename)
    shown = path.relative_to(_PACKAGE.parent) if path.is_relative_to(_PACKAGE.parent) else path
    return f"{shown}:{frame.lineno} in {frame.name}"


def _write_crash_file(error: BaseException) -> str | None:
    """Write the traceback to a file that this user alone can read, and return its path; None where that fails."""
    text = redacted("".join(traceback.format_exception(error)))
    prefix = f"wrpo-ray-crash-{time.strftime('%Y%m%dT%H%M%S')}-"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=prefix, suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as stream:
            stream.write(text)
    except OSError:
        return None
    return stream.name

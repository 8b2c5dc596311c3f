"""The picture of a run at work, kept in place at the foot of a terminal while everything else scrolls above it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from wrpo_ray.live.frame import frame
from wrpo_ray.live.ticking import every
from wrpo_ray.live.view import RunView

REFRESH_S = 0.5
_ASCII = "#."


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a picture can be kept in place there; a job's log gets lines, whatever FORCE_COLOR says."""
    return stream.isatty() and not Console(file=stream).is_dumb_terminal


class _Picture:
    """What rich draws: the view of the last look, as large as the terminal is now."""

    def __init__(self, view: RunView) -> None:
        self.view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = "█░" if options.encoding.startswith("utf") else _ASCII
        # The last line stays free: the cursor waits there.
        for line in frame(self.view, console.width, console.height - 1, marks):
            yield Text(line.text, line.style, no_wrap=True, overflow="crop")


@contextmanager
def on_terminal(view: Callable[[], RunView], stream: TextIO) -> Iterator[None]:
    """Show what `view` tells while the body runs; the last picture stays when it ends, however it ends.

    Prints and log lines go through it and appear above.
    """
    console = Console(file=stream, highlight=False)
    picture = _Picture(view())
    # What is printed into a file stays out of the terminal.
    live = Live(
        picture, console=console, auto_refresh=False, vertical_overflow="crop", redirect_stdout=sys.stdout.isatty()
    )

    def look() -> None:
        picture.view = view()
        live.refresh()

    real = sys.stderr
    with live:
        # A process that is ended by force cannot bring a hidden cursor back.
        console.show_cursor(True)
        try:
            with _logging_to(real, sys.stderr), every(REFRESH_S, look, "live-terminal"):
                yield
        finally:
            picture.view = view()


@contextmanager
def _logging_to(real: TextIO, shown: TextIO) -> Iterator[None]:
    """Let the log handlers that write to the terminal itself write above the picture, and back again."""
    _move_handlers(real, shown)
    try:
        yield
    finally:
        # Those that were made in between write to `shown` as well.
        _move_handlers(shown, real)


def _move_handlers(before: TextIO, after: TextIO) -> None:
    for handler in _stream_handlers():
        if handler.stream is before:
            # It writes what it has left first, and that fails on a terminal that is gone.
            with suppress(OSError, ValueError):
                handler.setStream(after)
            handler.stream = after


def _stream_handlers() -> Iterator[logging.StreamHandler[Any]]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            # Some look for sys.stderr at every record and cannot be given another stream.
            if isinstance(handler, logging.StreamHandler) and "stream" in vars(handler):
                yield handler

"""Shows a run while it works: a picture on a terminal or lines in a log, and metrics where Ray is connected."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

from wrpo_ray.config import FuseConfig
from wrpo_ray.events import Event, listening
from wrpo_ray.live.guard import Guard, Guarded
from wrpo_ray.live.holding import holdings
from wrpo_ray.live.line import event_line, progress_line
from wrpo_ray.live.metrics import WhileConnected
from wrpo_ray.live.state import LiveRun
from wrpo_ray.live.ticking import every
from wrpo_ray.live.view import RunView, StepView

log = logging.getLogger(__name__)
# As often as Ray's agents take metrics in (metrics_report_interval_ms, ray 2.60: 10 s) finds every value fresh.
EXPORT_S = 5.0


@contextmanager
def shown(config: FuseConfig, only: str | None = None, stream: TextIO | None = None) -> Iterator[LiveRun]:
    """Show the run of `config` while the body works on it, and yield what is known of it.

    No error of what shows it reaches the body or what it works on.
    only: name of what alone is to be made, see steps.is_meant. stream: where to show it, stderr when left out.
    """
    from wrpo_ray.live.terminal import is_terminal, on_terminal

    place: TextIO = stream or sys.stderr  # pyright: ignore[reportAssignmentType]
    on_screen = is_terminal(place)
    heard = _nothing if on_screen else _log_event
    live = LiveRun(config.run.name, config.prices, holdings(config), time.monotonic, only, heard)
    exporter = WhileConnected()
    with ExitStack() as stack:
        stack.enter_context(listening(Guard("the count of what the run has done").around(live)))
        display = on_terminal(live.view, place) if on_screen else _in_log(live.view, config)
        stack.enter_context(Guarded(display, "the display of the run"))
        stack.enter_context(every(EXPORT_S, lambda: exporter.export(live.view()), "live-metrics"))
        yield live


@contextmanager
def _in_log(view: Callable[[], RunView], config: FuseConfig) -> Iterator[None]:
    def tell() -> None:
        log.info("%s", progress_line(view()))

    try:
        with every(config.run.progress_interval_s, tell, "live-log"):
            yield
    finally:
        # How far it has come, also when it is stopped.
        tell()


def _nothing(event: Event, step: StepView) -> None:
    """The picture shows it."""


def _log_event(event: Event, step: StepView) -> None:
    if line := event_line(event, step):
        log.info("%s", line)

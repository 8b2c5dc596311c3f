"""The report that a run leaves behind: made by a process of its own, so that nothing in it can fail the run."""

from __future__ import annotations

import logging
import subprocess
import sys
from types import TracebackType

from wrpo_ray.config import RunConfig
from wrpo_ray.errors import ConfigError, InterruptedRunError, LeaseError, own_error
from wrpo_ray.redaction import last_line
from wrpo_ray.report.command import REPORT
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import layout_of

log = logging.getLogger(__name__)
# A report of a large run takes seconds; a store that hangs must not keep a job from ending.
TIMEOUT_S = 300.0
_NOTHING_CHANGED = (ConfigError, InterruptedRunError, LeaseError)


class Reported:
    """Writes the run's report when the body is done or has failed, whatever it failed with.

    Not when another driver has the run, nor when the config cannot be run: then nothing has changed. Not when the run
    was told to stop either: it has little time left then.
    """

    def __init__(self, run: RunConfig) -> None:
        self.folder = layout_of(run.root, run.name).folder

    def __enter__(self) -> None:
        """Do nothing before the body."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, Exception) and not isinstance(own_error(error), _NOTHING_CHANGED)):
            leave_report(self.folder)


def leave_report(folder: Location, timeout_s: float = TIMEOUT_S) -> bool:
    """Write RUN/report.html in a process of its own and tell whether it is there; why it is not is logged."""
    command = [sys.executable, "-m", "wrpo_ray.report", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("no report: %s (`wrpo-ray report %s` makes it)", last_line(str(error)), folder)
        return False
    if done.returncode:
        shown = next((line for line in done.stderr.splitlines() if line.startswith("error")), done.stderr)
        log.warning("no report: %s (`wrpo-ray report %s` makes it)", last_line(shown), folder)
        return False
    log.info("report: %s", folder / REPORT)
    return True

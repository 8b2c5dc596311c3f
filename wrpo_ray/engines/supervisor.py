"""Keeps one engine running in a child process: starts it, watches it, replaces it, and isolates rows that kill it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from wrpo_ray.config import FaultsConfig
from wrpo_ray.engines.isolation import BatchFailedError, run_isolated
from wrpo_ray.engines.process import EngineDiedError, EngineProcess
from wrpo_ray.engines.protocol import Engine
from wrpo_ray.errors import ModelError

log = logging.getLogger(__name__)


class SupervisedEngine:
    """An engine that may die: `run` gives every row its outcome all the same.

    make: picklable, returns the engine. The engine starts with the first batch, and not before.
    """

    def __init__(
        self, make: Callable[[], Engine], method: Literal["generate", "score"], title: str, faults: FaultsConfig
    ) -> None:
        self.make, self.method, self.title, self.faults = make, method, title, faults
        self.num_starts = 0
        self._counts: Counter[str] = Counter()
        self._process: EngineProcess | None = None

    def run(self, rows: Sequence[Any]) -> list[Any]:
        """Return one outcome of the engine's method per row, in order; SetAside for a row that ends the engine.

        Raises ModelError when the engine cannot be started or ends on every row, and any WrpoError of the engine.
        """
        return run_isolated(rows, self._attempt, self.title) if rows else []

    def take_counts(self) -> dict[str, int]:
        """Return what the engine counted in finished batches since this was last called; see CountingEngine."""
        counts, self._counts = dict(self._counts), Counter()
        return counts

    def close(self) -> None:
        """Shut the engine down; nothing of it is left when this returns."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _attempt(self, rows: Sequence[Any]) -> list[Any]:
        process = self._process or self._started()
        process.send(list(rows))
        try:
            return self._outcomes(process)
        except EngineDiedError as error:
            self._discard(f"ended while it worked on {len(rows)} rows: {error}")
            raise BatchFailedError("engine_crash", str(error)) from error

    def _outcomes(self, process: EngineProcess) -> list[Any]:
        while True:
            match process.receive(self.faults.stall_timeout_s):
                case ("progress",):
                    continue
                case ("done", outcomes, counts):
                    self._counts.update(counts)
                    return outcomes
                case ("raised", error):
                    raise error
                case ("failed", text, usable):
                    reason = process.reason(text)
                    if not usable:
                        self._discard(f"cannot go on: {reason}")
                    raise BatchFailedError("engine_crash", reason)
                case _:
                    reason = f"no engine step ended for {self.faults.stall_timeout_s:g} s"
                    self._discard(reason)
                    raise BatchFailedError("engine_timeout", reason)

    def _discard(self, why: str) -> None:
        log.warning("%s: engine start %d %s", self.title, self.num_starts, why)
        assert self._process is not None
        self._process.kill()
        self._process = None

    def _started(self) -> EngineProcess:
        """Start the engine, with a bounded number of tries; an error of ours cannot get better and is not tried again.

        A child that was just killed may hold its GPU memory for a moment longer, hence the pauses.
        """
        attempts = self.faults.engine_start_attempts
        for attempt in range(1, attempts + 1):
            self.num_starts += 1
            self._process = EngineProcess(self.make, self.method)
            reason = self._wait_until_started(self._process)
            if reason is None:
                return self._process
            self._discard(f"failed: {reason}")
            if attempt < attempts:
                time.sleep(attempt)
        raise ModelError(
            f"{self.title}: the engine failed to start {attempts} times in a row; last error: {reason}",
            code="WRPO-E001",
            help="the Ray logs of the replica hold the whole output; check the model's path, dtype and memory",
        )

    def _wait_until_started(self, process: EngineProcess) -> str | None:
        """Return None when the engine has started, else why not."""
        try:
            match process.receive(self.faults.engine_start_timeout_s):
                case ("started",):
                    return None
                case ("raised", error):
                    self._discard(f"refused: {error}")
                    raise error
                case _:
                    return f"not ready after {self.faults.engine_start_timeout_s:g} s"
        except EngineDiedError as error:
            return str(error)

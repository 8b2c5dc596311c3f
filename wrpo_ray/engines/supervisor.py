"""Keeps one engine running in a child process: starts it, watches it, replaces it, and isolates rows that kill it."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from wrpo_ray.config import FaultsConfig
from wrpo_ray.engines.exchange import EngineGoneError, Exchange
from wrpo_ray.engines.isolation import BatchFailedError, require_one_each, run_isolated
from wrpo_ray.engines.process import EngineDiedError, EngineProcess
from wrpo_ray.engines.protocol import Engine
from wrpo_ray.engines.turns import Turns
from wrpo_ray.errors import InterruptedRunError, ModelError, WrpoError

log = logging.getLogger(__name__)
# Another batch may end the engine at that moment, but not so often.
_MOST_GONE = 10


class SupervisedEngine:
    """An engine that may die: `run` gives every row its outcome all the same. Threads may call it at the same time.

    make: picklable, returns the engine. The engine starts with the first batch, and not before.
    """

    def __init__(
        self, make: Callable[[], Engine], method: Literal["generate", "score"], title: str, faults: FaultsConfig
    ) -> None:
        self.make, self.method, self.title, self.faults = make, method, title, faults
        self.num_starts = 0
        self._turns = Turns()
        self._starting = threading.Lock()
        self._running: Exchange | None = None
        self._no_start: WrpoError | None = None
        self._is_closed = False

    def run(self, rows: Sequence[Any], counts: Counter[str] | None = None, rank: int = 0) -> list[Any]:
        """Return one outcome of the engine's method per row, in order; SetAside for a row that ends the engine.

        counts: what was counted for this batch is added to it, `engine_starts` and what the engine counts itself.
        When the engine ends with several batches in it, each of them is tried again alone, the lowest `rank` first.
        Raises ModelError when the engine cannot be started or ends on every row, and any WrpoError of the engine.
        """
        if not rows:
            return []
        attempt = functools.partial(self._attempt, Counter() if counts is None else counts)
        with self._turns.turn(rank) as turn:
            try:
                return attempt(rows)
            except BatchFailedError as failure:
                turn.be_alone()
                return run_isolated(rows, attempt, self.title, failure)

    def close(self) -> None:
        """Shut the engine down for good; nothing of it is left when this returns."""
        self._is_closed = True
        if self._running is not None:
            self._running.close()

    def _attempt(self, counts: Counter[str], rows: Sequence[Any]) -> list[Any]:
        for _ in range(_MOST_GONE):
            try:
                outcomes, counted = self._engine(counts).answer(rows)
            except EngineGoneError:
                continue
            counts.update(counted)
            require_one_each(outcomes, rows, self.title)
            return outcomes
        raise ModelError(
            f"{self.title}: the engine started and ended {_MOST_GONE} times in a row before it took any rows",
            code="WRPO-E001",
            help="the Ray logs of the replica hold the whole output; check the model's path, dtype and memory",
        )

    def _engine(self, counts: Counter[str]) -> Exchange:
        """Return the running engine, started if need be; one that could not start is not tried again."""
        with self._starting:
            if self._is_closed:
                raise InterruptedRunError(f"{self.title}: the replica was told to end")
            if self._no_start is not None:
                raise self._no_start
            if self._running is None or self._running.has_ended():
                try:
                    self._running = Exchange(self._started(counts), self.faults.stall_timeout_s, self._warn)
                except WrpoError as error:
                    self._no_start = error
                    raise
            return self._running

    def _warn(self, why: str) -> None:
        log.warning("%s: engine start %d %s", self.title, self.num_starts, why)

    def _started(self, counts: Counter[str]) -> EngineProcess:
        """Start the engine, with a bounded number of tries; an error of ours cannot get better and is not tried again.

        A child that was just killed may hold its GPU memory for a moment longer, hence the pauses.
        """
        attempts = self.faults.engine_start_attempts
        for attempt in range(1, attempts + 1):
            self.num_starts += 1
            counts["engine_starts"] += 1
            process = EngineProcess(self.make, self.method)
            reason = self._wait_until_started(process)
            if reason is None:
                return process
            self._warn(f"failed: {reason}")
            process.kill()
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
                    self._warn(f"refused: {error}")
                    process.kill()
                    raise error
                case _:
                    return f"not ready after {self.faults.engine_start_timeout_s:g} s"
        except EngineDiedError as error:
            return str(error)

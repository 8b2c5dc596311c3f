"""Batches at work in one engine process: any thread hands one in and waits for its answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from wrpo_ray.engines.isolation import BatchFailedError
from wrpo_ray.engines.process import EngineDiedError, EngineProcess, Message
from wrpo_ray.errors import WrpoError

_LISTEN_S = 1.0
Answered = tuple[list[Any], dict[str, int]]
"""The outcomes of a batch, and what the engine counted for it."""


class EngineGoneError(Exception):
    """The engine had ended before the batch was handed in: nothing was tried."""


class Exchange:
    """A started engine; it ends, with every batch in it, when its process does or takes no step for too long.

    on_end: told why, once, unless `close` ended it.
    """

    def __init__(self, process: EngineProcess, stall_timeout_s: float, on_end: Callable[[str], None]) -> None:
        self._process, self._stall_timeout_s, self._on_end = process, stall_timeout_s, on_end
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Answered]] = {}
        self._num_given = 0
        self._heard_at = time.monotonic()
        self._has_ended = self._is_closing = False
        threading.Thread(target=self._listen, daemon=True).start()

    def answer(self, rows: Sequence[Any]) -> Answered:
        """Return what the engine makes of a batch.

        Raises BatchFailedError when the engine ends or the batch fails, any WrpoError of the engine, and
        EngineGoneError.
        """
        future: Future[Answered] = Future()
        with self._lock:
            if self._has_ended:
                raise EngineGoneError
            if not self._waiting:
                self._heard_at = time.monotonic()
            self._num_given += 1
            number = self._num_given
            self._waiting[number] = future
        self._process.send((number, list(rows)))
        return future.result()

    def has_ended(self) -> bool:
        """Tell whether no batch can be handed in any more."""
        return self._has_ended

    def close(self) -> None:
        """Shut the engine down, at once when a batch is in it; nothing of it is left when this returns."""
        self._is_closing = True
        if self._waiting:
            self._process.kill()
        self._process.close()

    def _listen(self) -> None:
        try:
            while not self._has_ended:
                self._hear(self._process.receive(min(_LISTEN_S, self._stall_timeout_s)))
        except EngineDiedError as error:
            self._end("engine_crash", str(error), "ended")
        finally:
            # Nobody may wait for an answer that no thread listens for.
            self._end("engine_crash", "the engine's supervisor failed", "was left alone")

    def _hear(self, message: Message | None) -> None:
        match message:
            case None:
                self._require_progress()
                return
            case ("done", number, outcomes, counts):
                self._take(number).set_result((outcomes, counts))
            case ("raised", number, error):
                self._take(number).set_exception(error)
            case ("raised", error):
                self._refuse_all(error)
            case ("failed", number, text):
                self._take(number).set_exception(BatchFailedError("engine_crash", self._process.reason(text)))
            case ("broken", text):
                self._end("engine_crash", self._process.reason(text), "cannot go on")
        self._heard_at = time.monotonic()

    def _require_progress(self) -> None:
        with self._lock:
            is_stalled = self._waiting and time.monotonic() - self._heard_at > self._stall_timeout_s
        if is_stalled:
            self._end("engine_timeout", f"no engine step ended for {self._stall_timeout_s:g} s", "hangs")

    def _take(self, number: int) -> Future[Answered]:
        with self._lock:
            return self._waiting.pop(number)

    def _end(self, code: str, error: str, what: str) -> None:
        waiting = self._nobody_waits()
        if waiting is None:
            return
        if not self._is_closing:
            self._on_end(f"{what} with {len(waiting)} batches in it: {error}")
        # Killed first: the next engine may need its memory.
        self._process.kill()
        for future in waiting:
            future.set_exception(BatchFailedError(code, error, in_company=len(waiting) > 1))

    def _refuse_all(self, error: WrpoError) -> None:
        waiting = self._nobody_waits()
        self._process.kill()
        for future in waiting or ():
            future.set_exception(error)

    def _nobody_waits(self) -> list[Future[Answered]] | None:
        """Let no batch in any more, and return those that wait; None when that was done before."""
        with self._lock:
            if self._has_ended:
                return None
            self._has_ended = True
            waiting, self._waiting = list(self._waiting.values()), {}
            return waiting

"""The loop of an engine that works on several batches at once, in the child process.

Batches are read and prepared (chat template, tokenizer) in a thread of their own while the engine works on the ones
before: it is never empty between two batches as long as the supervisor has handed in the next one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from wrpo_ray.engines.protocol import BatchDone, BatchRefused, StreamingEngine
from wrpo_ray.errors import WrpoError

log = logging.getLogger(__name__)
_Prepared = tuple[int, Any]


class Streaming:
    """Feeds one engine; `report` is called after each of its steps."""

    def __init__(self, engine: StreamingEngine, connection: Connection, report: Callable[[], None]) -> None:
        self.engine, self.connection, self.report = engine, connection, report
        self._inbox: SimpleQueue[_Prepared | None] = SimpleQueue()

    def run(self) -> None:
        """Answer batches until told to stop, or until the engine cannot go on."""
        threading.Thread(target=self._read, daemon=True).start()
        try:
            while self._take_in():
                for ended in self.engine.step():
                    self.connection.send(_message(ended))
                self.report()
        except WrpoError as error:
            self.connection.send(("raised", error))
        except Exception as error:
            # The border of a process: whatever an engine raises must reach the supervisor, it decides about the rows.
            log.exception("the engine failed")
            self.connection.send(("broken", f"{type(error).__name__}: {error}"))

    def _take_in(self) -> bool:
        """Give the engine what has arrived, or wait for something when it has nothing to do; False means stop."""
        while not self.engine.is_busy() or not self._inbox.empty():
            batch = self._inbox.get()
            if batch is None:
                return False
            number, prepared = batch
            if isinstance(prepared, WrpoError):
                raise prepared
            if isinstance(prepared, BatchRefused):
                self.connection.send(_message(prepared))
            else:
                self.engine.add(number, prepared)
        return True

    def _read(self) -> None:
        try:
            while (message := self.connection.recv()) is not None:
                number, rows = message
                self._inbox.put((number, self._prepared(number, rows)))
        except EOFError:
            log.info("the supervisor is gone")
        self._inbox.put(None)

    def _prepared(self, number: int, rows: Any) -> Any:
        try:
            return self.engine.prepared(rows)
        except WrpoError as error:
            return error
        except Exception as error:
            # See run; the batches that the engine works on are not concerned.
            log.exception("a batch of %d rows failed", len(rows))
            return BatchRefused(number, f"{type(error).__name__}: {error}")


def _message(ended: BatchDone | BatchRefused) -> tuple[Any, ...]:
    if isinstance(ended, BatchRefused):
        return ("failed", ended.number, ended.error)
    return ("done", ended.number, ended.outcomes, ended.counts)

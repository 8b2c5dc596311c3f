"""The process that an engine lives in; started by `engines.process`, and by nobody else.

It is told once how to make the engine, then gets numbered batches, several of them before the first is answered.
Messages to the supervisor are tuples: ("started",), ("progress",), ("done", number, outcomes, counts),
("raised", number, WrpoError), ("raised", WrpoError) for all batches, ("failed", number, error text),
("broken", error text) when the engine cannot go on.
An exception while the engine starts ends the process, so that its traceback is the last thing on stderr.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

from wrpo_ray.redaction import redact_logs

log = logging.getLogger(__name__)
# An engine step can take a millisecond; the supervisor need not hear of each.
_MIN_SECONDS_BETWEEN_REPORTS = 0.2


def main() -> None:
    """Serve the connection whose file descriptor is argv[1] while the pipe argv[2] stays open at its other end."""
    connection_fd, life_fd = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(connection_fd, False)
    _guard(connection_fd, life_fd)
    redact_logs()
    # Not closed before the process ends: the supervisor takes that for the end, and a traceback would still be to come.
    connection = Connection(connection_fd)
    serve(connection)


def _guard(connection_fd: int, life_fd: int) -> None:
    """Leave a process behind that kills this whole process group as soon as the supervisor is gone.

    A death signal (PR_SET_PDEATHSIG) would reach this process alone: vLLM's own processes would keep their GPUs.
    """
    if os.fork():
        os.close(life_fd)
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for descriptor in (0, 1, 2, connection_fd):
        os.close(descriptor)
    os.read(life_fd, 1)
    os.killpg(0, signal.SIGKILL)


def serve(connection: Connection) -> None:
    """Make the engine that the first message describes, then answer batches until told to stop."""
    from wrpo_ray.engines.protocol import StreamingEngine
    from wrpo_ray.engines.streaming import Streaming
    from wrpo_ray.errors import WrpoError

    make, method = connection.recv()
    try:
        engine = make()
    except WrpoError as error:
        connection.send(("raised", error))
        return
    connection.send(("started",))
    report = _Reporter(connection)
    if isinstance(engine, StreamingEngine):
        Streaming(engine, connection, report).run()
    else:
        _one_by_one(engine, method, connection, report)
    engine.close()


def _one_by_one(engine: Any, method: str, connection: Connection, report: _Reporter) -> None:
    """Answer each batch before the next is read; that one waits in the pipe, so the engine need not wait for it."""
    try:
        while (message := connection.recv()) is not None:
            number, rows = message
            answer = _answer(engine, method, number, rows, report)
            connection.send(answer)
            if answer[0] == "broken":
                return
    except EOFError:
        log.info("the supervisor is gone")


def _answer(engine: Any, method: str, number: int, rows: Any, report: _Reporter) -> tuple[Any, ...]:
    from wrpo_ray.errors import WrpoError

    try:
        outcomes = getattr(engine, method)(rows, report)
        # See protocol.CountingEngine.
        return ("done", number, outcomes, getattr(engine, "take_counts", dict)())
    except WrpoError as error:
        return ("raised", number, error)
    except Exception as error:
        # The border of a process: whatever an engine raises must reach the supervisor, which decides about the rows.
        log.exception("a batch of %d rows failed", len(rows))
        text = f"{type(error).__name__}: {error}"
        return ("failed", number, text) if engine.is_usable() else ("broken", text)


class _Reporter:
    """Tells the supervisor that the engine is at work."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.last = connection, 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.last >= _MIN_SECONDS_BETWEEN_REPORTS:
            self.last = now
            self.connection.send(("progress",))


if __name__ == "__main__":
    main()

"""SIGTERM and SIGINT: one line, then the end with exit code 7, soon, whatever the main thread is doing.

Nothing is saved or committed on the way out: a run that is told to stop and one that is killed leave the same files,
and the same command goes on from them. `ray job stop` sends SIGKILL 3 seconds after SIGTERM, so all must be over by
then (ray: dashboard/modules/job/job_supervisor.py, RAY_JOB_STOP_WAIT_TIME_S).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

from wrpo_ray.errors import InterruptedRunError, WrpoError

log = logging.getLogger(__name__)

GRACE_S = 1.5
"""From the first signal to the end that is forced; a large process takes up to a second more on a busy machine."""
# `timeout` and some shells send one signal to the process and to its group: that is one wish, not two.
_SAME_WISH_S = 0.25
_FLUSH_S = 0.2
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HELP = "the same command goes on where it stopped"


class _Stop(KeyboardInterrupt):
    """Raised in the main thread. Ray waits in C++ and lets only KeyboardInterrupt and SystemExit through."""


@dataclass
class _Watch:
    """What one `interruptible` block knows; read by the watchdog's thread."""

    reason: WrpoError | None = None
    first_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)
    said: threading.Event = field(default_factory=threading.Event)

    def note(self, reason: WrpoError) -> bool:
        """Keep the first reason; tell whether the process must end at once."""
        with self.lock:
            if self.reason is not None:
                return time.monotonic() - self.first_at > _SAME_WISH_S
            self.reason, self.first_at = reason, time.monotonic()
        threading.Thread(target=_end_after_grace, args=(reason,), name="wrpo-end", daemon=True).start()
        threading.Thread(target=_say, args=(f"{reason.message}; {reason.help}", self.said), daemon=True).start()
        return False


_current: _Watch | None = None


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGINT in the body into InterruptedRunError; only in the main thread, else it does nothing.

    From the first signal on the process ends within GRACE_S with exit code 7, even when the main thread hangs in C code
    or in its clean-up; a second signal ends it at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _current
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    outer, watch = _current, _Watch()
    _current = watch
    # Signal numbers arrive here from C, so it does not matter that ray.init and Ray Train replace Python's handlers,
    # nor whether the main thread ever gets to run one.
    old_descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    old_handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    rearm()
    threading.Thread(target=_listen, args=(reader, watch), name="wrpo-signals", daemon=True).start()
    try:
        yield
    except BaseException:
        # A library may have made something else of the interruption, and may have done so before the watchdog knew.
        _wait_for_reason(watch)
        raise
    finally:
        _current = outer
        signal.set_wakeup_fd(old_descriptor)
        os.close(writer)
        for number, handler in old_handlers.items():
            # The process is on its way out with its own exit code; one more signal must not give it another one.
            signal.signal(number, handler if watch.reason is None else signal.SIG_IGN)
        if watch.reason is not None:
            # Whoever catches this may be the end of the process, and of the thread that tells.
            watch.said.wait(_SAME_WISH_S)
            raise watch.reason


def rearm() -> None:
    """Take the signals back from whoever took them; to be called after ray.init, which replaces the handlers.

    Without it all still ends in time, but Ray's C++ handler prints a stack trace on SIGTERM.
    """
    if _current is not None and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, _raise_stop)


def stop(reason: WrpoError) -> None:
    """End the run for another reason than a signal, from any thread: `interruptible` raises `reason` in its place.

    Does nothing outside of `interruptible`.
    """
    watch = _current
    if watch is not None:
        watch.note(reason)
        os.kill(os.getpid(), signal.SIGINT)


def _raise_stop(number: int, frame: FrameType | None) -> None:
    raise _Stop


def _wait_for_reason(watch: _Watch) -> None:
    """The main thread may be faster than the watchdog."""
    deadline = time.monotonic() + _SAME_WISH_S
    while watch.reason is None and time.monotonic() < deadline:
        time.sleep(0.005)


def _listen(reader: int, watch: _Watch) -> None:
    with os.fdopen(reader, "rb", buffering=0) as stream:
        while arrived := stream.read(1):
            number = arrived[0]
            if number in _SIGNALS and watch.note(_interrupted(signal.Signals(number).name)):
                _end(watch.reason)


def _interrupted(name: str) -> InterruptedRunError:
    return InterruptedRunError(f"interrupted by {name}", help=_HELP)


def _end_after_grace(reason: WrpoError) -> None:
    time.sleep(GRACE_S)
    _end(reason)


def _end(reason: WrpoError | None) -> None:
    flush = threading.Thread(target=_flush, daemon=True)
    flush.start()
    flush.join(_FLUSH_S)
    os._exit(reason.exit_code if reason else InterruptedRunError.exit_code)


def _flush() -> None:
    """In a thread of its own, since the main thread may hold the streams' locks."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def _say(line: str, said: threading.Event) -> None:
    with suppress(OSError):
        os.write(2, f"{line}\n".encode("utf-8", "replace"))
    said.set()

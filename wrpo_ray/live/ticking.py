"""Something that is done again and again in a thread of its own while a body runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wrpo_ray.live.guard import Guard

# A body that is interrupted has interrupts.GRACE_S, 1.5 seconds, in all until its process ends.
_JOIN_S = 0.7


@contextmanager
def every(seconds: float, tick: Callable[[], None], name: str) -> Iterator[None]:
    """Call `tick` each so many seconds while the body runs; an error in it ends the calls and not the body."""
    stopped, guard = threading.Event(), Guard(f"what the thread {name} does")

    def loop() -> None:
        while not guard.has_failed and not stopped.wait(seconds):
            with guard:
                tick()

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(_JOIN_S)

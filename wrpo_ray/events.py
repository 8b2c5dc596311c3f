"""What a run tells of itself while it works: events of its steps, for whoever shows, counts or schedules by them.

Listener and step name are context variables: a thread that works on a step is started in a copy of the context, so
nothing has to be handed through the functions in between, and two runs in one process do not hear each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class StepBegan:
    """A step that is not complete is about to be made."""


@dataclass(frozen=True)
class WorkBegan:
    """A step that is cut into shards knows its work: rows in all, rows that are committed already, shards to do."""

    num_rows: int
    num_rows_done: int
    num_shards: int


@dataclass(frozen=True)
class ReplicasChanged:
    """So many replicas of the step's engine hold their resources now; `num_gpus` is what all of them hold."""

    num_replicas: int
    num_gpus: float


@dataclass(frozen=True)
class ShardDone:
    """A shard is committed: its rows, the tokens that were drawn for it (0 where none are), and how long it took."""

    num_rows: int
    num_tokens: int
    seconds: float


@dataclass(frozen=True)
class StepEnded:
    """A step is made, `seconds` after it began; its manifest is not written yet."""

    seconds: float


Event = StepBegan | WorkBegan | ReplicasChanged | ShardDone | StepEnded
Listener = Callable[[str, Event], None]
"""Gets the step's name and the event, in the thread that works on the step: it must be quick and thread-safe."""

_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
_step: ContextVar[str] = ContextVar("step", default="")


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener` hear every event that is emitted in the body, besides those who listen already."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


@contextmanager
def within(step: str) -> Iterator[None]:
    """Say in the body that its events are of `step`."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def emit(event: Event) -> None:
    """Tell all listeners; outside of a step, or when nobody listens, it does nothing."""
    step = _step.get()
    if step:
        for listener in _listeners.get():
            listener(step, event)

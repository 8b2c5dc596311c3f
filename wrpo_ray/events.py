"""What a run tells of itself while it works: events of its steps, for whoever shows, counts or schedules by them.

Listener and step name are context variables: a thread that works on a step is started in a copy of the context, so
nothing has to be handed through the functions in between, and two runs in one process do not hear each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepsChosen:
    """The run is about to work through these steps, in this order; told again when it goes on without a source.

    It is the one event of no step. plan: what `planning.against.plan_record` stores. broken_sources: left out so far.
    fingerprints: of the steps, by name; a step whose fingerprint has changed is made again.
    """

    steps: tuple[str, ...]
    broken_sources: tuple[str, ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StepFound:
    """A step is complete already: an earlier start, or another run, took `seconds` for it."""

    seconds: float


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
    """A shard is committed: its rows, the tokens that were drawn for it (0 where none are), and how long it took.

    set_aside: how many of the rows got which code; they are among `num_rows`.
    """

    num_rows: int
    num_tokens: int
    seconds: float
    set_aside: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingAt:
    """Training has logged optimizer step `step` of `num_steps`; `metrics` are those of that step.

    num_tokens: that were trained on since the last such event; steps that are not logged count like the next one.
    """

    step: int
    num_steps: int
    num_tokens: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class StepEnded:
    """A step is made, `seconds` after it began; its manifest is not written yet."""

    seconds: float


Event = StepsChosen | StepFound | StepBegan | WorkBegan | ReplicasChanged | ShardDone | TrainingAt | StepEnded
Listener = Callable[[str, Event], None]
"""Gets the step's name ("" for an event of the run) and the event, in the thread that works on the step.

It must be quick and thread-safe, and pass over events that it does not know. What it raises, the step raises.
"""

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


def heard() -> bool:
    """Tell whether anybody listens here."""
    return bool(_listeners.get())


def announce(event: StepsChosen) -> None:
    """Tell all listeners of something that is no single step's."""
    for listener in _listeners.get():
        listener("", event)


def emit(event: Event) -> None:
    """Tell all listeners; outside of a step, or when nobody listens, it does nothing."""
    step = _step.get()
    if step:
        for listener in _listeners.get():
            listener(step, event)

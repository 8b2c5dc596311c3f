"""The state of a run that is at work, fed by its events; thread-safe, and without any clock of its own."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wrpo_ray.config import PricesConfig
from wrpo_ray.events import (
    Event,
    ReplicasChanged,
    ShardDone,
    StepBegan,
    StepEnded,
    StepFound,
    StepsChosen,
    TrainingAt,
    WorkBegan,
)
from wrpo_ray.live.holding import CPU, Holding
from wrpo_ray.live.pace import Pace
from wrpo_ray.live.price import price_so_far
from wrpo_ray.live.remaining import Stages, planned_stages, time_left
from wrpo_ray.live.view import Phase, RunView, StepView
from wrpo_ray.steps import is_meant


@dataclass
class _Step:
    name: str
    holding: Holding | None
    fingerprint: str | None = None
    phase: Phase = "waiting"
    began_at: float | None = None
    seconds: float | None = None
    rows_all: int | None = None
    rows_before: int = 0
    rows: int = 0
    tokens: int = 0
    replicas: int = 0
    most_replicas: int = 0
    units: float = 0.0
    unit_seconds: float = 0.0
    counted_at: float = 0.0
    pace: Pace | None = None
    set_aside: Counter[str] = field(default_factory=Counter)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def choose(self, now: float, fingerprint: str | None) -> None:
        """Keep the step; under another fingerprint it is made again, and what this start has done of it stays counted.

        fingerprint: None when it is not told.
        """
        if None not in (fingerprint, self.fingerprint) and fingerprint != self.fingerprint:
            self.hold(now, 0)
            # None of its rows are done, and those that were made are this start's work all the same.
            self.phase, self.began_at, self.seconds, self.rows_before = "waiting", None, None, -self.rows
            self.pace, self.metrics = None, {}
        self.fingerprint = fingerprint or self.fingerprint

    def hold(self, now: float, replicas: int, num_gpus: float | None = None) -> None:
        """Count what was held until now, and hold this from now on; num_gpus: what the event told, if it told."""
        self.unit_seconds += self.units * (now - self.counted_at)
        self.counted_at, self.replicas = now, replicas
        self.most_replicas = max(replicas, self.most_replicas)
        if self.holding is None:
            self.units = 0.0
        elif self.holding.accelerator == CPU or num_gpus is None:
            self.units = replicas * self.holding.units
        else:
            self.units = num_gpus


class LiveRun:
    """Hears a run's events (`wrpo_ray.events.listening`) and tells what they come to.

    holding: see live.holding.holdings. clock: monotonic seconds. only: what alone is to be made, see steps.is_meant.
    heard: called after every event that begins or ends a step, with its state; it must be quick.
    """

    def __init__(
        self,
        run: str,
        prices: PricesConfig,
        holding: Callable[[str], Holding | None],
        clock: Callable[[], float],
        only: str | None = None,
        heard: Callable[[Event, StepView], None] = lambda event, step: None,
    ) -> None:
        self.run, self.prices, self.only, self.heard = run, prices, only, heard
        self._holding, self._clock = holding, clock
        self._lock = threading.Lock()
        self._began_at = clock()
        self._steps: dict[str, _Step] = {}
        self._broken: tuple[str, ...] = ()
        self._plan: Mapping[str, Any] = {}
        self._stages: Stages = {}

    def __call__(self, name: str, event: Event) -> None:
        """Take an event of the step called `name` in."""
        with self._lock:
            now = self._clock()
            if isinstance(event, StepsChosen):
                self._choose(event, now)
                return
            step = self._steps.get(name) or self._new(name)
            _take(step, event, now)
            told = _shown(step, now) if isinstance(event, StepBegan | WorkBegan | StepEnded) else None
        if told is not None:
            self.heard(event, told)

    def view(self) -> RunView:
        """Return all that is known now."""
        with self._lock:
            now = self._clock()
            steps = tuple(_shown(step, now) for step in self._steps.values())
            plan, stages, broken = self._plan, self._stages, self._broken
        held: Counter[str] = Counter()
        for step in steps:
            if step.holding is not None:
                held[step.holding.accelerator] += step.unit_seconds  # pyright: ignore[reportArgumentType]
        return RunView(
            self.run, now - self._began_at, steps, dict(held), price_so_far(self.prices, steps, held, stages),
            time_left(steps, plan, stages), broken,
        )  # fmt: skip

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan that the run stored when it started; empty before that."""
        return self._plan

    def _new(self, name: str) -> _Step:
        return self._steps.setdefault(name, _Step(name, self._holding(name)))

    def _choose(self, event: StepsChosen, now: float) -> None:
        names = [name for name in event.steps if self.only is None or is_meant(name, self.only)]
        known, self._steps = self._steps, {}
        for name in names:
            self._steps[name] = known.pop(name, None) or _Step(name, self._holding(name))
            self._steps[name].choose(now, event.fingerprints.get(name))
        # What is chosen no more belongs to a source that the run goes on without.
        for name, step in known.items():
            step.hold(now, 0)
            step.phase = "left out"
            self._steps[name] = step
        self._broken, self._plan, self._stages = event.broken_sources, event.plan, planned_stages(event.plan)


def _take(step: _Step, event: Event, now: float) -> None:
    match event:
        case ShardDone():
            step.rows += event.num_rows
            step.tokens += event.num_tokens
            step.set_aside.update(event.set_aside)
            step.pace = step.pace or Pace(now)
            step.pace.add(now, event.num_rows, event.num_tokens, event.seconds)
        case ReplicasChanged():
            step.hold(now, event.num_replicas, event.num_gpus)
        case TrainingAt():
            _train(step, event, now)
        case WorkBegan():
            # Of a step that is tried again, this start may have done some rows itself; of one that is made anew, all of
            # them for nothing, and the difference is negative.
            step.rows_all, step.rows_before = event.num_rows, event.num_rows_done - step.rows
            step.pace = Pace(now)
        case StepBegan():
            step.phase, step.began_at, step.pace = "running", now, None
            workers = step.holding.num_workers if step.holding is not None else None
            step.hold(now, workers or 0)
        case StepEnded():
            step.hold(now, 0)
            step.phase, step.seconds = "done", event.seconds
        case StepFound() if step.phase != "done":
            step.phase, step.seconds = "complete before", event.seconds
        case _:
            pass


def _train(step: _Step, event: TrainingAt, now: float) -> None:
    """The first that is heard is what earlier starts have done."""
    if step.pace is None:
        step.pace, step.rows_before, step.rows = Pace(now), event.step, 0
    elif (steps := event.step - step.rows_before - step.rows) > 0:
        if step.rows:
            step.pace.add(now, steps, event.num_tokens)
        else:
            # Until then the workers were starting.
            step.pace = Pace(now)
        step.rows += steps
        step.tokens += event.num_tokens
    elif steps < 0:
        # Training went back to a checkpoint: what is made again is work of this start too.
        step.rows_before += steps
    step.rows_all, step.metrics = event.num_steps, event.metrics


def _shown(step: _Step, now: float) -> StepView:
    rates = _rates(step, now)
    running_s = now - step.began_at if step.began_at is not None else None
    return StepView(
        name=step.name,
        phase=step.phase,
        holding=step.holding,
        seconds=running_s if step.phase == "running" else step.seconds,
        rows_all=step.rows_all,
        rows_done=step.rows_before + step.rows,
        rows=step.rows,
        tokens=step.tokens,
        rows_per_s=rates[0] if rates else None,
        tokens_per_s=rates[1] if rates and rates[1] else None,
        replicas=step.replicas,
        units=step.units,
        unit_seconds=step.unit_seconds + step.units * (now - step.counted_at),
        most_replicas=step.most_replicas,
        set_aside=dict(step.set_aside),
        metrics=step.metrics,
    )


def _rates(step: _Step, now: float) -> tuple[float, float] | None:
    """Return rows and tokens per second; before each replica has delivered something nobody knows all of their pace."""
    if step.pace is None or step.phase != "running":
        return None
    trains = step.holding is not None and step.holding.num_workers is not None
    return step.pace.rates(now) if trains or step.pace.arrivals >= step.replicas else None

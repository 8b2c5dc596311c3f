"""What is known of a run at one moment: plain values, for whoever shows or exports them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wrpo_ray.live.holding import CPU, Holding

Phase = Literal["waiting", "running", "done", "complete before", "left out"]
HOUR_S = 3600.0


@dataclass(frozen=True)
class StepView:
    """One step. Rows, tokens and unit-seconds are of this start of the run, `rows_done` of all of its starts.

    rows: of training optimizer steps, `metrics` are those of the last one that was logged. units: accelerators (or CPU
    cores) held now; unit_seconds: their integral. share: of this start's work, 0 to 1, None when not known.
    """

    name: str
    phase: Phase
    holding: Holding | None = None
    seconds: float | None = None
    rows_all: int | None = None
    rows_done: int = 0
    rows: int = 0
    tokens: int = 0
    rows_per_s: float | None = None
    tokens_per_s: float | None = None
    replicas: int = 0
    units: float = 0.0
    unit_seconds: float = 0.0
    most_replicas: int = 0
    set_aside: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def unfinished(self) -> bool:
        """Tell whether the run still has to work on it."""
        return self.phase in ("waiting", "running")

    @property
    def share(self) -> float | None:
        """Share of the step that is done, by whichever start."""
        if not self.unfinished:
            return 1.0
        return self.rows_done / self.rows_all if self.rows_all else None

    @property
    def left_s(self) -> float | None:
        """Seconds to go at the present pace; None when there is none."""
        if self.rows_all is None or not self.rows_per_s:
            return None
        return max(0, self.rows_all - self.rows_done) / self.rows_per_s


@dataclass(frozen=True)
class TimeLeft:
    """Seconds to the end of the run; None when not known, and `unknown` says why.

    measured: something of this start went into it; else it is the plan's alone.
    """

    seconds: float | None
    measured: bool = False
    unknown: str | None = None


@dataclass(frozen=True)
class Price:
    """What was held and drawn so far costs; `without`: what has no price in the config and is not in the amount."""

    amount: float
    currency: str
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunView:
    """A run at one moment. unit_seconds: held so far by accelerator type, CPU cores where a step has no GPU."""

    run: str
    seconds: float
    steps: tuple[StepView, ...]
    unit_seconds: Mapping[str, float]
    price: Price
    time_left: TimeLeft
    broken_sources: tuple[str, ...] = ()

    def count(self, *phases: Phase) -> int:
        """Return how many steps are in one of these phases."""
        return sum(step.phase in phases for step in self.steps)

    @property
    def gpu_hours(self) -> float:
        """Held so far, of all types."""
        return sum(seconds for name, seconds in self.unit_seconds.items() if name != CPU) / HOUR_S

    @property
    def cpu_hours(self) -> float:
        """Core-hours that steps without a GPU held so far."""
        return self.unit_seconds.get(CPU, 0.0) / HOUR_S

    def held(self, *, gpus: bool) -> float:
        """Return the GPUs, or the CPU cores of steps without one, that are held now."""
        return sum(
            step.units for step in self.steps if step.holding is not None and (step.holding.accelerator != CPU) == gpus
        )

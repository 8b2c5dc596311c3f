"""Jobs on accelerators over time: longest first, as many side by side as fit, and whatever is free joins in.

A list schedule, after Graham, "Bounds on Multiprocessing Timing Anomalies", 1969. Whenever something is free, every
job that may begin does so with as few replicas as it takes, those with the longest way to the end first. What is left
then goes as further replicas to running jobs, to whichever would end last, if they work for longer than they take to
start. Nothing is ever moved or stopped early.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# Fractions of accelerators do not add up exactly.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Job:
    """Work that one or more equal replicas share.

    gpus_per_replica: accelerators of the type, a fraction of one included. gpu_seconds: work, over all accelerators.
    start_s: what each replica takes before it works. after: names of jobs that must have ended.
    """

    name: str
    accelerator: str
    gpus_per_replica: float
    gpu_seconds: float
    max_replicas: int = 1
    min_replicas: int = 1
    start_s: float = 0.0
    after: tuple[str, ...] = ()

    @property
    def longest_s(self) -> float:
        """Duration with the fewest replicas."""
        return self.start_s + self.gpu_seconds / (self.gpus_per_replica * self.min_replicas)


@dataclass(frozen=True)
class Placement:
    """One replica of a job: it holds so many accelerators from start to end, in seconds from the beginning."""

    job: str
    replica: int
    accelerator: str
    gpus: float
    start_s: float
    end_s: float


class CannotPlaceError(ValueError):
    """A job asks for more than the whole cluster has of its accelerator type."""

    def __init__(self, job: Job, available: float) -> None:
        self.job, self.available = job, available
        self.needed = job.gpus_per_replica * job.min_replicas
        super().__init__(f"{job.name} needs {self.needed:g} {job.accelerator}, the cluster has {available:g}")


@dataclass
class _Running:
    """A job under way; `remaining` accelerator-seconds were left at the time `counted_s`."""

    job: Job
    remaining: float
    counted_s: float
    starts_s: list[float] = field(default_factory=list)

    @property
    def gpus(self) -> float:
        return self.job.gpus_per_replica * len(self.starts_s)

    def count(self, now_s: float) -> None:
        """Take off what was done until now."""
        for start_s in self.starts_s:
            begun = max(self.counted_s, start_s + self.job.start_s)
            self.remaining -= max(0.0, now_s - begun) * self.job.gpus_per_replica
        self.remaining, self.counted_s = max(0.0, self.remaining), now_s

    def end_s(self, further: Sequence[float] = ()) -> float:
        """Return when the job ends, with `further` replicas that begin at these times."""
        ready = [start + self.job.start_s for start in (*self.starts_s, *further)]
        return end_of_work_s(self.remaining, self.job.gpus_per_replica, self.counted_s, ready)


def end_of_work_s(left: float, speed: float, now_s: float, ready_s: Iterable[float]) -> float:
    """Return when `left` work is done by workers of this speed, each of which works from its time in `ready_s` on."""
    ready = sorted(max(now_s, ready) for ready in ready_s)
    now_s = ready[0]
    for number, until_s in enumerate((*ready[1:], math.inf), start=1):
        if left <= (until_s - now_s) * number * speed:
            return now_s + left / (number * speed)
        left, now_s = left - (until_s - now_s) * number * speed, until_s
    raise AssertionError("the last stretch has no end")


class _Scheduler:
    def __init__(self, jobs: Sequence[Job], cluster: Mapping[str, float]) -> None:
        self.free = dict(cluster)
        self.waiting = sorted(jobs, key=_by_length(jobs))
        self.running: list[_Running] = []
        self.done: set[str] = set()
        self.placements: list[Placement] = []

    def run(self) -> list[Placement]:
        now_s = 0.0
        while True:
            self._begin(now_s)
            self._grow(now_s)
            if not self.running:
                return self.placements
            now_s = min(running.end_s() for running in self.running)
            self._end(now_s)

    def _begin(self, now_s: float) -> None:
        for job in [job for job in self.waiting if self.done.issuperset(job.after)]:
            if self._fits(job, job.min_replicas):
                self._take(job, job.min_replicas)
                self.waiting.remove(job)
                self.running.append(_Running(job, job.gpu_seconds, now_s, [now_s] * job.min_replicas))

    def _grow(self, now_s: float) -> None:
        while True:
            ends = {id(each): each.end_s() for each in self.running}
            growing = [each for each in self.running if self._may_grow(each, now_s)]
            if not growing:
                return
            last = max(growing, key=lambda each: ends[id(each)])
            self._take(last.job, 1)
            last.starts_s.append(now_s)

    def _may_grow(self, running: _Running, now_s: float) -> bool:
        """A further replica must work for longer than it takes to start."""
        job = running.job
        if len(running.starts_s) >= job.max_replicas or not self._fits(job, 1):
            return False
        end_s = running.end_s([now_s])
        return end_s < running.end_s() and end_s - now_s > 2 * job.start_s

    def _fits(self, job: Job, replicas: int) -> bool:
        return job.gpus_per_replica * replicas <= self.free[job.accelerator] + _ROUNDING

    def _take(self, job: Job, replicas: int) -> None:
        self.free[job.accelerator] -= job.gpus_per_replica * replicas

    def _end(self, now_s: float) -> None:
        is_over = [each.end_s() <= now_s for each in self.running]
        over = [each for each, ends in zip(self.running, is_over, strict=True) if ends]
        self.running = [each for each, ends in zip(self.running, is_over, strict=True) if not ends]
        for each in self.running:
            each.count(now_s)
        for each in over:
            self.done.add(each.job.name)
            self.free[each.job.accelerator] += each.gpus
            self.placements += [
                Placement(each.job.name, number, each.job.accelerator, each.job.gpus_per_replica, start_s, now_s)
                for number, start_s in enumerate(each.starts_s)
            ]


def schedule(jobs: Sequence[Job], cluster: Mapping[str, float]) -> list[Placement]:
    """Return who holds what when, in the order of ends.

    cluster: accelerators by type. Raises CannotPlaceError for a job that never fits, ValueError when two jobs share a
    name, or when jobs wait for unknown jobs or for each other.
    """
    _check(jobs, cluster)
    return _Scheduler(jobs, cluster).run()


def makespan_s(placements: Iterable[Placement]) -> float:
    """Return when all is done."""
    return max((placement.end_s for placement in placements), default=0.0)


def _check(jobs: Sequence[Job], cluster: Mapping[str, float]) -> None:
    names = {job.name for job in jobs}
    if len(names) != len(jobs):
        raise ValueError("two jobs share a name")
    for job in jobs:
        if job.gpus_per_replica <= 0 or not 1 <= job.min_replicas <= job.max_replicas:
            raise ValueError(f"{job.name}: gpus_per_replica must be above 0, and 1 <= min_replicas <= max_replicas")
        available = cluster.get(job.accelerator, 0.0)
        if job.gpus_per_replica * job.min_replicas > available + _ROUNDING:
            raise CannotPlaceError(job, available)
        if unknown := set(job.after) - names:
            raise ValueError(f"{job.name} waits for {', '.join(sorted(unknown))}, which is no job")


def _by_length(jobs: Sequence[Job]) -> Callable[[Job], tuple[float, int]]:
    """Return the sort key that puts the job with the longest way to the end of everything first."""
    to_the_end = ways_to_the_end(jobs)
    order = {job.name: number for number, job in enumerate(jobs)}
    return lambda job: (-to_the_end[job.name], order[job.name])


def ways_to_the_end(jobs: Sequence[Job]) -> dict[str, float]:
    """Return for each job its own duration and the longest chain of jobs that wait for it."""
    followers: dict[str, list[Job]] = {job.name: [] for job in jobs}
    for job in jobs:
        for name in job.after:
            followers[name].append(job)
    ways: dict[str, float] = {}
    left = list(jobs)
    while left:
        known = [job for job in left if all(after.name in ways for after in followers[job.name])]
        if not known:
            raise ValueError(f"jobs wait for each other: {', '.join(job.name for job in left)}")
        for job in known:
            ways[job.name] = job.longest_s + max((ways[after.name] for after in followers[job.name]), default=0.0)
        left = [job for job in left if job.name not in ways]
    return ways

"""What a step takes from the cluster while it works, and what it has been given of it so far.

The scheduler gives, the pool of a step starts as many replicas as it has been given places and tells what it holds.
The grant is a context variable: nothing has to be handed through the functions in between, and a step that is called
without a scheduler finds none and takes all that its config asks for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from wrpo_ray.config import ResourcesConfig, RewardConfig, TrainConfig, VerifierRewardConfig

# A rule costs next to nothing; it must not wait for a whole CPU beside an engine.
VERIFIER_RESOURCES = ResourcesConfig(num_cpus=0.5)


@dataclass(frozen=True)
class Claim:
    """Between `fewest` and `most` equal parts of the cluster; each lies on one node, or on `num_nodes` of them evenly.

    num_cpus, num_gpus: of one part, over all of its nodes. Fractions of one GPU are allowed.
    """

    num_cpus: float
    num_gpus: float = 0.0
    accelerator_type: str | None = None
    fewest: int = 1
    most: int = 1
    num_nodes: int = 1


def engine_claim(resources: ResourcesConfig) -> Claim:
    """Return the claim of a pool of engines: one replica will do, more of them join in."""
    return Claim(
        resources.num_cpus,
        resources.num_gpus,
        resources.accelerator_type,
        most=resources.num_replicas,
        num_nodes=resources.num_nodes,
    )


def scoring_resources(reward: RewardConfig) -> ResourcesConfig:
    """Return what one replica of the reward model takes."""
    return VERIFIER_RESOURCES if isinstance(reward, VerifierRewardConfig) else reward.resources


def scoring_claim(reward: RewardConfig) -> Claim:
    """Return the claim of the reward model's pool."""
    return engine_claim(scoring_resources(reward))


def training_claim(train: TrainConfig) -> Claim:
    """Return the claim of a worker group: all of its workers at once."""
    workers = train.num_workers
    num_gpus = float(train.num_gpus_per_worker)
    return Claim(train.num_cpus_per_worker, num_gpus, train.accelerator_type, fewest=workers, most=workers)


Place = tuple[str, ...]
"""The nodes of one part, by their ids; none where Ray shall choose."""
EXPECTED = "expected "
"""Ids that begin so are of nodes that an autoscaler may still add; nothing can be sent there by name."""


class StepStoppedError(Exception):
    """The step is given up because the run ends, or goes on without it; what it has committed stays."""


NOTHING = Claim(num_cpus=0.0)
"""Of a step that works in the driver alone."""

PARTS = Claim(num_cpus=0.5)
"""Of a step that is made by tasks (data.parts): they run where room is left, one after the other at worst."""


@dataclass
class Grant:
    """What one running step has of the cluster. Thread-safe: the scheduler gives, the pool starts and ends parts.

    changed: called, in the pool's thread, when room has become free or the work that is left is known better.
    """

    claim: Claim
    changed: Callable[[], None] = lambda: None
    _given: list[Place] = field(default_factory=list)
    _held: list[Place] = field(default_factory=list)
    _useful: int | None = None
    _share_at_start: float = 1.0
    _share_left: float | None = None
    _is_stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def give(self, places: Sequence[Place]) -> None:
        """Let the step start one more part on each of these places."""
        with self._lock:
            self._given += places

    def num_to_start(self) -> int:
        """Return how many parts the step may start now."""
        with self._lock:
            return len(self._given)

    def start(self) -> Place:
        """Return where the next part belongs, anywhere when no place was given; it counts as held from now on."""
        with self._lock:
            place = self._given.pop(0) if self._given else ()
            self._held.append(place)
            return place

    def holds(self, places: Sequence[Place]) -> None:
        """Note which parts the step has; what it had besides is free."""
        with self._lock:
            is_news = sorted(places) != sorted(self._held)
            self._held = list(places)
        if is_news:
            self.changed()

    def limit(self, useful: int) -> None:
        """Note that no more than `useful` parts have something to do; places that were given beyond that are free."""
        with self._lock:
            is_news = useful != self._useful
            self._useful = useful
            del self._given[max(0, useful - len(self._held)) :]
        if is_news:
            self.changed()

    def progress(self, share_left: float) -> None:
        """Note which share of the step's work is left; the first time, before any is done here."""
        with self._lock:
            if self._share_left is None:
                self._share_at_start = share_left
            self._share_left = share_left

    def stop(self) -> None:
        """Ask the step to stop: soon after, its pool ends and StepStoppedError is raised in the step."""
        with self._lock:
            self._is_stopped = True

    @property
    def is_stopped(self) -> bool:
        """Whether the step shall stop."""
        return self._is_stopped

    def raise_if_stopped(self) -> None:
        """Raise StepStoppedError when the step shall stop."""
        if self._is_stopped:
            raise StepStoppedError

    @property
    def places(self) -> list[Place]:
        """All places that are taken, started or not."""
        with self._lock:
            return [*self._held, *self._given]

    @property
    def useful(self) -> int:
        """How many parts have something to do."""
        with self._lock:
            return self.claim.most if self._useful is None else min(self._useful, self.claim.most)

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of the step's work that were left at the start and are left now, 1 as long as nothing is known."""
        with self._lock:
            at_start = self._share_at_start
            return at_start, at_start if self._share_left is None else self._share_left


def whole_grant(claim: Claim) -> Grant:
    """Return a grant of all that is claimed, anywhere: what a step has that nobody schedules."""
    grant = Grant(claim)
    grant.give([()] * claim.most)
    return grant


_current: ContextVar[Grant | None] = ContextVar("grant", default=None)


def current_grant() -> Grant | None:
    """Return the grant of the step that is being worked on, or None without a scheduler."""
    return _current.get()


@contextmanager
def granted(grant: Grant | None) -> Iterator[None]:
    """Let the body work with `grant`."""
    token = _current.set(grant)
    try:
        yield
    finally:
        _current.reset(token)

"""The small records of a run folder, and what it means that one of them is damaged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from wrpo_ray.errors import StorageError
from wrpo_ray.storage import ledger
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import RunLayout
from wrpo_ray.submissions import submission_record

T = TypeVar("T")

PLAN = "plan.json"
# What a reader raises when a record is there and is not what was written; other errors are the store's own.
DAMAGE_CODES = frozenset({"WRPO-S010", "WRPO-S011", "WRPO-S019", "WRPO-S023", "WRPO-S030", "WRPO-S040"})
_SUBMISSION_NAME = re.compile(r"(\d{6,})\.json")


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written, or is not there: its URI and the reason."""

    path: str
    reason: str
    code: str


@dataclass(frozen=True)
class PlannedStep:
    """One step as a start of the run planned it; `inputs` are names of steps, `source` is the model that it is for.

    run: name of the other run that its result is read from, or None.
    """

    name: str
    fingerprint: str
    inputs: tuple[str, ...]
    source: str | None
    run: str | None = None


@dataclass(frozen=True)
class Submission:
    """One start of the run; the highest number is the present one, whatever the clocks say."""

    number: int
    epoch: int | None
    started_at: str
    steps: tuple[PlannedStep, ...]

    def layout(self, folder: Location) -> RunLayout:
        """Return where the steps of this start lie, for the run in `folder`."""
        return RunLayout(folder, {f"{step.name}/{step.fingerprint}": step.run for step in self.steps if step.run})


@dataclass(frozen=True)
class Plan:
    """How a step's items were cut into shards."""

    shard_sizes: tuple[int, ...]

    @property
    def num_items(self) -> int:
        return sum(self.shard_sizes)

    @property
    def num_shards(self) -> int:
        return len(self.shard_sizes)

    def size_of(self, number: int) -> int:
        """Return how many items shard `number` has; 0 when the plan has no such shard."""
        return self.shard_sizes[number] if number < self.num_shards else 0


def attempt(place: Location, read: Callable[[], T]) -> T | Damage:
    """Return what `read` returns, or what is wrong with the record at `place`; the store's own errors pass through."""
    try:
        return read()
    except StorageError as error:
        if error.code not in DAMAGE_CODES:
            raise
        return Damage(str(place), error.message.removeprefix(f"{place} "), error.code)


def read_plan(folder: Location) -> Plan:
    """Return a step's plan; raises FileNotFoundError, and StorageError when it is damaged."""
    return Plan(ledger.read_plan(folder).shard_sizes)


def submission_places(layout: RunLayout) -> list[tuple[int, Location]]:
    """Return number and place of every submission, newest first."""
    found = [(match, place) for place in layout.submissions.walk() if (match := _SUBMISSION_NAME.fullmatch(place.name))]
    return sorted(((int(match[1]), place) for match, place in found), key=lambda pair: -pair[0])


def read_submission(number: int, place: Location) -> Submission:
    """Return one submission; raises StorageError when it is damaged."""
    found = submission_record(place.read_sealed(), place)
    steps = tuple(PlannedStep(step.name, step.fingerprint, step.inputs, step.source, step.run) for step in found.steps)
    return Submission(number, found.epoch, found.started_at, steps)

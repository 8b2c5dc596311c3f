"""The small records of a run folder, and what it means that one of them is damaged."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import RunLayout

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
class BrokenSource:
    """A source that the run goes on without, and why."""

    source: str
    error: str
    code: str


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


def read_record(place: Location, parse: Callable[[Mapping[str, Any]], T]) -> T:
    """Return the parsed JSON record at `place`.

    Raises FileNotFoundError, and StorageError when it is not what was written.
    """
    raw = place.read_sealed()
    try:
        return parse(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{place} is not the record that was written: {type(error).__name__} {error}", code="WRPO-S030",
            help="wrpo-ray inspect RUN --repair",
        ) from error  # fmt: skip


def read_plan(folder: Location) -> Plan:
    """Return a step's plan; raises FileNotFoundError, and StorageError when it is damaged."""

    def parse(raw: Mapping[str, Any]) -> Plan:
        plan = Plan(tuple(int(size) for size in raw["shard_sizes"]))
        if plan.num_items != raw["num_items"] or min(plan.shard_sizes, default=0) < 0 or len(raw["items_sha256"]) != 64:
            raise ValueError("numbers out of range")
        return plan

    return read_record(folder / PLAN, parse)


def submission_places(layout: RunLayout) -> list[tuple[int, Location]]:
    """Return number and place of every submission, newest first."""
    found = [(match, place) for place in layout.submissions.walk() if (match := _SUBMISSION_NAME.fullmatch(place.name))]
    return sorted(((int(match[1]), place) for match, place in found), key=lambda pair: -pair[0])


def read_submission(number: int, place: Location) -> Submission:
    """Return one submission; raises StorageError when it is damaged."""

    def parse(raw: Mapping[str, Any]) -> Submission:
        steps = tuple(
            PlannedStep(step["name"], step["fingerprint"], tuple(step["inputs"]), step.get("source"), step.get("run"))
            for step in raw["steps"]
        )
        known: set[str] = set()
        for step in steps:
            if unknown := [name for name in step.inputs if name not in known]:
                raise ValueError(f"step {step.name} comes before its inputs {', '.join(unknown)}")
            known.add(step.name)
        return Submission(number, raw.get("epoch"), str(raw.get("started_at", "")), steps)

    return read_record(place, parse)


def read_broken_source(place: Location) -> BrokenSource:
    """Return one record of `broken_sources/`; raises StorageError when it is damaged."""
    return read_record(place, lambda raw: BrokenSource(raw["source"], str(raw["error"]), str(raw["code"])))

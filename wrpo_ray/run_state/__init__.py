"""The state of a run, read from its folder alone and never changed: steps, rows, quarantine, pace, owner, damage.

Everything here works for a finished, running, failed, empty and damaged run. No Ray, no torch.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from wrpo_ray.broken_sources import BrokenSource, read_broken_source
from wrpo_ray.errors import ConfigError
from wrpo_ray.failures import Failure, read_failures
from wrpo_ray.run_state.contents import Contents, commit_place, read_contents
from wrpo_ray.run_state.pace import METRICS, PROGRESS, Pace, Training, ledger_pace, training_pace, training_progress
from wrpo_ray.run_state.records import (
    Damage,
    PlannedStep,
    Submission,
    attempt,
    read_submission,
    submission_places,
)
from wrpo_ray.storage.lease_records import Holder, read_holder
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import RunLayout
from wrpo_ray.storage.owner import surely_dead

Phase = Literal["complete", "running", "partly done", "to do", "left out", "damaged"]
QUARANTINE = "quarantine/"
_NUM_STEPS_AT_ONCE = 8


@dataclass(frozen=True)
class StepState:
    """One step. rows: in files that count. seconds: what the attempt that ended it took. training: None without one.

    run: name of the other run that its result is read from, or None when it is this run's own.
    """

    name: str
    fingerprint: str
    folder: str
    phase: Phase
    shards_done: int | None = None
    shards_planned: int | None = None
    rows: int | None = None
    quarantined: Mapping[str, int] = field(default_factory=dict)
    quarantine_files: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    pace: Pace = field(default_factory=Pace)
    training: Training = field(default_factory=Training)
    damages: tuple[Damage, ...] = ()
    run: str | None = None


@dataclass(frozen=True)
class RunState:
    """A run as its folder tells it. submission: None when no start has got so far as to write one that can be read.

    failures: what starts ended with, the newest last.
    """

    folder: str
    submission: Submission | None
    holder: Holder | None
    steps: tuple[StepState, ...]
    broken_sources: tuple[BrokenSource, ...]
    damages: tuple[Damage, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def live(self) -> bool:
        """Tell whether a driver holds the run and shows signs of life."""
        return self.holder is not None and self.holder.state == "live"

    def stands(self, failure: Failure) -> bool:
        """Tell whether the step that failed is still planned as it was then, and not done."""
        failed = (failure.step, failure.fingerprint)
        return any((step.name, step.fingerprint) == failed and step.phase != "complete" for step in self.steps)

    @property
    def last_failure(self) -> Failure | None:
        """What the last start that failed ended with, unless that step has been done since, or is another one now."""
        return self.failures[-1] if self.failures and self.stands(self.failures[-1]) else None

    @property
    def every_damage(self) -> tuple[Damage, ...]:
        """All damage that a look at the folder shows, without reading any data file."""
        return (*self.damages, *(damage for step in self.steps for damage in step.damages))


def read_run(folder: Location, ask_owner: bool = True) -> RunState:
    """Return the state of the run in `folder`: one listing per step, and its small records.

    ask_owner: look who holds the run; whoever holds it himself need not.
    Raises ConfigError when it is no run, StorageError when the store cannot be read.
    """
    layout = RunLayout(folder)
    submission, damages = present_submission(layout)
    holder, damaged_lease = _holder(layout) if ask_owner else (None, [])
    if submission is None and not damages and not layout.leases.walk():
        raise no_run(folder)
    broken, damaged_records = read_broken_sources(layout)
    steps = submission.steps if submission else ()
    layout = submission.layout(folder) if submission else layout
    with ThreadPoolExecutor(_NUM_STEPS_AT_ONCE) as pool:
        found = list(pool.map(lambda step: read_contents(layout.step_folder(step.name, step.fingerprint)), steps))
    live = holder is not None and holder.state == "live"
    states = _step_states(steps, found, live, {record.source for record in broken})
    every_damage, failures = (*damages, *damaged_records, *damaged_lease), tuple(read_failures(folder))
    return RunState(str(folder), submission, holder, states, broken, every_damage, failures)


def no_run(folder: Location) -> ConfigError:
    """Return the error for a folder that is no run's."""
    return ConfigError(
        f"{folder} is no run: it has no submissions/ folder", code="WRPO-C040",
        help="name the run's own folder, which is run.root/run.name of its config (or s3://bucket/prefix/name)",
    )  # fmt: skip


def _holder(layout: RunLayout) -> tuple[Holder | None, list[Damage]]:
    found = attempt(layout.leases, lambda: read_holder(layout.leases))
    if isinstance(found, Damage):
        return None, [found]
    if found is not None and found.state == "live" and surely_dead(found.owner):
        # A killed driver of this machine is known to be dead before its time is over.
        return dataclasses.replace(found, state="stale"), []
    return found, []


def present_submission(layout: RunLayout) -> tuple[Submission | None, list[Damage]]:
    """Return the newest submission that can be read, and the newer ones that cannot."""
    damages: list[Damage] = []
    for number, place in submission_places(layout):
        found = attempt(place, lambda number=number, place=place: read_submission(number, place))
        if isinstance(found, Submission):
            return found, damages
        damages.append(found)
    return None, damages


def read_broken_sources(layout: RunLayout) -> tuple[tuple[BrokenSource, ...], list[Damage]]:
    """Return the sources that the run goes on without, and the records of such that cannot be read."""
    places = [place for place in layout.broken_sources.walk() if place.name.endswith(".json")]
    found = [attempt(place, lambda place=place: read_broken_source(place)) for place in places]
    broken = tuple(record for record in found if isinstance(record, BrokenSource))
    return broken, [record for record in found if isinstance(record, Damage)]


def _step_states(
    steps: Sequence[PlannedStep], found: Sequence[Contents], live: bool, broken: set[str]
) -> tuple[StepState, ...]:
    complete = {step.name for step, contents in zip(steps, found, strict=True) if contents.manifest is not None}
    states: list[StepState] = []
    first_open = True
    for step, contents in zip(steps, found, strict=True):
        ready = live and all(name in complete for name in step.inputs)
        phase = _phase(step, contents, broken, ready, first_open)
        first_open = first_open and phase in ("complete", "left out", "damaged")
        states.append(_step_state(step, contents, phase, live))
    return tuple(states)


def _phase(step: PlannedStep, contents: Contents, broken: set[str], ready: bool, first_open: bool) -> Phase:
    if contents.damages:
        return "damaged"
    if contents.manifest is not None:
        return "complete"
    if step.source in broken:
        return "left out"
    # A driver that has just begun a step has written nothing yet: engines load first.
    if ready and (contents.names or first_open):
        return "running"
    return "partly done" if contents.names else "to do"


def _step_state(step: PlannedStep, contents: Contents, phase: Phase, live: bool) -> StepState:
    training = training_progress(contents)
    quarantined, files = _quarantine(contents)
    manifest, commits = contents.manifest, contents.commits
    rows = None
    if manifest is not None:
        rows = sum(entry.num_rows or 0 for entry in manifest.files if entry.path.startswith("data/"))
    elif commits:
        rows = sum(commit.file.num_rows or 0 for commit in commits.values())
    return StepState(
        name=step.name,
        fingerprint=step.fingerprint,
        folder=str(contents.folder),
        phase=phase,
        shards_done=len(contents.commit_names) if contents.is_ledger else None,
        shards_planned=contents.plan.num_shards if contents.plan else None,
        rows=rows,
        quarantined=quarantined,
        quarantine_files=files,
        seconds=manifest.seconds if manifest else None,
        pace=_pace(contents, training, phase, live),
        training=training,
        damages=contents.damages,
        run=step.run,
    )


def _quarantine(contents: Contents) -> tuple[dict[str, int], dict[str, str]]:
    """Return the rows set aside by code, and a file that lists each code's rows: commits until the step ends."""
    if contents.manifest is None and contents.commits:
        counts: Counter[str] = Counter()
        shown: dict[str, str] = {}
        for name, commit in sorted(contents.commits.items()):
            for row in commit.quarantined:
                counts[row.code] += 1
                shown.setdefault(row.code, str(commit_place(contents.folder, name)))
        return dict(sorted(counts.items())), shown
    paths = sorted(name for name in contents.names if name.startswith(QUARANTINE) and name.endswith(".jsonl"))
    files = {path.removeprefix(QUARANTINE).removesuffix(".jsonl"): contents.folder / path for path in paths}
    return {code: place.read_bytes().count(b"\n") for code, place in files.items()}, {
        code: str(place) for code, place in files.items()
    }


def _pace(contents: Contents, training: Training, phase: Phase, live: bool) -> Pace:
    if phase not in ("running", "partly done"):
        return Pace()
    is_training = METRICS in contents.names or PROGRESS in contents.names
    if contents.is_ledger:
        pace = ledger_pace(contents)
    elif is_training:
        pace = training_pace(contents, training)
    else:
        pace = Pace(unknown="this step is done in one piece")
    return pace if live else Pace(pace.rate, None, "no driver is at work")


__all__ = [
    "METRICS", "PROGRESS", "QUARANTINE", "Contents", "Damage", "Phase", "PlannedStep", "RunState", "StepState",
    "Submission", "read_run",
]  # fmt: skip

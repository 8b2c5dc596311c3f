"""What every start of a run was given: a create-only record each, and the comparison with the one before.

<run>/submissions/000001.json   resolved config, steps with their identities, versions
A run that was begun under one config does not silently go on under another one.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wrpo_ray.errors import ConfigError, StorageError
from wrpo_ray.steps import RESULT_VERSION, Step
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import RunLayout
from wrpo_ray.storage.typed_records import require_name, typed_record

_MAX_SHOWN = 20
# The last step tells of all others, so what merely adds to a run (an evaluation, say) changes its inputs.
_TELLS_OF_OTHERS = ("export",)
# Take seconds and mix no results: what they are asked for (other pairs, one more judge or source) may change any time.
_FREE_TO_CHANGE = ("evaluate", "evaluation-questions", "evaluation-benchmarks")


@dataclass(frozen=True)
class StepRecord:
    """One step of a start, as the start planned it; `inputs` are names of steps that come before."""

    name: str
    fingerprint: str
    inputs: tuple[str, ...]
    identity: Mapping[str, Any]
    source: str | None = None
    run: str | None = None

    def __post_init__(self) -> None:
        for name in (self.name, self.fingerprint, *([] if self.run is None else [self.run])):
            require_name(name)


@dataclass(frozen=True)
class SubmissionRecord:
    """One start of a run: what its readers rely on; config and versions of older ones may lack anything."""

    steps: tuple[StepRecord, ...]
    result_version: int
    config: Mapping[str, Any]
    epoch: int | None = None
    started_at: str = ""

    def __post_init__(self) -> None:
        known: set[str] = set()
        for step in self.steps:
            if unknown := [name for name in step.inputs if name not in known]:
                raise ValueError(f"step {step.name} comes before its inputs {', '.join(unknown)}")
            known.add(step.name)


def submission(
    epoch: int,
    config: Mapping[str, Any],
    steps: Sequence[Step],
    versions: Mapping[str, str],
    broken_sources: Iterable[str] = (),
    layout: RunLayout | None = None,
) -> dict[str, Any]:
    """Return the record of one start of a run.

    config: as it was asked for. steps: without those of `broken_sources`, which the run goes on without. layout: knows
    which steps are read from other runs.
    """
    return {
        "result_version": RESULT_VERSION,
        "broken_sources": sorted(broken_sources),
        "epoch": epoch,
        "started_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "steps": [
            {
                "name": step.name,
                "fingerprint": step.fingerprint,
                "identity": step.identity,
                "inputs": [given.name for given in step.inputs],
                "source": step.source,
                "run": step.reused_from(layout) if layout else None,
            }
            for step in steps
        ],
        "versions": dict(versions),
        "config": config,
    }


def last_submission(folder: Location) -> dict[str, Any] | None:
    """Return the record of the last start of the run, or None; order is by number, never by time.

    Raises StorageError when it is damaged.
    """
    names = _numbers(folder)
    if not names:
        return None
    place = folder / f"{names[-1]:06d}.json"
    raw = place.read_sealed()
    submission_record(raw, place)
    return raw


def submission_record(raw: Mapping[str, Any], place: Location) -> SubmissionRecord:
    """Return what every reader of a start's record relies on; raises StorageError when it is not all there."""
    return typed_record(SubmissionRecord, raw, place, "the record of a start", "WRPO-S030")


def _numbers(folder: Location) -> list[int]:
    stems = [place.name.removesuffix(".json") for place in folder.walk() if place.name.endswith(".json")]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def record(folder: Location, entry: Mapping[str, Any]) -> Location:
    """Store `entry` under the next number and return its place; one that another driver has taken is passed over."""
    numbers = _numbers(folder)
    first = numbers[-1] + 1 if numbers else 1
    for number in range(first, first + 1000):
        if (place := folder / f"{number:06d}.json").create_sealed(entry):
            return place
    raise StorageError(f"{folder} takes no new record: 1000 numbers were taken at once", code="WRPO-S024")


def require_same(before: Mapping[str, Any] | None, now: Mapping[str, Any], run: str) -> None:
    """Raise ConfigError, listing what differs, when this start would give other results than the run holds."""
    if before is None:
        return
    changes = list(differences(before, now))
    if not changes:
        return
    more = [f"   ... and {len(changes) - _MAX_SHOWN} more"] if len(changes) > _MAX_SHOWN else []
    shown = "\n".join([*(f"   {change}" for change in changes[:_MAX_SHOWN]), *more])
    raise ConfigError(
        f"this config would give other results than the ones that run `{run}` holds\n{shown}",
        code="WRPO-R002",
        help="use a new run.name, restore the values above, or go on with --accept-changes: steps whose results stay "
        "the same are kept, the others are made again beside the old ones",
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a step's own identity or list of inputs has become other than it was, one line each."""
    if before["result_version"] != now["result_version"]:
        yield f"wrpo_ray: result version {before['result_version']} -> {now['result_version']}"
    old = {step["name"]: step for step in before["steps"]}
    for step in now["steps"]:
        known = old.get(step["name"])
        if known is None or step["name"] in _FREE_TO_CHANGE:
            continue
        yield from (f"{step['name']}: {line}" for line in _changed(known["identity"], step["identity"]))
        if step["name"] not in _TELLS_OF_OTHERS and known["inputs"] != step["inputs"]:
            yield f"{step['name']}: inputs: {', '.join(known['inputs'])} -> {', '.join(step['inputs'])}"


def _changed(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            yield from _changed(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif before != now:
        yield f"{path}: {_short(before)} -> {_short(now)}"


def _short(value: Any, limit: int = 60) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."

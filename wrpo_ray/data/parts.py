"""Work on ranges of prompt_id: one part of the result per range, made where there is room, and put together by counts.

A part is made by a task of the Ray cluster, or in this process where there is none; nothing that grows with the rows
comes back. What a part came to is recorded below the step's scratch folder, so a part that is there is not made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from wrpo_ray.claims import PARTS, current_grant
from wrpo_ray.errors import InterruptedRunError, StorageError, raise_own
from wrpo_ray.events import ShardDone, WorkBegan, emit
from wrpo_ray.redaction import last_line
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import concatenated

if TYPE_CHECKING:
    from ray import ObjectRef

Given = TypeVar("Given")
# The scheduler may want the step to stop.
_LOOK_EVERY_S = 1.0
_PARTS = "scratch/parts"


@dataclass(frozen=True)
class Part:
    """One range's share of a step: its number, of how many, and a digest of all that it is made from."""

    number: int
    num_parts: int
    digest: str
    num_rows: int

    @property
    def path(self) -> str:
        """A name that `datasets.load_dataset` finds by itself."""
        return f"data/train-{self.number:05d}-of-{self.num_parts:05d}.parquet"

    @property
    def scratch(self) -> str:
        return f"{_PARTS}/{self.number:05d}-of-{self.num_parts:05d}-{self.digest[:16]}"


@dataclass(frozen=True)
class PartDone:
    """What a part came to.

    files: of the result. counts: numbers to add up, by name in groups. lists: by the path of a file of the result, the
    path of the part's share of it. first_items: by code the first rows that have it, for a message; whether they count
    against the budget is the business of whoever reads it, since a later start may say something else.
    """

    files: tuple[FileEntry, ...]
    counts: Mapping[str, Mapping[str, int]]
    lists: Mapping[str, str] = field(default_factory=dict)
    first_items: Mapping[str, Sequence[str]] = field(default_factory=dict)


def all_parts(
    folder: Location,
    parts: Sequence[Part],
    make: Callable[[Given], PartDone],
    given: Sequence[Given],
    no_progress_timeout_s: float,
) -> list[PartDone]:
    """Return what all parts came to, in their order, after those that have no record yet were made by `make`.

    make: module-level; writes below `folder`, the same bytes whenever it is called, and can be pickled, as can what it
    is given. Raises what `make` raises, and InterruptedRunError when Ray cannot run it, or when tasks end no part for
    `no_progress_timeout_s`.
    """
    found = _all_recorded(folder, parts)
    todo = [(part, one) for part, one in zip(parts, given, strict=True) if part.number not in found]
    num_rows_done = sum(part.num_rows for part in parts if part.number in found)
    emit(WorkBegan(sum(part.num_rows for part in parts), num_rows_done, len(todo)))
    if len(todo) > 1 and _can_be_made_apart(folder):
        making = _made_by_tasks(folder, todo, make, no_progress_timeout_s)
    else:
        making = _made_here(folder, todo, make)
    # Closed at once when a part fails; an exception alone would leave the others at work.
    with contextlib.closing(making) as made:
        for part, done, seconds in made:
            found[part.number] = done
            emit(ShardDone(part.num_rows, 0, seconds))
    return [found[part.number] for part in parts]


def remove_strangers(folder: Location, files: Iterable[FileEntry]) -> None:
    """Delete what lies below data/ and quarantine/ and is none of `files`: parts of another cut."""
    named = {entry.path for entry in files}
    for place in [*(folder / "data").walk(), *(folder / "quarantine").walk()]:
        if place.relative_to(folder) not in named:
            place.delete()


def merged_lists(folder: Location, parts: Iterable[PartDone]) -> list[FileEntry]:
    """Put the lists of all parts together, in the order of the parts, and return the entries of the files."""
    shares: dict[str, list[str]] = {}
    for part in parts:
        for path, share in part.lists.items():
            shares.setdefault(path, []).append(share)
    return [
        concatenated(folder, path, ((folder / share).read_bytes() for share in of_path))
        for path, of_path in sorted(shares.items())
    ]


def total(parts: Iterable[PartDone], group: str) -> Counter[str]:
    """Return the sums of one group of the parts' counts."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts[group])
    return counts


def _all_recorded(folder: Location, parts: Sequence[Part]) -> dict[int, PartDone]:
    """Return what the parts came to that are there whole, by number."""
    there = {place.key for place in (folder / _PARTS).walk()}
    with_record = [part for part in parts if _record_of(folder, part).key in there]
    return {part.number: done for part in with_record if (done := _recorded(folder, part)) is not None}


def _record_of(folder: Location, part: Part) -> Location:
    return folder / f"{part.scratch}.json"


def _recorded(folder: Location, part: Part) -> PartDone | None:
    """Return what the part came to when it is there whole; one whose record is damaged is made again."""
    try:
        raw = _record_of(folder, part).read_sealed()
    except (FileNotFoundError, StorageError):
        return None
    files = tuple(FileEntry(**entry) for entry in raw["files"])
    found = {entry: (folder / entry.path).stat() for entry in files}
    whole = all(stat is not None and stat.num_bytes == entry.num_bytes for entry, stat in found.items())
    whole = whole and all((folder / share).exists() for share in raw["lists"].values())
    return PartDone(**{**raw, "files": files}) if whole else None


def _make_one(folder: Location, part: Part, make: Callable[[Given], PartDone], given: Given) -> tuple[PartDone, float]:
    """Make one part and record it, in place of a record that is damaged or whose files are gone."""
    started = time.monotonic()
    done = make(given)
    _record_of(folder, part).write_sealed(dataclasses.asdict(done))
    return done, round(time.monotonic() - started, 3)


def _made_here(
    folder: Location, todo: Sequence[tuple[Part, Given]], make: Callable[[Given], PartDone]
) -> Generator[tuple[Part, PartDone, float], None, None]:
    for part, given in todo:
        _stop_if_asked()
        yield part, *_make_one(folder, part, make, given)


def _stop_if_asked() -> None:
    grant = current_grant()
    if grant is not None:
        grant.raise_if_stopped()


def _can_be_made_apart(folder: Location) -> bool:
    """Tell whether there is a cluster whose nodes know the folder by its name."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and locate(str(folder)) == folder


def _made_by_tasks(
    folder: Location,
    todo: Sequence[tuple[Part, Given]],
    make: Callable[[Given], PartDone],
    no_progress_timeout_s: float,
) -> Generator[tuple[Part, PartDone, float], None, None]:
    import ray
    from ray.exceptions import RayError

    task: Any = ray.remote(num_cpus=PARTS.num_cpus, scheduling_strategy="SPREAD")(_make_one)
    waiting: dict[ObjectRef[Any], Part] = {task.remote(folder, part, make, given): part for part, given in todo}
    progress_s = time.monotonic()
    try:
        while waiting:
            _stop_if_asked()
            for ready in ray.wait(list(waiting), timeout=_LOOK_EVERY_S)[0]:
                part = waiting.pop(ready)
                done, seconds = ray.get(ready)
                yield part, done, seconds
                progress_s = time.monotonic()
            if time.monotonic() - progress_s > no_progress_timeout_s:
                raise InterruptedRunError(
                    f"{folder}: no part ended for {no_progress_timeout_s:g} s", code="WRPO-E004",
                    help="is half a CPU free on a node? faults.no_progress_timeout_s is the bound",
                )  # fmt: skip
    except RayError as error:
        # What Ray raises is of the error's class too, and no more than a copy of its text.
        raise_own(getattr(error, "cause", None) or error)
        raise InterruptedRunError(
            f"{folder}: Ray could not make a part: {type(error).__name__}: {last_line(str(error))}",
            code="WRPO-E008", help="--debug shows all of it; the parts that are there are not made again",
        ) from error  # fmt: skip
    finally:
        # Never one that has ended: see train.one_task for what Ray 2.60 does then.
        at_work = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)[1] if waiting else []
        for left in at_work:
            ray.cancel(left, force=True)

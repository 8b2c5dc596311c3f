"""Shards of a step: planned once, each committed once, all accounted for before the step is called done.

<step folder>/plan.json                     how the work is cut; the first one that was written holds
<step folder>/data/<shard>-<sha256>.parquet   what an attempt wrote; named by its content
<step folder>/commits/<shard>.json          the attempt that counts: created once, names the file, its hash and rows
<step folder>/quarantine/<code>.jsonl       rows that were set aside, written when the step ends

A crash leaves at most files that no commit names; they are removed when the step ends. Two drivers at once cost time
and never double a row: `Store.create` lets one attempt per shard win, the other one's file is dropped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from wrpo_ray.errors import StorageError, WrpoError
from wrpo_ray.schema import stable_hash
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import PieceWriter, key_range, parquet_bytes, piece_writer
from wrpo_ray.storage.typed_records import typed_record

T = TypeVar("T")
# A commit is a small object; in a bucket the wait for it is what takes time.
_READERS = 16
_READ_AHEAD = 256
_NUM_FIRST = 10


@dataclass(frozen=True)
class Shard:
    """A piece of a step's work; `items` are the keys of the rows that it must account for."""

    number: int
    items: tuple[str, ...]

    @property
    def name(self) -> str:
        """Follows from number and items, so that another cut never takes this one's place."""
        return f"shard-{self.number:06d}-{stable_hash('shard', *self.items):016x}"

    @property
    def num_items(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class QuarantinedRow:
    """One row that has no result: which, why, how often it was tried, and the last error (never its text)."""

    item: str
    code: str
    attempts: int
    error: str


@dataclass(frozen=True)
class Commit:
    """The attempt of a shard that counts.

    counts: numbers that the step adds up for its report. notes: JSON values of which the step makes something itself.
    """

    shard: str
    file: FileEntry
    num_items: int
    quarantined: tuple[QuarantinedRow, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanRecord:
    """How a step's items were cut into shards; items_sha256 names what was cut."""

    num_items: int
    shard_sizes: tuple[int, ...]
    items_sha256: str

    def __post_init__(self) -> None:
        if sum(self.shard_sizes) != self.num_items or min(self.shard_sizes, default=0) < 0:
            raise ValueError("numbers out of range")
        if len(self.items_sha256) != 64:
            raise ValueError("items_sha256 is no SHA-256")


def planned(folder: Location, items: Sequence[str], items_per_shard: int) -> list[Shard]:
    """Return the shards of a step; once work has begun they stay as they were cut, whatever `items_per_shard` says.

    The order of `items` does not matter. Raises StorageError when the stored plan is for other items, WrpoError when an
    item is there twice.
    """
    if len(set(items)) != len(items):
        raise WrpoError(f"{folder}: {len(items) - len(set(items))} items of the plan are there twice", code="WRPO-B004")
    items = sorted(items)
    starts = range(0, len(items), items_per_shard)
    sizes = stored_plan(folder, items_digest(items), [min(items_per_shard, len(items) - start) for start in starts])
    ends = list(itertools.accumulate(sizes))
    return [Shard(number, tuple(items[end - sizes[number] : end])) for number, end in enumerate(ends)]


def stored_plan(folder: Location, digest: str, shard_sizes: Sequence[int]) -> list[int]:
    """Return how many items each shard has: `shard_sizes`, unless a plan was stored before; errors as in `planned`.

    digest: names what is cut, as items_digest does.
    """
    place = folder / "plan.json"
    plan = {"num_items": sum(shard_sizes), "shard_sizes": list(shard_sizes), "items_sha256": digest}
    if place.create_sealed(plan):
        return list(shard_sizes)
    stored = read_plan(folder)
    if stored.items_sha256 != digest or stored.num_items != plan["num_items"]:
        raise StorageError(
            f"{place} plans {stored.num_items} other items than the {plan['num_items']} of this run",
            code="WRPO-S018",
        )
    return list(stored.shard_sizes)


def read_plan(folder: Location) -> PlanRecord:
    """Return a step's stored plan; raises FileNotFoundError, and StorageError when it is damaged."""
    place = folder / "plan.json"
    return typed_record(PlanRecord, place.read_sealed(), place, "a plan", "WRPO-S030")


def items_digest(items: Iterable[str]) -> str:
    """Return one hash over the set of `items`, whatever their order."""
    return hashlib.sha256("\n".join(sorted(items)).encode("utf-8")).hexdigest()


def committed(folder: Location) -> set[str]:
    """Return the names of all shards that have a commit, in one listing."""
    return {place.name.removesuffix(".json") for place in (folder / "commits").walk() if place.name.endswith(".json")}


def pending(folder: Location, shards: Sequence[Shard]) -> list[Shard]:
    """Return the shards that nobody has committed yet."""
    done = committed(folder)
    return [shard for shard in shards if shard.name not in done]


def commit(
    folder: Location,
    shard: Shard,
    table: pa.Table,
    items: Iterable[str],
    quarantined: Sequence[QuarantinedRow] = (),
    counts: Mapping[str, int] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Commit:
    """Store the result of a shard and return the commit that counts, which may be another writer's.

    table: rows of the result. items: the keys that these rows are results of.
    Raises WrpoError when rows and quarantine together are not exactly the shard's items.
    """
    set_aside = [row.item for row in quarantined]
    _require_conserved(shard, set(items), set_aside)
    content = parquet_bytes(table)
    digest = hashlib.sha256(content).hexdigest()
    entry = FileEntry(
        f"data/{shard.name}-{digest[:16]}.parquet", len(content), digest, table.num_rows, key_range(table)
    )
    (folder / entry.path).write_bytes(content)
    own = Commit(shard.name, entry, shard.num_items, tuple(quarantined), dict(counts or {}), dict(notes or {}))
    if (folder / "commits" / f"{shard.name}.json").create_sealed(dataclasses.asdict(own)):
        return own
    first = read_commit(folder, shard.name)
    if first.file.path != entry.path:
        (folder / entry.path).delete()
    return first


def _require_conserved(shard: Shard, done: set[str], set_aside: Sequence[str]) -> None:
    expected = set(shard.items)
    both = done & set(set_aside)
    twice = len(set_aside) != len(set(set_aside)) or len(expected) != shard.num_items
    if done | set(set_aside) != expected or both or twice:
        missing, strange = sorted(expected - done - set(set_aside)), sorted((done | set(set_aside)) - expected)
        raise WrpoError(
            f"{shard.name}: {len(missing)} of {shard.num_items} rows have no outcome ({', '.join(missing[:3])}), "
            f"{len(strange)} are not its own ({', '.join(strange[:3])}), {len(both)} have two",
            code="WRPO-B002",
        )


def read_commit(folder: Location, shard_name: str) -> Commit:
    """Return the commit of a shard; raises FileNotFoundError when there is none, StorageError when it is broken."""
    place = folder / "commits" / f"{shard_name}.json"
    found = typed_record(Commit, place.read_sealed(), place, "a commit", "WRPO-S019")
    if found.shard != shard_name:
        raise StorageError(
            f"{place} is the commit of {found.shard}", code="WRPO-S019", help="wrpo-ray inspect RUN --repair"
        )
    if not found.file.path.startswith(f"data/{shard_name}-"):
        raise StorageError(
            f"{place} names a file of another shard: {found.file.path}", code="WRPO-S019",
            help="wrpo-ray inspect RUN --repair",
        )  # fmt: skip
    return found


def read_commits(folder: Location, shard_names: Sequence[str]) -> Iterator[Commit]:
    """Yield the commits of these shards, in order, several read at once; errors as in read_commit."""
    return _each(functools.partial(read_commit, folder), shard_names)


def _each(function: Callable[[T], Commit], arguments: Sequence[T]) -> Iterator[Commit]:
    """Yield what `function` returns for each argument, in order; many calls run at once, a few results are held."""
    if len(arguments) <= _READERS:
        yield from map(function, arguments)
        return
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(arguments), _READ_AHEAD):
            yield from pool.map(function, arguments[start : start + _READ_AHEAD])


@dataclass(frozen=True)
class Finished:
    """What all shards of a step came to.

    set_aside: rows without a result, by code. first_set_aside: some of them, to be named; the files list them all.
    """

    files: tuple[FileEntry, ...]
    set_aside: Mapping[str, int]
    first_set_aside: tuple[QuarantinedRow, ...]
    counts: Mapping[str, int]

    @property
    def num_set_aside(self) -> int:
        return sum(self.set_aside.values())


def finish(
    folder: Location, shards: Sequence[Shard], on_commit: Callable[[Commit], None] = lambda commit: None
) -> Finished:
    """Check that every shard is committed and its file is there, drop what no commit names, write the quarantine.

    on_commit: gets every commit, in the order of the shards. What is held grows with the shards, not with their rows.
    Raises StorageError when a shard has no commit or a file is not there in its size.
    """
    files: list[FileEntry] = []
    counts: Counter[str] = Counter()

    def rows_set_aside() -> Iterator[Sequence[QuarantinedRow]]:
        for entry in _each(functools.partial(_whole, folder), shards):
            on_commit(entry)
            files.append(entry.file)
            counts.update(entry.counts)
            yield entry.quarantined

    quarantine = write_quarantine(folder, rows_set_aside())
    for name in committed(folder) - {shard.name for shard in shards}:
        (folder / "commits" / f"{name}.json").delete()
    files += quarantine.files
    named = {entry.path for entry in files}
    for place in [*(folder / "data").walk(), *(folder / "quarantine").walk()]:
        if place.relative_to(folder) not in named:
            place.delete()
    return Finished(tuple(files), quarantine.num_rows, quarantine.first_rows, dict(sorted(counts.items())))


def _whole(folder: Location, shard: Shard) -> Commit:
    try:
        entry = read_commit(folder, shard.name)
    except FileNotFoundError as error:
        raise StorageError(f"{folder}: {shard.name} has no commit", code="WRPO-S020") from error
    found = (folder / entry.file.path).stat()
    if found is None or found.num_bytes != entry.file.num_bytes or entry.num_items != shard.num_items:
        size = "missing" if found is None else f"{found.num_bytes} bytes"
        raise StorageError(
            f"{folder / entry.file.path} is {size}, its commit says {entry.file.num_bytes} bytes for"
            f" {entry.num_items} items of {shard.num_items}", code="WRPO-S020", help="wrpo-ray inspect RUN --repair",
        )  # fmt: skip
    return entry


@dataclass(frozen=True)
class Quarantine:
    """The files of rows that have no result, how many there are by code, and the first ones."""

    files: tuple[FileEntry, ...]
    num_rows: Mapping[str, int]
    first_rows: tuple[QuarantinedRow, ...]


def write_quarantine(folder: Location, groups: Iterable[Sequence[QuarantinedRow]]) -> Quarantine:
    """Write quarantine/<code>.jsonl, one line per row that has no result, holding one of the groups at a time."""
    num_rows: Counter[str] = Counter()
    first_rows: list[QuarantinedRow] = []
    with contextlib.ExitStack() as stack:
        writers: dict[str, PieceWriter] = {}
        for group in groups:
            by_code: defaultdict[str, list[QuarantinedRow]] = defaultdict(list)
            for row in group:
                by_code[row.code].append(row)
            for code, rows in by_code.items():
                if code not in writers:
                    writers[code] = stack.enter_context(piece_writer(folder, f"quarantine/{code}.jsonl"))
                writers[code].write(quarantine_lines(rows))
            num_rows.update(row.code for row in group)
            first_rows += group[: _NUM_FIRST - len(first_rows)]
        files = [writers[code].store() for code in sorted(writers)]
    return Quarantine(tuple(files), dict(sorted(num_rows.items())), tuple(first_rows))


def quarantine_lines(rows: Iterable[QuarantinedRow]) -> bytes:
    """Return one line of JSON per row, in order of the items."""
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in sorted(rows, key=_item)]
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _item(row: QuarantinedRow) -> str:
    return row.item

"""Joins by prompt_id without anything that holds all rows: the files of each step that can match a range of prompts."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import parquet_entries, read_verified


@dataclass(frozen=True)
class FilesOf:
    """Some Parquet files of a finished step, in the manifest's order."""

    step: Location
    entries: tuple[FileEntry, ...]

    @property
    def num_rows(self) -> int:
        return sum(entry.num_rows or 0 for entry in self.entries)

    @property
    def key_range(self) -> tuple[str, str] | None:
        """Smallest and largest prompt_id, or None when that is not known of one of the files."""
        known = [entry.key_range for entry in self.entries if entry.num_rows]
        found = [key_range for key_range in known if key_range is not None]
        if not found or len(found) < len(known):
            return None
        return min(first for first, _ in found), max(last for _, last in found)

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows of one file at a time, verified; see tables.read_verified."""
        for entry in self.entries:
            yield read_verified(self.step, entry, schema)


class FilesByRange:
    """The same files, found by range without a look at each of them."""

    def __init__(self, files: FilesOf) -> None:
        self._files = files
        known = [(entry.key_range, place) for place, entry in enumerate(files.entries) if entry.key_range is not None]
        known.sort()
        self._places = [place for _, place in known]
        self._unknown = [
            place for place, entry in enumerate(files.entries) if entry.key_range is None and entry.num_rows
        ]
        self._starts = [first for (first, _), _ in known]
        # Largest end so far: it never falls, though files may overlap.
        self._ends = list(itertools.accumulate((last for (_, last), _ in known), max))

    def that_may_hold(self, key_range: tuple[str, str] | None) -> FilesOf:
        """Return the files that can have rows in the range, in the manifest's order."""
        places = self._unknown + (self._places if key_range is None else self._near(*key_range))
        entries = [self._files.entries[place] for place in sorted(places)]
        return FilesOf(self._files.step, tuple(entry for entry in entries if entry.may_hold(key_range)))

    def _near(self, first: str, last: str) -> list[int]:
        return self._places[bisect.bisect_left(self._ends, first) : bisect.bisect_right(self._starts, last)]


def files_of(step: Location) -> FilesOf:
    """Return all Parquet files of a finished step; raises StorageError when it is not complete."""
    return FilesOf(step, tuple(parquet_entries(step)))


def grouped(files: FilesOf, num_rows: int) -> list[FilesOf]:
    """Cut a step's files, in their order, into groups of at most `num_rows` rows; a larger file is its own group."""
    groups: list[list[FileEntry]] = []
    rows_left = 0
    for entry in files.entries:
        rows = entry.num_rows or 0
        if not groups or rows > rows_left:
            groups.append([])
            rows_left = num_rows
        groups[-1].append(entry)
        rows_left -= rows
    return [FilesOf(files.step, tuple(group)) for group in groups]


def content_of(groups: Sequence[FilesOf]) -> str:
    """Return one hash over the content of all files."""
    lines = [f"{number} {entry.sha256}" for number, group in enumerate(groups) for entry in group.entries]
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()

"""The rows of a finished step that belong to some prompts, without holding the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Generic

import pyarrow as pa
import pyarrow.compute as pc

from wrpo_ray.schema import Row, to_rows
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import key_range, parquet_entries, read_verified

# Who asks for one range after the other would read a file again for each range that it reaches into.
_MAX_BYTES_HELD = 2**28


class KeyedFiles(Generic[Row]):
    """Parquet files of a finished step, to be asked for prompts; meant for asking in the order of the prompt_ids.

    Any order gives the same rows; in order of prompt_id each file is read about once. Raises StorageError when the step
    is not complete, and as tables.read_verified does.
    """

    def __init__(self, step: Location, row_type: type[Row]) -> None:
        self._step, self._row_type = step, row_type
        self._entries = parquet_entries(step)
        self._held: dict[str, pa.Table] = {}

    def rows(self, prompt_ids: Sequence[str]) -> list[Row]:
        """Return all rows of these prompts, in the manifest's order."""
        if not prompt_ids:
            return []
        wanted = pa.array(prompt_ids, type=pa.string())
        found: list[Row] = []
        for table in self._tables((min(prompt_ids), max(prompt_ids))):
            chosen = pc.call_function("is_in", [table["prompt_id"]], pc.SetLookupOptions(wanted))
            found += to_rows(table.filter(chosen), self._row_type)
        return found

    def _tables(self, wanted: tuple[str, str]) -> Iterator[pa.Table]:
        """Yield the files that may hold prompts of the range, and hold on to those that reach beyond it."""
        before, self._held = self._held, {}
        for number, entry in enumerate(self._entries):
            if not entry.may_hold(wanted) or not entry.num_rows:
                continue
            table = before.pop(entry.path, None)
            if table is None:
                table = read_verified(self._step, entry, self._row_type.SCHEMA)
            known = self._entries[number] = _with_range(entry, table)
            yield table
            reaches_beyond = known.key_range is not None and known.key_range[1] > wanted[1]
            if reaches_beyond and known.may_hold(wanted) and self._has_room(table):
                self._held[entry.path] = table

    def _has_room(self, table: pa.Table) -> bool:
        return sum(held.nbytes for held in self._held.values()) + table.nbytes <= _MAX_BYTES_HELD


def _with_range(entry: FileEntry, table: pa.Table) -> FileEntry:
    """Return the entry with its range: those of older versions do not know it, and would be read for each question."""
    return entry if entry.key_range is not None else dataclasses.replace(entry, key_range=key_range(table))

"""The prompts that a worker needs for its shard: read from the files that hold them, a few of which stay in memory."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from wrpo_ray.data.recent_tables import RecentTables
from wrpo_ray.errors import StorageError
from wrpo_ray.schema import Prompt, Split, to_rows
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import parquet_entries, read_verified


class PromptReader:
    """Reads a finished prompts step file by file; several threads may ask at once."""

    def __init__(self, prompts: Location) -> None:
        self.prompts = prompts
        self._entries: list[FileEntry] | None = None
        self._tables = RecentTables(self._read)
        self._lock = threading.Lock()

    def ids(self, path: str, splits: Collection[Split]) -> list[str]:
        """Return the prompt_ids of the file `path` that belong to one of `splits`, in the file's order."""
        return self._tables.get(path).filter(pc.field("split").isin(list(splits)))["prompt_id"].to_pylist()

    def of(self, prompt_ids: Sequence[str]) -> list[Prompt]:
        """Return the prompts with these prompt_ids, in their order; raises StorageError when one is not there."""
        found: dict[str, Prompt] = {}
        for table in self._tables_with(set(prompt_ids)):
            found.update((row.prompt_id, row) for row in to_rows(table, Prompt))
        missing = [prompt_id for prompt_id in prompt_ids if prompt_id not in found]
        if missing:
            raise StorageError(
                f"{self.prompts} does not hold {len(missing)} prompts that this step asks for, such as {missing[0]}",
                code="WRPO-S036",
                help="`wrpo-ray inspect RUN` tells which files of the run are not what they were",
            )
        return [found[prompt_id] for prompt_id in prompt_ids]

    def _tables_with(self, wanted: set[str]) -> Iterator[pa.Table]:
        if not wanted:
            return
        is_wanted = pc.field("prompt_id").isin(sorted(wanted))
        for entry in self._all_entries():
            if entry.may_hold((min(wanted), max(wanted))):
                yield self._tables.get(entry.path).filter(is_wanted)

    def _all_entries(self) -> list[FileEntry]:
        with self._lock:
            if self._entries is None:
                self._entries = parquet_entries(self.prompts)
            return self._entries

    def _entry(self, path: str) -> FileEntry:
        (entry,) = (entry for entry in self._all_entries() if entry.path == path)
        return entry

    def _read(self, path: str) -> pa.Table:
        return read_verified(self.prompts, self._entry(path), Prompt.SCHEMA)

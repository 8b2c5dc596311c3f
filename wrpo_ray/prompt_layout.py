"""The prompts of a run as files of bounded size that a worker or a join opens one at a time.

<prompts step>/data/prompts-00000.parquet   prompts in order of prompt_id; those of the next file come after them
<prompts step>/prompt_counts.json           of each file: a hash of its prompt_ids, and how many each split has there
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wrpo_ray.schema import Prompt
from wrpo_ray.storage.location import Location, json_bytes
from wrpo_ray.storage.manifest import FileEntry, require_manifest
from wrpo_ray.storage.tables import parquet_entries, read_verified, verified_bytes, write_file, write_table

# Cuts follow from the prompts alone, so both numbers are constants and no settings.
ROWS_PER_FILE = 8192
MAX_BYTES_PER_FILE = 64 * 2**20
_COUNTS = "prompt_counts.json"
_KEYS = pa.schema([Prompt.SCHEMA.field("prompt_id"), Prompt.SCHEMA.field("split")])


@dataclass(frozen=True)
class PromptFile:
    """A file of a finished prompts step. ids_sha256: over its prompt_ids. num_by_split: prompts of each split."""

    entry: FileEntry
    ids_sha256: str
    num_by_split: Mapping[str, int]


def write_prompts(folder: Location, tables: Iterable[pa.Table]) -> tuple[FileEntry, ...]:
    """Write prompts, given in order of prompt_id as tables of any size, and return the entries of all files."""
    entries: list[FileEntry] = []
    counts: dict[str, dict[str, object]] = {}
    for number, table in enumerate(_cut(tables)):
        entry = write_table(folder, f"data/prompts-{number:05d}.parquet", table)
        entries.append(entry)
        ids_sha256, num_by_split = _counted(table)
        counts[entry.path] = {"ids_sha256": ids_sha256, "num_by_split": num_by_split}
    return *entries, write_file(folder, _COUNTS, json_bytes(counts))


def prompt_files(prompts: Location) -> list[PromptFile]:
    """Return the files of a finished prompts step, in order of prompt_id where the step wrote them in order.

    Files without counts are read, one at a time. Raises StorageError as storage.tables.read_rows does.
    """
    listed = {entry.path: entry for entry in require_manifest(prompts).files}
    counts = json.loads(verified_bytes(prompts, listed[_COUNTS])) if _COUNTS in listed else {}
    found = []
    for entry in parquet_entries(prompts):
        if entry.path in counts:
            found.append(PromptFile(entry, **counts[entry.path]))
        else:
            found.append(PromptFile(entry, *_counted(read_verified(prompts, entry, _KEYS))))
    return found


def _counted(table: pa.Table) -> tuple[str, dict[str, int]]:
    ids = "\n".join(table["prompt_id"].to_pylist())
    splits = Counter(table["split"].to_pylist())
    return hashlib.sha256(ids.encode("utf-8")).hexdigest(), dict(sorted(splits.items()))


def _cut(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows as tables of the size of one file each; how they came makes no difference."""
    held = Prompt.SCHEMA.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while (size := _rows_of_next_file(held)) < held.num_rows:
            yield held.slice(0, size)
            held = held.slice(size)
    if held.num_rows:
        yield held


def _rows_of_next_file(table: pa.Table) -> int:
    """Return how many of the first rows one file holds, by their number and their bytes of text."""
    messages = table["messages"].slice(0, ROWS_PER_FILE).combine_chunks()
    contents = messages.flatten().field("content")
    num_bytes = np.concatenate([[0], np.cumsum(pc.call_function("binary_length", [contents]).to_numpy())])
    ends = np.cumsum(pc.call_function("list_value_length", [messages]).to_numpy())
    return max(1, int(np.searchsorted(num_bytes[ends], MAX_BYTES_PER_FILE, side="right")))

"""Which samples of which prompts a step draws when it draws a part: computed or read file by file, never held whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from wrpo_ray.allocation.policy import first_counts
from wrpo_ray.allocation.slices import drawn_slices
from wrpo_ray.config_allocation import AllocationConfig
from wrpo_ray.data.prompt_ranges import PromptList
from wrpo_ray.prompt_layout import prompt_files
from wrpo_ray.schema import Prompt
from wrpo_ray.steps import digest
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import parquet_entries, read_verified

REQUESTS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("first_sample", pa.int32(), nullable=False),
        pa.field("num_samples", pa.int32(), nullable=False),
    ]
)
_PROMPT_IDS = pa.schema([Prompt.SCHEMA.field("prompt_id")])


class Requests(Protocol):
    """What a sampling step is to draw; picklable, so that workers look up their own part."""

    def lists(self) -> list[PromptList]:
        """Return the lists of prompts that samples are drawn of."""
        ...

    def rows(self, path: str) -> pa.Table:
        """Return the list of one file with the schema REQUESTS, in order of prompt_id."""
        ...


@dataclass(frozen=True)
class FirstRequests:
    """What a source's first load draws; other sources have no say in it.

    prompts: a finished step. Prompts that the first load leaves out are in no list.
    """

    prompts: str
    config: AllocationConfig
    seed: int
    num_samples: int

    def lists(self) -> list[PromptList]:
        """See Requests."""
        decisive = {"policy", "pilot_fraction", "audit_fraction"}
        rule = digest([self.config.model_dump(mode="json", include=decisive), self.seed, self.num_samples])
        lists, prompts = [], locate(self.prompts)
        for file in prompt_files(prompts):
            requested = self._requested(prompts, file.entry)
            if requested.num_rows:
                content, num_requests = f"{file.ids_sha256} {rule}", int(requested["num_samples"].to_numpy().sum())
                lists.append(PromptList(content, requested.num_rows, file.entry.path, num_requests))
        return lists

    def rows(self, path: str) -> pa.Table:
        """See Requests."""
        prompts = locate(self.prompts)
        (entry,) = (entry for entry in parquet_entries(prompts) if entry.path == path)
        return self._requested(prompts, entry)

    def _requested(self, prompts: Location, entry: FileEntry) -> pa.Table:
        ids = read_verified(prompts, entry, _PROMPT_IDS)["prompt_id"]
        slices = drawn_slices(ids.to_pylist(), self.config.pilot_fraction, self.config.audit_fraction, self.seed)
        counts = first_counts(self.config.policy, [self.num_samples], slices)[:, 0].astype(np.int32)
        table = pa.table([ids, pa.array(np.zeros_like(counts)), pa.array(counts)], schema=REQUESTS)
        return table.filter(pa.array(counts > 0))


@dataclass(frozen=True)
class FurtherRequests:
    """What a source's second load draws. allocated: the finished step `allocate`."""

    allocated: str
    source: str

    def lists(self) -> list[PromptList]:
        """See Requests."""
        lists, allocated = [], locate(self.allocated)
        for entry in parquet_entries(allocated):
            if entry.path.startswith(requests_folder(self.source)) and entry.num_rows:
                requested = read_verified(allocated, entry, REQUESTS)
                num_requests = int(requested["num_samples"].to_numpy().sum())
                lists.append(PromptList(_content(requested), requested.num_rows, entry.path, num_requests))
        return lists

    def rows(self, path: str) -> pa.Table:
        """See Requests."""
        allocated = locate(self.allocated)
        (entry,) = (entry for entry in parquet_entries(allocated) if entry.path == path)
        return read_verified(allocated, entry, REQUESTS)


def _content(requested: pa.Table) -> str:
    """Return a hash of what is asked for; that of the file would change with the library that writes Parquet."""
    rows = zip(*(requested[name].to_pylist() for name in REQUESTS.names), strict=True)
    lines = "\n".join(f"{prompt_id} {first} {count}" for prompt_id, first, count in rows)
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def requests_folder(source: str) -> str:
    """Return where the step `allocate` writes what a source's second load draws, with a slash at the end."""
    return f"data/{source}/"

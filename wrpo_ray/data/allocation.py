"""The step that decides what is drawn after the first responses.

allocate: prompts, first responses and their rewards -> data/<source>/requests-*.parquet (prompt_id, first_sample,
num_samples) and allocation.json. See wrpo_ray.allocation for what is decided, and by what.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from wrpo_ray.allocation import report
from wrpo_ray.allocation.audit import audit
from wrpo_ray.allocation.gain import first_samples
from wrpo_ray.allocation.policy import decide, first_counts
from wrpo_ray.allocation.prompt_ids import PromptIds
from wrpo_ray.allocation.slices import slices_of
from wrpo_ray.allocation.table import RewardTable, TableBuilder
from wrpo_ray.config import RowsConfig
from wrpo_ray.config_allocation import AllocationConfig
from wrpo_ray.data.requests import REQUESTS, requests_folder
from wrpo_ray.schema import Prompt, ScoredResponse
from wrpo_ray.selection import is_usable
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location, json_bytes
from wrpo_ray.storage.manifest import FileEntry
from wrpo_ray.storage.tables import iter_rows, parquet_entries, read_verified, write_file, write_table

log = logging.getLogger(__name__)

_PROMPTS_PER_FILE = 65_536
_PROMPT_IDS = pa.schema([Prompt.SCHEMA.field("prompt_id")])
_DRAWN = pa.schema([ScoredResponse.SCHEMA.field(name) for name in ("prompt_id", "sample_index", "num_tokens")])


@dataclass(frozen=True)
class FirstLoad:
    """A source, and the finished steps with its first responses and their rewards."""

    source: str
    num_samples: int
    responses: Location
    scored: Location


def allocate(
    config: AllocationConfig, seed: int, prompts: Location, loads: Sequence[FirstLoad], rows: RowsConfig,
    folder: Location,
) -> StepResult:  # fmt: skip
    """Decide what the second load of each source draws, write it, and report what the audit says about it."""
    table = first_table(prompts, loads, rows)
    slices = slices_of(table.prompt_ids, config.pilot_fraction, config.audit_fraction, seed)
    # Of a prompt that a source refused, nothing came; it was asked for all the same.
    table = replace(table, drawn=first_samples(table, first_counts(config.policy, table.num_samples, slices)))
    unit_costs = np.array([config.token_costs.get(source, 1.0) for source in table.sources])
    decision = decide(config, table, slices, unit_costs)
    audited = audit(table.rows(slices.audit), decision.counts[slices.audit], unit_costs, seed)
    further = decision.further(table, slices)
    told = report.summary(decision, audited, config.target) | _counts(table, further)
    for sentence in told["findings"]:
        log.warning("sampling.allocation: %s", sentence)
    files = (
        *_write_requests(folder, table, further),
        write_file(folder, "allocation.json", json_bytes(told)),
    )
    return StepResult(files, told)


def first_table(prompts: Location, loads: Sequence[FirstLoad], rows: RowsConfig) -> RewardTable:
    """Return the rewards of all first responses; one that may not be chosen has none."""
    builder = TableBuilder(_prompt_ids(prompts), [load.source for load in loads], [load.num_samples for load in loads])
    for load in loads:
        for entry in parquet_entries(load.responses):
            drawn = read_verified(load.responses, entry, _DRAWN)
            for prompt_id, index, num_tokens in zip(*(drawn[name].to_pylist() for name in _DRAWN.names), strict=True):
                builder.response(prompt_id, load.source, index, num_tokens)
        for file_rows in iter_rows(load.scored, ScoredResponse):
            for row in file_rows:
                if is_usable(row, rows):
                    builder.reward(row.prompt_id, row.source, row.sample_index, row.reward)
    return builder.table()


def _write_requests(folder: Location, table: RewardTable, further: np.ndarray) -> Iterator[FileEntry]:
    """Write what is still to be drawn, source by source, in order of the prompts. further: [prompts, sources]."""
    drawn = table.drawn.sum(axis=2, dtype=np.int32)
    for number, source in enumerate(table.sources):
        wanted = np.flatnonzero(further[:, number])
        for start in range(0, len(wanted), _PROMPTS_PER_FILE):
            rows = wanted[start : start + _PROMPTS_PER_FILE]
            columns = [[table.prompt_ids[row] for row in rows], drawn[rows, number], further[rows, number]]
            arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, REQUESTS, strict=True)]
            path = f"{requests_folder(source)}requests-{start // _PROMPTS_PER_FILE:05d}.parquet"
            yield write_table(folder, path, pa.Table.from_arrays(arrays, schema=REQUESTS))


def _prompt_ids(prompts: Location) -> PromptIds:
    tables = (read_verified(prompts, entry, _PROMPT_IDS) for entry in parquet_entries(prompts))
    return PromptIds.of_groups(table["prompt_id"].to_pylist() for table in tables)


def _counts(table: RewardTable, further: np.ndarray) -> dict[str, Any]:
    """Return how many responses of each source are drawn in all, and of how many."""
    drawn = table.drawn.sum(axis=(0, 2)) + further.sum(axis=0)
    full = len(table.prompt_ids) * np.asarray(table.num_samples)
    return {
        "num_requested": {source: int(count) for source, count in zip(table.sources, drawn, strict=True)},
        "request_share": round(float(drawn.sum() / full.sum()), 4),
    }

"""The step that decides what is drawn after the first responses.

allocate: prompts, first responses and their rewards -> data/requests.parquet (prompt_id, source, first_sample,
num_samples) and allocation.json. See wrpo_ray.allocation for what is decided, and by what.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from wrpo_ray.allocation import report
from wrpo_ray.allocation.audit import audit
from wrpo_ray.allocation.gain import first_samples
from wrpo_ray.allocation.policy import decide, first_counts
from wrpo_ray.allocation.slices import slices_of
from wrpo_ray.allocation.table import RewardTable, TableBuilder
from wrpo_ray.config import RowsConfig
from wrpo_ray.config_allocation import AllocationConfig
from wrpo_ray.schema import Prompt, ScoredResponse
from wrpo_ray.selection import is_usable
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location, json_bytes
from wrpo_ray.storage.tables import iter_rows, parquet_entries, read_table, read_verified, write_file, write_table

log = logging.getLogger(__name__)

REQUESTS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("first_sample", pa.int32(), nullable=False),
        pa.field("num_samples", pa.int32(), nullable=False),
    ]
)
_PROMPT_IDS = pa.schema([Prompt.SCHEMA.field("prompt_id")])
_DRAWN = pa.schema([ScoredResponse.SCHEMA.field(name) for name in ("prompt_id", "sample_index", "num_tokens")])


@dataclass(frozen=True)
class FirstLoad:
    """A source, and the finished steps with its first responses and their rewards."""

    source: str
    num_samples: int
    responses: Location
    scored: Location


def first_requests(config: AllocationConfig, seed: int, num_samples: int, prompts: Location) -> dict[str, range]:
    """Return which samples a source's first load draws, by prompt_id; other sources have no say in it.

    prompts: a finished step. Prompts that the first load leaves out are not there.
    """
    ids = _prompt_ids(prompts)
    slices = slices_of(ids, config.pilot_fraction, config.audit_fraction, seed)
    counts = first_counts(config.policy, [num_samples], slices)[:, 0].tolist()
    return {prompt_id: range(count) for prompt_id, count in zip(ids, counts, strict=True) if count}


def further_requests(allocated: Location, source: str) -> dict[str, range]:
    """Return which samples a source's second load draws, by prompt_id. allocated: the finished step `allocate`."""
    table = read_table(allocated, REQUESTS)
    rows = zip(*(table[name].to_pylist() for name in REQUESTS.names), strict=True)
    return {prompt_id: range(first, first + count) for prompt_id, name, first, count in rows if name == source}


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
        write_table(folder, "data/requests.parquet", requests_table(table, further)),
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


def requests_table(table: RewardTable, further: np.ndarray) -> pa.Table:
    """Return what is still to be drawn, in order of prompt and source. further: [prompts, sources]."""
    first = table.drawn.sum(axis=2)
    prompt_numbers, source_numbers = np.nonzero(further)
    columns: list[Any] = [
        [table.prompt_ids[number] for number in prompt_numbers],
        [table.sources[number] for number in source_numbers],
        first[prompt_numbers, source_numbers],
        further[prompt_numbers, source_numbers],
    ]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, REQUESTS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=REQUESTS)


def _prompt_ids(prompts: Location) -> list[str]:
    return sorted(read_table(prompts, _PROMPT_IDS)["prompt_id"].to_pylist())


def _counts(table: RewardTable, further: np.ndarray) -> dict[str, Any]:
    """Return how many responses of each source are drawn in all, and of how many."""
    drawn = table.drawn.sum(axis=(0, 2)) + further.sum(axis=0)
    full = len(table.prompt_ids) * np.asarray(table.num_samples)
    return {
        "num_requested": {source: int(count) for source, count in zip(table.sources, drawn, strict=True)},
        "request_share": round(float(drawn.sum() / full.sum()), 4),
    }

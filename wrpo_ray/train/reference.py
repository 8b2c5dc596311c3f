"""Log-probs of all responses under the frozen Target-SFT, computed once instead of in every training step."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import ray.train
import ray.train.torch
import torch

from wrpo_ray.errors import DataError
from wrpo_ray.logprobs import sequence_logps
from wrpo_ray.schema import ReferenceLogps, to_rows
from wrpo_ray.storage import write_rows
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.model import load_model
from wrpo_ray.train.tasks import split_responses, stack_responses
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, TokenRow, TokenTable, name_some

log = logging.getLogger(__name__)

_LOG_EVERY_BATCHES = 50


def rank_file(out: Path, rank: int, num_workers: int) -> Path:
    """Return where a rank writes its rows."""
    return out / "data" / f"train-{rank:05d}-of-{num_workers:05d}.parquet"


def reference_worker(raw_job: dict[str, Any]) -> dict[str, Any]:
    """Run on every Ray Train worker: write the log-probs of every num_workers-th row."""
    job = TrainJob.model_validate(raw_job)
    rank, num_workers = ray.train.get_context().get_world_rank(), job.train.num_workers
    device = ray.train.torch.get_device()
    device = cast(torch.device, device[0] if isinstance(device, list) else device)
    model = load_model(job.model, job.train).to(device)  # pyright: ignore[reportArgumentType]
    model.eval()
    table = TokenTable(Path(job.tokens), QUADRUPLE_RESPONSES)
    mine = range(rank, job.num_rows, num_workers)
    batches = [
        mine[first : first + job.train.micro_batch_size] for first in range(0, len(mine), job.train.micro_batch_size)
    ]
    found: list[ReferenceLogps] = []
    for number, indices in enumerate(batches, start=1):
        found += reference_rows(model, table.rows(indices), job.pad_token_id, device)
        if number % _LOG_EVERY_BATCHES == 0 and rank == 0:
            log.info("reference: batch %d of %d", number, len(batches))
    write_rows(rank_file(Path(job.out), rank, num_workers), found, ReferenceLogps)
    return {}


@torch.no_grad()
def reference_rows(
    model: Any, rows: Sequence[TokenRow], pad_token_id: int, device: torch.device
) -> list[ReferenceLogps]:
    """Return log-probs and numbers of response tokens of `rows`."""
    batch = stack_responses(rows, QUADRUPLE_RESPONSES, pad_token_id).to(device)
    logps = [values.tolist() for values in split_responses(sequence_logps(model, batch))]
    lengths = [values.tolist() for values in split_responses(batch.response_mask.sum(dim=1))]
    return [
        ReferenceLogps(row["prompt_id"], *(column[index] for column in (*logps, *lengths)))
        for index, row in enumerate(rows)
    ]


def check_reference(job: TrainJob, prompt_ids: Sequence[str]) -> None:
    """Raise DataError, naming up to ten prompt_ids, when a row's log-probs are missing or not finite."""
    num_workers = job.train.num_workers
    files = [rank_file(Path(job.out), rank, num_workers) for rank in range(num_workers)]
    rows = to_rows(pa.concat_tables([pq.read_table(file) for file in files]), ReferenceLogps)
    missing = sorted(set(prompt_ids) - {row.prompt_id for row in rows})
    if missing:
        raise DataError(f"{len(missing)} rows have no reference log-probs: {name_some(missing)}")
    broken = [row.prompt_id for row in rows if not all(math.isfinite(value) for value in _logps(row))]
    if broken:
        raise DataError(f"{len(broken)} rows have reference log-probs that are not finite: {name_some(broken)}")


def _logps(row: ReferenceLogps) -> tuple[float, float, float]:
    return row.source_chosen_logps, row.target_chosen_logps, row.rejected_logps

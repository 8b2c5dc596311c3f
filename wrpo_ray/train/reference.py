"""Log-probs of all responses under the frozen Target-SFT, computed once instead of in every training step.

The rows are cut into shards; each is committed on its own, so a pass that was cut goes on with those that are left.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, cast

import ray.train.torch
import torch

from wrpo_ray.errors import DataError
from wrpo_ray.logprobs import sequence_logps
from wrpo_ray.redaction import redact_logs
from wrpo_ray.schema import ReferenceLogps, to_table
from wrpo_ray.storage.ledger import Finished, Shard, commit, finish, pending, planned
from wrpo_ray.train.files import on_node
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.model import load_model
from wrpo_ray.train.ranks import current_ranks
from wrpo_ray.train.tasks import split_responses, stack_responses
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, TokenRow, TokenTable, name_some

log = logging.getLogger(__name__)

_MAX_ROWS_PER_SHARD = 256
_SHARDS_PER_WORKER = 4
_NOT_FINITE = "not_finite"


def reference_shards(job: TrainJob, prompt_ids: Sequence[str]) -> list[Shard]:
    """Return how the rows are cut; a pass that has begun keeps its cut."""
    per_worker = -(-len(prompt_ids) // (job.train.num_workers * _SHARDS_PER_WORKER))
    return planned(job.folder, prompt_ids, min(_MAX_ROWS_PER_SHARD, max(job.train.micro_batch_size, per_worker)))


def reference_worker(raw_job: dict[str, Any]) -> dict[str, Any]:
    """Run on every Ray Train worker: compute and commit every num_workers-th shard of those that are left."""
    redact_logs()
    job = TrainJob.model_validate(raw_job)
    ranks = current_ranks()
    device = ray.train.torch.get_device()
    device = cast(torch.device, device[0] if isinstance(device, list) else device)
    table = TokenTable(job.scratch, job.tokens, QUADRUPLE_RESPONSES)
    row_of = {prompt_id: row for row, prompt_id in enumerate(table.prompt_ids)}
    left = ranks.first(pending(job.folder, reference_shards(job, table.prompt_ids)))
    model = load_model(on_node(job.model), job.train).to(device)  # pyright: ignore[reportArgumentType]
    model.eval()
    mine = left[ranks.rank :: ranks.size]
    for number, shard in enumerate(mine, start=1):
        rows = shard_rows(job, model, table, [row_of[item] for item in shard.items], device)
        if broken := [row.prompt_id for row in rows if not all(math.isfinite(value) for value in _logps(row))]:
            # Not committed: numbers like these may come from a broken device, and the next run tries them again.
            (job.scratch / _NOT_FINITE / f"{shard.name}.json").write_json(broken)
        else:
            commit(job.folder, shard, to_table(rows, ReferenceLogps), shard.items)
        log.info("reference: shard %d of %d of rank %d", number, len(mine), ranks.rank)
    return {}


def shard_rows(
    job: TrainJob, model: Any, table: TokenTable, indices: Sequence[int], device: torch.device
) -> list[ReferenceLogps]:
    """Return the log-probs of the rows at `indices`, one forward pass per micro-batch."""
    size = job.train.micro_batch_size
    found: list[ReferenceLogps] = []
    for first in range(0, len(indices), size):
        found += reference_rows(model, table.rows(indices[first : first + size]), job.pad_token_id, device)
    return found


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


def forget_not_finite(job: TrainJob) -> None:
    """Remove what an earlier pass said about rows that were not finite."""
    (job.scratch / _NOT_FINITE).delete_folder()


def finish_reference(job: TrainJob, shards: Sequence[Shard]) -> Finished:
    """Return what all shards came to.

    Raises DataError, naming up to ten prompt_ids, when log-probs are not finite; StorageError when a shard is missing.
    """
    notes = (job.scratch / _NOT_FINITE).walk()
    broken = [prompt_id for note in notes for prompt_id in note.read_json()]
    if broken:
        raise DataError(
            f"{len(broken)} rows have reference log-probs that are not finite: {name_some(broken)}",
            code="WRPO-T006",
            help="look at these rows and at the numbers of Target-SFT; `wrpo.precision: fp32` has the widest range",
        )
    return finish(job.folder, shards)


def _logps(row: ReferenceLogps) -> tuple[float, float, float]:
    return row.source_chosen_logps, row.target_chosen_logps, row.rejected_logps

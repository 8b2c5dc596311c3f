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
from wrpo_ray.policy import Policy
from wrpo_ray.redaction import redact_logs
from wrpo_ray.schema import ReferenceLogps, to_table
from wrpo_ray.storage.ledger import Finished, Shard, commit, finish, pending, planned
from wrpo_ray.train.collate import Collate
from wrpo_ray.train.files import on_node
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.model import load_policy
from wrpo_ray.train.ranks import current_ranks
from wrpo_ray.train.tasks import split_responses
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, TokenRow, TokenTable, name_some

log = logging.getLogger(__name__)

_MAX_ROWS_PER_SHARD = 256
_SHARDS_PER_WORKER = 4
_NOT_FINITE = "not_finite"


def reference_shards(job: TrainJob, prompt_ids: Sequence[str]) -> list[Shard]:
    """Return how the rows are cut; a pass that has begun keeps its cut."""
    per_worker = -(-len(prompt_ids) // (job.train.num_workers * _SHARDS_PER_WORKER))
    return planned(job.folder, prompt_ids, min(_MAX_ROWS_PER_SHARD, per_worker))


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
    policy = load_policy(on_node(job.model), job.train).to(device)
    policy.eval()
    collate = Collate(QUADRUPLE_RESPONSES, policy.share_prompts, job.pad_token_id)
    mine = left[ranks.rank :: ranks.size]
    for number, shard in enumerate(mine, start=1):
        indices = [row_of[item] for item in shard.items]
        rows = shard_rows(policy, collate, table, indices, job.train.micro_batch_tokens, device)
        if broken := [row.prompt_id for row in rows if not all(math.isfinite(value) for value in _logps(row))]:
            # Not committed: numbers like these may come from a broken device, and the next run tries them again.
            (job.scratch / _NOT_FINITE / f"{shard.name}.json").write_json(broken)
        else:
            commit(job.folder, shard, to_table(rows, ReferenceLogps), shard.items)
        log.info("reference: shard %d of %d of rank %d", number, len(mine), ranks.rank)
    return {}


def shard_rows(
    policy: Policy, collate: Collate, table: TokenTable, indices: Sequence[int], max_tokens: int, device: torch.device
) -> list[ReferenceLogps]:
    """Return the log-probs of the rows at `indices`, in that order; a forward pass has at most `max_tokens` tokens."""
    row_tokens = collate.row_tokens(table)
    found: dict[int, ReferenceLogps] = {}
    for numbers in collate.fit([row_tokens[index] for index in indices], max_tokens):
        rows = table.rows([indices[number] for number in numbers])
        found.update(zip(numbers, reference_rows(policy, collate, rows, device), strict=True))
    return [found[number] for number in range(len(indices))]


@torch.no_grad()
def reference_rows(
    policy: Policy, collate: Collate, rows: Sequence[TokenRow], device: torch.device
) -> list[ReferenceLogps]:
    """Return log-probs and numbers of response tokens of `rows`."""
    batch = collate(rows).to(device)
    logps = [values.tolist() for values in split_responses(policy(batch))]
    lengths = [values.tolist() for values in split_responses(batch.num_response_tokens)]
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

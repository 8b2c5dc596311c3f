"""Log-probs of all responses under the frozen Target-SFT, computed once instead of in every training step.

The rows are cut into shards; each is committed on its own, so a pass that was cut goes on with those that are left.
"""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import ray.train.torch
import torch

from wrpo_ray.config import WRPOConfig
from wrpo_ray.errors import DataError
from wrpo_ray.models import on_node_for_good
from wrpo_ray.redaction import redact_logs
from wrpo_ray.schema import ReferenceLogps, to_table
from wrpo_ray.storage.ledger import Finished, Shard, commit, finish, pending
from wrpo_ray.storage.range_plan import ItemList, RangeShard, planned_ranges
from wrpo_ray.train.collate import Collate
from wrpo_ray.train.engine_settings import zero_stage
from wrpo_ray.train.job import TrainJob
from wrpo_ray.train.model import load_policy
from wrpo_ray.train.ranks import Ranks, current_ranks
from wrpo_ray.train.sampler_reference import compare, rows_to_check, too_far_apart, write_check
from wrpo_ray.train.token_file import TokenRow
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, Named, TokenTable

log = logging.getLogger(__name__)

_MAX_ROWS_PER_SHARD = 256
_SHARDS_PER_WORKER = 4
_NOT_FINITE = "not_finite"
_PLAN = "plan.json"
# A Policy, or a DeepSpeed engine around one.
Scorer = Callable[..., torch.Tensor]


def reference_shards(job: TrainJob, ids_digest: str) -> list[RangeShard]:
    """Return how the rows are cut, as ranges of the rows of tokens.parquet; a pass that has begun keeps its cut.

    ids_digest: see TokenTable. Who has a shard's rows knows its prompt_ids; nobody has to hold those of all.
    """
    per_worker = -(-job.num_rows // (job.train.num_workers * _SHARDS_PER_WORKER))
    return planned_ranges(job.folder, [ItemList(ids_digest, job.num_rows)], min(_MAX_ROWS_PER_SHARD, per_worker))


def forget_plan_by_ids(job: TrainJob, ids_digest: str) -> None:
    """Remove the plan of an older version, whose shards are named by their prompt_ids; such a pass starts anew."""
    place = job.folder / _PLAN
    if place.exists() and place.read_sealed()["items_sha256"] == ids_digest:
        place.delete()


def reference_worker(raw_job: dict[str, Any]) -> dict[str, Any]:
    """Run on every Ray Train worker: compute and commit every num_workers-th shard of those that are left."""
    redact_logs()
    job = TrainJob.model_validate(raw_job)
    ranks = current_ranks()
    device = ray.train.torch.get_device()
    device = cast(torch.device, device[0] if isinstance(device, list) else device)
    table = TokenTable(job.scratch, job.tokens, QUADRUPLE_RESPONSES)
    left = cast(list[RangeShard], ranks.first(pending(job.folder, reference_shards(job, table.ids_digest()))))
    policy, share_prompts = frozen_policy(job, device)
    collate = Collate(QUADRUPLE_RESPONSES, share_prompts, job.pad_token_id)
    max_tokens = job.train.micro_batch_tokens
    if table.logps and not agrees_with_sampler(job, ranks, policy, collate, table, device):
        return {}
    mine = left[ranks.rank :: ranks.size]
    planned_passes = [passes(collate, table, range(shard.start, shard.stop), max_tokens) for shard in mine]
    # Before the first of them: a rank that is done with its own must not wait for an answer from those that are not.
    num_passes = ranks.gathered(sum(map(len, planned_passes)))
    for number, (shard, made) in enumerate(zip(mine, planned_passes, strict=True), start=1):
        rows = shard_rows(policy, table, range(shard.start, shard.stop), made, device)
        if broken := [row.prompt_id for row in rows if not all(math.isfinite(value) for value in _logps(row))]:
            # Not committed: numbers like these may come from a broken device, and the next run tries them again.
            (job.scratch / _NOT_FINITE / f"{shard.name}.json").write_json(broken)
        else:
            items = tuple(row.prompt_id for row in rows)
            commit(job.folder, replace(shard, items=items), to_table(rows, ReferenceLogps), items)
        log.info("reference: shard %d of %d of rank %d", number, len(mine), ranks.rank)
    if zero_stage(job.train) == 3:
        keep_step(policy, collate, table, max(num_passes) - num_passes[ranks.rank], device)
    return {}


def agrees_with_sampler(
    job: TrainJob, ranks: Ranks, policy: Scorer, collate: Collate, table: TokenTable, device: torch.device
) -> bool:
    """Compute some rows whole, note how far the log-probs that came with the table are from ours; tell if it will do.

    All ranks compute the same rows: a sharded model needs all of them for each pass.
    """
    train = cast(WRPOConfig, job.train)
    indices = rows_to_check(table)
    own = computed(policy, table, passes(collate, table, indices, train.micro_batch_tokens, whole=True), device)
    compared = compare(table, indices, [own[index] for index in indices])
    if ranks.rank == 0:
        write_check(job.scratch, compared)
    return ranks.first(not too_far_apart(compared, train.reference_check_tolerance))


def frozen_policy(job: TrainJob, device: torch.device) -> tuple[Scorer, bool]:
    """Return the model ready for forward passes, and whether it shares prompts: whole, or under ZeRO 3 in shards."""
    if zero_stage(job.train) < 3:
        policy = load_policy(on_node_for_good(job.model), job.train).to(device)
        policy.eval()
        return policy, policy.share_prompts
    # DeepSpeed looks for accelerators when it is imported and would take a GPU that this worker was not given.
    os.environ["DS_ACCELERATOR"] = device.type
    from wrpo_ray.train import zero

    # The reference is shared by runs that train with and without it, so its own numbers are exact.
    train = job.train.model_copy(update={"zero_quantized_weights": False})
    with zero.sharded_loading(train):
        policy = load_policy(on_node_for_good(job.model), train)
    return zero.start_inference_engine(policy, train), policy.share_prompts


def passes(
    collate: Collate, table: TokenTable, indices: Sequence[int], max_tokens: int, whole: bool = False
) -> list[tuple[Collate, list[int]]]:
    """Return for each forward pass what it takes of which rows of `indices`; one has at most `max_tokens` tokens.

    Responses whose log-probs came with the table are left out, unless `whole`.
    """
    groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    given = {} if whole else table.logps
    for index in indices:
        missing = (name for name in collate.responses if name not in given or given[name][index] is None)
        groups[tuple(missing)].append(index)
    found: list[tuple[Collate, list[int]]] = []
    for responses, rows in groups.items():
        part = replace(collate, responses=responses)
        row_tokens = part.row_tokens(table)
        bins = part.fit([row_tokens[index] for index in rows], max_tokens)
        found += [(part, [rows[number] for number in numbers]) for numbers in bins]
    return found


def keep_step(policy: Scorer, collate: Collate, table: TokenTable, num_idle: int, device: torch.device) -> None:
    """Make `num_idle` forward passes to no end: a sharded model needs all ranks for each that another rank makes."""
    row_tokens = collate.row_tokens(table)
    shortest = min(range(len(row_tokens)), key=row_tokens.__getitem__)
    for _ in range(num_idle):
        own_logps(policy, collate, table.rows([shortest]), device)


def shard_rows(
    policy: Scorer, table: TokenTable, indices: Sequence[int], made: Sequence[tuple[Collate, list[int]]],
    device: torch.device,
) -> list[ReferenceLogps]:  # fmt: skip
    """Return the log-probs of the rows at `indices`, in that order; `made` are their forward passes (see `passes`)."""
    own = computed(policy, table, made, device)
    prompt_ids = table.table["prompt_id"].take(list(indices)).to_pylist()
    return [
        _reference_row(prompt_id, table, index, own[index])
        for prompt_id, index in zip(prompt_ids, indices, strict=True)
    ]


def computed(
    policy: Scorer, table: TokenTable, made: Sequence[tuple[Collate, list[int]]], device: torch.device
) -> dict[int, dict[str, float]]:
    """Return by row and name the log-prob of every response that the forward passes `made` take."""
    found: dict[int, dict[str, float]] = {}
    for collate, rows in made:
        found.update(zip(rows, own_logps(policy, collate, table.rows(rows), device), strict=True))
    return found


@torch.no_grad()
def own_logps(
    policy: Scorer, collate: Collate, rows: Sequence[TokenRow], device: torch.device
) -> list[dict[str, float]]:
    """Return for each row the log-probs of the responses that `collate` takes, by their names."""
    logps = policy(collate(rows).to(device)).view(len(rows), -1).tolist()
    return [dict(zip(collate.responses, of_row, strict=True)) for of_row in logps]


def _reference_row(prompt_id: str, table: TokenTable, index: int, own: Mapping[str, float]) -> ReferenceLogps:
    """Put together what was computed and what came with the table."""
    logps: list[Any] = [own[name] if name in own else table.logps[name][index] for name in QUADRUPLE_RESPONSES]
    lengths: list[Any] = [table.num_tokens[name][index] for name in QUADRUPLE_RESPONSES]
    return ReferenceLogps(prompt_id, *logps, *lengths)


def forget_not_finite(job: TrainJob) -> None:
    """Remove what an earlier pass said about rows that were not finite."""
    (job.scratch / _NOT_FINITE).delete_folder()


def finish_reference(job: TrainJob, shards: Sequence[Shard]) -> Finished:
    """Return what all shards came to.

    Raises DataError, naming up to ten prompt_ids, when log-probs are not finite; StorageError when a shard is missing.
    """
    broken = Named()
    for note in (job.scratch / _NOT_FINITE).walk():
        broken.add(note.read_json())
    if broken.num_all:
        raise DataError(
            f"{broken.num_all} rows have reference log-probs that are not finite: {broken}",
            code="WRPO-T006",
            help="look at these rows and at the numbers of Target-SFT; `wrpo.precision: fp32` has the widest range",
        )
    return finish(job.folder, shards)


def _logps(row: ReferenceLogps) -> tuple[float, float, float]:
    return row.source_chosen_logps, row.target_chosen_logps, row.rejected_logps

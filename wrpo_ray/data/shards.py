"""One way to fan work out: shards of rows to a pool of actors, each shard committed once in the step's ledger.

Ray Data moves the names of rows and files only; an actor reads its rows itself and commits its result itself, so a
shard that is committed is never made again, and no response passes through the driver. The actor holds no
model: its engine lives in a child process that may die (engines.supervisor).
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from wrpo_ray.data.budget import Budget
from wrpo_ray.data.pool import reports
from wrpo_ray.data.shard_actor import ShardWorker
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.events import ShardDone, WorkBegan, emit
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import Finished

log = logging.getLogger(__name__)


def run_shards(work: ShardedWork, make_worker: Callable[..., ShardWorker], arguments: dict[str, Any]) -> Finished:
    """Have every shard committed by one of `resources.num_replicas` actors, and return what all of them came to.

    make_worker: module-level callable that takes `arguments`, both picklable and small.
    When this returns, the pool is gone and its resources are the cluster's again.
    Raises QuarantineError as soon as more rows are set aside than the budget allows, ModelError when a replica dies
    too often, and any WrpoError of a worker.
    """
    todo = ledger.pending(work.folder, work.shards)
    names = {shard.name for shard in todo}
    budget = Budget(work.title, work.folder, work.num_rows, work.rows, work.judge)
    for commit in ledger.read_commits(work.folder, [shard.name for shard in work.shards if shard.name not in names]):
        budget.add(commit.num_items, [(row.item, row.code) for row in commit.quarantined])
    emit(WorkBegan(work.num_rows, budget.num_seen, len(todo)))
    # Closed at once when the budget stops the step; an exception alone would keep the replicas at work.
    with contextlib.closing(reports(work, todo, make_worker, arguments)) as rows:
        for report in rows:
            set_aside = [(item, code) for item, code in json.loads(report["set_aside"])]
            budget.add(report["num_rows"], set_aside)
            codes = Counter(code for _, code in set_aside)
            emit(ShardDone(report["num_rows"], report["num_tokens"], report["seconds"], codes))
            log.info("%s: %s committed after %.1f s", work.title, report["shard"], report["seconds"])
    finished = ledger.finish(work.folder, work.shards, work.on_commit)
    budget.close()
    return finished

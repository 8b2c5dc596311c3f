"""What Ray Data calls on a replica: one shard in, its commit in the ledger, one small row about it out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

from wrpo_ray.engines.supervisor import SupervisedEngine
from wrpo_ray.redaction import redact_logs
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import Commit, Shard
from wrpo_ray.storage.location import locate


class ShardWorker(Protocol):
    """What an actor does with a shard."""

    engine: SupervisedEngine

    def shard(self, description: dict[str, Any]) -> Shard:
        """Return the shard that `ShardedWork.describe` described."""
        ...

    def commit(self, shard: Shard, description: dict[str, Any]) -> Commit:
        """Do the shard's work and return its commit."""
        ...


class ShardActor:
    """What Ray Data calls: a batch of one shard in, one small row about it out."""

    def __init__(self, make_worker: Callable[..., ShardWorker], arguments: dict[str, Any], folder: str) -> None:
        redact_logs()
        # Kept small: an error in a constructor counts as the death of the actor, one in a call reaches the driver.
        self.make_worker, self.arguments, self.folder = make_worker, arguments, folder
        self.worker: ShardWorker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Commit the shard in `batch`, unless somebody has done so, and report what became of it."""
        started = time.monotonic()
        self.worker = worker = self.worker or self.make_worker(**self.arguments)
        description = json.loads(str(batch["description"][0]))
        shard = worker.shard(description)
        commit = self._found(shard) or worker.commit(shard, description)
        set_aside = json.dumps([[row.item, row.code] for row in commit.quarantined])
        seconds = round(time.monotonic() - started, 3)
        return {
            "shard": [shard.name],
            "num_rows": [commit.num_items],
            "num_tokens": [commit.counts.get("num_tokens", 0)],
            "set_aside": [set_aside],
            "seconds": [seconds],
        }

    def _found(self, shard: Shard) -> Commit | None:
        """A call may be made again after it has done its work, when its answer was lost with a node."""
        try:
            return ledger.read_commit(locate(self.folder), shard.name)
        except FileNotFoundError:
            return None

    def __del__(self) -> None:
        # Ray Data deletes the instance before it ends the actor.
        if getattr(self, "worker", None) is not None:
            assert self.worker is not None
            self.worker.engine.close()

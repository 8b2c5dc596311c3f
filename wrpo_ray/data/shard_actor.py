"""What Ray Data calls on a replica: one shard in, its commit in the ledger, one small row about it out."""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from wrpo_ray.engines.supervisor import SupervisedEngine
from wrpo_ray.redaction import redact_logs
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import Commit, Shard
from wrpo_ray.storage.location import locate


class ShardWorker(Protocol):
    """What an actor does with a shard; threads call it at the same time, each with a shard of its own."""

    engine: SupervisedEngine

    def shard(self, description: dict[str, Any]) -> Shard:
        """Return the shard that `ShardedWork.describe` described."""
        ...

    def commit(self, shard: Shard, description: dict[str, Any]) -> Commit:
        """Do the shard's work and return its commit."""
        ...


class ShardActor:
    """What Ray Data calls, from several threads: a batch of one shard in, one small row about it out."""

    def __init__(self, make_worker: Callable[..., ShardWorker], arguments: dict[str, Any], folder: str) -> None:
        redact_logs()
        # Kept small: an error in a constructor counts as the death of the actor, one in a call reaches the driver.
        self.make_worker, self.arguments, self.folder = make_worker, arguments, folder
        self.worker: ShardWorker | None = None
        self._making = threading.Lock()
        _INSTANCES.add(self)

    def close(self) -> None:
        """End the engine; nothing of it is left when this returns."""
        if self.worker is not None:
            self.worker.engine.close()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Commit the shard in `batch`, unless somebody has done so, and report what became of it."""
        started = time.monotonic()
        worker = self._made_worker()
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

    def _made_worker(self) -> ShardWorker:
        with self._making:
            self.worker = self.worker or self.make_worker(**self.arguments)
            return self.worker

    def _found(self, shard: Shard) -> Commit | None:
        """A call may be made again after it has done its work, when its answer was lost with a node."""
        try:
            return ledger.read_commit(locate(self.folder), shard.name)
        except FileNotFoundError:
            return None

    def __del__(self) -> None:
        # Ray Data deletes the instance before it ends the actor.
        if getattr(self, "worker", None) is not None:
            self.close()


_INSTANCES: weakref.WeakSet[ShardActor] = weakref.WeakSet()


def close_engines(_replica: object) -> None:
    """End the engines of this process; Ray Data keeps its instance to itself (data.replicas)."""
    for instance in list(_INSTANCES):
        instance.close()

"""A step whose shards only take time, in a module of its own: workers load it by name."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from wrpo_ray.claims import engine_claim
from wrpo_ray.config import FaultsConfig, ResourcesConfig, RowsConfig
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.data.shards import run_shards
from wrpo_ray.steps import Step, StepResult
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import Commit, Shard
from wrpo_ray.storage.location import Location, locate


class NoEngine:
    """Stands where an engine stands."""

    num_starts = 1

    def close(self) -> None:
        """Nothing to end."""


class SleepingWorker:
    """Satisfies data.shard_actor.ShardWorker."""

    def __init__(self, folder: str, seconds: float) -> None:
        self.folder, self.seconds, self.engine = locate(folder), seconds, NoEngine()

    def shard(self, description: dict[str, Any]) -> Shard:
        return Shard(description["number"], tuple(description["items"]))

    def commit(self, shard: Shard, description: dict[str, Any]) -> Commit:
        time.sleep(self.seconds)
        return ledger.commit(self.folder, shard, pa.table({"item": list(shard.items)}), shard.items, (), {})


def sleeping_step(name: str, inputs: tuple[Step, ...], num_shards: int, seconds: float, num_replicas: int) -> Step:
    """Return a step of so many shards; `seconds` each."""
    resources = ResourcesConfig(num_replicas=num_replicas)

    def run(folder: Location) -> StepResult:
        items = [f"{number:03d}" for number in range(num_shards)]
        work = ShardedWork(
            title=name,
            folder=folder,
            shards=ledger.planned(folder, items, 1),
            num_rows=len(items),
            resources=resources,
            faults=FaultsConfig(),
            rows=RowsConfig(),
            describe=lambda shard: {"number": shard.number, "items": list(shard.items)},
        )
        finished = run_shards(work, SleepingWorker, {"folder": str(folder), "seconds": seconds})
        return StepResult(finished.files, finished.counts)

    return Step(name, {}, inputs, run, claim=engine_claim(resources))

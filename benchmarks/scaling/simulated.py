"""An engine that sleeps: its start and every shard take as long as the plan says, in scaled seconds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from wrpo_ray.claims import engine_claim
from wrpo_ray.config import FaultsConfig, ResourcesConfig, RowsConfig
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.data.shards import run_shards
from wrpo_ray.engines.supervisor import SupervisedEngine
from wrpo_ray.planning.schedule import Job
from wrpo_ray.steps import Step, StepResult
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import Commit, Shard
from wrpo_ray.storage.location import Location, locate

# Few enough that a shard takes longer than Ray takes to hand it out, on this scale.
SHARDS, ROWS_PER_SHARD = 96, 50


@dataclass
class SimulatedEngine:
    """Stands where a supervised engine stands."""

    num_starts: int = 1

    def close(self) -> None:
        """Nothing to end."""


class SimulatedGenerator:
    """Satisfies data.shard_actor.ShardWorker; sleeps instead of generating or scoring, and commits for real.

    Shards at work share the engine, as they do in a real one: it is never empty while the next is handed over.
    """

    def __init__(self, folder: str, start_s: float, shard_s: float) -> None:
        self.folder, self.shard_s = locate(folder), shard_s
        self._at_work = threading.Lock()
        # Of an engine's process, a replica asks for no more than this.
        self.engine = cast(SupervisedEngine, SimulatedEngine())
        time.sleep(start_s)

    def shard(self, description: dict[str, Any]) -> Shard:
        """See ShardWorker."""
        return Shard(description["number"], tuple(description["items"]))

    def commit(self, shard: Shard, description: dict[str, Any]) -> Commit:
        """See ShardWorker."""
        with self._at_work:
            time.sleep(self.shard_s)
        table = pa.table({"item": list(shard.items)})
        return ledger.commit(self.folder, shard, table, shard.items, (), {"num_rows": len(shard.items)})


def step_of(job: Job, inputs: tuple[Step, ...], scale: float) -> Step:
    """Return the planned job as a step that really runs. scale: real seconds of one simulated second."""
    resources = ResourcesConfig(
        num_cpus=1.0, num_gpus=job.gpus_per_replica, num_replicas=job.max_replicas, prompts_per_shard=ROWS_PER_SHARD
    )
    shard_s = job.gpu_seconds / job.gpus_per_replica / SHARDS * scale

    def run(folder: Location) -> StepResult:
        items = [f"{number:06d}" for number in range(SHARDS * ROWS_PER_SHARD)]
        work = ShardedWork(
            title=job.name,
            folder=folder,
            shards=ledger.planned(folder, items, ROWS_PER_SHARD),
            num_rows=len(items),
            resources=resources,
            faults=FaultsConfig(),
            rows=RowsConfig(),
            describe=lambda shard: {"number": shard.number, "items": list(shard.items)},
            shards_in_flight=2,
        )
        arguments = {"folder": str(folder), "start_s": job.start_s * scale, "shard_s": shard_s}
        finished = run_shards(work, SimulatedGenerator, arguments)
        return StepResult(finished.files, finished.counts)

    return Step(job.name, {"simulated": True}, inputs, run, claim=engine_claim(resources))


def steps_of(jobs: tuple[Job, ...], scale: float) -> list[Step]:
    """Return the steps of the jobs, each after those that it waits for."""
    steps: dict[str, Step] = {}
    for job in jobs:
        steps[job.name] = step_of(job, tuple(steps[name] for name in job.after if name in steps), scale)
    return list(steps.values())

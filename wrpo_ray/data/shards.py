"""One way to fan work out: shards of rows to a pool of actors, each shard committed once in the step's ledger.

Ray Data moves the names of rows and files only; an actor reads its rows itself and commits its result itself, so a
shard that is committed is never made again, and no response passes through the driver. The actor holds no
model: its engine lives in a child process that may die (engines.supervisor).
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from wrpo_ray.config import FaultsConfig, ResourcesConfig, RowsConfig
from wrpo_ray.data.budget import Budget, Judge, no_judge
from wrpo_ray.engines.supervisor import SupervisedEngine
from wrpo_ray.errors import InterruptedRunError, ModelError, raise_own
from wrpo_ray.redaction import redact_logs, redacted
from wrpo_ray.storage import ledger
from wrpo_ray.storage.ledger import Commit, Finished, Shard
from wrpo_ray.storage.location import Location, locate

if TYPE_CHECKING:
    from ray.exceptions import RayError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardedWork:
    """A step's work: its shards, and what bounds it.

    num_rows: rows of the whole step, of which the budget is a share. describe: JSON values that tell a worker its
    shard. judge: asked before the step is stopped because of the rows set aside, and when it ends.
    """

    title: str
    folder: Location
    shards: Sequence[Shard]
    num_rows: int
    resources: ResourcesConfig
    faults: FaultsConfig
    rows: RowsConfig
    describe: Callable[[Shard], dict[str, Any]]
    judge: Judge = no_judge


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
        return {"shard": [shard.name], "num_rows": [commit.num_items], "set_aside": [set_aside], "seconds": [seconds]}

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
    # Closed at once when the budget stops the step; an exception alone would keep the replicas at work.
    with contextlib.closing(_reports(work, todo, make_worker, arguments)) as reports:
        for report in reports:
            budget.add(report["num_rows"], [(item, code) for item, code in json.loads(report["set_aside"])])
            log.info("%s: %s committed after %.1f s", work.title, report["shard"], report["seconds"])
    finished = ledger.finish(work.folder, work.shards)
    budget.close()
    return finished


def _reports(
    work: ShardedWork, todo: Sequence[Shard], make_worker: Callable[..., ShardWorker], arguments: dict[str, Any]
) -> Generator[Mapping[str, Any], None, None]:
    """Yield one row per shard as soon as it is committed."""
    if not todo:
        log.info("%s: every shard is committed already", work.title)
        return
    import ray
    from ray.data import ActorPoolStrategy
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayActorError, RayError

    items = [{"description": json.dumps(work.describe(shard))} for shard in todo]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ShardActor,
        batch_size=1,
        fn_constructor_args=(make_worker, arguments, str(work.folder)),
        # One shard in flight: a second one would wait behind a long one while other replicas have nothing to do.
        compute=ActorPoolStrategy(size=min(work.resources.num_replicas, len(todo)), max_tasks_in_flight_per_actor=1),
        **_remote_arguments(work.resources, work.faults),
    )
    # Waiting for a node and loading a model are no progress to Ray Data, so its 30 minutes are too short.
    rows.context.execution_no_progress_timeout_s = work.faults.no_progress_timeout_s
    # Ray Data's own wrapper would lose the error that it wraps on the way to the driver.
    rows.context.raise_original_map_exception = True
    try:
        yield from rows.iter_rows()
    except RayActorError as error:
        raise_own(error)
        if "creation task" in str(error):
            raise _not_run(work, error) from error
        raise InterruptedRunError(
            f"{work.title}: a replica died more than {work.faults.max_replica_restarts} times; last: {error}",
            code="WRPO-E002",
            help="see the Ray logs of its node; faults.max_replica_restarts is the bound",
        ) from error
    except ExecutionTimeoutError as error:
        raise InterruptedRunError(
            f"{work.title}: no shard ended for {work.faults.no_progress_timeout_s:g} s",
            code="WRPO-E004",
            help="the cluster may lack nodes for the replicas; faults.no_progress_timeout_s is the bound",
        ) from error
    except RayError as error:
        raise_own(error)
        raise _not_run(work, error) from error


def _not_run(work: ShardedWork, error: RayError) -> ModelError:
    """Return what an error of Ray's own means: its last line says it, the rest is Ray's inside."""
    last = [line.strip() for line in redacted(str(error)).splitlines() if line.strip()][-1]
    return ModelError(
        f"{work.title}: Ray could not run the replicas: {type(error).__name__}: {last[:300]}",
        code="WRPO-E008",
        help="--debug shows all of it; is the package installed on every node, and is memory left there?",
    )


def _remote_arguments(resources: ResourcesConfig, faults: FaultsConfig) -> dict[str, Any]:
    """Return how Ray places and restarts a replica. Without bounds Ray Data would restart it for ever."""
    env_vars = dict(resources.env_vars)
    if resources.num_gpus == 0:
        # Ray no longer hides GPUs from actors that ask for none; an engine would take one that is somebody else's.
        env_vars["CUDA_VISIBLE_DEVICES"] = ""
    arguments: dict[str, Any] = {
        "num_cpus": resources.num_cpus,
        "runtime_env": {"env_vars": env_vars},
        "max_restarts": faults.max_replica_restarts,
        "max_task_retries": faults.max_replica_restarts,
    }
    if resources.num_gpus:
        arguments["num_gpus"] = resources.num_gpus
    if resources.accelerator_type:
        arguments["accelerator_type"] = resources.accelerator_type
    return arguments

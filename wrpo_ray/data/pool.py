"""The pool of replicas that a step's shards go to: a Ray Data pipeline, and what its errors mean."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wrpo_ray.config import FaultsConfig, ResourcesConfig
from wrpo_ray.data.shard_actor import ShardActor, ShardWorker
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.errors import InterruptedRunError, ModelError, raise_own
from wrpo_ray.redaction import redacted
from wrpo_ray.storage.ledger import Shard

if TYPE_CHECKING:
    from ray.exceptions import RayError

log = logging.getLogger(__name__)


def reports(
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
        # As many as the engine works on at once, no more: one would wait behind a long one while others have no work.
        compute=ActorPoolStrategy(
            size=min(work.resources.num_replicas, len(todo)),
            max_tasks_in_flight_per_actor=work.shards_in_flight,
            max_concurrent_calls_per_actor=work.shards_in_flight,
            enable_true_multi_threading=work.shards_in_flight > 1,
        ),
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
    finally:
        # Replicas end when nothing refers to them any more; what a cycle holds would keep its GPU for an unknown time.
        del rows
        gc.collect()


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

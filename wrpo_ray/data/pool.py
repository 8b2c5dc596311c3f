"""The pool of replicas that a step's shards go to: a Ray Data pipeline, and what its errors mean."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wrpo_ray.claims import Grant, current_grant, engine_claim, whole_grant
from wrpo_ray.config import FaultsConfig, ResourcesConfig
from wrpo_ray.data.replicas import Replicas
from wrpo_ray.data.shard_actor import ShardActor, ShardWorker
from wrpo_ray.data.sharded_work import ShardedWork
from wrpo_ray.data.spanning import own_resources
from wrpo_ray.errors import InterruptedRunError, ModelError, raise_own
from wrpo_ray.redaction import last_line
from wrpo_ray.storage.ledger import Shard

if TYPE_CHECKING:
    from ray.data import Dataset
    from ray.exceptions import RayError

    from wrpo_ray.data.replica_places import Places

log = logging.getLogger(__name__)


def reports(
    work: ShardedWork, todo: Sequence[Shard], make_worker: Callable[..., ShardWorker], arguments: dict[str, Any]
) -> Generator[Mapping[str, Any], None, None]:
    """Yield one row per shard as soon as it is committed."""
    if not todo:
        log.info("%s: every shard is committed already", work.title)
        return
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayActorError, RayError

    from wrpo_ray.data.replica_places import Places, deciding

    replicas, done = Replicas(work.title, work.resources), False
    claim = engine_claim(work.resources)
    grant = current_grant() or whole_grant(claim)
    places = Places(grant, len(todo), work.shards_in_flight, claim.num_gpus, replicas.keep)
    rows = _pipeline(work, todo, (make_worker, arguments, str(work.folder)), replicas, places)
    try:
        with deciding(places):
            yield from _counted(_rows_of(rows), grant, work, len(todo))
        done = True
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
        replicas.end(gracefully=done)


def _pipeline(
    work: ShardedWork, todo: Sequence[Shard], constructor_arguments: tuple[Any, ...], replicas: Replicas, places: Places
) -> Dataset:
    """Return the pipeline: a row per shard in, a row per commit out. Nothing runs yet."""
    import ray
    from ray.data import ActorPoolStrategy

    from wrpo_ray.data.replica_places import PlacesCallback

    items = [{"description": json.dumps(work.describe(shard))} for shard in todo]
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ShardActor,
        batch_size=1,
        fn_constructor_args=constructor_arguments,
        # As many as the engine works on at once, no more: one would wait behind a long one while others have no work.
        compute=ActorPoolStrategy(
            # The first one; `places` decides about all others.
            min_size=1,
            max_size=work.resources.num_replicas,
            max_tasks_in_flight_per_actor=work.shards_in_flight,
            max_concurrent_calls_per_actor=work.shards_in_flight,
            enable_true_multi_threading=work.shards_in_flight > 1,
        ),
        ray_remote_args_fn=lambda: {**_restarts(work.faults), **replicas.options(), **places.remote_arguments()},
        **own_resources(work.resources),
        runtime_env={"env_vars": _env_vars(work.resources)},
    )
    rows.context.custom_execution_callback_classes = [PlacesCallback]
    # Ray Data's autoscaler is never asked; this keeps its warning away that it would not scale up.
    rows.context.autoscaling_config = dataclasses.replace(
        rows.context.autoscaling_config, actor_pool_util_upscaling_threshold=1.0
    )
    # One of them asks for the options of an actor that is never started: a name, a place, a placement group too many.
    rows.context.issue_detectors_config.detectors = []
    # Waiting for a node and loading a model are no progress to Ray Data, so its 30 minutes are too short.
    rows.context.execution_no_progress_timeout_s = work.faults.no_progress_timeout_s
    # Ray Data's own wrapper would lose the error that it wraps on the way to the driver.
    rows.context.raise_original_map_exception = True
    return rows


def _rows_of(rows: Dataset) -> Iterator[Mapping[str, Any]]:
    """Yield each row when it is there; `iter_rows` fetches ahead, so it would wait for the one after it."""
    tables: Iterable[Any] = rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for table in tables:
        yield from table.to_pylist()


def _counted(
    rows: Iterable[Mapping[str, Any]], grant: Grant, work: ShardedWork, num_left: int
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows, and tell the scheduler which share of the step is left."""
    grant.progress(num_left / len(work.shards))
    for row in rows:
        num_left -= 1
        grant.progress(num_left / len(work.shards))
        yield row
    grant.raise_if_stopped()


def _not_run(work: ShardedWork, error: RayError) -> ModelError:
    """Return what an error of Ray's own means."""
    return ModelError(
        f"{work.title}: Ray could not run the replicas: {type(error).__name__}: {last_line(str(error))}",
        code="WRPO-E008",
        help="--debug shows all of it; is the package installed on every node, and is memory left there?",
    )


def _env_vars(resources: ResourcesConfig) -> dict[str, str]:
    env_vars = dict(resources.env_vars)
    if resources.num_gpus == 0:
        # Ray no longer hides GPUs from actors that ask for none; an engine would take one that is somebody else's.
        env_vars["CUDA_VISIBLE_DEVICES"] = ""
    return env_vars


def _restarts(faults: FaultsConfig) -> dict[str, Any]:
    """Return how often Ray starts a replica again. Without bounds Ray Data would do so for ever."""
    return {"max_restarts": faults.max_replica_restarts, "max_task_retries": faults.max_replica_restarts}

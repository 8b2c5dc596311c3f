"""One way to fan work out: shards of rows to a pool of actors, each shard one Parquet file.

Ray Data moves shard numbers and file names only; an actor reads its rows itself and writes its result itself, whole
or not at all, under a name that follows from the shard. So a file that is there is never made again, and the driver's
memory does not grow with the run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wrpo_ray.config import ResourcesConfig
from wrpo_ray.errors import raise_own
from wrpo_ray.schema import stable_hash

log = logging.getLogger(__name__)


def shard_path(folder: Path, number: int, content: str) -> Path:
    """Return the file of one shard; `content` names what goes into it, so that another cut never takes its place."""
    return folder / "data" / f"shard-{number:06d}-{stable_hash('shard', content):016x}.parquet"


def drop_other_files(folder: Path, expected: Sequence[Path]) -> None:
    """Remove files that an earlier attempt with another cut left behind; they are no part of the result."""
    for path in set((folder / "data").glob("*.parquet")) - set(expected):
        log.warning("%s was left by an earlier attempt with other shards; removed", path)
        path.unlink()


def run_shards(
    actor_class: type,
    arguments: dict[str, Any],
    items: Sequence[dict[str, Any]],
    resources: ResourcesConfig,
    title: str,
) -> None:
    """Give every item to one of `resources.num_replicas` actors and wait for all.

    actor_class: takes `arguments`, is called with one item as a batch of one, and writes the item's file.
    When this returns, the pool is gone and its resources are the cluster's again.
    """
    if not items:
        log.info("%s: every shard is there already", title)
        return
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.exceptions import RayError

    # Loading a large model, or waiting for a node, is no progress to Ray Data; it would stop after 30 minutes.
    DataContext.get_current().execution_no_progress_timeout_s = -1
    num_replicas = min(resources.num_replicas, len(items))
    env_vars = dict(resources.env_vars)
    if resources.num_gpus == 0:
        # Ray no longer hides GPUs from actors that ask for none; an engine would take one that is somebody else's.
        env_vars["CUDA_VISIBLE_DEVICES"] = ""
    remote_args: dict[str, Any] = {"num_cpus": resources.num_cpus, "runtime_env": {"env_vars": env_vars}}
    if resources.num_gpus:
        remote_args["num_gpus"] = resources.num_gpus
    if resources.accelerator_type:
        remote_args["accelerator_type"] = resources.accelerator_type
    dataset = ray.data.from_items(list(items), override_num_blocks=len(items)).map_batches(
        actor_class,
        batch_size=1,
        fn_constructor_kwargs=arguments,
        compute=ActorPoolStrategy(size=num_replicas, max_tasks_in_flight_per_actor=2),
        **remote_args,
    )
    try:
        finished = dataset.take_all()
    except RayError as error:
        raise_own(error)
        raise
    log.info("%s: %d shards written by %d replicas", title, len(finished), num_replicas)

"""One driver that works through some cases on its own nodes of the benchmark's cluster, one after the other."""

from __future__ import annotations

import argparse
import json
import logging
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from benchmarks.scaling.simulated import ROWS_PER_SHARD, SHARDS, steps_of
from benchmarks.scaling.workload import workload
from wrpo_ray.planning.schedule import Job, makespan_s, schedule
from wrpo_ray.scheduling.ray_nodes import alive_nodes
from wrpo_ray.scheduling.runner import StepRunner
from wrpo_ray.steps import execute
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import RunLayout

# Processes that stand ready on each node, beside those at work.
_READY_PER_NODE = 3
_REFILL_EVERY_S = 2.0


def main() -> None:
    """Print one JSON line per case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--nodes", type=json.loads, required=True, help="ids of this lane's nodes")
    parser.add_argument("--cases", type=json.loads, required=True, help="[[sources, GPUs, real seconds per source]]")
    options = parser.parse_args()
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.init(address=options.address, log_to_driver=False, namespace=f"lane-{options.nodes[0][:8]}")
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    with _ready_processes(options.nodes):
        for num_sources, num_gpus, per_source_s in options.cases:
            print(json.dumps(_measured(options.nodes, num_sources, num_gpus, per_source_s)), flush=True)


def _measured(node_ids: list[str], num_sources: int, num_gpus: int, per_source_s: float) -> dict[str, Any]:
    """Run one case and return its record."""
    import ray

    given = workload(num_sources, num_gpus)
    scale = per_source_s * num_sources / given.ideal_s
    busy, used, began = _machine_busy_s(), resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        layout = RunLayout(locate(folder))
        runner = StepRunner(
            work_on=lambda step: execute(step, layout, {}),
            is_complete=lambda step: False,
            read_nodes=lambda: [node for node in alive_nodes(ray.nodes()) if node.node_id in node_ids],
            planned=[_scaled(job, scale) for job in given.jobs],
            before_each=lambda: None,
            replaced=_failed,
        )
        runner.run(steps_of(given.jobs, scale))
        seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    responses = len(given.jobs) // 2 * SHARDS * ROWS_PER_SHARD
    ideal_s = given.ideal_s * scale
    planned_s = makespan_s(schedule([_scaled(job, scale) for job in given.jobs], {"H100": float(num_gpus)}))
    return {
        "num_sources": num_sources,
        "num_gpus": num_gpus,
        "replaced_sources": given.replaced,
        "real_s_per_simulated_h": scale * 3600,
        "ideal_s": ideal_s,
        "planned_s": planned_s,
        "makespan_s": seconds,
        "over_ideal": seconds / ideal_s,
        "over_planned": seconds / planned_s,
        "idle_share": 1 - ideal_s / seconds,
        "overhead_ms_per_response": (seconds - ideal_s) / responses * 1e3,
        "driver_cpu_ms_per_response": (after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)
        / responses
        * 1e3,
        "machine_cpu_share": (_machine_busy_s() - busy) / (seconds * _cores()),
    }


def _failed(step: object, error: Exception) -> list[Any]:
    raise error


def _scaled(job: Job, scale: float) -> Job:
    return replace(job, gpu_seconds=job.gpu_seconds * scale, start_s=job.start_s * scale, after=_known(job))


def _known(job: Job) -> tuple[str, ...]:
    return tuple(name for name in job.after if name.startswith("sample-"))


def _machine_busy_s() -> float:
    with open("/proc/stat", encoding="ascii") as stream:
        ticks = [int(value) for value in stream.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / 100


def _cores() -> int:
    import os

    return os.cpu_count() or 1


@contextmanager
def _ready_processes(node_ids: list[str]) -> Iterator[None]:
    """Keep worker processes ready on every node, so that the start of Python on two cores is not what is measured."""
    stopped = threading.Event()
    for count in range(1, 2 * _READY_PER_NODE + 1):
        _refill(node_ids, count)

    def keep() -> None:
        while not stopped.wait(_REFILL_EVERY_S):
            _refill(node_ids, _READY_PER_NODE)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _refill(node_ids: list[str], count: int) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    tasks = [
        _warm.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(0.3)  # pyright: ignore[reportFunctionMemberAccess]
        for node_id in node_ids
        for _ in range(count)
    ]
    ray.get(tasks)


def _import_and_wait(seconds: float) -> None:
    import benchmarks.scaling.simulated  # noqa: F401

    time.sleep(seconds)


def _remote() -> Any:
    import ray

    return ray.remote(num_cpus=0.01)(_import_and_wait)


_warm: Any = None

if __name__ == "__main__":
    _warm = _remote()
    sys.exit(main())

"""The driver of one cluster of the benchmark: it works through some cases, one after the other."""

from __future__ import annotations

import argparse
import itertools
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

# Processes that stand ready on all nodes before a case begins, and are made ready again on one node after the other
# while it goes on: each takes about 125 MiB, and a second of a core to start.
_READY = 48
_MOST_PER_NODE = 20
_REFILL_EVERY_S = 3.0


def main() -> None:
    """Print one JSON line per case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--nodes", type=json.loads, required=True, help="ids of the nodes to work on")
    parser.add_argument("--num-gpus", type=int, required=True)
    parser.add_argument("--cases", type=json.loads, required=True, help="[[sources, real seconds of the ideal]]")
    options = parser.parse_args()
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.init(address=options.address, log_to_driver=False)
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    for num_sources, ideal_s in options.cases:
        with _ready_processes(options.nodes):
            print(json.dumps(_measured(options.nodes, num_sources, options.num_gpus, ideal_s)), flush=True)


def _measured(node_ids: list[str], num_sources: int, num_gpus: int, ideal_s: float) -> dict[str, Any]:
    """Run one case and return its record."""
    import ray

    given = workload(num_sources, num_gpus)
    scale = ideal_s / given.ideal_s
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
    count = min(_MOST_PER_NODE, _READY // len(node_ids))
    for node_id in node_ids:
        _refill(node_id, count)
    stopped = threading.Event()

    def keep() -> None:
        for node_id in itertools.cycle(node_ids):
            if stopped.wait(_REFILL_EVERY_S):
                return
            _refill(node_id, count)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _refill(node_id: str, count: int) -> None:
    """Have `count` processes at work at once on a node, so that as many stand idle there afterwards."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    ray.get([_warm.options(scheduling_strategy=place).remote(0.3) for _ in range(count)])  # pyright: ignore[reportFunctionMemberAccess]


def _import_and_wait(seconds: float) -> None:
    import ray.data  # noqa: F401

    import benchmarks.scaling.simulated  # noqa: F401

    time.sleep(seconds)


def _remote() -> Any:
    import ray

    return ray.remote(num_cpus=0.01)(_import_and_wait)


_warm: Any = None

if __name__ == "__main__":
    _warm = _remote()
    sys.exit(main())

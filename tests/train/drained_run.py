"""A program: train on nodes of a cluster of its own, and drain the one of rank 1 while it trains (P-07).

python -m tests.train.drained_run MODEL EXAMPLES OUT FIELDS; prints the step's summary as its last line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from tests.train import runs
from wrpo_ray.storage.location import locate
from wrpo_ray.train import loop

DRAIN_AFTER_STEP = 2
DEADLINE_S = 5.0
STEP_S = 1.0


def slow_worker(notes: Path) -> Any:
    """Return a training worker that takes its time and notes its process, rank and node."""

    def worker(raw_job: dict[str, Any]) -> dict[str, Any]:
        import ray.train

        rank, node = ray.train.get_context().get_world_rank(), ray.get_runtime_context().get_node_id()
        (notes / f"{time.time()}-{rank}").write_text(node)
        real_step = loop.train_step

        def train_step(worker: loop.Worker, step: int) -> dict[str, float | int]:
            time.sleep(STEP_S)
            return real_step(worker, step)

        loop.train_step = train_step
        return loop.train_worker(raw_job)

    return worker


def drain_rank_1(cluster: Cluster, metrics: Path, notes: Path) -> None:
    """Tell the node of rank 1 that it will go, and take it away at its deadline."""
    while not metrics.exists() or len(metrics.read_text().splitlines()) < DRAIN_AFTER_STEP:
        time.sleep(0.1)
    node_id = next(path.read_text() for path in notes.iterdir() if path.name.endswith("-1"))
    deadline = time.time() + DEADLINE_S
    accepted, reason = GcsClient(address=cluster.address).drain_node(
        node_id, DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), "spot", int(deadline * 1000)
    )
    assert accepted, reason
    time.sleep(max(0.0, deadline - time.time()))
    cluster.remove_node(next(node for node in cluster.list_all_nodes() if node.node_id == node_id))


def main(model: str, examples: str, out: str, fields: str) -> None:
    os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.3"
    small = {"object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    for _ in range(3):
        cluster.add_node(num_cpus=1, **small)
    ray.init(address=cluster.address, log_to_driver=False)
    notes = Path(f"{out}-notes")
    notes.mkdir()
    drainer = threading.Thread(target=drain_rank_1, args=(cluster, Path(out) / "metrics.jsonl", notes), daemon=True)
    drainer.start()
    config = runs.make_config(Path(model), sft=json.loads(fields))
    result = runs.train_sft(config, Path(model), locate(examples), Path(out), slow_worker(notes))
    drainer.join()
    ray.shutdown()
    cluster.shutdown()
    weights = next(entry.sha256 for entry in result.files if entry.path == "model/model.safetensors")
    print(json.dumps({**result.summary, "weights": weights}))


if __name__ == "__main__":
    main(*sys.argv[1:])

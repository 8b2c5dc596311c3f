"""How well sources fill a cluster: `make bench-scaling`, or

    python -m benchmarks.scaling_sources [--quick | --long] [--gpus N] [--sources N]

A real Ray cluster of logical nodes with 8 GPUs each (4 in the smallest case), the real scheduler, Ray Data pipelines,
ledger and commits; the engine (SimulatedGenerator) sleeps as long as the planner's model says, on a scale that is told
with each row. Sources have 1, 2, 4 and 8 GPUs per replica in turn; where only 4 GPUs are, the 8 become 4 (`small`
counts them). `ideal`: work over GPUs, without any start. `planned`: makespan of `wrpo-ray plan`, starts included.
Goal: makespan at most 1.10 of ideal.

Worker processes stand ready on every node: starting Python takes a second of one of this machine's cores, where a real
node has its own. The start of an engine is slept as the plan says. Each size has a cluster and a driver of its own, one
after the other; `cpu` is the load of the whole machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "scaling_sources.json"
GOAL = 1.10
_REPOSITORY = Path(__file__).parents[1]
_SOURCES = (1, 2, 4, 8, 16, 32)
# Each lane is a cluster and a driver: GPUs, and for each case the number of sources and the real seconds of its ideal.
# They must be many: processes and steps take seconds to begin and to end here, whatever the scale.
_LANES = ((4, ((4, 300),)), (16, ((8, 700),)), (64, ((8, 1500),)))
_LONG_LANES = (
    (4, ((1, 100), (4, 300), (8, 600))),
    (16, ((1, 200), (2, 300), (4, 500), (8, 700), (16, 1400), (32, 1600))),
    (64, ((8, 1500), (32, 3000))),
)
_QUICK_LANES = ((4, ((2, 30),)),)
_COLUMNS = (
    ("sources", "num_sources", "7d"), ("GPUs", "num_gpus", "4d"), ("small", "replaced_sources", "5d"),
    ("1 h is s", "real_s_per_simulated_h", "8.2f"),
    ("ideal s", "ideal_s", "8.1f"), ("planned s", "planned_s", "9.1f"), ("makespan s", "makespan_s", "10.1f"),
    ("over ideal", "over_ideal", "10.3f"), ("over planned", "over_planned", "12.3f"), ("idle", "idle_share", "5.1%"),
    ("ms/response", "overhead_ms_per_response", "11.3f"),
    ("driver CPU ms/response", "driver_cpu_ms_per_response", "22.3f"), ("cpu", "machine_cpu_share", "5.0%"),
)  # fmt: skip


def main() -> None:
    """Run all lanes, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling_sources", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sources, below two minutes; writes no results")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--long", action="store_true", help="up to 32 sources on each cluster, about three hours")
    parser.add_argument("--gpus", type=int, choices=[num_gpus for num_gpus, _ in _LANES],
                        help="this size of cluster alone; the results of the others stay")  # fmt: skip
    parser.add_argument("--sources", type=int, choices=_SOURCES, help="this case alone; the results of the others stay")
    options = parser.parse_args()
    lanes = _asked(options)
    if not lanes:
        parser.error("there is no such case: see _LANES and, for --long, _LONG_LANES")
    print("  ".join(f"{title:>{_width(form)}}" for title, _, form in _COLUMNS), flush=True)
    kept = [] if options.quick else _others(options.out, lanes)
    records: list[dict[str, Any]] = []
    for num_gpus, cases in lanes:
        for record in _lane(num_gpus, cases):
            records.append({**record, "date": date.today().isoformat()})
            if not options.quick:
                # A run takes an hour, and each case counts by itself.
                _write(options.out, [*kept, *records])
    for fit in _fits(records):
        print(f"{fit['num_gpus']} GPUs: makespan = {fit['first_h']:.2f} h + {fit['h_per_source']:.3f} h per source of "
              f"the mix (r2 {fit['r2']:.4f})")  # fmt: skip


def _asked(options: argparse.Namespace) -> list[tuple[int, list[tuple[int, int]]]]:
    lanes = _QUICK_LANES if options.quick else _LONG_LANES if options.long else _LANES
    asked = [
        (num_gpus, [case for case in cases if options.sources in (None, case[0])])
        for num_gpus, cases in lanes
        if options.gpus in (None, num_gpus)
    ]
    return [(num_gpus, cases) for num_gpus, cases in asked if cases]


def _others(out: Path, lanes: Sequence[tuple[int, Sequence[tuple[int, int]]]]) -> list[dict[str, Any]]:
    """Return the records in the file that `lanes` will not make anew."""
    if not out.exists():
        return []
    anew = {(num_gpus, num_sources) for num_gpus, cases in lanes for num_sources, _ in cases}
    records = json.loads(out.read_text("utf-8"))["records"]
    return [record for record in records if (record["num_gpus"], record["num_sources"]) not in anew]


def _write(out: Path, records: Sequence[dict[str, Any]]) -> None:
    records = sorted(records, key=lambda record: (record["num_gpus"], record["num_sources"]))
    told = {"goal": GOAL, "engine": "SimulatedGenerator", "records": records, "fits": _fits(records)}
    out.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def _fits(records: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    sizes = Counter(record["num_gpus"] for record in records)
    # A line through two points says nothing.
    return [_fit(num_gpus, records) for num_gpus, count in sorted(sizes.items()) if count > 2]


def _width(form: str) -> int:
    return int(form.split(".")[0].rstrip("d%"))


def _shown(record: dict[str, Any]) -> str:
    return "  ".join(f"{record[name]:{form}}" for _, name, form in _COLUMNS)


def _fit(num_gpus: int, records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return a line through the makespans, in simulated hours, over the work in sources of the mean size."""
    own = [record for record in records if record["num_gpus"] == num_gpus]
    hours = np.array([record["makespan_s"] / record["real_s_per_simulated_h"] for record in own])
    ideal = np.array([record["ideal_s"] / record["real_s_per_simulated_h"] for record in own])
    mean = max(ideal / [record["num_sources"] for record in own])
    slope, first = np.polyfit(ideal / mean, hours, 1)
    left = hours - (slope * ideal / mean + first)
    r2 = 1 - float((left**2).sum() / ((hours - hours.mean()) ** 2).sum())
    return {"num_gpus": num_gpus, "first_h": float(first), "h_per_source": float(slope), "r2": r2}


def _lane(num_gpus: int, cases: Sequence[tuple[int, float]]) -> Iterator[dict[str, Any]]:
    """Yield the records of one cluster's cases as they come, and show them."""
    with _cluster(num_gpus) as (address, nodes):
        command = [sys.executable, "-m", "benchmarks.scaling.lane", "--address", address]
        command += ["--nodes", json.dumps(nodes), "--num-gpus", str(num_gpus), "--cases", json.dumps(cases)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_REPOSITORY) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    record = json.loads(line)
                    print(_shown(record), flush=True)
                    yield record
        if process.returncode:
            raise SystemExit(f"a driver ended with exit code {process.returncode}")


@contextmanager
def _cluster(num_gpus: int) -> Iterator[tuple[str, list[str]]]:
    """Start a head and nodes of up to 8 GPUs; yield the address and the nodes' ids."""
    from ray.cluster_utils import Cluster

    # Ray makes its workers give way to everything else on the machine; here they are what is measured.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112, Ray spells it so
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_REPOSITORY), os.environ.get("PYTHONPATH", "")])
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    try:
        sizes = [min(8, num_gpus)] * max(1, num_gpus // 8)
        nodes = [cluster.add_node(num_cpus=64, num_gpus=size, object_store_memory=80 * 2**20) for size in sizes]
        cluster.wait_for_nodes(timeout=120)
        yield str(cluster.address), [node.node_id for node in nodes]
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
